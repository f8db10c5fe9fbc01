# SPDX-License-Identifier: Apache-2.0
"""Contexts of tenants whose grant says what of them comes beside the limit: containers' parts."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from arbiter_core import DEAD, GRANULE, MESSAGE, SECOND, SEND, WATCHED, Act, Core, Msg, sends
from arbiter_core import ops as ops_of

from harp.lease_wire import VERSION, Deny, Op

CONTEXT = 4 * GRANULE
LIMIT = 10 * GRANULE
CAPACITY = 100 * GRANULE
OVERHEAD = 1  # HARP_MEM_OVERHEAD


@pytest.fixture
def core() -> Iterator[Core]:
    core = Core()
    core.add_device(CAPACITY, overhead=CONTEXT)
    core.step(WATCHED, msg=Msg(a=1))
    yield core
    core.close()


def container(core: Core, limit: int = LIMIT, beside: int = CONTEXT) -> int:
    tenant = core.add_tenant(limit=limit)
    core.set_tenant(tenant, limit=limit, beside=beside)
    return tenant


def context(core: Core, client: int) -> list[Act]:
    return core.lease(client, CONTEXT, cls=OVERHEAD)


def state(core: Core, client: int) -> Msg:
    ((_, answer),) = sends(core.tell(client, Op.MEM_INFO, seq=5))
    return answer


def denial(core: Core, client: int, acts: list[Act]) -> Msg:
    """What is said when all who were asked for their slack had none."""
    while ops_of(acts) and set(ops_of(acts)) == {Op.RECALL_MEM}:
        for to, recall in sends(acts):
            acts = core.tell(to, Op.RECALLED, seq=recall.seq)
    ((to, denied),) = sends(acts)
    assert (to, denied.op) == (client, Op.MEM_DENY)
    return denied


def test_first_context_is_beside_the_limit_and_the_second_is_in_it(core: Core) -> None:
    tenant = container(core)
    first, second = core.join(tenant, pid=1), core.join(tenant, pid=2)
    assert ops_of(context(core, first)) == [Op.MEM_GRANT]
    seen = state(core, first)
    assert (seen.leased_bytes, seen.free_bytes) == (0, LIMIT)
    assert ops_of(context(core, second)) == [Op.MEM_GRANT]
    seen = state(core, second)
    assert (seen.leased_bytes, seen.free_bytes) == (CONTEXT, LIMIT - CONTEXT)
    assert ops_of(core.lease(first, LIMIT - CONTEXT)) == [Op.MEM_GRANT]
    assert denial(core, first, core.lease(first, GRANULE)).a == Deny.LIMIT
    assert core.use(tenant).slack_bytes == CONTEXT


def test_context_that_the_limit_has_no_room_for_is_refused_as_the_limit_s(core: Core) -> None:
    tenant = container(core)
    first, second = core.join(tenant, pid=1), core.join(tenant, pid=2)
    context(core, first)
    core.lease(first, LIMIT - CONTEXT + GRANULE)
    denied = denial(core, second, context(core, second))
    assert denied.a == Deny.LIMIT
    assert (denied.limit_bytes, denied.leased_bytes) == (LIMIT, LIMIT - CONTEXT + GRANULE)
    core.tell(first, Op.RETURN_MEM, bytes=GRANULE)
    assert ops_of(context(core, second)) == [Op.MEM_GRANT]


def test_context_gets_what_another_process_has_leased_and_does_not_use(core: Core) -> None:
    tenant = container(core)
    first, second = core.join(tenant, pid=1), core.join(tenant, pid=2)
    context(core, first)
    core.lease(first, LIMIT)
    ((to, recall),) = sends(context(core, second))
    assert (to, recall.op) == (first, Op.RECALL_MEM)
    answered = core.tell(first, Op.RECALLED, seq=recall.seq, bytes=CONTEXT)
    assert ops_of(answered, second) == [Op.MEM_GRANT]


def test_context_of_the_dead_counts_until_it_has_drained(core: Core) -> None:
    tenant = container(core)
    dead, other = core.join(tenant, pid=1), core.join(tenant, pid=2)
    context(core, dead)
    core.step(DEAD, dead)
    assert ops_of(context(core, other)) == [Op.MEM_GRANT]
    assert state(core, other).leased_bytes == CONTEXT
    core.admin(Op.DRAINED, client=dead, dev=0)
    assert state(core, other).leased_bytes == 0


def test_context_waits_for_the_dead_whose_memory_it_needs(core: Core) -> None:
    tenant = container(core)
    dead, other = core.join(tenant, pid=1), core.join(tenant, pid=2)
    context(core, dead)
    core.lease(dead, LIMIT)
    core.step(DEAD, dead)
    assert ops_of(context(core, other)) == []
    core.admin(Op.DRAINED, client=dead, dev=0)
    assert ops_of(core.last) == [Op.MEM_GRANT]


def test_cost_that_was_refined_upward_counts_against_who_was_cut_before(core: Core) -> None:
    client = core.join(container(core))
    core.add_device(CAPACITY, overhead=CONTEXT + 2 * GRANULE)
    core.lease(client, CONTEXT + 2 * GRANULE, cls=OVERHEAD)
    assert state(core, client).free_bytes == LIMIT - 2 * GRANULE


def test_what_harpd_takes_for_nobody_s_is_part_of_the_contexts(core: Core) -> None:
    """Beyond the leases, up to what a context is expected to cost."""
    client = core.join(container(core))
    context(core, client)
    core.admin(Op.SET_OVERHEAD, client=client, dev=0, bytes=CONTEXT + 3 * GRANULE)
    assert state(core, client).leased_bytes == 3 * GRANULE
    core.admin(
        Op.SET_OVERHEAD,
        client=client,
        dev=0,
        bytes=CONTEXT + 3 * GRANULE,
        limit_bytes=3 * GRANULE,
    )
    assert state(core, client).leased_bytes == 3 * GRANULE, "counted once"


def test_who_comes_back_keeps_contexts_and_memory(core: Core) -> None:
    """What is held is there: the limit of memory alone bounds what may be adopted."""
    client = core.join(container(core), flags=1)
    core.tell(client, Op.ADOPT_MEM, cls=OVERHEAD, bytes=3 * CONTEXT)
    core.tell(client, Op.ADOPT_MEM, bytes=LIMIT)
    seen = state(core, client)
    assert (seen.leased_bytes, seen.free_bytes) == (LIMIT + 2 * CONTEXT, 0)
    assert "adoption_beyond_limit" not in core.log


def test_without_that_word_contexts_are_the_device_s_alone(core: Core) -> None:
    tenant = core.add_tenant(limit=LIMIT)
    clients = [core.join(tenant, pid=pid) for pid in range(1, 4)]
    for client in clients:
        assert ops_of(context(core, client)) == [Op.MEM_GRANT]
    assert state(core, clients[0]).free_bytes == LIMIT


def test_unlimited_neighbours_leave_what_is_beside_a_limit(core: Core) -> None:
    container(core, beside=CONTEXT + 3 * GRANULE)
    free = core.join(core.add_tenant(), pid=9)
    assert state(core, free).free_bytes == CAPACITY - LIMIT - CONTEXT - 3 * GRANULE


def test_an_arbiter_says_that_it_knows_of_it(core: Core) -> None:
    tenant = core.add_tenant(limit=LIMIT)
    reply = core.admin(
        Op.SET_TENANT, tenant=tenant, dev=0, limit_bytes=LIMIT, overhead_bytes=CONTEXT
    )
    assert reply.overhead_bytes == CONTEXT


@pytest.mark.parametrize("seed", range(20))
def test_a_part_is_never_exceeded_and_always_to_be_had(seed: int) -> None:
    """Parts fill the device. Random processes, contexts, memory, deaths of all tenants at once.

    What a tenant has, dead or alive, never exceeds its part, whatever the others do; and what
    is within its part is never refused for the device's sake.
    """
    rng = random.Random(seed)
    core = Core(checked=False)
    parts = [20 * GRANULE, 30 * GRANULE, 50 * GRANULE]
    core.add_device(sum(parts), overhead=CONTEXT)
    core.step(WATCHED, msg=Msg(a=1))
    tenants = [container(core, part - CONTEXT) for part in parts]
    of: dict[int, int] = {}
    held: dict[int, list[int]] = {}
    dead: dict[int, int] = {}
    denied = granted = 0

    def step(kind: int, client: int, **fields: int) -> None:
        take(core.step(kind, client, Msg(version=VERSION, **fields)))

    def take(todo: list[Act]) -> None:
        nonlocal denied, granted
        while todo:
            act = todo.pop(0)
            if act.kind != SEND or act.client not in held:
                continue
            if act.msg.op == Op.RECALL_MEM:  # all is in use
                todo += core.tell(act.client, Op.RECALLED, seq=act.msg.seq)
            elif act.msg.op == Op.MEM_GRANT:
                held[act.client][act.msg.cls] += act.msg.bytes
                granted += act.msg.cls
            elif act.msg.op == Op.MEM_DENY:
                assert act.msg.a != Deny.CAPACITY
                denied += 1

    for number in range(400):
        what = rng.random()
        alive = [c for c in held if c not in dead]
        if what < 0.15 and len(alive) < 30:
            index = rng.randrange(3)
            client = core.join(tenants[index], pid=1000 + number)
            of[client], held[client] = index, [0, 0, 0, 0]
            step(MESSAGE, client, op=Op.LEASE_MEM, cls=OVERHEAD, bytes=CONTEXT, seq=1)
        elif what < 0.6 and alive:
            client = rng.choice(alive)
            size = rng.randint(1, 12) * GRANULE
            step(MESSAGE, client, op=Op.LEASE_MEM, bytes=size, seq=2)
        elif what < 0.8 and alive:
            client = rng.choice(alive)
            size = min(held[client][0], rng.randint(1, 12) * GRANULE)
            if size:
                held[client][0] -= size
                step(MESSAGE, client, op=Op.RETURN_MEM, bytes=size)
        elif what < 0.9 and alive:
            client = rng.choice(alive)
            dead[client] = number
            step(DEAD, client)
        elif dead:
            client = rng.choice(list(dead))
            del dead[client], held[client]
            core.admin(Op.DRAINED, client=client, dev=0)
            take(core.last)
        take(list(core.advance(rng.choice([0, SECOND, 6 * SECOND]))))
        for index, part in enumerate(parts):
            has = sum(sum(held[c]) for c in held if of[c] == index)
            assert has <= part, f"tenant {index} has {has} of {part}"
    core.close()
    assert denied, "nothing was tried that matters"
    assert granted
