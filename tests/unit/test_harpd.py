# SPDX-License-Identifier: Apache-2.0
"""harpd's loops, without devices and without an arbiter."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harp.config import Config
from harp.daemon import evaders
from harp.daemon.harpd import Harpd
from harp.daemon.picture import Picture, parse
from harp.lease_wire import Msg, Op
from harp.model import ClientState
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
