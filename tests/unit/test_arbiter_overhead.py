# SPDX-License-Identifier: Apache-2.0
"""What the device says beyond the leases: whose it is, and looks by who uses no device."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
from arbiter_core import CLOSE, DEAD, EVENT, GRANULE, JOIN, JOINED, SEND, WATCHED, Core, Msg, sends
from arbiter_core import ops as ops_of

from harp.lease_wire import Op

CAPACITY = 100 * GRANULE
LIMIT = 10 * GRANULE
LOOK = 2  # HARP_HELLO_LOOK


@pytest.fixture
def core() -> Iterator[Core]:
    core = Core()
    core.add_device(CAPACITY, overhead=4 * GRANULE)
    core.step(WATCHED, msg=Msg(a=1))
    yield core
    core.close()


def tell_overhead(core: Core, client: int, told: int, counted: int) -> None:
    reply = core.admin(Op.SET_OVERHEAD, client=client, dev=0, bytes=told, limit_bytes=counted)
    assert reply.op == Op.OK


def lease_of(core: Core, client: int) -> Msg:
    return next(m for m in core.snapshot() if m.op == Op.SNAP_LEASE and m.client == client)


def state(core: Core, client: int) -> Msg:
    ((_, answer),) = sends(core.tell(client, Op.MEM_INFO, seq=5))
    return answer


def test_what_counts_is_taken_off_the_limit_and_the_rest_off_the_device_alone(core: Core) -> None:
    client = core.join(core.add_tenant(limit=LIMIT))
    core.lease(client, 4 * GRANULE, cls=1)
    tell_overhead(core, client, told=9 * GRANULE, counted=3 * GRANULE)
    seen = state(core, client)
    assert (seen.leased_bytes, seen.free_bytes) == (3 * GRANULE, 7 * GRANULE)
    row = lease_of(core, client)
    assert (row.overhead_bytes, row.bytes, row.limit_bytes) == (
        9 * GRANULE,
        4 * GRANULE,
        3 * GRANULE,
    )
    assert ops_of(core.lease(client, 7 * GRANULE)) == [Op.MEM_GRANT]
    assert ops_of(core.lease(client, GRANULE)) != [Op.MEM_GRANT]
    device = next(m for m in core.snapshot() if m.op == Op.SNAP_DEVICE)
    assert device.free_bytes == CAPACITY - 9 * GRANULE - 7 * GRANULE


def test_what_counts_is_never_more_than_what_is_beyond_the_leases(core: Core) -> None:
    """A context leased after harpd looked covers what harpd took for the tenant's own."""
    client = core.join(core.add_tenant(limit=LIMIT))
    tell_overhead(core, client, told=6 * GRANULE, counted=6 * GRANULE)
    assert state(core, client).leased_bytes == 6 * GRANULE
    core.lease(client, 4 * GRANULE, cls=1)
    assert state(core, client).leased_bytes == 2 * GRANULE
    core.tell(client, Op.RETURN_MEM, cls=1, bytes=4 * GRANULE)
    assert state(core, client).leased_bytes == 6 * GRANULE


def test_what_counted_goes_on_to_count_until_it_has_drained(core: Core) -> None:
    tenant = core.add_tenant(limit=LIMIT)
    dead, other = core.join(tenant), core.join(tenant)
    core.lease(dead, 2 * GRANULE)
    tell_overhead(core, dead, told=7 * GRANULE, counted=3 * GRANULE)
    core.step(DEAD, dead)
    assert state(core, other).leased_bytes == 5 * GRANULE
    core.admin(Op.DRAINED, client=dead, dev=0)
    assert state(core, other).leased_bytes == 0


def test_beyond_the_limit_there_is_no_new_memory_and_nothing_is_lost(core: Core) -> None:
    tenant = core.add_tenant(limit=LIMIT)
    client = core.join(tenant)
    core.lease(client, 8 * GRANULE)
    tell_overhead(core, client, told=9 * GRANULE, counted=5 * GRANULE)
    seen = state(core, client)
    assert (seen.leased_bytes, seen.free_bytes) == (13 * GRANULE, 0)
    assert Op.MEM_GRANT not in ops_of(core.lease(client, GRANULE))
    assert core.use(tenant).leased_bytes == 8 * GRANULE
    tell_overhead(core, client, told=4 * GRANULE, counted=0)
    assert ops_of(core.last) == [Op.MEM_GRANT]  # it had waited for that


def test_promise_of_a_context_is_not_used_up_by_what_counts(core: Core) -> None:
    limited = core.join(core.add_tenant(limit=LIMIT))
    free = core.join(core.add_tenant())
    before = state(core, free).free_bytes
    tell_overhead(core, limited, told=3 * GRANULE, counted=3 * GRANULE)
    assert state(core, free).free_bytes == before  # it is inside the limit that is promised


def test_changes_of_leases_are_numbered(core: Core) -> None:
    client = core.join(core.add_tenant(limit=LIMIT))
    core.lease(client, GRANULE)
    first = lease_of(core, client).epoch
    assert lease_of(core, client).epoch == first
    core.lease(client, GRANULE)
    core.tell(client, Op.RETURN_MEM, bytes=GRANULE)
    assert lease_of(core, client).epoch == first + 2


def look(core: Core, tenant: int, number: int = 1) -> list[Msg]:
    """What a look is answered; nobody may hear of it, and the connection must end."""
    acts = core.step(JOIN, msg=Msg(tenant=tenant, pid=9, uid=1000))
    client = next(a.client for a in acts if a.kind == JOINED)
    assert client
    uuid = (ctypes.c_uint8 * 16)(*([number] * 16))
    acts = core.tell(client, Op.HELLO, b=LOOK, uuid=uuid)
    assert [a.kind for a in acts] == [SEND, CLOSE]
    assert not [a for a in acts if a.kind == EVENT]
    assert not [m for m in core.snapshot() if m.op == Op.SNAP_CLIENT and m.client == client]
    return [a.msg for a in acts if a.kind == SEND]


def test_a_look_is_answered_and_leaves_nothing(core: Core) -> None:
    tenant = core.add_tenant(limit=LIMIT)
    client = core.join(tenant)
    core.lease(client, 2 * GRANULE)
    for _ in range(600):  # more than there are slots
        (seen,) = look(core, tenant)
    asked = state(core, client)
    for name in ("limit_bytes", "leased_bytes", "free_bytes", "capacity_bytes", "overhead_bytes"):
        assert getattr(seen, name) == getattr(asked, name), name
    assert seen.overhead_bytes == 4 * GRANULE
    rows = [m for m in core.snapshot() if m.op == Op.SNAP_TENANT]
    assert [row.a for row in rows] == [1]


def test_a_look_at_a_device_that_is_not_granted_tells_nothing(core: Core) -> None:
    core.add_device(CAPACITY, number=2)
    tenant = core.add_tenant(limit=LIMIT)
    for number in (2, 3):  # another's device, nobody's
        (seen,) = look(core, tenant, number)
        assert (seen.op, seen.capacity_bytes, seen.leased_bytes) == (Op.MEM_STATE, 0, 0)
