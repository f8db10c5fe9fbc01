# SPDX-License-Identifier: Apache-2.0
"""Suspended tenants in the arbiter's core: what counts, who waits for whom, what comes back."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest
from arbiter_core import EVENT, GRANULE, MS, SECOND, Core, Msg, ops, sends

from harp.lease_wire import ALL_DEVICES, GRANT_OVERSUBSCRIBE, MemClass, Op

CLOSE, AWAY, EVICT = 1, 2, 3
RESERVE, BACK, GIVE_UP = 1, 2, 3
GONE = 3


@pytest.fixture
def core() -> Iterator[Core]:
    one = Core()
    yield one
    one.close()


def suspend(core: Core, tenant: int, dev: int = ALL_DEVICES) -> None:
    for phase in (CLOSE, AWAY):
        assert core.admin(Op.SUSPEND, tenant=tenant, dev=dev, a=phase).op == Op.OK


def resume(core: Core, tenant: int, phase: int, dev: int = 0, to: int = 0) -> Msg:
    return core.admin(Op.RESUME, tenant=tenant, dev=dev, b=to, a=phase)


def granted(core: Core, client: int, granules: int, dev: int = 0, cls: int = 0) -> bool:
    return Op.MEM_GRANT in ops(core.lease(client, granules * GRANULE, dev, cls), client)


def two(core: Core, capacity: int = 10, limit: int = 0) -> tuple[int, int, int, int]:
    core.add_device(capacity * GRANULE)
    a = core.add_tenant(limit=limit * GRANULE)
    b = core.add_tenant()
    return a, b, core.join(a, pid=1), core.join(b, pid=2)


def test_what_is_away_counts_for_the_limit_and_not_for_the_device(core: Core) -> None:
    a, b, one, other = two(core, limit=8)
    assert granted(core, one, 1, cls=MemClass.OVERHEAD)
    assert granted(core, one, 6)
    assert not granted(core, other, 5)
    list(core.advance(6 * SECOND))
    suspend(core, a)
    assert granted(core, other, 10)
    assert core.use(a).leased_bytes == 6 * GRANULE
    assert granted(core, one, 2)  # it is stopped in the driver, and takes it when it is back
    denied = core.lease(one, GRANULE)
    assert Op.MEM_DENY in ops(denied, one)
    device = next(m for m in core.snapshot() if m.op == Op.SNAP_DEVICE)
    assert device.leased_bytes == 10 * GRANULE
    assert core.use(b).leased_bytes == 10 * GRANULE


def test_who_holds_no_context_waits_until_the_tenant_is_back(core: Core) -> None:
    a, _, one, other = two(core)
    assert granted(core, one, 1, cls=MemClass.OVERHEAD)
    suspend(core, a)
    late = core.join(a, pid=3)
    assert not ops(core.lease(late, GRANULE, cls=MemClass.OVERHEAD), late)
    assert granted(core, other, 8)
    assert resume(core, a, RESERVE).op == Op.OK
    resume(core, a, BACK)
    assert (late, Op.MEM_GRANT) in [(c, m.op) for c, m in sends(core.last)]


def test_gates_stay_closed_until_it_is_back(core: Core) -> None:
    a, b, one, other = two(core)
    assert Op.OPEN_GATE in ops(core.tell(one, Op.WANT_TIME, dev=0), one)
    core.tell(other, Op.WANT_TIME, dev=0)
    core.admin(Op.SUSPEND, tenant=a, dev=ALL_DEVICES, a=CLOSE)
    acts = core.tell(one, Op.YIELD_TIME, dev=0, epoch=1, a=1)
    assert Op.OPEN_GATE in ops(acts, other)
    core.admin(Op.SUSPEND, tenant=a, dev=ALL_DEVICES, a=AWAY)
    late = core.join(a, pid=3)
    assert Op.OPEN_GATE not in ops(core.tell(late, Op.WANT_TIME, dev=0), late)
    core.step(2, other)  # the other dies: nobody else wants
    assert Op.OPEN_GATE not in ops(core.advance(SECOND))
    resume(core, a, BACK)
    assert {c for c, m in sends(core.last) if m.op == Op.OPEN_GATE} == {one, late}
    assert core.use(b).a == 0


def test_the_announced_end_of_its_turn_does_not_renew_it(core: Core) -> None:
    a, _, one, _ = two(core)
    core.tell(one, Op.WANT_TIME, dev=0)
    core.admin(Op.SUSPEND, tenant=a, dev=ALL_DEVICES, a=CLOSE)
    acts = core.tell(one, Op.USED_TIME, dev=0, epoch=1, a=1, c=1, window_ns=MS)
    assert not ops(acts, one)
    assert not ops(core.tell(one, Op.YIELD_TIME, dev=0, epoch=1, a=1), one)
    resume(core, a, BACK)
    assert ops(core.last, one) == [Op.OPEN_GATE]


def test_an_open_turn_of_a_stopped_client_ends_when_it_is_away(core: Core) -> None:
    a, _, one, other = two(core)
    core.tell(one, Op.WANT_TIME, dev=0)
    core.tell(other, Op.WANT_TIME, dev=0)
    core.admin(Op.SUSPEND, tenant=a, dev=ALL_DEVICES, a=CLOSE)
    core.admin(Op.SUSPEND, tenant=a, dev=ALL_DEVICES, a=AWAY)
    assert (other, Op.OPEN_GATE) in [(c, m.op) for c, m in sends(core.last)]
    # what it says of that turn when it is back is heard and harms nobody
    resume(core, a, BACK)
    core.tell(one, Op.YIELD_TIME, dev=0, epoch=1, a=1, used_ns=MS)


def test_its_silence_holds_nobody_up(core: Core) -> None:
    a, _, one, other = two(core)
    assert granted(core, one, 6)
    assert not granted(core, other, 5)  # waits for the answer to a recall
    core.admin(Op.SUSPEND, tenant=a, dev=ALL_DEVICES, a=CLOSE)
    assert (other, Op.MEM_DENY) in [(c, m.op) for c, m in sends(core.last)]
    assert Op.MEM_DENY in ops(core.lease(other, 5 * GRANULE, seq=2), other)


def test_a_client_that_dies_away_leaves_nothing_to_drain(core: Core) -> None:
    a, _, one, other = two(core)
    assert granted(core, one, 1, cls=MemClass.OVERHEAD)
    assert granted(core, one, 6)
    suspend(core, a)
    acts = core.step(2, one)
    assert [act.msg.d for act in acts if act.kind == EVENT] == [GONE]
    assert core.use(a).leased_bytes == 0
    assert granted(core, other, 10)
    assert resume(core, a, RESERVE).op == Op.OK  # nothing is needed
    assert resume(core, a, BACK).op == Op.OK


def test_ckpt_reserve_before_restore(core: Core) -> None:
    """Room is taken before the driver brings anything back; what is missing is said."""
    a, _, one, other = two(core)
    assert granted(core, one, 6)
    suspend(core, a)
    assert granted(core, other, 5)
    assert resume(core, a, RESERVE).a == errno.EAGAIN  # the other may have slack
    (asked,) = [m for _, m in sends(core.last) if m.op == Op.RECALL_MEM]
    core.tell(other, Op.RECALLED, dev=0, seq=asked.seq, bytes=0)
    refused = resume(core, a, RESERVE)
    assert (refused.op, refused.a) == (Op.ERR, errno.ENOMEM)
    assert refused.text == b"12 MiB to come back, 10 MiB free"
    core.tell(other, Op.RETURN_MEM, dev=0, bytes=2 * GRANULE)
    assert resume(core, a, RESERVE).op == Op.OK
    assert not granted(core, other, 2)  # one is left beside what is on its way
    assert granted(core, other, 1)
    list(core.advance(6 * SECOND))
    assert resume(core, a, GIVE_UP).op == Op.OK
    assert granted(core, other, 2)
    core.tell(other, Op.RETURN_MEM, dev=0, bytes=2 * GRANULE)
    assert resume(core, a, RESERVE).op == Op.OK
    assert resume(core, a, BACK).op == Op.OK
    assert core.use(a).leased_bytes == 6 * GRANULE
    assert not granted(core, other, 1)


def test_slack_of_peers_and_memory_of_the_dead_make_room_for_a_return(core: Core) -> None:
    a, _, one, other = two(core)
    assert granted(core, one, 6)
    suspend(core, a)
    core.step(4, msg=Msg(a=1))  # watched: the dead drain when harpd says so
    assert granted(core, other, 8)
    first = resume(core, a, RESERVE)
    assert first.a == errno.EAGAIN
    (asked,) = [m for _, m in sends(core.last) if m.op == Op.RECALL_MEM]
    core.tell(other, Op.RECALLED, dev=0, seq=asked.seq, bytes=2 * GRANULE)
    core.step(2, other)
    assert resume(core, a, RESERVE).a == errno.EAGAIN
    assert core.admin(Op.DRAINED, client=other, dev=ALL_DEVICES).op == Op.OK
    assert resume(core, a, RESERVE).op == Op.OK


def test_a_return_to_another_device_moves_the_leases(core: Core) -> None:
    a, _, one, other = two(core)
    core.add_device(10 * GRANULE, number=2)
    assert granted(core, one, 1, cls=MemClass.OVERHEAD)
    assert granted(core, one, 6)
    core.admin(Op.SET_OVERHEAD, client=one, dev=0, bytes=2 * GRANULE)
    suspend(core, a)
    assert resume(core, a, RESERVE, to=1).a == errno.ENOENT
    core.set_tenant(a, 1)
    assert resume(core, a, RESERVE, to=1).op == Op.OK
    assert resume(core, a, BACK, to=1).op == Op.OK
    (told,) = [m for c, m in sends(core.last, one) if m.op == Op.DEVICE and m.epoch]
    assert (told.dev, told.epoch, bytes(told.uuid)) == (1, 1, bytes([2] * 16))
    assert core.use(a, 0).leased_bytes == 0
    assert core.use(a, 1).leased_bytes == 6 * GRANULE
    assert core.use(a, 1).overhead_bytes == 2 * GRANULE
    assert granted(core, other, 10)
    core.tell(one, Op.RETURN_MEM, dev=1, bytes=6 * GRANULE)
    assert core.use(a, 1).leased_bytes == 0


def test_what_it_wants_and_waits_for_comes_along(core: Core) -> None:
    a, _, one, _ = two(core)
    core.add_device(10 * GRANULE, number=2)
    core.set_tenant(a, 1)
    assert granted(core, one, 1, cls=MemClass.OVERHEAD)
    core.tell(one, Op.WANT_TIME, dev=0)
    core.admin(Op.SUSPEND, tenant=a, dev=ALL_DEVICES, a=CLOSE)
    core.tell(one, Op.YIELD_TIME, dev=0, epoch=1, a=1)
    core.admin(Op.SUSPEND, tenant=a, dev=ALL_DEVICES, a=AWAY)
    assert resume(core, a, RESERVE, to=1).op == Op.OK
    assert not ops(core.lease(one, 3 * GRANULE), one)  # all wait while it returns
    assert resume(core, a, BACK, to=1).op == Op.OK
    told = [(m.op, m.dev) for _, m in sends(core.last, one)]
    assert told[0] == (Op.DEVICE, 1)
    assert sorted(told[1:]) == [(Op.MEM_GRANT, 1), (Op.OPEN_GATE, 1)]
    assert [core.use(a, dev).leased_bytes for dev in (0, 1)] == [0, 3 * GRANULE]
    assert [core.use(a, dev).overhead_bytes for dev in (0, 1)] == [0, GRANULE]


def test_a_peer_that_is_silent_does_not_hold_a_return_up(core: Core) -> None:
    a, _, one, other = two(core)
    assert granted(core, one, 6)
    suspend(core, a)
    assert granted(core, other, 8)
    assert resume(core, a, RESERVE).a == errno.EAGAIN
    list(core.advance(SECOND))
    assert core.log == ["recall_unanswered"]
    assert resume(core, a, RESERVE).a == errno.ENOMEM


def test_suspended_again_it_gives_its_reservation_back(core: Core) -> None:
    """harpd ended in the middle of a return; the next one puts all of it away."""
    a, _, one, other = two(core)
    assert granted(core, one, 6)
    suspend(core, a)
    assert resume(core, a, RESERVE).op == Op.OK
    suspend(core, a)
    assert granted(core, other, 10)


def test_a_suspended_tenant_that_goes_gives_its_reservation_back(core: Core) -> None:
    a, _, one, other = two(core)
    assert granted(core, one, 6)
    suspend(core, a)
    assert resume(core, a, RESERVE).op == Op.OK
    assert not granted(core, other, 5)
    assert core.admin(Op.DEL_TENANT, tenant=a).op == Op.OK
    assert granted(core, other, 5)


def test_phases_out_of_order_are_refused_and_said_twice_harm_nothing(core: Core) -> None:
    a, _, one, _ = two(core)
    assert granted(core, one, 3)
    assert core.admin(Op.SUSPEND, tenant=a, dev=0, a=AWAY).a == errno.EINVAL
    assert core.admin(Op.SUSPEND, tenant=a + 7, dev=0, a=CLOSE).a == errno.ENOENT
    assert core.admin(Op.SUSPEND, tenant=a, dev=5, a=CLOSE).a == errno.EINVAL
    assert resume(core, a, 9).a == errno.EINVAL
    for _ in range(2):
        suspend(core, a)
    for phase in (RESERVE, RESERVE, BACK, BACK, GIVE_UP):
        assert resume(core, a, phase).op == Op.OK
    assert core.use(a).leased_bytes == 3 * GRANULE


def swapping(core: Core) -> tuple[int, int]:
    """A tenant with a granule of context and six that can leave."""
    a = core.add_tenant(limit=8 * GRANULE, flags=GRANT_OVERSUBSCRIBE)
    one = core.join(a, pid=1)
    assert granted(core, one, 1, cls=MemClass.OVERHEAD)
    assert granted(core, one, 6, cls=MemClass.SWAP)
    return a, one


def test_memory_that_can_leave_is_away_with_the_rest_and_returns_with_it(core: Core) -> None:
    core.add_device(10 * GRANULE)
    core.add_device(10 * GRANULE, number=2)
    a, one = swapping(core)
    core.set_tenant(a, 1, limit=8 * GRANULE, flags=GRANT_OVERSUBSCRIBE)
    b = core.add_tenant()
    other = core.join(b, pid=2)
    suspend(core, a)
    assert granted(core, other, 9)
    assert resume(core, a, RESERVE).a == errno.EAGAIN  # its slack is asked for
    list(core.advance(2 * SECOND))
    assert resume(core, a, RESERVE).a == errno.ENOMEM
    assert resume(core, a, RESERVE, to=1).op == Op.OK
    assert resume(core, a, BACK, to=1).op == Op.OK
    assert granted(core, one, 2, dev=1, cls=MemClass.SWAP)
    assert not granted(core, one, 1, dev=1, cls=MemClass.SWAP)  # its limit
    assert granted(core, other, 1)


def test_where_no_driver_stops_it_its_memory_is_evicted_and_stays_away(core: Core) -> None:
    core.add_device(10 * GRANULE)
    a, one = swapping(core)
    b = core.add_tenant()
    other = core.join(b, pid=2)
    assert core.admin(Op.SUSPEND, tenant=a, dev=ALL_DEVICES, a=CLOSE).op == Op.OK
    core.admin(Op.SUSPEND, tenant=a, dev=ALL_DEVICES, a=EVICT)
    asked = next(m for _, m in sends(core.last, one) if m.op == Op.EVICT)
    core.tell(one, Op.EVICTED, seq=asked.seq, bytes=6 * GRANULE)
    assert granted(core, other, 9)  # the context stays
    assert not ops(core.tell(one, Op.WANT_TIME), one)
    core.tell(other, Op.RETURN_MEM, bytes=9 * GRANULE)
    assert Op.RESTORE not in ops(core.advance(SECOND), one)
    assert resume(core, a, BACK).op == Op.OK
    assert Op.RESTORE in ops([*core.last, *core.advance(SECOND)], one)  # it wants
