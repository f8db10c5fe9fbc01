# SPDX-License-Identifier: Apache-2.0
"""Tenants whose memory does not fit together take turns of residency (residency.c, rotation.c)."""

from __future__ import annotations

import pytest
from arbiter_core import (
    BEST_EFFORT,
    FIFO,
    LATENCY,
    MS,
    PRIORITY,
    SECOND,
)
from arbiter_engine import Job, job
from arbiter_swap import GRANULE_NS, SwapMachine, Swapper, swapper, swapping_ns
from hypothesis import given, settings
from hypothesis import strategies as st

from harp.lease_wire import (
    GRANT_OVERSUBSCRIBE,
    MemClass,
    Residency,
)

SWAP = MemClass.SWAP


def one(swapping: Job) -> Swapper:
    proc = swapping.procs[0]
    assert isinstance(proc, Swapper)
    return proc


def shares(machine: SwapMachine, *jobs: Job, after: int = 2 * SECOND) -> list[float]:
    """Of the engine time that they had together since then."""
    begin, end = machine.start + after, machine.core.now
    busy = [each.busy(begin, end) for each in jobs]
    return [part / sum(busy) for part in busy]


# --- turns of residency --------------------------------------------------------------------------


def test_nobody_leaves_while_all_fit() -> None:
    jobs = [swapper(40, share=300_000), swapper(60, share=700_000), job(share=0)]
    machine = SwapMachine(jobs)
    machine.run(3 * SECOND)
    assert machine.evictions == 0
    assert all(machine.residency(j).launches == 0 for j in jobs[:2])
    assert shares(machine, *jobs[:2]) == pytest.approx([0.3, 0.7], abs=0.01)


@pytest.mark.parametrize("share", [500_000, 300_000, 100_000])
def test_two_that_do_not_fit_have_their_shares_in_turn(share: int) -> None:
    first, second = swapper(80, share=share), swapper(80, share=1_000_000 - share, at=50 * MS)
    machine = SwapMachine([first, second])
    machine.run(30 * SECOND)
    assert shares(machine, first, second)[0] == pytest.approx(share / 1e6, abs=0.03)
    wall = machine.core.now - machine.start
    assert swapping_ns(machine, machine.start, machine.core.now) <= wall / 10
    # Nobody leaves but for the other one.
    assert abs(machine.residency(first).launches - machine.residency(second).launches) <= 1
    # What the wait of each is, is shown.
    assert machine.residency(first).wait_ns + machine.residency(second).wait_ns >= wall * 0.9
    assert machine.residency(first).quantum_ns >= 10 * 2 * 80 * GRANULE_NS


@pytest.mark.parametrize("policy", [FIFO, PRIORITY])
def test_policies_without_shares_turn_equally(policy: int) -> None:
    first, second = swapper(80, share=100_000), swapper(80, share=900_000)
    machine = SwapMachine([first, second], policy=policy)
    machine.run(20 * SECOND)
    assert shares(machine, first, second) == pytest.approx([0.5, 0.5], abs=0.03)


def test_three_of_which_two_fit_slide() -> None:
    jobs = [swapper(50), swapper(50), swapper(50)]
    machine = SwapMachine(jobs)
    machine.run(30 * SECOND)
    assert shares(machine, *jobs) == pytest.approx([1 / 3] * 3, abs=0.04)
    wall = machine.core.now - machine.start
    assert swapping_ns(machine, machine.start, machine.core.now) <= wall / 10


def test_who_fits_beside_is_left_in() -> None:
    small, first, second = swapper(15), swapper(80), swapper(80)
    machine = SwapMachine([small, first, second])
    machine.run(20 * SECOND)
    assert machine.residency(small).launches == 0
    assert machine.residency(first).launches >= 3
    assert min(shares(machine, small, first, second)) > 0.2


def test_a_tenant_that_swaps_beside_ordinary_ones() -> None:
    """They are always there, and share the engine with whoever is in."""
    plain = job(share=500_000)
    first, second = swapper(80, share=250_000), swapper(80, share=250_000)
    machine = SwapMachine([plain, first, second])
    machine.run(20 * SECOND)
    mine, *others = shares(machine, plain, first, second)
    assert others[0] == pytest.approx(others[1], rel=0.1)
    assert mine >= 0.5


def test_best_effort_waits_at_most_sixteen_stays() -> None:
    first, last = swapper(80, share=900_000), swapper(80, cls=BEST_EFFORT)
    machine = SwapMachine([first, last])
    machine.run(40 * SECOND)
    got = shares(machine, first, last)[1]
    assert 1 / 25 < got < 1 / 12


def test_latency_has_no_right_to_throw_others_out() -> None:
    first, urgent = swapper(80), swapper(80, cls=LATENCY)
    machine = SwapMachine([first, urgent])
    machine.run(20 * SECOND)
    assert shares(machine, first, urgent) == pytest.approx([0.5, 0.5], abs=0.05)


def test_the_idle_leave_first_and_only_when_somebody_needs_the_room() -> None:
    idle = swapper(50, burst=10, idle=30 * SECOND)
    lately = swapper(50, burst=10, idle=SECOND)
    machine = SwapMachine([idle, lately])
    machine.run(2 * SECOND)
    assert machine.evictions == 0
    late = swapper(0)
    late.tenant = machine.core.add_tenant(flags=GRANT_OVERSUBSCRIBE)
    proc = one(late)
    proc.owner, proc.client = late, machine.core.join(late.tenant)
    machine.procs[proc.client] = proc
    machine.on_ask(proc, 50)
    machine.later(machine.core.now + MS, "request", proc)
    machine.run(SECOND)
    states = [machine.residency(j).a for j in (idle, lately, late)]
    assert states == [Residency.AWAY, Residency.RESIDENT, Residency.RESIDENT]
    assert machine.evictions == 1


def test_the_busy_stay_while_somebody_idle_can_leave() -> None:
    busy, idle = swapper(50), swapper(50, burst=10, idle=30 * SECOND)
    late = swapper(50, at=2 * SECOND)
    machine = SwapMachine([busy, idle, late])
    machine.run(3 * SECOND)
    assert [machine.residency(j).launches for j in (busy, idle)] == [0, 1]
    assert late.busy(machine.core.now - SECOND // 2, machine.core.now) > 0


def test_a_stay_lasts_ten_times_what_swapping_takes() -> None:
    """Bursts shorter than that do not throw anybody out: what is idle is not swapped at once."""
    jobs = [swapper(80, burst=50, idle=150 * MS), swapper(80, burst=50, idle=150 * MS)]
    machine = SwapMachine(jobs)
    machine.run(20 * SECOND)
    wall = machine.core.now - machine.start
    assert swapping_ns(machine, machine.start, machine.core.now) <= wall / 10 + 4 * 80 * GRANULE_NS
    assert shares(machine, *jobs) == pytest.approx([0.5, 0.5], abs=0.05)


def test_bursty_tenants_fill_each_others_pauses() -> None:
    """Half of each one's time is on the host, in pieces longer than a stay."""
    jobs = [swapper(80, burst=5000, idle=SECOND), swapper(80, burst=5000, idle=SECOND)]
    machine = SwapMachine(jobs)
    machine.run(40 * SECOND)
    busy = sum(j.busy(machine.start, machine.core.now) for j in jobs)
    assert busy > 1.35 * (machine.core.now - machine.start) / 2


@pytest.mark.parametrize("at", range(0, 1600, 200))
def test_one_that_dies_holds_nobody_up(at: int) -> None:
    """At any time of a cycle: resident, leaving, away, coming back."""
    mortal, other = swapper(80, dies=SECOND + at * MS), swapper(80)
    machine = SwapMachine([mortal, other])
    machine.run(SECOND + at * MS + 8 * SECOND)
    end = machine.core.now
    assert other.busy(end - SECOND, end) > 0.95 * SECOND
    assert machine.residency(other).a == Residency.RESIDENT


@pytest.mark.parametrize("at", range(0, 1600, 200))
def test_one_that_is_stopped_holds_nobody_up_longer_than_it_must(at: int) -> None:
    """Its memory stays where it is. If that keeps the other out, then until it goes on."""
    begin = SECOND + at * MS
    sleeper, other = swapper(80, stops=(begin, begin + 30 * SECOND)), swapper(80)
    small = swapper(10)
    machine = SwapMachine([sleeper, other, small])
    machine.run(begin + 30 * SECOND)
    end = machine.core.now
    assert small.busy(end - SECOND, end) > 0.3 * SECOND
    if not one(sleeper).on:
        assert other.busy(end - SECOND, end) > 0.3 * SECOND
    machine.run(20 * SECOND)
    both = shares(machine, sleeper, other, after=end - machine.start + 5 * SECOND)
    assert both == pytest.approx([0.5, 0.5], abs=0.1)


def test_a_stopped_process_does_not_hold_up_its_own_tenant() -> None:
    pair = Job(
        [
            Swapper(asks=((0, 40),), begins=MS),
            Swapper(asks=((0, 40),), begins=MS, stops=(2 * SECOND, 30 * SECOND)),
        ],
        flags=GRANT_OVERSUBSCRIBE,
    )
    other = swapper(30)
    machine = SwapMachine([pair, other])
    machine.run(25 * SECOND)
    end = machine.core.now
    busy = pair.procs[0].ran
    assert sum(hi - lo for lo, hi in busy if lo > end - 5 * SECOND) > SECOND
    machine.run(20 * SECOND)
    end = machine.core.now
    assert sum(hi - lo for lo, hi in pair.procs[1].ran if lo > end - 5 * SECOND) > SECOND


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 60), st.integers(0, 400), st.integers(1, 45), st.integers(0, 400)),
        min_size=2,
        max_size=4,
    ),
    st.integers(0, 3),
)
def test_several_that_grow_at_the_same_time(
    grows: list[tuple[int, int, int, int]], mortal: int
) -> None:
    """Nobody is refused, nobody waits for ever, nothing ever lies where no room is."""
    jobs = []
    for number, (first, at, more, then) in enumerate(grows):
        asks = ((at * MS, first), (at * MS + then * MS, min(more, 90 - first)))
        dies = 1500 * MS if number == mortal else 0
        asks = asks[: 1 + (asks[1][1] > 0)]
        proc = Swapper(asks=asks, begins=at * MS + MS, dies=dies, kernel=5 * MS)
        jobs.append(Job([proc], flags=GRANT_OVERSUBSCRIBE))
    machine = SwapMachine(jobs)
    machine.run(16 * SECOND)
    wall = machine.core.now - machine.start
    alive = [j for j in jobs if not j.procs[0].dead]
    for each in alive:
        proc = one(each)
        assert proc.denied == 0
        assert len(proc.granted) == len(proc.asks)
        assert proc.waited <= 3 * SECOND
        assert each.busy(machine.core.now - 12 * SECOND, machine.core.now) > 0
    total = sum(p.swap for j in jobs for p in [one(j)])
    assert machine.evictions == 0 or total > 100
    moves = swapping_ns(machine, machine.start + 2 * SECOND, machine.core.now)
    assert moves <= wall / 10 + 4 * 100 * GRANULE_NS


def test_who_could_not_come_back_tries_again_later_and_later() -> None:
    stubborn = swapper(80, fails=3)
    first = swapper(80)
    machine = SwapMachine([first, stubborn])
    machine.run(20 * SECOND)
    assert machine.core.log.count("restore_failed") == 3
    assert shares(machine, first, stubborn, after=10 * SECOND)[1] == pytest.approx(0.5, abs=0.1)
