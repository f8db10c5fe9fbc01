# SPDX-License-Identifier: Apache-2.0
"""A new arbiter expects the clients of the one before: nobody is given what they still hold."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from arbiter_core import DEAD, GRANULE, SECOND, WATCHED, Core, Msg, ops, sends

from harp.lease_wire import ALL_DEVICES, GRANT_OVERSUBSCRIBE, Deny, MemClass, Op

CAPACITY = 100 * GRANULE


@pytest.fixture
def core() -> Iterator[Core]:
    core = Core()
    core.add_device(CAPACITY)
    core.add_device(CAPACITY, number=2)
    core.step(WATCHED, msg=Msg(a=1))
    yield core
    core.close()


def expect(core: Core, tenant: int, pid: int, held: int, **more: int) -> Msg:
    return core.admin(
        Op.EXPECT, tenant=tenant, pid=pid, bytes=held * GRANULE, text=b"before", **more
    )


def test_what_is_expected_is_kept_and_goes_over_to_who_adopts(core: Core) -> None:
    tenant, other = core.add_tenant(limit=20 * GRANULE), core.join(core.add_tenant())
    assert expect(core, tenant, 7, 12, overhead_bytes=30 * GRANULE).op == Op.OK
    use = core.use(tenant)
    assert (use.leased_bytes, use.bytes) == (0, 12 * GRANULE)
    assert ops(core.lease(other, 50 * GRANULE)) == [Op.MEM_GRANT]
    # beyond, others wait: what is expected may drain
    ((_, recall),) = sends(core.lease(other, 30 * GRANULE))
    assert ops(core.tell(other, Op.RECALLED, seq=recall.seq)) == []
    back = core.join(tenant, pid=7, flags=1)
    ((client, recall),) = sends(core.tell(back, Op.ADOPT_MEM, bytes=12 * GRANULE))
    assert (client, recall.op) == (back, Op.RECALL_MEM)
    assert core.use(tenant).bytes == 0
    assert sends(core.tell(back, Op.ADOPT_MEM, bytes=30 * GRANULE, cls=1)) == []
    # nothing is left that could drain: who waited is denied, not at the end of his patience
    ((client, denied),) = sends(core.tell(back, Op.RECALLED, seq=recall.seq))
    assert (client, denied.op, denied.a) == (other, Op.MEM_DENY, Deny.CAPACITY)
    use = core.use(tenant)
    assert (use.leased_bytes, use.overhead_bytes) == (12 * GRANULE, 30 * GRANULE)


def test_less_than_expected_sets_the_rest_free_at_once(core: Core) -> None:
    """It gave some back with a message that the arbiter before did not read any more."""
    tenant = core.add_tenant(limit=20 * GRANULE)
    expect(core, tenant, 7, 20)
    back = core.join(tenant, pid=7, flags=1)
    core.tell(back, Op.ADOPT_MEM, bytes=15 * GRANULE)
    assert core.use(tenant).bytes == 5 * GRANULE
    assert ops(core.lease(back, 5 * GRANULE)) == [Op.MEM_GRANT]
    use = core.use(tenant)
    assert (use.leased_bytes, use.bytes) == (20 * GRANULE, 0)


@pytest.mark.parametrize("away", [0, 1])
def test_memory_that_can_leave_is_expected_with_the_rest(core: Core, away: int) -> None:
    """harpd says one sum. Were it kept beside what is adopted, that would look beyond the limit."""
    tenant = core.add_tenant(limit=20 * GRANULE, flags=GRANT_OVERSUBSCRIBE)
    expect(core, tenant, 7, 16)
    back = core.join(tenant, pid=7, flags=1)
    core.tell(back, Op.ADOPT_MEM, bytes=2 * GRANULE)
    core.tell(back, Op.ADOPT_MEM, bytes=14 * GRANULE, cls=MemClass.SWAP, a=away)
    use = core.use(tenant)
    assert (use.leased_bytes, use.bytes) == (16 * GRANULE, 0)


def test_who_claims_more_than_the_device_says_is_logged_and_clamped(core: Core) -> None:
    tenant = core.add_tenant(limit=50 * GRANULE)
    expect(core, tenant, 7, 10, a=1, limit_bytes=12 * GRANULE)
    back = core.join(tenant, pid=7, flags=1)
    core.tell(back, Op.ADOPT_MEM, bytes=11 * GRANULE)  # some of it unused
    assert "adoption_beyond_device" not in core.log
    core.tell(back, Op.ADOPT_MEM, bytes=30 * GRANULE)
    assert core.log.count("adoption_beyond_device") == 1
    assert core.use(tenant).leased_bytes == 12 * GRANULE
    # of what no device and no picture told, nothing is known
    stranger = core.join(tenant, pid=8, flags=1)
    core.tell(stranger, Op.ADOPT_MEM, bytes=20 * GRANULE)
    assert core.use(tenant).leased_bytes == 32 * GRANULE


def test_of_another_device_nothing_was_said_and_nothing_is_clamped(core: Core) -> None:
    tenant = core.add_tenant()
    core.set_tenant(tenant, dev=1)
    expect(core, tenant, 7, 10, a=1, limit_bytes=10 * GRANULE)
    back = core.join(tenant, pid=7, flags=1)
    core.tell(back, Op.ADOPT_MEM, dev=1, bytes=4 * GRANULE)
    assert core.use(tenant, dev=1).leased_bytes == 4 * GRANULE


def test_several_devices_are_one_client_and_a_second_word_replaces_the_first(core: Core) -> None:
    tenant = core.add_tenant()
    core.set_tenant(tenant, dev=1)
    first = expect(core, tenant, 7, 10)
    assert expect(core, tenant, 7, 4, dev=1).client == first.client
    assert expect(core, tenant, 7, 6).client == first.client
    assert [core.use(tenant, dev).bytes for dev in (0, 1)] == [6 * GRANULE, 4 * GRANULE]


def test_who_does_not_come_back_drains_as_the_dead_do(core: Core) -> None:
    tenant = core.add_tenant(limit=20 * GRANULE)
    gone = expect(core, tenant, 7, 20).client
    peer = core.join(tenant, pid=8)
    assert ops(core.lease(peer, GRANULE)) == []
    assert core.admin(Op.DRAINED, client=gone, dev=ALL_DEVICES).op == Op.OK
    assert ops(core.lease(peer, 19 * GRANULE, seq=2)) == [Op.MEM_GRANT]
    assert core.use(tenant).leased_bytes == 20 * GRANULE


def test_a_stopped_one_is_waited_for_without_end_while_somebody_watches(core: Core) -> None:
    tenant = core.add_tenant(limit=20 * GRANULE)
    expect(core, tenant, 7, 20)
    list(core.advance(60 * SECOND))
    assert core.use(tenant).bytes == 20 * GRANULE
    peer = core.join(tenant, pid=8)
    assert ops(core.lease(peer, GRANULE)) == []
    ((_, denied),) = sends(core.advance(6 * SECOND))
    assert (denied.op, denied.a) == (Op.MEM_DENY, Deny.DRAINING)


def test_between_hello_and_adoption_nobody_may_call_it_drained(core: Core) -> None:
    tenant = core.add_tenant(limit=20 * GRANULE)
    gone = expect(core, tenant, 7, 20).client
    back = core.join(tenant, pid=7, flags=1)
    assert core.admin(Op.DRAINED, client=gone, dev=ALL_DEVICES).op == Op.ERR
    assert core.use(tenant).bytes == 20 * GRANULE
    core.tell(back, Op.ADOPT_MEM, bytes=20 * GRANULE)
    assert core.use(tenant).leased_bytes == 20 * GRANULE


def test_one_that_stops_between_hello_and_adoption_is_waited_for(core: Core) -> None:
    """It says when it has adopted all (HARP_HELLO_ENDS): till then what it held is kept."""
    tenant = core.add_tenant(limit=20 * GRANULE)
    gone = expect(core, tenant, 7, 20).client
    back = core.join(tenant, pid=7, flags=1 | 4)
    core.tell(back, Op.ADOPT_MEM, bytes=5 * GRANULE)
    list(core.advance(60 * SECOND))
    assert core.admin(Op.DRAINED, client=gone, dev=ALL_DEVICES).op == Op.ERR
    use = core.use(tenant)
    assert (use.leased_bytes, use.bytes) == (5 * GRANULE, 15 * GRANULE)
    core.tell(back, Op.ADOPT_MEM, bytes=14 * GRANULE)
    ((_, state),) = sends(core.tell(back, Op.MEM_INFO))
    assert state.op == Op.MEM_STATE
    use = core.use(tenant)
    assert (use.leased_bytes, use.bytes) == (19 * GRANULE, 0)


def test_one_that_dies_between_hello_and_adoption_drains(core: Core) -> None:
    tenant = core.add_tenant(limit=20 * GRANULE)
    gone = expect(core, tenant, 7, 20).client
    back = core.join(tenant, pid=7, flags=1 | 4)
    core.step(DEAD, back)
    list(core.advance(2 * SECOND))
    assert core.admin(Op.DRAINED, client=gone, dev=ALL_DEVICES).op == Op.OK
    assert core.use(tenant).bytes == 0


def test_it_may_die_again_before_and_after_it_adopts(core: Core) -> None:
    tenant = core.add_tenant(limit=20 * GRANULE)
    expect(core, tenant, 7, 20)
    for adopts in (False, True):
        back = core.join(tenant, pid=7, flags=1)
        if adopts:
            core.tell(back, Op.ADOPT_MEM, bytes=20 * GRANULE)
        core.step(DEAD, back)
        assert core.use(tenant).bytes == 20 * GRANULE


def test_what_cannot_be_meant_is_refused(core: Core) -> None:
    tenant = core.add_tenant()
    core.join(tenant, pid=7)
    for wrong in (
        {"tenant": 99, "pid": 7},
        {"tenant": tenant, "pid": 0},
        {"tenant": tenant, "pid": 8, "dev": 9},
        {"tenant": tenant, "pid": 7},  # it is here
    ):
        assert core.admin(Op.EXPECT, bytes=GRANULE, **wrong).op == Op.ERR, wrong
    assert core.use(tenant).bytes == 0
