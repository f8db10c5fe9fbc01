# SPDX-License-Identifier: Apache-2.0
"""Tenants whose memory does not fit together take turns of residency (residency.c, rotation.c)."""

from __future__ import annotations

import pytest
from arbiter_core import (
    BEST_EFFORT,
    DEAD,
    FIFO,
    GRANULE,
    LATENCY,
    MS,
    PRIORITY,
    SECOND,
    TICK,
    Act,
    Core,
    ops,
    sends,
)
from arbiter_engine import Job, job
from arbiter_swap import GRANULE_NS, SwapMachine, Swapper, swapper, swapping_ns
from hypothesis import given, settings
from hypothesis import strategies as st

from harp.lease_wire import (
    GRANT_OVERSUBSCRIBE,
    Deny,
    MemClass,
    Op,
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


def test_who_was_thrown_out_idle_does_not_come_back_before_whom_it_left_for() -> None:
    """It wants again while it leaves, and has had less than the other."""
    two = Two()
    two.lease(0, 80)
    two.lease(1, 80)
    two.pass_time(2 * SECOND)
    two.moved(two.say(1, Op.WANT_TIME))
    # The second one is in and works while the first one waits: it has had more.
    two.say(0, Op.WANT_TIME)
    two.pass_time(100 * MS)
    two.moved(two.say(1, Op.YIELD_TIME, epoch=1, used_ns=90 * MS))
    assert two.state(0) == Residency.RESIDENT
    two.say(0, Op.YIELD_TIME, epoch=2, used_ns=MS)
    two.pass_time(SECOND)
    acts = two.say(1, Op.WANT_TIME)
    assert ops(acts, two.clients[0]) == [Op.EVICT]
    two.say(0, Op.WANT_TIME)
    two.moved(acts)
    assert two.state(1) == Residency.RESIDENT


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


# --- memory --------------------------------------------------------------------------------------


class Two:
    """Two tenants of 80 of 100 granules; the first is resident."""

    def __init__(self, *, limit: int = 0) -> None:
        self.core = Core()
        self.core.add_device(100 * GRANULE)
        given = {"flags": GRANT_OVERSUBSCRIBE, "limit": limit * GRANULE}
        self.tenants = [self.core.add_tenant(**given) for _ in range(2)]
        self.clients = [self.core.join(t) for t in self.tenants]

    def lease(self, which: int, granules: int, cls: int = SWAP) -> list[Act]:
        return self.answered(self.core.lease(self.clients[which], granules * GRANULE, cls=cls))

    def answered(self, acts: list[Act]) -> list[Act]:
        """Nobody has lease that it does not use: what comes of all having said so."""
        seen = []
        while acts:
            recalls = [(c, m.seq) for c, m in sends(acts) if m.op == Op.RECALL_MEM]
            seen += [act for act in acts if act.msg.op != Op.RECALL_MEM]
            acts = [
                act
                for client, seq in recalls
                for act in self.core.tell(client, Op.RECALLED, seq=seq)
            ]
        return seen

    def moved(self, acts: list[Act]) -> None:
        """Whoever is told to move has moved, and so has whoever is told then."""
        while acts:
            told = [(c, m) for c, m in sends(acts) if m.op in (Op.EVICT, Op.RESTORE)]
            acts = [
                act
                for client, m in told
                for act in self.core.tell(
                    client, Op.EVICTED if m.op == Op.EVICT else Op.RESTORED, seq=m.seq
                )
            ]

    def pass_time(self, ns: int) -> list[Act]:
        seen = []
        until = self.core.now + ns
        while (due := self.core.next()) <= until:
            self.core.now = max(due, self.core.now)
            seen += self.answered(self.core.step(TICK))
        self.core.now = until
        return seen

    def state(self, which: int) -> int:
        rows = (m for m in self.core.snapshot() if m.op == Op.SNAP_RESIDENCY)
        return next(m.a for m in rows if m.tenant == self.tenants[which])

    def seq(self, acts: list[Act], which: int, op: Op) -> int:
        return next(m.seq for _, m in sends(acts, self.clients[which]) if m.op == op)

    def say(self, which: int, op: Op, seq: int = 0, **fields: int) -> list[Act]:
        return self.answered(self.core.tell(self.clients[which], op, seq=seq, **fields))

    def open_and_evict(self) -> int:
        """The second one wants; what the first is asked by."""
        self.lease(0, 80)
        self.lease(1, 80)
        self.say(0, Op.WANT_TIME)
        acts = self.say(1, Op.WANT_TIME)
        assert Op.CLOSE_GATE not in ops(acts)
        acts = self.pass_time(1400 * MS)
        assert ops(acts, self.clients[0]) == [Op.CLOSE_GATE]
        acts = self.say(0, Op.YIELD_TIME, epoch=1, a=1, used_ns=SECOND)
        return self.seq(acts, 0, Op.EVICT)


def test_who_finds_no_room_is_away_from_the_start() -> None:
    two = Two()
    assert ops(two.lease(0, 80)) == [Op.MEM_GRANT]
    acts = two.lease(1, 80)
    assert ops(acts) == [Op.EVICT, Op.MEM_GRANT]  # in that order: it is not for the device
    assert two.state(1) == Residency.AWAY
    two.say(1, Op.EVICTED, two.seq(acts, 1, Op.EVICT))
    assert ops(two.lease(1, 10)) == [Op.MEM_GRANT]


def test_a_turn_goes_over_in_order() -> None:
    two = Two()
    seq = two.open_and_evict()
    assert two.state(0) == Residency.EVICTING
    acts = two.say(0, Op.EVICTED, seq, used_ns=MS, bytes=80 * GRANULE)
    assert ops(acts, two.clients[1]) == [Op.RESTORE]
    assert ops(acts, two.clients[0]) == []
    seq = two.seq(acts, 1, Op.RESTORE)
    assert two.state(1) == Residency.RESTORING
    acts = two.say(1, Op.RESTORED, seq, used_ns=MS)
    assert ops(acts) == [Op.OPEN_GATE]
    assert sends(acts)[0][0] == two.clients[1]
    assert two.state(0) == Residency.AWAY


@pytest.mark.parametrize("pinning", [0, SECOND - 10 * MS])
def test_what_was_done_once_for_all_makes_no_stay_longer(pinning: int) -> None:
    two = Two()
    seq = two.open_and_evict()
    two.core.now += SECOND
    acts = two.say(0, Op.EVICTED, seq, used_ns=SECOND, wait_ns=pinning, bytes=80 * GRANULE)
    two.core.now += 10 * MS
    two.say(1, Op.RESTORED, two.seq(acts, 1, Op.RESTORE), used_ns=10 * MS)
    two.say(0, Op.WANT_TIME)
    two.say(1, Op.YIELD_TIME, epoch=2, used_ns=MS)  # idle: it may leave after its shortest stay
    stays = 10 * (SECOND - pinning + 10 * MS)
    assert Op.EVICT not in ops(two.pass_time(stays - 20 * MS))
    assert Op.EVICT in ops(two.pass_time(100 * MS), two.clients[1])
    rows = [m for m in two.core.snapshot() if m.op == Op.SNAP_RESIDENCY]
    assert sum(m.used_ns for m in rows) == SECOND + 10 * MS  # yet it is swapping


def test_no_gate_of_who_is_away_opens_on_either_lane() -> None:
    two = Two()
    two.lease(0, 80)
    two.lease(1, 80)
    for lane in (0, 1):
        assert ops(two.say(1, Op.WANT_TIME, cls=lane)) == []
    assert Op.OPEN_GATE not in ops(two.pass_time(10 * MS))


def test_growth_of_who_is_in_makes_room_and_waits_for_it() -> None:
    two = Two()
    two.lease(0, 50)
    two.lease(1, 50)
    acts = two.core.lease(two.clients[0], 30 * GRANULE, cls=SWAP)
    # Both may have lease that they do not use: that is asked for before anybody is moved.
    assert ops(acts) == [Op.RECALL_MEM, Op.RECALL_MEM]
    acts = two.answered(acts)
    assert ops(acts) == [Op.EVICT]
    seq = two.seq(acts, 1, Op.EVICT)
    acts = two.say(1, Op.EVICTED, seq)
    assert ops(acts, two.clients[0]) == [Op.MEM_GRANT]


def test_the_answer_is_put_off_while_memory_leaves() -> None:
    two = Two()
    two.lease(0, 50)
    two.lease(1, 50)
    acts = two.lease(0, 30) + (two.pass_time(2 * SECOND))
    seq = two.seq(acts, 1, Op.EVICT)
    assert Op.MEM_DENY not in ops(two.pass_time(4 * SECOND))
    assert Op.MEM_GRANT in ops(two.say(1, Op.EVICTED, seq))


def test_who_never_takes_it_off_is_not_waited_for_for_ever() -> None:
    two = Two()
    two.lease(0, 50)
    two.lease(1, 50)
    acts = two.lease(0, 30) + (two.pass_time(70 * SECOND))
    denial = next(m for _, m in sends(acts) if m.op == Op.MEM_DENY)
    assert denial.a == Deny.DRAINING
    assert "evict_unanswered" in two.core.log


def test_each_must_fit_by_itself() -> None:
    two = Two()
    assert ops(two.lease(0, 60)) == [Op.MEM_GRANT]
    acts = two.lease(1, 50, cls=MemClass.DEVICE) + (two.pass_time(2 * SECOND))
    denial = next(m for _, m in sends(acts) if m.op == Op.MEM_DENY)
    assert denial.a == Deny.CAPACITY  # the first could never come back


def test_the_limit_is_of_both_classes_together() -> None:
    two = Two(limit=60)
    two.lease(0, 40)
    assert ops(two.lease(0, 20, cls=MemClass.DEVICE)) == [Op.MEM_GRANT]
    acts = two.lease(0, 1) + (two.pass_time(2 * SECOND))
    assert next(m.a for _, m in sends(acts) if m.op == Op.MEM_DENY) == Deny.LIMIT
    assert two.core.use(two.tenants[0]).leased_bytes == 60 * GRANULE


@pytest.mark.parametrize("limit", [0, 100])
def test_what_ordinary_tenants_were_promised_is_not_for_swapping(limit: int) -> None:
    core = Core()
    core.add_device(100 * GRANULE, overhead=2 * GRANULE)
    core.add_tenant(limit=40 * GRANULE)
    tenant = core.add_tenant(flags=GRANT_OVERSUBSCRIBE, limit=limit * GRANULE)
    swapping = core.join(tenant)
    acts = core.lease(swapping, 59 * GRANULE, cls=SWAP) + list(core.advance(2 * SECOND))
    assert ops(acts) == [Op.MEM_DENY]
    assert ops(core.lease(swapping, 58 * GRANULE, cls=SWAP)) == [Op.MEM_GRANT]


def test_only_with_the_grant() -> None:
    core = Core()
    core.add_device(100 * GRANULE)
    tenant = core.add_tenant()
    client = core.join(tenant)
    acts = core.lease(client, GRANULE, cls=SWAP)
    assert [(m.op, m.a) for _, m in sends(acts)] == [(Op.MEM_DENY, Deny.UNKNOWN)]
    assert not any(m.op == Op.SNAP_RESIDENCY for m in core.snapshot())
    told = sends(core.set_tenant(tenant, flags=GRANT_OVERSUBSCRIBE))
    assert [(m.op, m.a) for _, m in told] == [(Op.DEVICE, GRANT_OVERSUBSCRIBE)]


def test_a_readopted_client_says_where_its_memory_is() -> None:
    two = Two()
    two.lease(0, 80)
    back = two.core.join(two.tenants[1], flags=1)
    two.core.tell(back, Op.ADOPT_MEM, cls=SWAP, bytes=80 * GRANULE, a=1)
    assert two.state(1) == Residency.AWAY
    assert not any(m.op == Op.EVICT for _, m in sends(two.core.last))
    two.core.tell(back, Op.WANT_TIME)
    acts = two.pass_time(2 * SECOND)
    assert ops(acts, two.clients[0]) == [Op.EVICT]


# --- who does not answer -------------------------------------------------------------------------


def test_who_cannot_leave_stays_for_good_and_that_is_shown() -> None:
    two = Two()
    seq = two.open_and_evict()
    acts = two.say(0, Op.EVICTED, seq, b=1)
    row = next(m for m in two.core.snapshot() if m.op == Op.SNAP_RESIDENCY)
    assert (row.b, row.bytes) == (1, 80 * GRANULE)
    assert "evict_failed" in two.core.log
    acts += two.pass_time(10 * SECOND)
    # The other one can never come in, and the first runs on.
    assert ops(acts, two.clients[1]) == []
    assert Op.OPEN_GATE in ops(acts, two.clients[0])


def test_who_could_not_come_back_tries_again_later_and_later() -> None:
    stubborn = swapper(80, fails=3)
    first = swapper(80)
    machine = SwapMachine([first, stubborn])
    machine.run(20 * SECOND)
    assert machine.core.log.count("restore_failed") == 3
    assert shares(machine, first, stubborn, after=10 * SECOND)[1] == pytest.approx(0.5, abs=0.1)


def test_who_can_never_come_back_costs_the_others_less_and_less() -> None:
    stubborn, first = swapper(80, fails=1000), swapper(80)
    machine = SwapMachine([first, stubborn])
    machine.run(40 * SECOND)
    assert 4 <= machine.core.log.count("restore_failed") <= 8
    assert first.busy(machine.start, machine.core.now) > 0.9 * (machine.core.now - machine.start)


def test_late_answers_of_an_older_question_are_nothing() -> None:
    two = Two()
    seq = two.open_and_evict()
    assert two.say(0, Op.EVICTED, seq + 7) == []
    assert two.say(0, Op.RESTORED, seq) == []
    assert two.state(0) == Residency.EVICTING
    two.say(0, Op.EVICTED, seq)
    assert two.say(0, Op.EVICTED, seq) == []
    assert two.state(0) == Residency.AWAY


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


def test_what_is_dead_and_away_is_gone_at_once() -> None:
    two = Two()
    two.lease(0, 80)
    two.lease(1, 80)
    two.core.step(DEAD, two.clients[1])
    use = two.core.use(two.tenants[1])
    assert (use.leased_bytes, use.bytes) == (0, 0)
