# SPDX-License-Identifier: Apache-2.0
"""Gates and turns, case by case: who is opened, when, for how long, and what it is charged."""

from __future__ import annotations

import pytest
from arbiter_core import DEAD, GRANULE, MS, PPM, QUANTUM, SECOND, Core, Msg, ops, sends

from harp.lease_wire import Gate, Op


def opened(core: Core, client: int) -> Msg:
    """What the client was told last, which must be an open gate."""
    msg = [msg for to, msg in sends(core.last) if to == client][-1]
    assert msg.op == Op.OPEN_GATE
    return msg


def want(core: Core, client: int) -> None:
    core.last = core.tell(client, Op.WANT_TIME)


def give(core: Core, client: int, epoch: int, used: int, *, more: bool, age: int = 0) -> None:
    core.last = core.tell(client, Op.YIELD_TIME, epoch=epoch, used_ns=used, age_ns=age, a=more)


def contended(core: Core, shares: tuple[int, int] = (0, 0)) -> tuple[int, int, int, int]:
    """Two tenants that both want, the first holding a quantum: tenants and clients."""
    first, second = (core.add_tenant(share=share) for share in shares)
    a, b = core.join(first), core.join(second)
    want(core, a)
    epoch = opened(core, a).epoch
    want(core, b)
    assert ops(core.last) == [Op.CLOSE_GATE]
    give(core, a, epoch, 0, more=True)
    if ops(core.last, b):
        give(core, b, opened(core, b).epoch, 0, more=True)
    assert opened(core, a).quantum_ns == QUANTUM
    return first, second, a, b


def test_lone_tenant_is_opened_until_close(core: Core) -> None:
    client = core.join(core.add_tenant())
    want(core, client)
    gate = opened(core, client)
    assert (gate.quantum_ns, gate.window_ns) == (0, 0)
    want(core, client)
    assert ops(core.last) == []  # idempotent
    assert core.next() == 2**64 - 1


def test_company_bounds_the_work_in_flight_before_it_wants(core: Core) -> None:
    client = core.join(core.add_tenant())
    want(core, client)
    first = opened(core, client)
    epoch = first.epoch
    guest = core.join(core.add_tenant())
    update = opened(core, client)
    # A change says that it is one: whose gate is closed by then must not take it for an opening.
    assert (first.a, update.a) == (0, 1)
    assert (update.epoch, update.quantum_ns, update.window_ns) == (epoch, 0, 4 * MS)
    core.last = core.step(DEAD, guest)
    assert opened(core, client).window_ns == 0


def test_second_tenant_closes_the_open_gate_and_quanta_follow(core: Core) -> None:
    _, _, a, b = contended(core)
    epoch = opened(core, a).epoch
    core.now += QUANTUM
    give(core, a, epoch, QUANTUM, more=True)
    gate = opened(core, b)
    assert ops(core.last) == [Op.OPEN_GATE]
    assert (gate.quantum_ns, gate.epoch) == (QUANTUM, epoch + 1)


def test_want_travels_in_the_yield(core: Core) -> None:
    """70/30 must not become strict alternation: the yielding tenant is still a candidate."""
    first, second, a, b = contended(core, (700_000, 300_000))
    turns = {a: 0, b: 0}
    holder, gate = a, opened(core, a)
    for _ in range(100):
        turns[holder] += 1
        core.now += QUANTUM
        give(core, holder, gate.epoch, QUANTUM, more=True)
        ((holder, gate),) = sends(core.last)
    assert turns == {a: 70, b: 30}
    assert core.use(first).used_ns > core.use(second).used_ns


def test_tenant_that_yields_without_backlog_is_not_opened_again(core: Core) -> None:
    _, _, a, b = contended(core)
    give(core, a, opened(core, a).epoch, 0, more=False)
    assert opened(core, b).quantum_ns == 0  # alone again
    give(core, b, opened(core, b).epoch, 0, more=False)
    assert ops(core.last) == []


def test_charge_is_at_most_the_wall_time(core: Core) -> None:
    first, _, a, _ = contended(core)
    core.now += 3 * MS
    give(core, a, opened(core, a).epoch, 50 * MS, more=True)
    assert core.use(first).used_ns == 3 * MS


def test_stale_yield_and_use_change_nothing(core: Core) -> None:
    first, second, a, b = contended(core)
    epoch = opened(core, a).epoch
    core.now += MS
    give(core, a, epoch - 1, MS, more=False)
    give(core, b, epoch, MS, more=False)  # b's gate is closed
    core.tell(a, Op.USED_TIME, epoch=epoch - 1, used_ns=MS, copy_ns=5, launches=3)
    core.tell(a, Op.USED_TIME, epoch=epoch + 7, used_ns=MS)
    use = core.use(first)
    assert (use.used_ns, core.use(second).used_ns) == (0, 0)
    assert (use.copy_ns, use.launches) == (5, 3)


def test_reports_within_a_turn_add_up_to_one_charge(core: Core) -> None:
    first, _, a, _ = contended(core)
    epoch = opened(core, a).epoch
    core.now += 2 * MS
    core.tell(a, Op.USED_TIME, epoch=epoch, used_ns=2 * MS)
    core.now += 3 * MS
    give(core, a, epoch, 2 * MS, more=True, age=MS)
    assert core.use(first).used_ns == 4 * MS


def test_processes_of_one_tenant_share_one_turn_and_one_account(core: Core) -> None:
    first, _, a, b = contended(core)
    twin = core.join(first)
    want(core, twin)
    gate = opened(core, twin)  # joins the running turn for what is left
    assert gate.epoch + 0 == core.snapshot()[0].epoch
    core.now += QUANTUM
    give(core, a, gate.epoch, QUANTUM, more=True)
    assert ops(core.last) == []  # the twin still holds
    give(core, twin, gate.epoch, QUANTUM, more=True)
    assert ops(core.last) == [Op.OPEN_GATE]
    assert opened(core, b)
    assert core.use(first).used_ns == QUANTUM
    core.now += QUANTUM
    give(core, b, opened(core, b).epoch, QUANTUM, more=True)
    assert {to for to, _ in sends(core.last)} == {a, twin}


def test_crumbs_of_a_quantum_are_not_opened(core: Core) -> None:
    first, _, _, _ = contended(core)
    twin = core.join(first)
    core.now += QUANTUM - 100_000
    want(core, twin)
    assert ops(core.last) == []


def test_dead_holder_hands_over_and_is_charged_its_quantum_so_far(core: Core) -> None:
    first, _, a, b = contended(core)
    core.now += 4 * MS
    core.last = core.step(DEAD, a)
    assert opened(core, b)
    assert core.use(first).used_ns == 4 * MS


def test_stopped_holder_is_given_up_and_seen(core: Core) -> None:
    first, second, a, b = contended(core)
    epoch = opened(core, a).epoch
    assert ops(core.advance(QUANTUM + 499 * MS)) == []
    core.last = list(core.advance(MS))
    assert opened(core, b).quantum_ns == 0  # nobody else is able to use the device
    assert core.use(first).used_ns == QUANTUM + 500 * MS
    lease = next(m for m in core.snapshot() if m.op == Op.SNAP_LEASE and m.client == a)
    assert lease.b == Gate.OVERDUE
    # It comes back: only accounted, then a candidate like any other.
    core.now += 10 * MS
    core.tell(b, Op.USED_TIME, epoch=epoch + 1, used_ns=10 * MS)
    give(core, a, epoch, 2 * SECOND, more=True)
    assert core.use(first).used_ns == QUANTUM + 500 * MS
    assert ops(core.last, b) == [Op.CLOSE_GATE]
    assert core.use(second).used_ns == 10 * MS


def test_holder_that_says_it_drains_is_not_given_up_for_ten_seconds(core: Core) -> None:
    first, _, a, b = contended(core)
    epoch = opened(core, a).epoch
    acts = list(core.advance(QUANTUM))
    for _ in range(99):
        acts += core.advance(100 * MS)
        acts += core.tell(a, Op.USED_TIME, epoch=epoch)
        core.tell(b, Op.USED_TIME, epoch=epoch)  # somebody else's word does not count
    assert ops(acts) == []
    core.last = list(core.advance(100 * MS))
    assert opened(core, b)
    assert core.use(first).used_ns == QUANTUM + 10 * SECOND


def test_silent_holder_is_given_up_half_a_second_after_its_last_word(core: Core) -> None:
    _, _, a, b = contended(core)
    epoch = opened(core, a).epoch
    acts = list(core.advance(QUANTUM + 300 * MS))
    acts += core.tell(a, Op.USED_TIME, epoch=epoch)
    acts += core.tell(b, Op.USED_TIME, epoch=epoch)
    acts += core.advance(499 * MS)
    assert ops(acts) == []
    core.last = list(core.advance(MS))
    assert opened(core, b)


def test_closed_gate_that_never_yields_is_given_up_too(core: Core) -> None:
    a, b = core.join(core.add_tenant()), core.join(core.add_tenant())
    want(core, a)
    core.now += SECOND
    want(core, b)
    assert ops(core.last) == [Op.CLOSE_GATE]
    core.last = list(core.advance(500 * MS))
    assert opened(core, b)


def test_holder_that_says_it_drains_is_waited_for_but_not_for_ever(core: Core) -> None:
    first, _, a, b = contended(core)
    epoch = opened(core, a).epoch
    for _ in range(30):  # a kernel of three seconds, and more
        core.now += 100 * MS
        assert ops(core.tell(a, Op.USED_TIME, epoch=epoch)) == []
    give(core, a, epoch, 3 * SECOND, more=True)
    assert opened(core, b)
    assert core.use(first).used_ns == 3 * SECOND

    epoch, told = opened(core, b).epoch, core.now
    while not core.last or ops(core.last, a) != [Op.OPEN_GATE]:
        core.last = list(core.advance(100 * MS))
        core.tell(b, Op.USED_TIME, epoch=epoch)
        assert core.now - told < 11 * SECOND
    assert core.now - told > 9 * SECOND


def test_kernel_longer_than_the_quantum_is_charged_and_repaid(core: Core) -> None:
    _, _, a, b = contended(core)
    core.now += 100 * MS
    give(core, a, opened(core, a).epoch, 100 * MS, more=True)
    turns = 0
    holder, gate = b, opened(core, b)
    while holder == b:
        turns += 1
        core.now += QUANTUM
        give(core, b, gate.epoch, QUANTUM, more=True)
        ((holder, gate),) = sends(core.last)
    assert turns * QUANTUM == pytest.approx(100 * MS, abs=2 * QUANTUM)


def test_debt_is_at_most_a_second(core: Core) -> None:
    first, _, a, b = contended(core)
    core.now += 400 * MS
    epoch = opened(core, a).epoch
    for _ in range(20):  # twenty long kernels would owe eight seconds
        core.tell(a, Op.USED_TIME, epoch=epoch, used_ns=400 * MS)
        core.now += 400 * MS
    give(core, a, epoch, 0, more=True)
    assert core.use(first).used_ns > 7 * SECOND
    waited, holder, gate = 0, b, opened(core, b)
    while holder == b:
        waited += QUANTUM
        core.now += QUANTUM
        give(core, b, gate.epoch, QUANTUM, more=True)
        ((holder, gate),) = sends(core.last)
    assert waited == pytest.approx(SECOND, abs=2 * QUANTUM)


def test_time_used_alone_is_nobodys_debt(core: Core) -> None:
    a, b = core.join(core.add_tenant()), core.join(core.add_tenant())
    want(core, a)
    core.now += 100 * SECOND
    want(core, b)  # never seen before
    give(core, a, opened_epoch(core), 100 * SECOND, more=True)
    holder, gate = sends(core.last)[-1]
    turns = {a: 0, b: 0}
    for _ in range(100):
        turns[holder] += 1
        core.now += QUANTUM
        give(core, holder, gate.epoch, QUANTUM, more=True)
        ((holder, gate),) = sends(core.last)
    # The newcomer is owed at most its 50 ms of credit.
    assert turns[b] - turns[a] <= 12


def opened_epoch(core: Core) -> int:
    return int(core.snapshot()[0].epoch)


def test_returning_tenant_that_is_owed_time_cuts_the_holders_quantum(core: Core) -> None:
    _, _, a, b = contended(core)
    give(core, a, opened(core, a).epoch, 0, more=False)
    epoch = opened(core, b).epoch
    want(core, a)
    give(core, b, epoch, 0, more=True)
    holder = sends(core.last)[0][0]
    epoch = opened_epoch(core)
    other = b if holder == a else a
    # `holder` now runs many quanta while `other` is in and out: it never falls behind for long.
    core.now += QUANTUM
    give(core, holder, epoch, QUANTUM, more=True)
    assert opened(core, other)
    give(core, other, opened_epoch(core), 0, more=False)
    core.now += MS // 2
    want(core, other)
    seen = ops(core.last) + ops(core.advance(2 * MS))
    assert Op.CLOSE_GATE in seen


def test_cap_holds_a_lone_tenant_back(core: Core) -> None:
    tenant = core.add_tenant(cap=PPM // 10)
    client = core.join(tenant)
    want(core, client)
    start, used = core.now, 0
    acts = core.last
    while core.now < start + 10 * SECOND:
        gates = [msg for _, msg in sends(acts)]
        if not gates:
            due = core.next()
            assert due < start + 20 * SECOND
            acts = list(core.advance(due - core.now))
            continue
        assert gates[-1].quantum_ns > 0
        used += gates[-1].quantum_ns
        core.now += gates[-1].quantum_ns
        give(core, client, gates[-1].epoch, gates[-1].quantum_ns, more=True)
        acts = core.last
    assert used == pytest.approx(SECOND, rel=0.06)  # the bucket's 50 ms on top


def test_cap_given_later_ends_an_open_ended_gate(core: Core) -> None:
    tenant = core.add_tenant()
    client = core.join(tenant)
    want(core, client)
    assert Op.CLOSE_GATE in ops(core.set_tenant(tenant, cap=PPM // 2))


def test_cap_leaves_the_rest_to_others(core: Core) -> None:
    capped, free = core.add_tenant(cap=PPM // 5), core.add_tenant()
    a, b = core.join(capped), core.join(free)
    acts, start = core.tell(a, Op.WANT_TIME) + core.tell(b, Op.WANT_TIME), core.now
    held: dict[int, Msg] = {}
    for _ in range(4000):
        held |= {to: msg for to, msg in sends(acts) if msg.op == Op.OPEN_GATE}
        (holder,) = held
        gate = held.pop(holder)
        if gate.quantum_ns:
            core.now += gate.quantum_ns
            acts = core.tell(holder, Op.YIELD_TIME, epoch=gate.epoch, used_ns=gate.quantum_ns, a=1)
            continue
        began, acts = core.now, list(core.advance(core.next() - core.now))
        assert Op.CLOSE_GATE in ops(acts, holder)
        used = core.now - began
        acts = core.tell(holder, Op.YIELD_TIME, epoch=gate.epoch, used_ns=used, a=1)
    seconds = core.now - start
    assert core.use(capped).used_ns / seconds == pytest.approx(0.2, abs=0.01)
    assert core.use(free).used_ns / seconds == pytest.approx(0.8, abs=0.01)


def test_devices_are_scheduled_apart(core: Core) -> None:
    core.add_device(100 * GRANULE, number=2)
    first, second = core.add_tenant(), core.add_tenant()
    for tenant in (first, second):
        core.set_tenant(tenant, dev=1)
    a, b = core.join(first), core.join(second)
    want(core, a)
    acts = core.tell(b, Op.WANT_TIME, dev=1)
    assert [(to, msg.op, msg.dev) for to, msg in sends(acts)] == [(b, Op.OPEN_GATE, 1)]


def test_waiting_is_counted(core: Core) -> None:
    _, second, a, b = contended(core)
    core.now += QUANTUM
    assert core.use(second).wait_ns == QUANTUM
    give(core, a, opened(core, a).epoch, QUANTUM, more=True)
    assert opened(core, b)
    core.now += QUANTUM
    assert core.use(second).wait_ns == QUANTUM


def test_want_without_a_grant_is_ignored(core: Core) -> None:
    core.add_device(100 * GRANULE, number=2)
    client = core.join(core.add_tenant())
    assert ops(core.tell(client, Op.WANT_TIME, dev=1)) == []
