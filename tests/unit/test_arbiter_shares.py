# SPDX-License-Identifier: Apache-2.0
"""Shares of a modelled engine in virtual time: the real policy, clients that keep the protocol.

The engine is exclusive to whose gate is open; messages take 30 us each way. What is judged is the
engine's own record of busy intervals, not what the arbiter believes.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left
from dataclasses import dataclass, field

import pytest
from arbiter_core import GRANULE, MS, PPM, SECOND, SEND, TICK, Act, Core, Msg
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harp.lease_wire import Op

US = 1000
WIRE = 30 * US


@dataclass
class Job:
    """A client that runs kernels back to back, or in bursts with idle host time between."""

    share: int = 0
    kernel: int = 200 * US
    burst: int = 0  #: kernels before it idles; 0: never idles
    idle: int = 0
    cap: int = 0
    begins: int = 0
    #: engine intervals (start, end)
    busy: list[tuple[int, int]] = field(default_factory=list)
    tenant: int = 0
    client: int = 0
    left: int = 0
    epoch: int = 0
    open: bool = False
    closing: bool = False
    first: int = 0
    last: int = 0
    deadline: int = 0


class Engine:
    """Runs jobs against the core, event by event."""

    def __init__(self, jobs: list[Job], quantum: int = 5 * MS) -> None:
        self.core = Core(quantum_ns=quantum)
        self.core.add_device(100 * GRANULE)
        self.start = self.core.now
        self.jobs = jobs
        self.queue: list[tuple[int, int, str, Job, Msg | None]] = []
        self.order = itertools.count()
        self.free_at = 0  #: the engine is busy until then
        for job in jobs:
            job.tenant = self.core.add_tenant(share=job.share, cap=job.cap)
            job.client = self.core.join(job.tenant)
            job.left = job.burst
            self.later(self.start + job.begins, "want", job)

    def later(self, at: int, what: str, job: Job, msg: Msg | None = None) -> None:
        heapq.heappush(self.queue, (at, next(self.order), what, job, msg))

    def sent(self, acts: list[Act]) -> None:
        by_client = {job.client: job for job in self.jobs}
        for act in acts:
            if act.kind == SEND:
                self.later(self.core.now + WIRE, "told", by_client[act.client], act.msg)

    def tell(self, job: Job, op: Op, **fields: int) -> None:
        self.sent(self.core.tell(job.client, op, **fields))

    def run(self, seconds: float) -> None:
        until = self.start + int(seconds * SECOND)
        while self.queue or self.core.next() <= until:
            due = self.core.next()
            if not self.queue or due <= self.queue[0][0]:
                self.core.now = max(due, self.core.now)
                self.sent(self.core.step(TICK))
                continue
            at, _, what, job, msg = heapq.heappop(self.queue)
            if at > until:
                break
            self.core.now = max(at, self.core.now)
            match what:
                case "want":
                    self.tell(job, Op.WANT_TIME)
                case "told":
                    assert msg is not None
                    self.told(job, msg)
                case "kernel":
                    self.kernel(job)
                case "yield":
                    used = job.last - job.first if job.first else 0
                    more = int(not job.burst or job.left != job.burst)
                    job.first = 0
                    self.tell(job, Op.YIELD_TIME, epoch=job.epoch, used_ns=used, a=more)
                    if not more:
                        self.later(self.core.now + job.idle, "want", job)
        self.core.close()

    def told(self, job: Job, msg: Msg) -> None:
        if msg.op == Op.OPEN_GATE:
            again = job.open
            job.open, job.closing, job.epoch = True, False, msg.epoch
            job.deadline = self.core.now + msg.quantum_ns if msg.quantum_ns else 0
            if not again:
                job.first = 0
                self.later(self.core.now, "kernel", job)
        elif msg.op == Op.CLOSE_GATE and job.open:
            job.closing = True

    def kernel(self, job: Job) -> None:
        """Launch one kernel, or give the gate back."""
        now = self.core.now
        idle = bool(job.burst) and job.left == 0
        late = job.deadline and now + job.kernel > job.deadline
        if idle or (job.first and (job.closing or late)):
            if idle:
                job.left = job.burst
            job.open = False
            self.later(now + WIRE, "yield", job)
            return
        begin = max(now, self.free_at)
        end = self.free_at = begin + job.kernel
        job.busy.append((begin, end))
        job.first = job.first or begin
        job.last = end
        job.left -= 1 if job.burst else 0
        self.later(end, "kernel", job)


def busy(job: Job, begin: int, end: int) -> int:
    """Engine time of a job within a window."""
    first = max(0, bisect_left(job.busy, (begin, begin)) - 1)
    total = 0
    for start, stop in job.busy[first:]:
        if start >= end:
            break
        total += max(0, min(stop, end) - max(start, begin))
    return total


def shares(jobs: list[Job], begin: int, end: int) -> list[float]:
    used = [busy(job, begin, end) for job in jobs]
    return [u / max(1, sum(used)) for u in used]


def run(jobs: list[Job], seconds: float, quantum: int = 5 * MS) -> Engine:
    engine = Engine(jobs, quantum)
    engine.run(seconds)
    return engine


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [50 * US, 200 * US, MS, 20 * MS])
@pytest.mark.parametrize("percent", [30, 10, 50])
def test_shares_are_exact_over_ten_seconds_and_close_in_every_second(
    kernel: int, percent: int
) -> None:
    share = percent * PPM // 100
    jobs = [Job(share=share, kernel=kernel), Job(share=PPM - share, kernel=kernel)]
    engine = run(jobs, 10)
    begin, end = engine.start, engine.start + 10 * SECOND
    total = shares(jobs, begin, end)[0]
    assert abs(total - percent / 100) < 0.001
    # Every second by itself; for kernels that are not 2 % of one, also every second between.
    step = SECOND if kernel == 20 * MS else 50 * MS
    for at in range(begin, end - SECOND + 1, step):
        assert abs(shares(jobs, at, at + SECOND)[0] - percent / 100) < 0.01
    assert sum(busy(job, begin, end) for job in jobs) > 0.9 * (end - begin)


@pytest.mark.parametrize(
    ("description", "kernels"),
    [("tiny beside huge", (50 * US, 50 * MS)), ("huge beside tiny", (50 * MS, 50 * US))],
)
def test_long_kernels_do_not_buy_more(description: str, kernels: tuple[int, int]) -> None:
    jobs = [Job(share=300_000, kernel=kernels[0]), Job(share=700_000, kernel=kernels[1])]
    engine = run(jobs, 10)
    total = shares(jobs, engine.start, engine.start + 10 * SECOND)[0]
    assert abs(total - 0.3) < 0.005, description


def test_tenants_without_a_share_split_what_is_left() -> None:
    jobs = [Job(share=600_000), Job(), Job()]
    engine = run(jobs, 5)
    got = shares(jobs, engine.start, engine.start + 5 * SECOND)
    assert got == pytest.approx([0.6, 0.2, 0.2], abs=0.003)


def test_shares_beyond_the_whole_scale_down_and_starve_nobody() -> None:
    jobs = [Job(share=900_000), Job(share=900_000), Job()]
    engine = run(jobs, 5)
    got = shares(jobs, engine.start, engine.start + 5 * SECOND)
    assert got == pytest.approx([0.495, 0.495, 0.01], abs=0.003)


def test_idle_tenant_leaves_its_share_and_has_it_back_at_once() -> None:
    jobs = [Job(share=700_000, begins=2 * SECOND), Job(share=300_000)]
    engine = run(jobs, 6)
    second = engine.start + 2 * SECOND
    assert shares(jobs, engine.start, second)[0] == 0
    assert busy(jobs[1], engine.start, second) > 1.99 * SECOND
    # The newcomer is owed 50 ms at most: within a second it stands at its share.
    assert shares(jobs, second, second + SECOND)[0] == pytest.approx(0.7, abs=0.03)
    assert shares(jobs, second + SECOND, second + 4 * SECOND)[0] == pytest.approx(0.7, abs=0.005)


def test_tenant_that_idles_between_bursts_still_gets_its_share() -> None:
    """A training loop: 3 ms of kernels, 300 us of host work. Saturating, it would have 70 %."""
    jobs = [Job(share=700_000, kernel=MS, burst=3, idle=300 * US), Job(share=300_000, kernel=MS)]
    engine = run(jobs, 10)
    got = shares(jobs, engine.start + SECOND, engine.start + 10 * SECOND)[0]
    assert got == pytest.approx(0.7, abs=0.05)


def test_training_loop_beside_two_others_cuts_their_quanta() -> None:
    """Without that it would wait a quantum after each pause and get 37 %."""
    loop = Job(share=600_000, kernel=MS, burst=3, idle=300 * US)
    jobs = [loop, Job(share=200_000, kernel=MS), Job(share=200_000, kernel=MS)]
    engine = run(jobs, 10)
    got = shares(jobs, engine.start + SECOND, engine.start + 10 * SECOND)
    assert got == pytest.approx([0.6, 0.2, 0.2], abs=0.02)


def test_two_training_loops_keep_their_shares() -> None:
    jobs = [
        Job(share=300_000, kernel=300 * US, burst=10, idle=200 * US),
        Job(share=700_000, kernel=300 * US, burst=10, idle=200 * US),
    ]
    engine = run(jobs, 10)
    got = shares(jobs, engine.start + SECOND, engine.start + 10 * SECOND)[0]
    assert got == pytest.approx(0.3, abs=0.05)


def test_cap_holds_beside_others_and_alone() -> None:
    jobs = [Job(cap=200_000), Job()]
    engine = run(jobs, 6)
    begin = engine.start + SECOND
    wall = busy(jobs[0], begin, begin + 5 * SECOND) / (5 * SECOND)
    assert wall == pytest.approx(0.2, abs=0.01)
    alone = [Job(cap=500_000)]
    engine = run(alone, 6)
    begin = engine.start + SECOND
    assert busy(alone[0], begin, begin + 5 * SECOND) / (5 * SECOND) == pytest.approx(0.5, abs=0.02)


def test_four_quarters() -> None:
    jobs = [Job(share=250_000, kernel=MS) for _ in range(4)]
    engine = run(jobs, 5)
    got = shares(jobs, engine.start, engine.start + 5 * SECOND)
    assert got == pytest.approx([0.25] * 4, abs=0.003)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@example(data=[(1, 7 * MS), (1, 7 * MS), (1, 7 * MS), (12, 20 * US)], quantum=MS)
@given(
    data=st.lists(
        st.tuples(st.integers(1, 12), st.sampled_from([20 * US, 150 * US, MS, 7 * MS, 30 * MS])),
        min_size=2,
        max_size=6,
    ),
    quantum=st.sampled_from([MS, 5 * MS, 20 * MS]),
)
def test_backlogged_tenants_get_their_weights_and_none_starves(
    data: list[tuple[int, int]], quantum: int
) -> None:
    whole = sum(weight for weight, _ in data)
    jobs = [Job(share=weight * PPM // whole, kernel=kernel) for weight, kernel in data]
    engine = run(jobs, 4, quantum)
    begin, end = engine.start, engine.start + 4 * SECOND
    used = [busy(job, begin, end) for job in jobs]
    longest = max(max(quantum, job.kernel) for job in jobs)
    for job, mine in zip(jobs, used, strict=True):
        # Weighted DRR: each of them may be one turn ahead of the others, whatever the interval is.
        turns = sum(max(quantum, each.kernel) for each in jobs)
        assert abs(mine - sum(used) * job.share / PPM) <= turns + 10 * US * len(jobs)
        gaps = [b[0] - a[1] for a, b in itertools.pairwise(job.busy)]
        round_trip = longest * PPM / job.share + 2 * len(jobs) * longest
        assert max(gaps, default=0) <= 2 * round_trip
