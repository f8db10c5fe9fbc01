# SPDX-License-Identifier: Apache-2.0
"""The arbiter as a process, and scripted clients whose memory does not fit together.

Each client writes what it has on the device where the others see it, before it says so: that is
never more than the device has. Nothing here is judged by how long it took.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from arbiter_world import Admin, Client, World, until, world

from harp.lease_wire import GRANT_OVERSUBSCRIBE, GRANULE_BYTES, MemClass, Msg, Op, Residency

CAPACITY = 100
MOVE_S = 0.004


class Shared:
    """Of each client: granules on the device, turns begun. And whether they were ever too many."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 4096)

    def get(self, which: int, what: int) -> int:
        return int(struct.unpack_from("=q", self.memory, 16 + 16 * which + 8 * what)[0])

    def put(self, which: int, what: int, value: int) -> None:
        struct.pack_into("=q", self.memory, 16 + 16 * which + 8 * what, value)

    def arrives(self, which: int, granules: int) -> None:
        self.put(which, 0, granules)
        if sum(self.get(each, 0) for each in range(8)) > CAPACITY:
            struct.pack_into("=q", self.memory, 0, 1)

    def turns(self, which: int) -> int:
        return self.get(which, 1)

    def overfull(self) -> bool:
        return bool(struct.unpack_from("=q", self.memory, 0)[0])


class Swapping(Client):
    """Works all the time, and moves its memory as it is told."""

    def __init__(self, grant: Path, which: int, shared: Shared) -> None:
        super().__init__(grant)
        self.which, self.shared = which, shared
        self.granules = 0
        self.away = False
        self.epoch = 0

    def heard(self) -> Iterator[Msg]:
        waiting: deque[Msg] = deque()
        while True:
            waiting.extend(self.pushed)
            self.pushed.clear()
            yield waiting.popleft() if waiting else self.recv()

    def work(self, granules: int) -> None:
        for each in (granules // 2, granules - granules // 2):
            answer = self.lease(each, cls=MemClass.SWAP)
            assert answer.op == Op.MEM_GRANT, answer
            self.granules += each
            self.away |= any(m.op == Op.EVICT for m in self.pushed)
            if not self.away:
                self.shared.arrives(self.which, self.granules)
        self.send(Msg(op=Op.WANT_TIME))
        for msg in self.heard():
            match msg.op:
                case Op.RECALL_MEM:
                    self.send(Msg(op=Op.RECALLED, seq=msg.seq))
                case Op.OPEN_GATE if not msg.a:
                    self.epoch = msg.epoch
                    self.shared.put(self.which, 1, self.shared.turns(self.which) + 1)
                    if msg.quantum_ns:
                        time.sleep(msg.quantum_ns / 1e9)
                        self.done()
                case Op.OPEN_GATE if self.epoch == msg.epoch and msg.quantum_ns:
                    self.done()
                case Op.CLOSE_GATE if self.epoch == msg.epoch:
                    self.done()
                case Op.EVICT:
                    assert not self.epoch
                    time.sleep(MOVE_S)
                    self.shared.arrives(self.which, 0)
                    self.answer(Op.EVICTED, msg)
                case Op.RESTORE:
                    self.shared.arrives(self.which, self.granules)
                    time.sleep(MOVE_S)
                    self.answer(Op.RESTORED, msg)
                case _:
                    pass

    def done(self) -> None:
        self.send(Msg(op=Op.YIELD_TIME, epoch=self.epoch, a=1, used_ns=1_000_000))
        self.epoch = 0

    def answer(self, op: Op, msg: Msg) -> None:
        size = self.granules * GRANULE_BYTES
        self.send(Msg(op=op, seq=msg.seq, amount_bytes=size, used_ns=int(MOVE_S * 1e9)))


class Jobs:
    """Tenants of one process each."""

    def __init__(self, w: World, sizes: list[int]) -> None:
        self.shared = Shared()
        self.world = w
        self.admin: Admin = w.admin()
        w.device(self.admin, CAPACITY)
        self.pids = []
        for number, granules in enumerate(sizes):
            grant = w.tenant(self.admin, number + 1)
            self.admin.ok(Op.SET_TENANT, tenant=number + 1, dev=0, a=GRANT_OVERSUBSCRIBE)
            self.pids.append(
                w.fork(
                    lambda number=number, granules=granules, grant=grant: Swapping(
                        grant, number, self.shared
                    ).work(granules)
                )
            )

    def kill(self, which: int) -> None:
        """Ends one, and says that the device has its memory back once the arbiter knows of it."""
        client = next(c.client for c in self.admin.clients(which + 1))
        self.world.kill(self.pids[which])
        self.shared.put(which, 0, 0)
        until(lambda: self._drains(which, client), f"the end of {which}")
        self.admin.drain_all()

    def _drains(self, which: int, client: int) -> bool:
        return all(c.client != client or c.d == 2 for c in self.admin.clients(which + 1))

    def residency(self, which: int) -> Msg:
        rows = (m for m in self.admin.snapshot() if m.op == Op.SNAP_RESIDENCY)
        return next(m for m in rows if m.tenant == which + 1)

    def work_on(self, *which: int) -> None:
        """All of these have several turns more."""
        before = [self.shared.turns(each) for each in which]

        def more() -> bool:
            now = [self.shared.turns(each) for each in which]
            return all(b - a >= 2 for a, b in zip(before, now, strict=True))

        until(more, f"turns of {which}", timeout_s=60)
        assert not self.shared.overfull()


@pytest.fixture
def w() -> Iterator[World]:
    with world() as made:
        made.start()
        yield made


@pytest.mark.slow
def test_jobs_that_do_not_fit_together_all_get_on(w: World) -> None:
    jobs = Jobs(w, [80, 80, 30])
    for _ in range(3):
        jobs.work_on(0, 1, 2)
    assert jobs.residency(0).launches + jobs.residency(1).launches > 1
    assert jobs.residency(0).used_ns > 0
    assert jobs.residency(1).wait_ns > 0


def test_jobs_that_fit_together_stay(w: World) -> None:
    jobs = Jobs(w, [40, 30, 30])
    jobs.work_on(0, 1, 2)
    assert [jobs.residency(n).launches for n in range(3)] == [0, 0, 0]
    assert [jobs.residency(n).a for n in range(3)] == [Residency.RESIDENT] * 3


@pytest.mark.slow
def test_a_killed_job_makes_room_wherever_it_was(w: World) -> None:
    jobs = Jobs(w, [80, 80, 80, 80])
    for which, turns in enumerate((1, 3, 5)):
        until(lambda n=turns: jobs.shared.turns(3) >= n, "some turns", timeout_s=60)  # type: ignore[misc]
        jobs.kill(which)
        if which < 2:
            jobs.work_on(*range(which + 1, 4))
    # Alone, its turn has no end.
    until(lambda: jobs.residency(3).a == Residency.RESIDENT, "the last one is in", timeout_s=60)
    assert not jobs.shared.overfull()


@pytest.mark.slow
def test_a_stopped_job_keeps_its_memory_and_others_that_fit_go_on(w: World) -> None:
    jobs = Jobs(w, [80, 80, 15])
    jobs.work_on(0, 1, 2)
    os.kill(jobs.pids[0], signal.SIGSTOP)
    jobs.work_on(2)
    jobs.work_on(2)
    os.kill(jobs.pids[0], signal.SIGCONT)
    jobs.work_on(0, 1, 2)
