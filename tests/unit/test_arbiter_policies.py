# SPDX-License-Identifier: Apache-2.0
"""Policies behind one interface; live control; speed; what holds whatever tenants do."""

from __future__ import annotations

import itertools
import time

import pytest
from arbiter_core import (
    BEST_EFFORT,
    DRR,
    FIFO,
    GRANULE,
    LATENCY,
    MS,
    PPM,
    PRIORITY,
    QUANTUM,
    SECOND,
    Core,
    sends,
)
from arbiter_engine import US, Job, Machine, Proc, job
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harp.lease_wire import Op


def shares(jobs: list[Job], begin: int, end: int) -> list[float]:
    used = [each.busy(begin, end) for each in jobs]
    return [mine / max(1, sum(used)) for mine in used]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [(DRR, [0.3, 0.7, 0.0]), (PRIORITY, [0.5, 0.5, 0.0]), (FIFO, [1 / 3, 1 / 3, 1 / 3])],
)
def test_what_each_policy_does_with_shares_and_classes(policy: int, expected: list[float]) -> None:
    jobs = [job(share=300_000), job(share=700_000), job(cls=BEST_EFFORT)]
    machine = Machine(jobs, policy=policy)
    machine.run(3 * SECOND)
    assert shares(jobs, machine.start, machine.core.now) == pytest.approx(expected, abs=0.008)
    machine.core.close()


@pytest.mark.parametrize("policy", [DRR, PRIORITY, FIFO])
def test_limit_holds_under_every_policy(policy: int) -> None:
    jobs = [job(cap=PPM // 5), job()]
    machine = Machine(jobs, policy=policy)
    machine.run(5 * SECOND)
    begin = machine.start + SECOND
    used = [each.busy(begin, machine.core.now) / (4 * SECOND) for each in jobs]
    assert used[0] == pytest.approx(0.2, abs=0.005)
    assert sum(used) > 0.99
    machine.core.close()


def test_priority_preempts_for_latency_and_starves_best_effort() -> None:
    jobs = [job(cls=LATENCY), job(), job(cls=BEST_EFFORT)]
    machine = Machine(jobs, policy=PRIORITY)
    machine.run(3 * SECOND)
    assert shares(jobs, machine.start, machine.core.now) == pytest.approx([1, 0, 0], abs=0.002)
    machine.core.close()


@pytest.mark.parametrize("burst_ms", [0, 100, 400])
def test_burst_is_what_a_returning_tenant_is_owed(burst_ms: int) -> None:
    jobs = [job(begins=SECOND), job()]
    machine = Machine(jobs, burst_ns=burst_ms * MS)
    machine.run(3 * SECOND)
    end = machine.start + SECOND + 900 * MS
    first, second = (each.busy(machine.start + SECOND, end) for each in jobs)
    assert first - second == pytest.approx(burst_ms * MS, abs=3 * QUANTUM)
    machine.core.close()


def test_burst_beyond_a_second_is_refused() -> None:
    with pytest.raises(AssertionError):
        Core(burst_ns=SECOND + 1)
    with pytest.raises(AssertionError):
        Core(policy=FIFO + 1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"share": 200_000}, 0.2),
        ({"share": 800_000, "cap": PPM // 10}, 0.1),
        ({"share": 800_000, "cls": BEST_EFFORT}, 0.0),
    ],
)
def test_change_of_a_running_tenant_is_in_force_within_a_quantum(
    change: dict[str, int], expected: float
) -> None:
    jobs = [job(share=800_000), job(share=200_000)]
    machine = Machine(jobs)
    machine.run(SECOND)
    assert shares(jobs, machine.start, machine.core.now)[0] == pytest.approx(0.8, abs=0.02)
    if change.get("share") == 200_000:
        machine.core.set_tenant(jobs[1].tenant, share=800_000)
    machine.sent(machine.core.set_tenant(jobs[0].tenant, **change))
    at = machine.core.now
    machine.run(SECOND)
    # One quantum (and its queue) under the old rules, the bucket's first 50 ms, a starved turn.
    slack = 2 * QUANTUM + (50 * MS if "cap" in change else QUANTUM)
    got = jobs[0].busy(at, machine.core.now)
    assert got == pytest.approx(expected * SECOND, abs=slack)
    machine.core.close()


def test_class_given_to_a_waiting_tenant_opens_its_gate_at_once() -> None:
    core = Core(quantum_ns=QUANTUM)
    core.add_device(100 * GRANULE)
    first, second = core.add_tenant(), core.add_tenant()
    a, b = core.join(first), core.join(second)
    core.tell(a, Op.WANT_TIME)
    core.tell(b, Op.WANT_TIME)
    acts = core.set_tenant(second, cls=LATENCY)
    assert (b, Op.OPEN_GATE) in [(to, msg.op) for to, msg in sends(acts)]
    core.close()


def turns_per_second(tenants: int) -> float:
    """CPU time of turns among so many backlogged tenants, through ctypes."""
    core = Core(clients=tenants, per_tenant=2, tenants=tenants, checked=False)
    core.add_device(100 * GRANULE)
    clients = [core.join(core.add_tenant()) for _ in range(tenants)]
    acts = [act for client in clients for act in core.tell(client, Op.WANT_TIME)]
    turns, began = 1000, time.process_time()
    for _ in range(turns):
        ((holder, msg),) = [(to, m) for to, m in sends(acts) if m.op == Op.OPEN_GATE]
        core.now += QUANTUM
        fields = {"epoch": msg.epoch, "used_ns": QUANTUM}
        acts = core.tell(holder, Op.YIELD_TIME, a=1, **fields)
        core.next()
    spent = time.process_time() - began
    core.close()
    return turns / spent


def test_thousands_of_tenants_take_no_time() -> None:
    """A turn is linear in who is active, with a small constant: not quadratic. At 200 turns a
    second of virtual time the limit is 50 times real time; seen: several hundred."""
    few, many = turns_per_second(20), turns_per_second(2000)
    print(f"turns per CPU second: {few:.0f} with 20 tenants, {many:.0f} with 2000")
    assert many > 500
    assert many > few / 200


kernels = st.sampled_from([20 * US, 150 * US, MS, 7 * MS, (50 * US, 3 * MS)])


@st.composite
def tenants(draw: st.DrawFn) -> list[Job]:
    """Saturating tenants that announce or do not, rightly or not; some of their processes die."""
    weights = draw(st.lists(st.integers(1, 9), min_size=2, max_size=4))
    jobs = []
    for weight in weights:
        procs = [
            Proc(
                kernel=draw(kernels),
                announces=draw(st.booleans()),
                error=draw(st.sampled_from([0, 0.3])),
            )
            for _ in range(draw(st.integers(1, 2)))
        ]
        if len(procs) > 1 and draw(st.booleans()):
            procs[1].dies = draw(st.integers(0, SECOND))
        if draw(st.booleans()):
            procs.append(Proc(kernel=200 * US, lane=1))
        jobs.append(Job(procs, share=weight * PPM // sum(weights)))
    return jobs


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(jobs=tenants(), quantum=st.sampled_from([2 * MS, 5 * MS]), seed=st.integers(0, 9))
def test_saturating_tenants_get_their_shares_and_pay_for_what_they_had(
    jobs: list[Job], quantum: int, seed: int
) -> None:
    machine = Machine(jobs, quantum_ns=quantum, seed=seed)
    machine.run(2 * SECOND)
    begin, end = machine.start, machine.core.now
    used = [each.busy(begin, end) for each in jobs]
    total = sum(used)
    # Work conserving: what is lost are hand-overs (2 messages of 30 us, and crumbs of quanta).
    assert total > 0.9 * (end - begin)
    longest = 0
    for each in jobs:
        lengths = [p.kernel if isinstance(p.kernel, int) else p.kernel[1] for p in each.procs]
        longest = max(longest, *lengths, quantum)
    charged = 0
    for each, mine in zip(jobs, used, strict=True):
        assert abs(mine - total * each.share / PPM) <= 4 * longest + 0.01 * total
        use = machine.core.use(each.tenant)
        charged += use.used_ns
        assert abs(use.used_ns - mine) <= 2 * longest + 0.02 * mine
    assert charged <= end - begin
    # Charges are the engine's time, but for the turns that have not ended yet.
    assert abs(charged - total) <= 2 * longest + 0.02 * total
    # Nobody starves.
    for each in jobs:
        spans = sorted(s for p in each.procs if p.lane == 0 for s in p.ran)
        gap = max((b[0] - a[1] for a, b in itertools.pairwise(spans)), default=0)
        assert gap <= 3 * longest * PPM / each.share + 4 * len(jobs) * longest
    machine.core.close()
