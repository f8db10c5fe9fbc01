# SPDX-License-Identifier: Apache-2.0
"""The order in which a tenant is put away and brought back, and what is undone, with doubles."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harp.daemon import evaders
from harp.daemon import suspend as module
from harp.daemon.checkpoint import Code, Driver, ProcessState
from harp.daemon.suspend import Suspender
from harp.errors import ArbiterError, CheckpointFailed, NoDevice
from harp.lease_wire import Msg, Op
from harp.model import ClientState, Device, DeviceKind, Limits, Policy, Tenant
from harp.procs import Proc

ONE, TWO = 11, 12
HERE, THERE = "GPU-1", "GPU-2"
TENANT = Tenant(
    tenant_id=3,
    name="t",
    uid=1,
    root_pid=ONE,
    root_start=1,
    grant_dir="",
    device_uuids=(HERE,),
    limits=Limits(),
    policy=Policy.WARN,
    created_s=0,
)


async def nothing() -> None:
    """What most do meanwhile."""


class World:
    """A driver, an arbiter and a book that write down what they are asked."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.states = {ONE: ProcessState.RUNNING, TWO: ProcessState.RUNNING}
        #: {call: result instead of success}
        self.fails: dict[str, int] = {}
        self.too_old = False
        #: call after which there is no arbiter
        self.lost = ""
        device = Device(0, HERE, "tiny", DeviceKind.SOFTWARE, 1 << 30, 0, "default", "1")
        #: what others do while a process is restored
        self.meanwhile: Callable[[], Awaitable[None]] = nothing
        self.devices = {HERE: device, THERE: replace(device, index=1, uuid=THERE)}
        self.tenants = {3: TENANT}
        self.client = self
        self.suspender = Suspender(cast("Any", self), cast("Any", self), self.driver)

    @contextlib.asynccontextmanager
    async def driver(self) -> AsyncIterator[Driver]:
        yield self

    def _does(self, call: str, pid: int, state: ProcessState) -> int:
        self.said.append(f"{call} {pid}")
        code = self.fails.get(f"{call} {pid}", 0)
        if code == 0:
            self.states[pid] = state
        return code

    async def lock(self, pid: int, timeout_s: float) -> int:
        assert timeout_s == 5
        return self._does("lock", pid, ProcessState.LOCKED)

    async def checkpoint(self, pid: int) -> int:
        return self._does("away", pid, ProcessState.CHECKPOINTED)

    async def restore(self, pid: int, pairs: Sequence[tuple[str, str]]) -> int:
        assert list(pairs) in ([], [(HERE, THERE)])
        await self.meanwhile()
        return self._does("restore", pid, ProcessState.LOCKED)

    async def unlock(self, pid: int) -> int:
        return self._does("unlock", pid, ProcessState.RUNNING)

    async def state(self, pid: int) -> tuple[int, int]:
        return self.fails.get(f"state {pid}", 0), self.states[pid]

    def check(self, _op: int) -> None:
        if self.too_old:
            raise ArbiterError("the arbiter speaks lease protocol 1", "harp daemon --upgrade")

    async def request(self, message: Msg) -> None:
        if self.lost in self.said:
            raise ArbiterError("the arbiter is being restarted")
        name = {Op.SUSPEND: "suspend", Op.RESUME: "resume"}[Op(message.op)]
        where = f" on {message.b}" if message.op == Op.RESUME else ""
        self.said.append(f"{name} {message.a}{where}")

    async def look(self) -> Any:
        live = [SimpleNamespace(pid=pid, state=ClientState.LIVE) for pid in (ONE, TWO)]
        return SimpleNamespace(clients_of=lambda _id: live)

    def by_name(self, _name: str) -> Tenant:
        return self.tenants[3]

    def number_of(self, uuid: str) -> int:
        return [HERE, THERE].index(uuid)

    def leaving(self, _tenant: Tenant) -> contextlib.nullcontext[None]:
        return contextlib.nullcontext()

    @contextlib.asynccontextmanager
    async def returning(self, _tenant: Tenant) -> AsyncIterator[None]:
        self.said.append("admit")
        yield

    async def mark(self, tenant: Tenant, *, suspended: bool) -> None:
        self.said.append(f"store {suspended}")
        changed = replace(self.tenants[3], device_uuids=tenant.device_uuids, suspended=suspended)
        self.tenants[3] = changed

    def suspend(self) -> list[str]:
        asyncio.run(self.suspender.suspend("t", 1, 5))
        return self.took()

    def resume(self, gpu: str = "") -> list[str]:
        asyncio.run(self.suspender.resume("t", 1, gpu))
        return self.took()

    def took(self) -> list[str]:
        said, self.said = self.said, []
        return said


AWAY = ["store True", "suspend 1", "lock 11", "lock 12", "away 11", "away 12", "suspend 2"]


def test_all_are_locked_before_any_is_put_away_and_room_is_reserved_before_any_returns() -> None:
    world = World()
    assert world.suspend() == AWAY
    assert world.resume() == [
        *["admit", "resume 1 on 0", "restore 11", "restore 12", "resume 2 on 0"],
        *["unlock 11", "unlock 12", "store False"],
    ]
    assert world.tenants[3] == TENANT


def test_a_return_elsewhere_is_written_down_when_it_is_done() -> None:
    world = World()
    world.suspend()
    assert "resume 2 on 1" in world.resume("1")
    assert world.tenants[3].device_uuids == (THERE,)
    asyncio.run(world.mark(TENANT, suspended=True))
    with pytest.raises(NoDevice, match="names 2 GPUs"):
        world.resume("0,1")


@pytest.mark.parametrize("call", ["lock 12", "away 11", "away 12"])
def test_what_fails_to_be_put_away_goes_on_as_before(call: str) -> None:
    world = World()
    world.fails[call] = Code.OPERATING_SYSTEM
    with pytest.raises(CheckpointFailed, match="304"):
        asyncio.run(_as_if_alive(world, world.suspender.suspend("t", 1, 5)))
    assert set(world.states.values()) == {ProcessState.RUNNING}
    assert world.took()[-2:] == ["resume 2 on 0", "store False"]


def test_what_fails_to_return_stays_away_whole() -> None:
    world = World()
    world.suspend()
    world.fails["restore 12"] = Code.OPERATING_SYSTEM
    with pytest.raises(CheckpointFailed, match="restore of process 12"):
        asyncio.run(_as_if_alive(world, world.suspender.resume("t", 1, "")))
    assert world.took()[2:] == ["restore 11", "restore 12", "away 11", "resume 3 on 0"]
    assert world.tenants[3].suspended


@pytest.mark.parametrize("for_root", [False, True])
def test_a_harpd_that_was_killed_puts_away_what_was_on_its_way(*, for_root: bool) -> None:
    world = World()
    world.tenants[3] = replace(TENANT, for_root=for_root)
    world.states = {ONE: ProcessState.CHECKPOINTED, TWO: ProcessState.LOCKED}
    asyncio.run(world.mark(TENANT, suspended=True))
    world.took()
    asyncio.run(world.suspender.settle())
    assert world.took() == ["store True", "suspend 1", "away 12", "suspend 2"]


def test_a_return_unlocks_what_was_locked_on_the_way_to_suspension() -> None:
    world = World()
    world.states = {ONE: ProcessState.CHECKPOINTED, TWO: ProcessState.LOCKED}
    asyncio.run(world.mark(TENANT, suspended=True))
    world.took()
    said = world.resume()
    assert [s for s in said if s.startswith("restore")] == ["restore 11"]
    assert said[-3:] == ["unlock 11", "unlock 12", "store False"]


@pytest.mark.parametrize("call", ["restore 11", "unlock 12"])
def test_a_suspension_that_cannot_be_undone_can_be_resumed(call: str) -> None:
    world = World()
    world.fails = {"away 12": Code.OUT_OF_MEMORY, call: Code.OUT_OF_MEMORY}
    with pytest.raises(CheckpointFailed, match="checkpoint of process 12"):
        asyncio.run(_as_if_alive(world, world.suspender.suspend("t", 1, 5)))
    assert world.tenants[3].suspended
    world.fails = {}
    assert world.resume()[-1] == "store False"
    assert set(world.states.values()) == {ProcessState.RUNNING}


def test_an_arbiter_that_ends_meanwhile_leaves_what_the_next_one_is_told() -> None:
    world = World()
    world.lost = "away 12"
    world.fails["away 12"] = Code.OUT_OF_MEMORY
    with pytest.raises(CheckpointFailed):
        asyncio.run(_as_if_alive(world, world.suspender.suspend("t", 1, 5)))
    assert world.tenants[3].suspended


def test_an_arbiter_that_is_too_old_is_asked_for_nothing() -> None:
    world = World()
    world.too_old = True
    with pytest.raises(ArbiterError, match="protocol 1"):
        world.suspend()
    assert world.took() == []


def test_another_arbiter_is_told_again_what_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.suspend()
    monkeypatch.setattr("harp.daemon.suspend._RETURN_S", 0)

    async def another_comes() -> None:
        replaced = asyncio.Event()
        keeping = asyncio.create_task(world.suspender.keep(replaced))
        for _ in range(2):
            replaced.set()
            async with asyncio.timeout(30):
                while len(world.said) < 3:  # noqa: ASYNC110 - what is awaited has no event
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            assert world.took() == ["store True", "suspend 1", "suspend 2"]
        keeping.cancel()

    asyncio.run(another_comes())


def test_who_is_being_resumed_is_not_put_away_again() -> None:
    """After a start harpd looks for what is suspended, and its owner's resume is under way."""
    world = World()
    world.suspend()

    settling: list[asyncio.Task[None]] = []

    async def harpd_starts() -> None:
        settling.append(asyncio.create_task(world.suspender.settle()))
        await asyncio.sleep(0)

    async def both() -> None:
        world.meanwhile = harpd_starts
        await world.suspender.resume("t", 1, "")
        await asyncio.gather(*settling)

    asyncio.run(_as_if_alive(world, both()))
    assert world.took()[-1] == "store False"
    assert not world.tenants[3].suspended


def test_a_process_that_ended_or_has_no_cuda_is_left_out() -> None:
    world = World()
    world.fails = {"state 11": Code.NOT_INITIALIZED, "away 12": Code.NOT_INITIALIZED}
    assert world.suspend() == ["store True", "suspend 1", "lock 12", "away 12", "suspend 2"]


def test_a_return_leaves_others_of_the_same_root_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases have one root process; who is whose, their grants say, and the arbiter."""
    three, four, five = 13, 14, 15
    world = World()
    world.tenants = {
        3: replace(TENANT, grant_dir="/mine"),
        4: replace(TENANT, tenant_id=4, name="other", grant_dir="/other", uid=2),
    }
    procs = {ONE: 1, TWO: ONE, three: ONE, four: TWO, five: ONE}
    monkeypatch.setattr(
        module,
        "all_procs",
        lambda: {pid: Proc(pid, ppid, 1, 1, zombie=False) for pid, ppid in procs.items()},
    )
    grants = {three: "/other", four: "/mine", five: "/mine"}
    monkeypatch.setattr(evaders, "environ_of", lambda pid, _name: grants.get(pid))
    monkeypatch.setattr(evaders, "name_of", lambda pid: ("x", 2 if pid == five else 1))
    monkeypatch.setattr(module, "_ROOM_S", 0.1)
    world.states |= dict.fromkeys((ONE, TWO, three, four, five), ProcessState.CHECKPOINTED)
    asyncio.run(world.mark(world.tenants[3], suspended=True))
    world.took()
    # Four is of a new arbiter, which does not know it yet; three is another's, five says it lies.
    assert [s for s in world.resume() if s.startswith("restore")] == [
        f"restore {pid}" for pid in (ONE, TWO, four)
    ]
    world.tenants.pop(4)
    world.states |= dict.fromkeys((ONE, TWO, three, four), ProcessState.CHECKPOINTED)
    asyncio.run(world.mark(world.tenants[3], suspended=True))
    world.took()
    assert f"restore {three}" in world.resume()  # alone, it has all


async def _as_if_alive(world: World, what: Any) -> None:
    """The doubles' processes are not there: an error must not be taken for their end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harp.daemon.checkpoint.read", lambda _pid: SimpleNamespace(zombie=False))
        await what
    assert world
