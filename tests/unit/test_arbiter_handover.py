# SPDX-License-Identifier: Apache-2.0
"""From one turn to the next: announced ends, renewals, early gates, the lead, overlaps."""

from __future__ import annotations

import pytest
from arbiter_core import DEAD, MS, NEVER, PPM, QUANTUM, SECOND, Act, Core, Msg, ops, sends
from arbiter_engine import US, Job, Machine, Proc, job

from harp.lease_wire import Op


def gates(acts: list[Act]) -> list[tuple[int, Msg]]:
    return [(to, msg) for to, msg in sends(acts) if msg.op == Op.OPEN_GATE]


def announce(
    core: Core, client: int, epoch: int, rest: int, *, used: int = 0, more: bool = True
) -> list[Act]:
    fields = {"epoch": epoch, "a": 1, "window_ns": rest, "c": int(more), "used_ns": used}
    return core.tell(client, Op.USED_TIME, **fields)


def give(core: Core, client: int, epoch: int, used: int, *, more: bool = True) -> list[Act]:
    return core.tell(client, Op.YIELD_TIME, epoch=epoch, used_ns=used, a=int(more))


def contended(core: Core, shares: tuple[int, int] = (0, 0)) -> tuple[list[int], list[int], int]:
    """Two tenants that want, the first holding a quantum: tenants, clients, epoch."""
    tenants = [core.add_tenant(share=share) for share in shares]
    a, b = (core.join(tenant) for tenant in tenants)
    ((_, gate),) = gates(core.tell(a, Op.WANT_TIME))
    core.tell(b, Op.WANT_TIME)
    acts = give(core, a, gate.epoch, 0)
    if gates(acts)[0][0] == b:
        acts = give(core, b, gates(acts)[0][1].epoch, 0)
    ((holder, gate),) = gates(acts)
    assert holder == a
    assert gate.quantum_ns == QUANTUM
    return tenants, [a, b], int(gate.epoch)


def favoured(core: Core) -> tuple[list[int], list[int], int]:
    """As contended(), but the holder will be next for a long time: the other has had its turn."""
    tenants, (a, b), epoch = contended(core, (900_000, 100_000))
    core.now += QUANTUM
    ((holder, gate),) = gates(give(core, a, epoch, QUANTUM))
    assert holder == b
    core.now += QUANTUM
    ((holder, gate),) = gates(give(core, b, gate.epoch, QUANTUM))
    assert holder == a
    return tenants, [a, b], int(gate.epoch)


def test_next_gate_opens_at_the_announced_end_without_a_word_from_the_old_holder(
    core: Core,
) -> None:
    _, (a, b), epoch = contended(core)
    core.now += 4 * MS
    assert ops(announce(core, a, epoch, MS, used=4 * MS)) == []
    assert core.next() == core.now + MS  # nothing learnt yet: no lead
    acts = list(core.advance(MS))
    assert [(to, msg.epoch) for to, msg in gates(acts)] == [(b, epoch + 1)]
    assert ops(acts, a) == []  # it has closed by itself: no CLOSE
    # Its last word is still heard, and it wants again.
    core.now += 10 * US
    give(core, a, epoch, MS)
    assert core.use(1).a == 1


def test_short_rest_is_not_worth_a_timer(core: Core) -> None:
    _, (a, b), epoch = contended(core)
    core.now += 5 * MS
    assert ops(announce(core, a, epoch, 10 * US), b) == [Op.OPEN_GATE]


def test_yield_before_the_announced_end_hands_over_at_once(core: Core) -> None:
    _, (a, b), epoch = contended(core)
    core.now += 4 * MS
    announce(core, a, epoch, 2 * MS)
    core.now += MS
    assert ops(give(core, a, epoch, 5 * MS), b) == [Op.OPEN_GATE]
    assert list(core.advance(2 * MS)) == []


def test_turn_is_renewed_where_the_same_tenant_is_next(core: Core) -> None:
    (first, _), (a, _), epoch = favoured(core)
    core.now += 4 * MS
    ((to, gate),) = gates(announce(core, a, epoch, MS, used=4 * MS))
    # The same epoch; its quantum starts where what is queued ends.
    assert (to, gate.a, gate.epoch, gate.quantum_ns) == (a, 1, epoch, QUANTUM + MS)
    core.now += 5 * MS
    give(core, a, epoch, 5 * MS)
    assert core.use(first).used_ns == QUANTUM + 9 * MS


def test_without_backlog_the_announcer_is_no_candidate(core: Core) -> None:
    _, (a, b), epoch = contended(core, (900_000, 100_000))
    core.now += 4 * MS
    announce(core, a, epoch, MS, more=False)
    assert ops(core.advance(MS), b) == [Op.OPEN_GATE]


def test_expected_charge_counts_before_it_is_made(core: Core) -> None:
    """Equal weights, nothing charged yet: only what was announced puts the holder behind."""
    _, (a, b), epoch = contended(core)
    core.now += 50 * MS
    acts = announce(core, a, epoch, 0)
    assert [to for to, _ in gates(acts)] == [b]


def test_turn_of_two_processes_ends_when_both_have_said_so(core: Core) -> None:
    (first, _), (a, b), epoch = contended(core)
    twin = core.join(first)
    core.tell(twin, Op.WANT_TIME)
    core.now += 4 * MS
    assert ops(announce(core, a, epoch, MS)) == []
    assert core.next() > core.now + 100 * MS
    announce(core, twin, epoch, 3 * MS)
    assert ops(core.advance(3 * MS)) == []
    assert ops(core.advance(MS), b) == [Op.OPEN_GATE]  # one after the other: the sum


def test_death_of_the_last_silent_process_makes_the_end_known(core: Core) -> None:
    (first, _), (a, b), epoch = contended(core)
    twin = core.join(first)
    core.tell(twin, Op.WANT_TIME)
    core.now += 4 * MS
    announce(core, a, epoch, MS)
    core.step(DEAD, twin)
    assert ops(core.advance(MS), b) == [Op.OPEN_GATE]


def test_only_one_turn_drains_beside_the_current(core: Core) -> None:
    _, (a, b), epoch = contended(core)
    c = core.join(core.add_tenant())
    core.tell(c, Op.WANT_TIME)
    core.now += 5 * MS
    ((holder, gate),) = gates(announce(core, a, epoch, 0))
    core.now += 5 * MS
    acts = announce(core, holder, gate.epoch, 0)
    assert gates(acts) == []  # a drains still
    acts = give(core, a, epoch, 5 * MS)
    assert [to for to, _ in gates(acts)] == [b if holder == c else c]


def test_drain_that_never_ends_is_given_up_beside_the_current_turn(core: Core) -> None:
    (first, _), (a, b), epoch = contended(core)
    core.now += 5 * MS
    ((_, gate),) = gates(announce(core, a, epoch, 0))
    for _ in range(6):
        list(core.advance(100 * MS))
        core.tell(b, Op.USED_TIME, epoch=gate.epoch, used_ns=100 * MS)
    assert "gate_overdue" in core.log
    assert core.use(first).estimated_ns > 0
    give(core, a, epoch, SECOND)
    spent = sum(core.use(tenant).used_ns for tenant in (1, 2))
    assert spent <= core.now - SECOND


def test_overlap_is_split_and_never_charged_twice(core: Core) -> None:
    (first, second), (a, b), epoch = contended(core)
    core.now += 4 * MS
    ((_, gate),) = gates(announce(core, a, epoch, 0, used=4 * MS))
    core.now += 2 * MS  # a's last kernel went on for 2 ms beside b
    give(core, a, epoch, 2 * MS, more=False)
    core.tell(b, Op.USED_TIME, epoch=gate.epoch, used_ns=2 * MS)
    core.now += 2 * MS
    give(core, b, gate.epoch, 2 * MS, more=False)
    uses = [core.use(first), core.use(second)]
    assert [use.used_ns for use in uses] == [5 * MS, 3 * MS]
    assert [use.estimated_ns for use in uses] == [MS, MS]


def test_no_overlap_is_charged_in_full_once_that_is_known(core: Core) -> None:
    (first, second), (a, b), epoch = contended(core)
    core.now += 4 * MS
    ((_, gate),) = gates(announce(core, a, epoch, 0, used=4 * MS))
    core.now += MS
    give(core, a, epoch, MS, more=False)
    assert core.use(first).used_ns == 4 * MS + MS // 2  # b may have run meanwhile
    core.now += 2 * MS
    give(core, b, gate.epoch, 2 * MS, more=False)  # b began when a had ended
    assert [core.use(t).used_ns for t in (first, second)] == [5 * MS, 2 * MS]
    assert core.use(first).estimated_ns == 0


def test_overlap_that_is_known_too_late_comes_off_the_next_charge(core: Core) -> None:
    """`b` says nothing of its work before its own turn is handed over: `a` has paid for all until
    its last word, and half of what both had is given back."""
    (first, second), (a, b), epoch = contended(core)
    core.now += 4 * MS
    ((_, gate),) = gates(announce(core, a, epoch, 0, used=4 * MS))
    core.now += MS
    announce(core, b, gate.epoch, 6 * MS)
    core.now += MS
    give(core, a, epoch, 2 * MS)  # b has worked beside it since 4 ms
    ((to, again),) = gates(list(core.advance(5 * MS)))
    assert to == a
    assert [core.use(t).used_ns for t in (first, second)] == [6 * MS, 0]
    core.now += MS // 2
    give(core, b, gate.epoch, 7 * MS + MS // 2, more=False)
    core.now += MS + MS // 2
    give(core, a, again.epoch, MS + MS // 2, more=False)
    used = [core.use(t).used_ns for t in (first, second)]
    assert used == [6 * MS + MS // 2, 6 * MS + MS // 2]
    assert sum(used) == 13 * MS  # the time that passed
    assert core.use(second).estimated_ns >= MS


def hand_over(
    core: Core, a: int, b: int, epoch: int, *, gap: int, late: int = 0, held: int = 3 * MS
) -> tuple[int, int]:
    """One turn of `a`: `held` ns and what was queued then; its work ends `late` ns after it was
    said to, and b's first begins `gap` ns after that (or before it). Returns b's epoch and how long
    before the announced end its gate was opened."""
    core.now += held
    said = core.now + MS
    acts = announce(core, a, epoch, MS, used=held)
    while not gates(acts):
        acts = list(core.advance(core.next() - core.now))
    lead = said - core.now
    ((to, gate),) = gates(acts)
    assert to == b
    end = said + late
    core.now = max(end, core.now)
    give(core, a, epoch, core.now - (said - MS))
    core.now = max(end + gap + 50 * US, core.now)
    core.tell(b, Op.USED_TIME, epoch=gate.epoch, used_ns=core.now - (end + gap))
    return int(gate.epoch), lead


def test_lead_grows_with_gaps_and_is_cut_by_an_overlap(core: Core) -> None:
    """Two tenants in turn; each has a lead of its own, learnt when its successor's turn ends."""
    _, (a, b), epoch = contended(core)
    leads = []
    for _ in range(110):
        epoch, lead = hand_over(core, a, b, epoch, gap=100 * US)
        leads.append(lead)
        a, b = b, a
    assert leads[0] == 0
    assert leads == sorted(leads)
    assert {y - x for x, y in zip(leads, leads[2:], strict=False)} <= {0, 10 * US}
    assert leads[-1] == 500 * US
    seen = []
    for gap in (-40 * US, *[5 * US] * 5):
        epoch, lead = hand_over(core, a, b, epoch, gap=gap)
        seen.append(lead // US)
        a, b = b, a
    # One overlap; from then on the steps up of this tenant are small.
    assert seen == [500, 500, 460, 500, 462, 500]


def test_ends_announced_wrongly_are_not_believed_for_some_turns(core: Core) -> None:
    """The lead goes below zero first: a device's context switch is in no announcement."""
    _, (a, b), epoch = contended(core)
    leads = []
    for _ in range(4):  # `a` is always late, and b's work pushes in between
        epoch, lead = hand_over(core, a, b, epoch, gap=-300 * US, late=400 * US)
        leads.append(lead)
        epoch, _ = hand_over(core, b, a, epoch, gap=20 * US, held=4 * MS)
    assert leads == [0, -40 * US, -80 * US, -120 * US]
    core.now += 5 * MS
    assert gates(announce(core, a, epoch, 0, used=5 * MS)) == []  # waits for its word
    assert [to for to, _ in gates(give(core, a, epoch, 0))] == [b]


def test_turn_over_before_its_predecessor_is_an_overlap_too(core: Core) -> None:
    """A device may put the predecessor's last kernel behind the whole turn."""
    _, (a, b), epoch = contended(core)
    for _ in range(40):  # both leads grow to 400 us
        epoch, lead = hand_over(core, a, b, epoch, gap=20 * US)
        epoch, _ = hand_over(core, b, a, epoch, gap=20 * US)
    core.now += 3 * MS
    acts = announce(core, a, epoch, MS, used=3 * MS)
    while not gates(acts):
        acts = list(core.advance(core.next() - core.now))
    ((_, gate),) = gates(acts)
    core.now += 5 * MS
    give(core, b, gate.epoch, 5 * MS)  # a has not said its last word
    core.now += 300 * US
    ((to, gate),) = gates(give(core, a, epoch, 6 * MS))
    assert to == b  # a has been charged more
    core.now += 5 * MS
    ((to, gate),) = gates(give(core, b, gate.epoch, 5 * MS))
    assert to == a
    _, cut = hand_over(core, a, b, int(gate.epoch), gap=20 * US)
    assert cut == lead + 10 * US - 160 * US


def test_renewed_turn_that_is_announced_no_more_is_overdue_after_its_new_quantum(
    core: Core,
) -> None:
    _, (a, b), epoch = favoured(core)
    core.now += 4 * MS
    announce(core, a, epoch, MS, used=4 * MS)
    assert core.next() == core.now + QUANTUM + MS + 500 * MS
    assert ops(core.advance(QUANTUM + 501 * MS), b) == [Op.OPEN_GATE]


def test_lone_tenant_that_announces_becomes_open_ended(core: Core) -> None:
    _, (a, b), epoch = contended(core)
    core.step(DEAD, b)
    core.now += 4 * MS
    ((_, gate),) = gates(announce(core, a, epoch, MS, used=4 * MS))
    assert (gate.a, gate.epoch, gate.quantum_ns) == (1, epoch, 0)
    assert core.next() == NEVER


@pytest.mark.parametrize("kernel", [50 * US, 200 * US, MS])
def test_engine_does_not_idle_between_announced_turns(kernel: int) -> None:
    busy = {}
    for announces in (False, True):
        jobs = [
            job(share=share, kernel=kernel, announces=announces) for share in (300_000, 700_000)
        ]
        machine = Machine(jobs)
        machine.run(4 * SECOND)
        used = [each.busy(machine.start, machine.core.now) for each in jobs]
        busy[announces] = sum(used) / (4 * SECOND)
        assert used[0] / sum(used) == pytest.approx(0.3, abs=0.005)
        for each, mine in zip(jobs, used, strict=True):
            assert machine.core.use(each.tenant).used_ns == pytest.approx(mine, rel=0.005)
        machine.core.close()
    assert busy[True] > 0.995
    assert busy[False] < 0.99  # what the announcements are for


def test_wrong_announcements_cost_time_but_no_share() -> None:
    jobs = [job(share=300_000, error=0.5, kernel=MS), job(share=700_000, error=0.5)]
    machine = Machine(jobs)
    machine.run(4 * SECOND)
    used = [each.busy(machine.start, machine.core.now) for each in jobs]
    assert used[0] / sum(used) == pytest.approx(0.3, abs=0.005)
    machine.core.close()


def test_two_processes_are_charged_once() -> None:
    jobs = [Job([Proc(), Proc(kernel=MS)], share=300_000), job(share=700_000)]
    machine = Machine(jobs)
    machine.run(4 * SECOND)
    used = [each.busy(machine.start, machine.core.now) for each in jobs]
    assert used[0] / sum(used) == pytest.approx(0.3, abs=0.005)
    for each, mine in zip(jobs, used, strict=True):
        assert machine.core.use(each.tenant).used_ns == pytest.approx(mine, rel=0.01)
    machine.core.close()


@pytest.mark.parametrize("kernel", [200 * US, 7 * MS, 50 * MS])
def test_limit_of_a_lone_tenant_is_exact(kernel: int) -> None:
    """From the second second on: the first one also spends the bucket's 50 ms."""
    alone = job(cap=3 * PPM // 10, kernel=kernel)
    machine = Machine([alone])
    machine.run(11 * SECOND)
    got = alone.busy(machine.start + SECOND, machine.start + 11 * SECOND) / (10 * SECOND)
    assert got == pytest.approx(0.3, abs=0.005)
    machine.core.close()


def test_process_that_reports_after_the_hand_over_is_charged_from_its_first_work() -> None:
    """One process announces a long end, the other's yield makes the end known: handed over, and
    only then does the first say that it began sooner."""
    jobs = [
        job(share=500_000, kernel=20 * US),
        Job([Proc(kernel=7 * MS, announces=False), Proc(kernel=20 * US)], share=500_000),
    ]
    machine = Machine(jobs)
    machine.run(2 * SECOND)
    for each in jobs:
        mine = each.busy(machine.start, machine.core.now)
        assert machine.core.use(each.tenant).used_ns == pytest.approx(mine, rel=0.03)
    machine.core.close()
