# SPDX-License-Identifier: Apache-2.0
"""Classes: latency goes first within its burst, best effort runs when nobody else can."""

from __future__ import annotations

import itertools

import pytest
from arbiter_core import (
    BEST_EFFORT,
    DEAD,
    LATENCY,
    MS,
    QUANTUM,
    SECOND,
    STANDARD,
    Act,
    Core,
    Msg,
    ops,
    sends,
)
from arbiter_engine import US, Machine, job

from harp.lease_wire import Op


def gate(acts: list[Act], client: int) -> Msg:
    """The gate that was opened to the client."""
    ((_, msg),) = [(to, m) for to, m in sends(acts, client) if m.op == Op.OPEN_GATE]
    return msg


def test_latency_arrival_closes_the_holder_and_opens_at_once(core: Core) -> None:
    fast, slow = core.add_tenant(cls=LATENCY), core.add_tenant()
    a, b = core.join(fast), core.join(slow)
    core.tell(b, Op.WANT_TIME)
    core.now += 10 * US  # far below the least time a holder keeps its gate otherwise
    acts = core.tell(a, Op.WANT_TIME)
    assert [(to, msg.op) for to, msg in sends(acts)] == [(b, Op.CLOSE_GATE), (a, Op.OPEN_GATE)]
    # The holder drains beside; what it used is its own.
    core.now += MS
    core.tell(b, Op.YIELD_TIME, epoch=1, used_ns=MS, a=1)
    assert core.use(slow).a == 1


def test_standard_arrival_does_not(core: Core) -> None:
    a, b = core.join(core.add_tenant()), core.join(core.add_tenant())
    core.tell(b, Op.WANT_TIME)
    core.now += 10 * US
    assert [msg.op for _, msg in sends(core.tell(a, Op.WANT_TIME))] == [Op.CLOSE_GATE]


def test_second_latency_arrival_waits_for_one_drain(core: Core) -> None:
    """Two tenants never drain at once beside a third."""
    tenants = [core.add_tenant(cls=cls) for cls in (STANDARD, LATENCY, LATENCY)]
    s, a, b = (core.join(tenant) for tenant in tenants)
    core.tell(s, Op.WANT_TIME)
    core.tell(a, Op.WANT_TIME)
    assert ops(core.tell(b, Op.WANT_TIME)) in ([], [Op.CLOSE_GATE])
    core.now += MS
    core.tell(s, Op.YIELD_TIME, epoch=1, used_ns=MS)
    acts = core.tell(a, Op.YIELD_TIME, epoch=2, used_ns=MS)
    assert gate(acts, b).epoch == 3


def test_latency_holder_is_not_interrupted_by_its_like(core: Core) -> None:
    a, b = (core.join(core.add_tenant(cls=LATENCY)) for _ in range(2))
    core.tell(a, Op.WANT_TIME)
    acts = core.tell(b, Op.WANT_TIME)
    assert ops(acts, b) == []


def test_standard_arrival_cuts_a_best_effort_quantum(core: Core) -> None:
    best = [core.join(core.add_tenant(cls=BEST_EFFORT)) for _ in range(2)]
    s = core.join(core.add_tenant())
    core.tell(best[0], Op.WANT_TIME)
    core.tell(best[1], Op.WANT_TIME)
    acts = core.tell(best[0], Op.YIELD_TIME, epoch=1, a=1)
    holder = sends(acts)[-1][0]
    core.now += 100 * US
    acts = core.tell(s, Op.WANT_TIME) + list(core.advance(MS))
    assert [msg.op for _, msg in sends(acts, holder)] == [Op.CLOSE_GATE]
    acts = core.tell(holder, Op.YIELD_TIME, epoch=2, used_ns=MS, a=1)
    assert gate(acts, s)


@pytest.mark.parametrize("share", [0, 200_000])
def test_saturating_latency_tenant_starves_nobody(share: int) -> None:
    """Beyond its burst it is a standard tenant: its share, and half the burst ahead at most."""
    jobs = [job(cls=LATENCY, share=share), job(share=1_000_000 - share if share else 0)]
    machine = Machine(jobs)
    machine.run(6 * SECOND)
    begin = machine.start + SECOND
    used = [each.busy(begin, machine.core.now) for each in jobs]
    assert used[0] / sum(used) == pytest.approx(share / 1e6 or 0.5, abs=0.01)
    assert sum(used) > 0.99 * 5 * SECOND
    # Not in crumbs: the other one is not interrupted as soon as the first is owed a little.
    assert jobs[1].procs[0].opens < 6 * SECOND // (20 * MS)
    machine.core.close()


def test_best_effort_takes_what_others_leave() -> None:
    jobs = [job(cls=BEST_EFFORT), job(kernel=MS, burst=10, idle=10 * MS)]
    machine = Machine(jobs)
    machine.run(3 * SECOND)
    used = [each.busy(machine.start, machine.core.now) for each in jobs]
    assert sum(used) > 0.98 * 3 * SECOND
    assert used[1] / (3 * SECOND) > 0.42  # alone it would be 0.5; a queue of 2 ms is in its way
    machine.core.close()


def test_best_effort_behind_saturating_tenants_runs_once_a_second() -> None:
    jobs = [job(), job(), job(cls=BEST_EFFORT), job(cls=LATENCY, burst=5, idle=5 * MS)]
    machine = Machine(jobs)
    machine.run(6 * SECOND)
    turns = [lo for lo, _ in jobs[2].procs[0].ran]
    starts = [b for a, b in itertools.pairwise([0, *turns]) if b - a > 100 * MS]
    assert 5 <= len(starts) <= 7
    assert all(b - a < 1.2 * SECOND for a, b in itertools.pairwise(starts))
    used = jobs[2].busy(machine.start, machine.core.now)
    assert 3 * QUANTUM < used < 8 * QUANTUM
    machine.core.close()


def test_windows_while_a_latency_tenant_is_there(core: Core) -> None:
    tenants = [core.add_tenant(cls=cls) for cls in (BEST_EFFORT, STANDARD)]
    b, s = (core.join(tenant) for tenant in tenants)
    assert gate(core.tell(b, Op.WANT_TIME), b).window_ns == 4 * MS  # in company
    fast = core.join(core.add_tenant(cls=LATENCY))
    assert [m.window_ns for to, m in sends(core.last) if to == b] == [MS]
    core.tell(s, Op.WANT_TIME)
    acts = core.tell(b, Op.YIELD_TIME, epoch=1)
    assert gate(acts, s).window_ns == 4 * MS
    core.step(DEAD, fast)
    assert core.use(tenants[0]).d == BEST_EFFORT


def test_best_effort_window_follows_the_latency_seen(core: Core) -> None:
    """Halved where the device was not free in 500 us, else 50 us more; 100 us to 4 ms."""
    best, fast = core.add_tenant(cls=BEST_EFFORT), core.add_tenant(cls=LATENCY)
    b, f = core.join(best), core.join(fast)
    windows = []

    def round_of(drain: int) -> None:
        msg = gate(core.tell(b, Op.WANT_TIME), b)
        windows.append(msg.window_ns)
        core.now += 2 * MS
        latency = gate(core.tell(f, Op.WANT_TIME), f)
        core.now += drain
        core.tell(b, Op.YIELD_TIME, epoch=msg.epoch, used_ns=MS)
        core.now += MS
        core.tell(f, Op.YIELD_TIME, epoch=latency.epoch, used_ns=MS)

    for _ in range(6):
        round_of(600 * US)
    assert windows == [MS, 500 * US, 250 * US, 125 * US, 100 * US, 100 * US]
    windows.clear()
    for _ in range(3):
        round_of(300 * US)
    assert windows == [100 * US, 150 * US, 200 * US]
    for _ in range(100):
        round_of(300 * US)
    assert windows[-1] == 4 * MS


def test_latency_of_requests_beside_best_effort() -> None:
    """Nothing but the running kernel and two messages are in the way."""
    results = {}
    for cls in (None, STANDARD, BEST_EFFORT):
        fast = job(cls=LATENCY, kernel=200 * US, burst=20, idle=8 * MS)
        others = [job(cls=cls, kernel=200 * US)] if cls is not None else []
        machine = Machine([fast, *others])
        machine.run(3 * SECOND)
        seen = sorted(fast.procs[0].latencies)
        results[cls] = seen[len(seen) * 99 // 100]
        if cls == BEST_EFFORT:
            rest = 3 * SECOND - fast.busy(machine.start, machine.core.now)
            assert others[0].busy(machine.start, machine.core.now) > 0.9 * rest
        machine.core.close()
    assert results[BEST_EFFORT] < 1.15 * results[None]
    assert results[STANDARD] > 1.3 * results[None]  # up to 4 ms queued: what the window is for
