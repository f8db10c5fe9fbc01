# SPDX-License-Identifier: Apache-2.0
"""Memory leases, case by case: limits, recalls, draining, adoption, refusals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from arbiter_core import CLOSE, DEAD, EVENT, GRANULE, MS, SECOND, WATCHED, Core, Msg, ops, sends

from harp.lease_wire import ANY_UID, Deny, Op

CAPACITY = 100 * GRANULE


@pytest.fixture
def core() -> Iterator[Core]:
    core = Core()
    core.add_device(CAPACITY)
    core.step(WATCHED, msg=Msg(a=1))
    yield core
    core.close()


def test_lease_is_granted_to_the_last_granule_and_denied_one_beyond(core: Core) -> None:
    client = core.join(core.add_tenant(limit=10 * GRANULE))
    assert ops(core.lease(client, 10 * GRANULE)) == [Op.MEM_GRANT]
    ((_, denied),) = sends(core.lease(client, GRANULE))
    assert (denied.op, denied.a) == (Op.MEM_DENY, Deny.LIMIT)
    assert (denied.limit_bytes, denied.leased_bytes) == (10 * GRANULE, 10 * GRANULE)
    assert core.use(1).denials == 1


def test_device_is_announced_only_where_granted_and_later_grants_are_pushed(core: Core) -> None:
    tenant = core.add_tenant(limit=4 * GRANULE)
    core.add_device(CAPACITY, number=2)
    client = core.join(tenant)
    assert ops(core.last) == [Op.WELCOME, Op.DEVICE]
    welcome, device = (msg for _, msg in sends(core.last))
    assert welcome.a == 1
    assert (device.limit_bytes, device.slack_bytes) == (4 * GRANULE, GRANULE)
    ((_, denied),) = sends(core.lease(client, GRANULE, dev=1))
    assert denied.a == Deny.UNKNOWN
    assert ops(core.set_tenant(tenant, dev=1)) == [Op.DEVICE]
    assert ops(core.lease(client, GRANULE, dev=1)) == [Op.MEM_GRANT]


def test_overhead_counts_against_the_capacity_and_not_the_limit(core: Core) -> None:
    client = core.join(core.add_tenant(limit=10 * GRANULE))
    assert ops(core.lease(client, 50 * GRANULE, cls=1)) == [Op.MEM_GRANT]
    assert ops(core.lease(client, 10 * GRANULE)) == [Op.MEM_GRANT]
    ((_, recall),) = sends(core.lease(client, 41 * GRANULE, cls=1))
    ((_, denied),) = sends(core.tell(client, Op.RECALLED, seq=recall.seq))
    assert (denied.op, denied.a) == (Op.MEM_DENY, Deny.CAPACITY)


def test_overhead_the_device_sees_is_charged_beyond_what_is_leased_for_it(core: Core) -> None:
    tenant = core.add_tenant()
    client = core.join(tenant)
    core.lease(client, 20 * GRANULE, cls=1)
    core.admin(Op.SET_OVERHEAD, client=client, dev=0, bytes=60 * GRANULE)
    assert core.use(tenant).overhead_bytes == 60 * GRANULE
    ((_, denied),) = sends(core.lease(client, 41 * GRANULE))
    assert denied.a == Deny.CAPACITY
    core.admin(Op.SET_OVERHEAD, client=client, dev=0, bytes=GRANULE)
    assert core.use(tenant).overhead_bytes == 20 * GRANULE
    assert ops(core.lease(client, 41 * GRANULE)) == [Op.MEM_GRANT]


def test_tenant_without_a_limit_leaves_what_limited_ones_were_promised(core: Core) -> None:
    limited = core.add_tenant(limit=60 * GRANULE)
    free, guest = core.join(core.add_tenant()), core.join(limited)
    core.lease(guest, 10 * GRANULE)
    ((_, state),) = sends(core.tell(free, Op.MEM_INFO))
    assert state.free_bytes == 40 * GRANULE
    assert ops(core.lease(free, 40 * GRANULE)) == [Op.MEM_GRANT]
    recalls = sends(core.lease(free, GRANULE))
    for to, recall in recalls:
        acts = core.tell(to, Op.RECALLED, seq=recall.seq)
    assert ops(acts) == [Op.MEM_DENY]
    assert ops(core.lease(guest, 50 * GRANULE)) == [Op.MEM_GRANT]
    core.tell(guest, Op.RETURN_MEM, bytes=60 * GRANULE)
    core.admin(Op.DEL_TENANT, tenant=limited)
    assert ops(core.lease(free, 60 * GRANULE)) == [Op.MEM_GRANT]


def test_promise_to_a_limited_tenant_includes_its_first_context(core: Core) -> None:
    core.add_device(CAPACITY, overhead=12 * GRANULE)
    limited = core.add_tenant(limit=60 * GRANULE)
    free = core.join(core.add_tenant())
    for cls in (0, 1):  # neither as memory nor as contexts of the unlimited
        ((_, denied),) = sends(core.lease(free, 29 * GRANULE, cls=cls))
        assert denied.a == Deny.CAPACITY
    assert ops(core.lease(free, 28 * GRANULE)) == [Op.MEM_GRANT]
    guest = core.join(limited)
    assert ops(core.lease(guest, 12 * GRANULE, cls=1)) == [Op.MEM_GRANT]
    assert ops(core.lease(guest, 60 * GRANULE)) == [Op.MEM_GRANT]


def test_drained_may_be_said_twice_and_not_of_the_living(core: Core) -> None:
    client = core.join(core.add_tenant())
    core.lease(client, GRANULE)
    assert core.admin(Op.DRAINED, client=client, dev=0).op == Op.ERR
    core.step(DEAD, client)
    assert core.admin(Op.DRAINED, client=client, dev=0).op == Op.OK
    assert core.admin(Op.DRAINED, client=client, dev=0).op == Op.OK


def test_unused_lease_of_a_peer_is_recalled_before_a_denial(core: Core) -> None:
    tenant = core.add_tenant(limit=10 * GRANULE)
    holder, asker = core.join(tenant), core.join(tenant)
    core.lease(holder, 9 * GRANULE)
    acts = core.lease(asker, 2 * GRANULE, seq=7)
    ((to, recall),) = sends(acts)
    assert (to, recall.op) == (holder, Op.RECALL_MEM)
    acts = core.tell(holder, Op.RECALLED, seq=recall.seq, bytes=GRANULE)
    ((to, granted),) = sends(acts)
    assert (to, granted.op, granted.seq) == (asker, Op.MEM_GRANT, 7)


def test_capacity_shortage_recalls_from_other_tenants_too(core: Core) -> None:
    holder, asker = core.join(core.add_tenant()), core.join(core.add_tenant())
    core.lease(holder, CAPACITY)
    ((to, recall),) = sends(core.lease(asker, GRANULE))
    assert to == holder
    acts = core.tell(holder, Op.RECALLED, seq=recall.seq, bytes=3 * GRANULE)
    assert ops(acts, asker) == [Op.MEM_GRANT]


def test_shortage_of_one_tenant_does_not_bother_another_all_the_time(core: Core) -> None:
    holder, asker = core.join(core.add_tenant()), core.join(core.add_tenant())
    core.lease(holder, CAPACITY)
    recalls = 0
    start = core.now
    for _ in range(20):
        acts = core.lease(asker, GRANULE)
        while Op.MEM_DENY not in ops(acts, asker):
            for _, recall in sends(acts, holder):
                recalls += 1
                acts = core.tell(holder, Op.RECALLED, seq=recall.seq)
            if not ops(acts):
                acts = list(core.advance(core.next() - core.now))
    assert recalls == 20
    assert core.now - start >= 19 * 10 * MS


def test_denial_comes_when_every_peer_answered_nothing(core: Core) -> None:
    tenant = core.add_tenant(limit=10 * GRANULE)
    peers = [core.join(tenant) for _ in range(2)]
    asker = core.join(tenant)
    for peer in peers:
        core.lease(peer, 5 * GRANULE)
    recalls = sends(core.lease(asker, GRANULE))
    assert sorted(to for to, _ in recalls) == sorted(peers)
    (first, r0), (second, r1) = recalls
    assert ops(core.tell(first, Op.RECALLED, seq=r0.seq)) == []
    assert ops(core.tell(second, Op.RECALLED, seq=r1.seq)) == [Op.MEM_DENY]


def test_peer_that_does_not_answer_is_waited_for_once(core: Core) -> None:
    tenant = core.add_tenant(limit=10 * GRANULE)
    stopped, asker = core.join(tenant), core.join(tenant)
    core.lease(stopped, 10 * GRANULE)
    assert ops(core.lease(asker, GRANULE)) == [Op.RECALL_MEM]
    assert ops(core.advance(999 * MS)) == []
    assert ops(core.advance(MS)) == [Op.MEM_DENY]
    assert "recall_unanswered" in core.log
    assert ops(core.lease(asker, GRANULE)) == [Op.MEM_DENY]
    core.tell(stopped, Op.MEM_INFO)  # it lives again
    assert ops(core.lease(asker, GRANULE)) == [Op.RECALL_MEM]


def test_return_sent_before_the_request_is_never_missed(core: Core) -> None:
    """The recall is a barrier: what the peer returned earlier is read before its answer."""
    tenant = core.add_tenant(limit=10 * GRANULE)
    holder, asker = core.join(tenant), core.join(tenant)
    core.lease(holder, 10 * GRANULE)
    ((_, recall),) = sends(core.lease(asker, 8 * GRANULE))
    assert ops(core.tell(holder, Op.RETURN_MEM, bytes=8 * GRANULE)) == [Op.MEM_GRANT]
    assert ops(core.tell(holder, Op.RECALLED, seq=recall.seq)) == []


def test_request_waits_for_the_dead_to_drain(core: Core) -> None:
    tenant = core.add_tenant(limit=10 * GRANULE)
    dead, asker = core.join(tenant), core.join(tenant)
    core.lease(dead, 10 * GRANULE)
    events = [act.msg.d for act in core.step(DEAD, dead) if act.kind == EVENT]
    assert events == [2]  # draining
    assert ops(core.lease(asker, 10 * GRANULE)) == []
    assert ops(core.advance(2 * SECOND)) == []
    core.admin(Op.DRAINED, client=dead, dev=0)
    assert ops(core.last) == [Op.MEM_GRANT]
    assert core.use(tenant).bytes == 0


def test_wait_for_the_dead_is_bounded_and_says_so(core: Core) -> None:
    tenant = core.add_tenant(limit=10 * GRANULE)
    dead, asker = core.join(tenant), core.join(tenant)
    core.lease(dead, 10 * GRANULE)
    core.step(DEAD, dead)
    core.lease(asker, GRANULE)
    assert ops(core.advance(5 * SECOND - 1)) == []
    ((_, denied),) = sends(core.advance(1))
    assert (denied.op, denied.a) == (Op.MEM_DENY, Deny.DRAINING)
    assert core.use(tenant).bytes == 10 * GRANULE  # only harpd's word frees it


def test_dead_drain_by_themselves_when_nobody_watches(core: Core) -> None:
    core.step(WATCHED, msg=Msg(a=0))
    tenant = core.add_tenant()
    dead = core.join(tenant)
    core.lease(dead, GRANULE)
    core.step(DEAD, dead)
    list(core.advance(5 * SECOND))
    assert "drained_unwatched" in core.log
    assert core.use(tenant).bytes == 0


def test_nobody_is_forgotten_while_harpd_is_away_for_a_moment(core: Core) -> None:
    tenant = core.add_tenant()
    dead = core.join(tenant)
    core.lease(dead, GRANULE)
    core.step(DEAD, dead)
    list(core.advance(60 * SECOND))
    core.step(WATCHED, msg=Msg(a=0))
    list(core.advance(4 * SECOND))
    core.step(WATCHED, msg=Msg(a=1))
    list(core.advance(60 * SECOND))
    assert core.use(tenant).bytes == GRANULE


def test_hopeless_request_is_denied_at_once(core: Core) -> None:
    tenant = core.add_tenant(limit=10 * GRANULE)
    peer, asker = core.join(tenant), core.join(tenant)
    core.lease(peer, GRANULE)
    assert ops(core.lease(asker, 11 * GRANULE)) == [Op.MEM_DENY]
    assert ops(core.lease(asker, (1 << 64) - GRANULE)) == [Op.MEM_DENY]
    core.lease(asker, 6 * GRANULE)
    assert ops(core.lease(asker, 5 * GRANULE)) == [Op.MEM_DENY]


def test_reconnecting_client_adopts_what_it_held(core: Core) -> None:
    tenant = core.add_tenant(limit=10 * GRANULE)
    old = core.join(tenant, pid=7)
    core.lease(old, 6 * GRANULE)
    core.lease(old, 3 * GRANULE, cls=1)
    core.step(DEAD, old)
    new = core.join(tenant, pid=7, flags=1)
    core.tell(new, Op.ADOPT_MEM, bytes=6 * GRANULE)
    core.tell(new, Op.ADOPT_MEM, bytes=3 * GRANULE, cls=1)
    use = core.use(tenant)
    assert (use.leased_bytes, use.bytes, use.overhead_bytes) == (6 * GRANULE, 0, 3 * GRANULE)
    assert ops(core.lease(new, 4 * GRANULE)) == [Op.MEM_GRANT]


def test_adoption_is_charged_even_where_the_device_is_full_by_now(core: Core) -> None:
    other = core.join(core.add_tenant())
    core.lease(other, CAPACITY)
    tenant = core.add_tenant(limit=10 * GRANULE)
    back = core.join(tenant, flags=1)
    core.tell(back, Op.ADOPT_MEM, bytes=4 * GRANULE)
    assert core.use(tenant).leased_bytes == 4 * GRANULE
    assert "adoption_overfills_device" in core.log
    core.tell(back, Op.ADOPT_MEM, bytes=CAPACITY)  # a lie: nobody can hold more than his limit
    assert core.use(tenant).leased_bytes == 10 * GRANULE
    assert "adoption_beyond_limit" in core.log


def test_adoption_needs_the_flag_and_ends_with_the_first_lease(core: Core) -> None:
    tenant = core.add_tenant()
    plain = core.join(tenant)
    core.tell(plain, Op.ADOPT_MEM, bytes=GRANULE)
    late = core.join(tenant, flags=1)
    core.lease(late, GRANULE)
    core.tell(late, Op.ADOPT_MEM, bytes=GRANULE)
    assert core.use(tenant).leased_bytes == GRANULE
    assert core.log.count("adoption_refused") == 2


def test_return_of_more_than_leased_is_clamped(core: Core) -> None:
    tenant = core.add_tenant()
    client = core.join(tenant)
    core.lease(client, 2 * GRANULE)
    core.tell(client, Op.RETURN_MEM, bytes=50 * GRANULE)
    assert core.use(tenant).leased_bytes == 0
    assert "returned_more_than_leased" in core.log


def test_lowered_limit_denies_but_takes_nothing_away(core: Core) -> None:
    tenant = core.add_tenant(limit=10 * GRANULE)
    client = core.join(tenant)
    core.lease(client, 10 * GRANULE)
    assert ops(core.set_tenant(tenant, limit=4 * GRANULE)) == [Op.DEVICE]
    assert core.use(tenant).leased_bytes == 10 * GRANULE
    core.tell(client, Op.RETURN_MEM, bytes=7 * GRANULE)
    assert ops(core.lease(client, GRANULE)) == [Op.MEM_GRANT]
    assert ops(core.lease(client, GRANULE)) == [Op.MEM_DENY]


def test_deleted_tenant_disconnects_and_drains(core: Core) -> None:
    tenant = core.add_tenant()
    client, idle = core.join(tenant), core.join(tenant)
    core.lease(client, GRANULE)
    core.admin(Op.DEL_TENANT, tenant=tenant)
    assert {act.client for act in core.last if act.kind == CLOSE} == {client, idle}
    assert core.join(tenant) == 0
    assert core.admin(Op.ADD_TENANT, tenant=tenant, uid=1).op == Op.ERR
    core.admin(Op.DRAINED, client=client, dev=0xFFFFFFFF)
    assert core.admin(Op.ADD_TENANT, tenant=tenant, uid=1).op == Op.OK


def test_one_tenant_cannot_take_every_client_slot() -> None:
    core = Core(clients=16)
    core.add_device(CAPACITY)
    greedy, other = core.add_tenant(), core.add_tenant()
    joined = [core.join(greedy) for _ in range(20)]
    assert 0 in joined
    assert core.join(other) != 0
    core.close()


def test_too_many_questions_are_refused_as_busy(core: Core) -> None:
    tenant = core.add_tenant(limit=10 * GRANULE)
    holder, asker = core.join(tenant), core.join(tenant)
    core.lease(holder, 10 * GRANULE)
    for _ in range(64):
        core.lease(asker, GRANULE)
    ((_, denied),) = sends(core.lease(asker, GRANULE))
    assert denied.a == Deny.BUSY


def test_foreign_uid_is_refused_and_root_is_not(core: Core) -> None:
    tenant = core.add_tenant()
    assert core.join(tenant, uid=1001) == 0
    assert core.join(tenant, uid=0) != 0


def test_a_tenant_of_any_uid_is_joined_by_any(core: Core) -> None:
    tenant = core.admin(Op.ADD_TENANT, uid=ANY_UID).tenant
    core.set_tenant(tenant, limit=4 * GRANULE)
    clients = [core.join(tenant, pid=100 + uid % 97, uid=uid) for uid in (0, 1, 1000, 65534)]
    assert all(clients)
    for client in clients:  # one limit for all of them
        assert ops(core.lease(client, GRANULE), client) == [Op.MEM_GRANT]
    assert [m.uid for m in core.snapshot() if m.op == Op.SNAP_TENANT] == [ANY_UID]
    assert core.join(core.add_tenant(), uid=1) == 0


@pytest.mark.parametrize(
    ("description", "fields"),
    [
        ("odd size", {"op": Op.LEASE_MEM, "bytes": 1}),
        ("no size", {"op": Op.LEASE_MEM, "bytes": 0}),
        ("unknown class", {"op": Op.LEASE_MEM, "bytes": GRANULE, "cls": 9}),
        ("unknown device", {"op": Op.RETURN_MEM, "bytes": GRANULE, "dev": 9}),
        ("second hello", {"op": Op.HELLO}),
        ("an answer", {"op": Op.MEM_GRANT}),
        ("an admin's word", {"op": Op.SET_TENANT}),
        ("no operation", {"op": 0}),
    ],
)
def test_protocol_error_closes_the_connection(
    core: Core, description: str, fields: dict[str, int]
) -> None:
    client = core.join(core.add_tenant())
    acts = core.tell(client, **fields)  # type: ignore[arg-type]
    assert [act.client for act in acts if act.kind == CLOSE] == [client], description
