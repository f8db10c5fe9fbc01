# SPDX-License-Identifier: Apache-2.0
"""Memory that may leave its device: who gets what, and what is told in which order."""

from __future__ import annotations

import pytest
from arbiter_core import (
    DEAD,
    GRANULE,
    MS,
    SECOND,
    TICK,
    Act,
    Core,
    ops,
    sends,
)
from arbiter_swap import SwapMachine, swapper

from harp.lease_wire import (
    GRANT_OVERSUBSCRIBE,
    Deny,
    MemClass,
    Op,
    Residency,
)

SWAP = MemClass.SWAP


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


def test_what_is_dead_and_away_is_gone_at_once() -> None:
    two = Two()
    two.lease(0, 80)
    two.lease(1, 80)
    two.core.step(DEAD, two.clients[1])
    use = two.core.use(two.tenants[1])
    assert (use.leased_bytes, use.bytes) == (0, 0)


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
