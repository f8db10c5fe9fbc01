# SPDX-License-Identifier: Apache-2.0
"""Pinned host memory in the arbiter's core: a tenant's own quota, on no device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from arbiter_core import CLOSE, DEAD, EVENT, GRANULE, Core, ops, sends
from hypothesis import given
from hypothesis import strategies as st

from harp.lease_wire import Deny, MemClass, Op

PAGE = 4096
CAPACITY = 10 * GRANULE
READOPT = 1


@pytest.fixture
def core() -> Iterator[Core]:
    core = Core()
    core.add_device(CAPACITY)
    yield core
    core.close()


def tenant_with(core: Core, quota: int, limit: int = 0) -> int:
    tenant = core.add_tenant(limit=limit)
    reply = core.admin(Op.SET_TENANT, tenant=tenant, dev=0, limit_bytes=limit, free_bytes=quota)
    assert reply.op == Op.OK
    return tenant


def pin(core: Core, client: int, size: int, dev: int = 0) -> Op:
    (op,) = ops(core.lease(client, size, dev=dev, cls=MemClass.HOST))
    return op


def pinned(core: Core, tenant: int) -> int:
    return int(core.use(tenant).free_bytes)


def test_quota_is_kept_to_the_page_by_all_clients_of_the_tenant_together(core: Core) -> None:
    tenant = tenant_with(core, 10 * PAGE)
    one, two = core.join(tenant), core.join(tenant)
    assert pin(core, one, 4 * PAGE) == Op.MEM_GRANT
    assert pin(core, two, 6 * PAGE) == Op.MEM_GRANT
    acts = core.lease(one, PAGE, cls=MemClass.HOST, seq=7)
    ((client, denied),) = sends(acts)
    assert (client, denied.op, denied.seq, denied.a) == (one, Op.MEM_DENY, 7, Deny.LIMIT)
    assert (denied.limit_bytes, denied.leased_bytes, denied.bytes) == (10 * PAGE, 10 * PAGE, PAGE)
    (event,) = [act.msg for act in acts if act.kind == EVENT]
    assert (event.op, event.cls, event.tenant) == (Op.EVENT_DENY, MemClass.HOST, tenant)
    assert core.use(tenant).denials == 1
    core.tell(two, Op.RETURN_MEM, cls=MemClass.HOST, bytes=PAGE)
    assert pin(core, one, PAGE) == Op.MEM_GRANT


def test_it_is_on_no_device_and_under_no_device_limit(core: Core) -> None:
    tenant = tenant_with(core, 0, limit=GRANULE)
    client = core.join(tenant)
    free = core.snapshot()[0].free_bytes
    assert pin(core, client, 100 * CAPACITY) == Op.MEM_GRANT
    device = core.snapshot()[0]
    assert (device.free_bytes, device.leased_bytes, device.overhead_bytes) == (free, 0, 0)
    use = core.use(tenant)
    assert (use.leased_bytes, use.overhead_bytes, use.capacity_bytes) == (0, 0, 0)
    assert use.free_bytes == 100 * CAPACITY
    assert ops(core.lease(client, GRANULE)) == [Op.MEM_GRANT]


def test_without_a_quota_it_is_counted_only_but_never_beyond_any_machine(core: Core) -> None:
    client = core.join(tenant := tenant_with(core, 0))
    assert pin(core, client, 1 << 50) == Op.MEM_GRANT
    assert pin(core, client, PAGE) == Op.MEM_DENY
    assert pinned(core, tenant) == 1 << 50


def test_what_the_dead_had_pinned_is_free_at_once(core: Core) -> None:
    tenant = tenant_with(core, 4 * PAGE)
    one, two = core.join(tenant), core.join(tenant)
    pin(core, one, 3 * PAGE)
    core.lease(one, GRANULE)
    assert pin(core, two, 2 * PAGE) == Op.MEM_DENY
    core.step(DEAD, one)
    assert core.use(tenant).bytes == GRANULE  # its device memory drains
    assert pinned(core, tenant) == 0
    assert pin(core, two, 4 * PAGE) == Op.MEM_GRANT


def test_a_quota_below_use_means_no_new_memory_and_is_told_to_clients(core: Core) -> None:
    tenant = tenant_with(core, 8 * PAGE)
    client = core.join(tenant)
    pin(core, client, 6 * PAGE)
    core.admin(Op.SET_TENANT, tenant=tenant, dev=0, free_bytes=4 * PAGE)
    ((_, told),) = sends(core.last)
    assert (told.op, told.free_bytes) == (Op.DEVICE, 4 * PAGE)
    assert (core.use(tenant).capacity_bytes, pinned(core, tenant)) == (4 * PAGE, 6 * PAGE)
    assert pin(core, client, PAGE) == Op.MEM_DENY
    core.tell(client, Op.RETURN_MEM, cls=MemClass.HOST, bytes=3 * PAGE)
    assert pin(core, client, PAGE) == Op.MEM_GRANT


def test_who_comes_back_says_what_is_pinned(core: Core) -> None:
    tenant = tenant_with(core, 4 * PAGE)
    client = core.join(tenant, flags=READOPT)
    core.tell(client, Op.ADOPT_MEM, cls=MemClass.HOST, bytes=6 * PAGE)  # a smaller quota by now
    assert pinned(core, tenant) == 6 * PAGE
    assert pin(core, client, PAGE) == Op.MEM_DENY
    core.tell(client, Op.ADOPT_MEM, cls=MemClass.HOST, bytes=PAGE)  # too late: it has asked
    assert pinned(core, tenant) == 6 * PAGE
    assert core.log[-1] == "adoption_refused"


def test_it_needs_a_granted_device_and_whole_pages(core: Core) -> None:
    client = core.join(tenant := tenant_with(core, 0))
    ((_, denied),) = sends(core.lease(client, PAGE, dev=1, cls=MemClass.HOST))
    assert (denied.op, denied.a) == (Op.MEM_DENY, Deny.UNKNOWN)
    acts = core.lease(client, PAGE + 1, cls=MemClass.HOST)
    assert [act.kind for act in acts if act.kind == CLOSE] == [CLOSE]
    assert pinned(core, tenant) == 0


@given(
    st.lists(st.tuples(st.sampled_from("lrdj"), st.integers(0, 3), st.integers(1, 12)), max_size=60)
)
def test_whatever_happens_the_quota_holds_and_sums_agree(steps: list[tuple[str, int, int]]) -> None:
    """Leases, returns of too much, deaths, newcomers: the core's own check runs at each step."""
    core, quota = Core(), 20 * PAGE
    core.add_device(CAPACITY)
    tenant = tenant_with(core, quota)
    held: dict[int, int] = {}
    for what, which, pages in steps:
        client = list(held)[which % len(held)] if held else 0
        if what == "j" and len(held) < 4:
            held[core.join(tenant)] = 0
        elif what == "l" and client:
            fits = sum(held.values()) + pages * PAGE <= quota
            assert pin(core, client, pages * PAGE) == (Op.MEM_GRANT if fits else Op.MEM_DENY)
            held[client] += pages * PAGE if fits else 0
        elif what == "r" and client:
            core.tell(client, Op.RETURN_MEM, cls=MemClass.HOST, bytes=pages * PAGE)
            held[client] = max(0, held[client] - pages * PAGE)
        elif what == "d" and client:
            core.step(DEAD, client)
            del held[client]
        assert pinned(core, tenant) == sum(held.values()) <= quota
    core.close()
