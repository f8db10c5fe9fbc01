# SPDX-License-Identifier: Apache-2.0
"""harpd's loops, without devices and without an arbiter."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from harp.config import Config
from harp.daemon import evaders
from harp.daemon.harpd import Harpd
from harp.daemon.picture import Hold, Picture, parse
from harp.discovery import Found, ProcessUse
from harp.errors import NvmlError
from harp.lease_wire import Msg, Op
from harp.model import Client, ClientState, DeviceKind, Sensors
from harp.procs import Proc

_DEATHS = 40
_NOTHING = cast("Any", None)


class _Looking(Harpd):
    """Counts its looks at what drains; `left` says of each whether something was left."""

    def __init__(self, left: list[bool]) -> None:
        super().__init__(Config(), _NOTHING, _NOTHING, _NOTHING, _NOTHING)
        self._connected.set()
        self.left = left
        self.looks = 0

    async def _drain_once(self) -> bool:
        self.looks += 1
        return self.left.pop(0) if self.left else False


class _Renewed(Harpd):
    """Its arbiters are followed by others; none of them asks what processes hold."""

    async def _replace_arbiter(self) -> asyncio.Task[None]:
        return asyncio.create_task(asyncio.sleep(0))


def test_the_last_word_of_an_arbiter_is_for_its_heir_alone() -> None:
    """With no tenants at an upgrade nobody asks for it; the next death is another matter."""
    client = Msg(op=Op.SNAP_CLIENT, tenant=1, client=1, pid=7, d=ClientState.LIVE.value)
    lease = Msg(op=Op.SNAP_LEASE, tenant=1, client=1, dev=0, leased_bytes=1 << 30)

    async def last_look() -> Picture:
        return parse([client, lease], {0: "GPU-1"})

    async def scenario() -> None:
        book, link = SimpleNamespace(last_look=last_look), SimpleNamespace(pid=1)
        harpd = _Renewed(Config(), cast("Any", book), cast("Any", link), _NOTHING, _NOTHING)
        await harpd.renew_arbiter(asyncio.create_task(asyncio.sleep(0)))
        tenant = cast("Any", SimpleNamespace(tenant_id=1, root_pid=0, root_start=0))
        assert await harpd._find_held({1: tenant}) == []

    asyncio.run(scenario())


def test_a_tenant_is_kept_by_processes_of_its_own_user_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """HARP_GRANT is anybody's to write: another user's process would keep it without end."""
    uids = {7: 0, 8: 70_000, 9: 70_001}
    monkeypatch.setattr(evaders, "environ_of", lambda _pid, _name: "/g")
    monkeypatch.setattr(evaders, "name_of", lambda pid: ("x", uids[pid]))
    tenant = cast(
        "Any", SimpleNamespace(tenant_id=1, uid=70_000, root_pid=1, root_start=5, grant_dir="/g")
    )
    harpd = Harpd(Config(), _NOTHING, _NOTHING, _NOTHING, _NOTHING)
    for pid, kept in ((7, True), (8, True), (9, False)):
        assert harpd._survivors(tenant, {pid: Proc(pid, 1, 1, 6, zombie=False)}) is kept


def test_a_tenant_that_is_held_ends_when_it_is_removed_alone() -> None:
    """A container has no process before it starts, and none between two runs."""
    ended = []

    async def remove(tenant: Any, reason: str) -> None:
        ended.append((tenant.tenant_id, reason))

    job = SimpleNamespace(tenant_id=1, root_pid=0, root_start=0, grant_dir="", held=False)
    tenants = {1: job, 2: SimpleNamespace(**{**vars(job), "tenant_id": 2, "held": True})}
    book = cast("Any", SimpleNamespace(tenants=tenants, remove=remove))
    harpd = Harpd(Config(), book, _NOTHING, _NOTHING, _NOTHING)
    asyncio.run(harpd._end_tenants(Picture(), {}, keep_draining=True))
    assert ended == [(1, "ended")]


def _died(client: int) -> Msg:
    return Msg(op=Op.EVENT_CLIENT, client=client, d=ClientState.DRAINING.value)


def _run(harpd: _Looking, deaths: int, looks: int) -> None:
    """Let so many die, and wait for so many looks, and whether there are more."""

    async def scenario() -> None:
        draining = asyncio.create_task(harpd.drain())
        for client in range(1, deaths + 1):
            harpd.on_event(_died(client))
            await asyncio.sleep(0)
        async with asyncio.timeout(30):
            while harpd.looks < looks:  # noqa: ASYNC110 - what is awaited has no event
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        draining.cancel()

    asyncio.run(scenario())


def test_many_that_die_together_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # So that a busy machine has them die together, too.
    monkeypatch.setattr("harp.daemon.harpd._GATHER_S", 0.2)
    harpd = _Looking([])
    _run(harpd, _DEATHS, 1)
    assert 1 <= harpd.looks <= _DEATHS / 4


def test_what_is_left_is_looked_for_again() -> None:
    harpd = _Looking([True, True])
    _run(harpd, 1, 3)
    assert harpd.looks == 3


class _Eight:
    """NVML of two devices, of which "lost" fell off the bus; 7 and 8 use "well"."""

    def __init__(self) -> None:
        self.lost = {"lost"}
        self.weighed: list[str] = []

    def processes(self, uuid: str) -> list[ProcessUse]:
        if uuid in self.lost:
            raise NvmlError(f"device {uuid}: GPU is lost")
        return [ProcessUse(8, 1, compute=True)]

    def memory_used(self, uuid: str) -> int:
        self.weighed.append(uuid)
        return len(self.processes(uuid))


@pytest.fixture(autouse=True)
def sensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that answers is half busy."""

    def read(nvml: _Eight, uuid: str, _kind: object) -> Sensors:
        nvml.processes(uuid)
        return Sensors(utilization_ratio=0.5)

    monkeypatch.setattr("harp.daemon.harpd.read_sensors", read)


def _with_a_lost_device(picture: Picture, sent: list[int]) -> Harpd:
    async def look() -> Picture:
        return picture

    async def request(message: Msg) -> None:
        sent.append(message.client)

    async def nothing(*_: Any, **__: Any) -> None:
        pass

    book = cast("Any", SimpleNamespace(look=look, tenants={}))
    link = cast("Any", SimpleNamespace(client=SimpleNamespace(request=request)))
    nvml = cast("Any", _Eight())
    found = Found(DeviceKind.SOFTWARE, nvml, (), _NOTHING, _NOTHING)
    harpd = Harpd(Config(), book, link, found, _NOTHING)
    harpd._reconciler.devices = cast("Any", {"lost": 1, "well": 2})
    harpd._reconciler.look = nothing  # type: ignore[method-assign]
    return harpd


def test_a_lost_device_does_not_end_the_look_at_the_others() -> None:
    harpd = _with_a_lost_device(Picture(), [])
    for _ in range(2):
        with capture_logs() as logs:
            asyncio.run(harpd.tick())
    assert harpd.looked_s is not None
    assert harpd.used_bytes == {"well": 1}
    assert harpd.sensors == {"well": Sensors(utilization_ratio=0.5)}
    assert harpd.found.nvml.weighed == ["well"] * 2  # type: ignore[attr-defined]
    assert list(harpd.lost) == ["lost"]
    assert harpd.look_errors == 1  # said and counted once
    assert not [entry for entry in logs if entry["event"] == "device_lost"]
    harpd.found.nvml.lost.clear()  # type: ignore[attr-defined]
    asyncio.run(harpd.tick())
    assert (harpd.lost, harpd.used_bytes) == ({}, {"lost": 1, "well": 1})


def test_a_device_lost_amid_a_look_does_not_end_it() -> None:
    """It answered who runs on it, and then not what is used of it."""
    harpd = _with_a_lost_device(Picture(), [])
    nvml = cast("Any", harpd.found.nvml)
    nvml.lost.clear()

    def memory_used(uuid: str) -> int:
        nvml.lost.add("lost")
        return len(nvml.processes(uuid))

    nvml.memory_used = memory_used
    asyncio.run(harpd.tick())
    assert harpd.looked_s is not None
    assert (harpd.lost, harpd.used_bytes) == ({}, {"well": 1})
    assert list(harpd.sensors) == ["well"]


def test_no_look_ends_where_no_device_answers() -> None:
    harpd = _with_a_lost_device(Picture(), [])
    harpd.found.nvml.lost.add("well")  # type: ignore[attr-defined]
    with capture_logs(), pytest.raises(NvmlError):
        asyncio.run(harpd.tick())
    assert harpd.looked_s is None


def test_the_dead_of_other_devices_are_drained_beside_a_lost_one() -> None:
    """8 is still listed; what 9 has on the lost device nobody can say."""
    dead = {n: Client(n, 1, n, ClientState.DRAINING, "x") for n in (7, 8, 9)}
    holds = {(7, "well"): Hold(), (8, "well"): Hold(), (9, "lost"): Hold()}
    sent: list[int] = []
    harpd = _with_a_lost_device(Picture(clients=dead, holds=holds), sent)
    with capture_logs():
        assert asyncio.run(harpd._drain_once())
    assert sent == [7]


def test_who_holds_of_a_lost_device_alone_is_not_looked_for_all_the_time() -> None:
    """It may be lost for days; tick() looks again."""
    picture = Picture(
        clients={9: Client(9, 1, 9, ClientState.DRAINING, "x")}, holds={(9, "lost"): Hold()}
    )
    sent: list[int] = []
    harpd = _with_a_lost_device(picture, sent)
    with capture_logs():
        assert not asyncio.run(harpd._drain_once())
    assert sent == []
