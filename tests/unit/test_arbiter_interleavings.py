# SPDX-License-Identifier: Apache-2.0
"""Two allocations of which one fits: every order in which the messages of two processes can meet.

The arbiter's pure core between two processes that keep the account libharp keeps
(native/src/shim/gate/lease.c), with a queue in each direction as a socket has. A schedule is a list
of moves; each is replayed from the beginning, so a failure names the schedule that shows it.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from arbiter_core import (
    ADMIN,
    DEAD,
    GRANULE,
    MESSAGE,
    NEVER,
    SECOND,
    SEND,
    WATCHED,
    Act,
    Core,
    Msg,
)

from harp.lease_wire import VERSION, Op

SLACK = 1  #: granules that a process keeps
MOST_MOVES = 60
SAMPLED = 1000  #: schedules of each case with too many to see all


@dataclass
class Process:
    """What libharp keeps of itself; amounts in granules."""

    client: int
    script: deque[int]  #: > 0: allocate so much, < 0: free so much if it is held
    leased: int = 0
    used: int = 0
    wish: int = 0  #: allocation under way
    missing: int = 0  #: of it, asked for
    live: int = 0
    got: int = 0  #: allocations that succeeded
    denied: int = 0
    out: deque[Msg] = field(default_factory=deque)
    inbox: deque[Msg] = field(default_factory=deque)

    def step(self) -> None:
        """The program's next call."""
        amount = self.script.popleft()
        if amount < 0:
            if self.live >= -amount:
                self._free(-amount)
            return
        self.used += amount
        self.wish, self.missing = amount, max(0, self.used - self.leased)
        if self.missing == 0:
            self._settle(granted=True)
        else:
            self.out.append(
                Msg(version=VERSION, op=Op.LEASE_MEM, bytes=self.missing * GRANULE, seq=7)
            )

    def receive(self) -> None:
        """The service thread reads one message."""
        msg = self.inbox.popleft()
        if msg.op == Op.MEM_GRANT:
            self.leased += msg.bytes // GRANULE
            self._settle(granted=True)
        elif msg.op == Op.MEM_DENY:
            self._settle(granted=False)
        elif msg.op == Op.RECALL_MEM:
            back = min(msg.bytes // GRANULE, self._slack())
            self.leased -= back
            answer = Msg(version=VERSION, op=Op.RECALLED, bytes=back * GRANULE, seq=msg.seq)
            self.out.append(answer)

    def _slack(self) -> int:
        return max(0, self.leased - self.used)  # what is asked for counts as used already

    def _settle(self, *, granted: bool) -> None:
        if granted:
            self.live += self.wish
            self.got += 1
        else:
            self.used -= self.wish
            self.denied += 1
        self.wish = self.missing = 0

    def _free(self, amount: int) -> None:
        self.used -= amount
        self.live -= amount
        back = max(0, self._slack() - SLACK)
        self.leased -= back
        if back:
            self.out.append(Msg(version=VERSION, op=Op.RETURN_MEM, bytes=back * GRANULE))


@dataclass(frozen=True)
class Case:
    """Two processes and what they do."""

    description: str
    limit: int
    scripts: tuple[tuple[int, ...], tuple[int, ...]]
    before: tuple[int, int] = (0, 0)  #: allocated and freed again: slack is left
    dead: int = 0  #: held by a process that died; harpd says at any time that it is gone
    tenants: int = 1  #: 2: each its own, without a limit, on a device of `limit` granules
    successes: tuple[int, ...] = (1,)  #: allowed in the end
    exhaustive: bool = True


class Stage:
    """A core with the case's device and tenants; schedules take place in it one after the other."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.core = Core(clients=8, tenants=4)
        limited = case.tenants == 1
        self.core.add_device((1000 if limited else case.limit) * GRANULE)
        self.core.step(WATCHED, msg=Msg(a=1))
        limit = case.limit * GRANULE if limited else 0
        self.tenants = [self.core.add_tenant(limit=limit) for _ in range(case.tenants)]

    def drained(self, client: int) -> list[Act]:
        return self.core.step(ADMIN, msg=Msg(version=VERSION, op=Op.DRAINED, client=client, dev=0))


class World:
    """One schedule of one case."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.case = stage.case
        self.core = stage.core
        list(self.core.advance(10 * SECOND))  # nothing of the schedule before is felt any more
        self.dead = 0
        if self.case.dead:
            self.dead = self.core.join(stage.tenants[0], pid=50)
            self.core.lease(self.dead, self.case.dead * GRANULE)
            self.core.step(DEAD, self.dead)
        self.processes = []
        for number, script in enumerate(self.case.scripts):
            client = self.core.join(stage.tenants[number % self.case.tenants], pid=100 + number)
            self.processes.append(Process(client, deque(script)))
        for process, amount in zip(self.processes, self.case.before, strict=True):
            if amount:
                process.script.extendleft((-amount, amount))
                self._run_alone(process)
                process.got = 0

    def _run_alone(self, process: Process) -> None:
        for _ in range(2):
            process.step()
            while process.out or process.inbox:
                if process.out:
                    self._to_arbiter(process)
                if process.inbox:
                    process.receive()

    def moves(self) -> list[tuple[int, str]]:
        """What may happen next."""
        found = [(-1, "drained")] if self.dead else []
        for number, process in enumerate(self.processes):
            if process.script and not process.wish:
                found.append((number, "step"))
            if process.out:
                found.append((number, "send"))
            if process.inbox:
                found.append((number, "receive"))
        if not found and any(process.wish for process in self.processes):
            found.append((-1, "time"))  # the arbiter's own clock goes on
        return found

    def do(self, move: tuple[int, str]) -> None:
        number, what = move
        if what == "drained":
            self._deliver(self.stage.drained(self.dead))
            self.dead = 0
        elif what == "time":
            assert self.core.next() != NEVER, "one waits for ever"
            self._deliver(list(self.core.advance(self.core.next() - self.core.now)))
        elif what == "send":
            self._to_arbiter(self.processes[number])
        elif what == "receive":
            self.processes[number].receive()
        else:
            self.processes[number].step()
        dead = self.case.dead if self.dead else 0
        live = sum(process.live for process in self.processes)
        assert live + dead <= self.case.limit, f"{live} live of {self.case.limit}"

    def _to_arbiter(self, process: Process) -> None:
        self._deliver(self.core.step(MESSAGE, process.client, process.out.popleft()))

    def _deliver(self, acts: list[Act]) -> None:
        for act in acts:
            for process in self.processes:
                if act.kind == SEND and act.client == process.client:
                    process.inbox.append(act.msg)

    def end(self) -> None:
        """What must be true when nothing is left to happen."""
        got = sum(process.got for process in self.processes)
        denied = sum(process.denied for process in self.processes)
        asked = sum(amount > 0 for script in self.case.scripts for amount in script)
        assert got + denied == asked, "one waits for ever"
        assert got in self.case.successes, f"{got} succeeded"
        for process in self.processes:
            assert process.live == process.used <= process.leased <= process.used + SLACK
        for process in self.processes:
            self.core.step(DEAD, process.client)
            self.stage.drained(process.client)
        assert all(self.core.use(tenant).leased_bytes == 0 for tenant in self.stage.tenants)


def replay(stage: Stage, choose: Callable[[int, int], int]) -> list[int]:
    """Run one schedule; `choose(depth, of)` picks the moves. How many there were at each point."""
    world, widths, done = World(stage), [], []
    try:
        while moves := world.moves():
            assert len(widths) < MOST_MOVES, "it never ends"
            move = moves[choose(len(widths), len(moves))]
            widths.append(len(moves))
            done.append(move)
            world.do(move)
        world.end()
    except AssertionError as error:
        raise AssertionError(f"{error}; schedule {done}") from None
    return widths


def every(stage: Stage) -> Iterator[list[int]]:
    """All schedules, depth first, as odometer over the choices."""
    path: list[int] = []
    while True:
        widths = replay(stage, lambda at, _of, path=path: path[at] if at < len(path) else 0)  # type: ignore[misc]
        path += [0] * (len(widths) - len(path))
        yield path
        while path and path[-1] + 1 == widths[len(path) - 1]:
            path.pop()
        if not path:
            return
        path[-1] += 1


CASES = [
    Case("one fits", 10, ((6,), (6,))),
    Case("either fits, both do", 12, ((6,), (6,)), successes=(2,)),
    Case("one fits, the other's slack is in the way", 10, ((6,), (6,)), before=(2, 2)),
    Case("all fits once slack is recalled", 10, ((), (10,)), before=(2, 0)),
    Case("all of it, with slack at both", 10, ((10,), (10,)), before=(3, 3)),
    Case("one fits when the dead are gone", 10, ((6,), (6,)), dead=6),
    Case("tenants on a full device", 10, ((6,), (6,)), tenants=2),
    Case("tenants, slack at both", 10, ((6,), (6,)), before=(2, 2), tenants=2),
    Case("one is freed again", 10, ((6, -6), (6,)), successes=(1, 2), exhaustive=False),
    Case("both come twice", 10, ((6, -6, 6), (6, -6, 6)), successes=(2, 3, 4), exhaustive=False),
    Case(
        "small ones between",
        10,
        ((1, 6, -1), (1, 6, -1)),
        before=(1, 0),
        successes=(3,),
        exhaustive=False,
    ),
]


@pytest.fixture(params=CASES, ids=lambda case: case.description)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    made = Stage(request.param)
    yield made
    made.core.close()


def test_two_allocs_one_fits(stage: Stage) -> None:
    if stage.case.exhaustive:
        print(f"{sum(1 for _ in every(stage))} schedules, all there are")
        return
    seed = int(os.environ.get("HARP_TEST_SEED", random.SystemRandom().getrandbits(32)))
    dice = random.Random(seed)
    for _ in range(SAMPLED):
        replay(stage, lambda _at, of: dice.randrange(of))
    print(f"{SAMPLED} schedules, HARP_TEST_SEED={seed}")


@pytest.mark.slow
def test_the_same_in_fifty_thousand_random_orders(stage: Stage) -> None:
    seed = int(os.environ.get("HARP_TEST_SEED", random.SystemRandom().getrandbits(32)))
    print(f"HARP_TEST_SEED={seed}")
    dice = random.Random(seed)
    for _ in range(50_000 // len(CASES)):
        replay(stage, lambda _at, of: dice.randrange(of))
