# SPDX-License-Identifier: Apache-2.0
"""SNAP_TIME: how a tenant stands in the order of turns, in virtual time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from arbiter_core import (
    ADMIN,
    BEST_EFFORT,
    FIFO,
    GRANULE,
    MS,
    PPM,
    QUANTUM,
    SECOND,
    Act,
    Core,
    Msg,
    ops,
    sends,
)

from harp.lease_wire import STANDING_CREDIT, STANDING_LIMIT, VERSION, Op

BURST = 50 * MS


@pytest.fixture
def core() -> Iterator[Core]:
    core = Core()
    core.add_device(100 * GRANULE)
    yield core
    core.close()


def standing(core: Core, tenant: int) -> Msg:
    rows = [m for m in core.snapshot() if m.op == Op.SNAP_TIME]
    return next(m for m in rows if m.tenant == tenant)


def opened(acts: list[Act], client: int) -> Msg:
    return next(m for _, m in sends(acts, client) if m.op == Op.OPEN_GATE)


def test_at_rest_nobody_owes_or_is_owed(core: Core) -> None:
    tenant = core.add_tenant(share=PPM // 4)
    core.join(tenant)
    row = standing(core, tenant)
    assert (row.a, row.b, row.c) == (PPM // 4, 0, STANDING_CREDIT)
    assert not any((row.used_ns, row.copy_ns, row.wait_ns, row.quantum_ns, row.window_ns))


def test_who_ran_beside_another_owes_what_the_other_is_owed(core: Core) -> None:
    one, two = core.add_tenant(share=PPM // 2), core.add_tenant(share=PPM // 2)
    a, b = core.join(one), core.join(two)
    epoch = opened(core.tell(a, Op.WANT_TIME), a).epoch
    core.tell(b, Op.WANT_TIME)
    core.now += 4 * MS
    core.tell(a, Op.YIELD_TIME, epoch=epoch, a=1, used_ns=4 * MS)
    assert (standing(core, one).copy_ns, standing(core, one).used_ns) == (4 * MS, 0)
    assert standing(core, two).b == 1, "its gate is open now"
    assert standing(core, one).b == 0


def test_credit_of_the_idle_is_bounded_by_the_burst(core: Core) -> None:
    one, two = core.add_tenant(share=PPM // 2), core.add_tenant(share=PPM // 2)
    a = core.join(one)
    core.join(two)
    epoch = opened(core.tell(a, Op.WANT_TIME), a).epoch
    core.now += 20 * MS
    core.tell(a, Op.USED_TIME, epoch=epoch, used_ns=20 * MS)
    assert standing(core, two).used_ns == 20 * MS
    core.now += SECOND
    core.tell(a, Op.USED_TIME, epoch=epoch, used_ns=SECOND)
    assert standing(core, two).used_ns == BURST
    assert standing(core, one).used_ns == standing(core, one).copy_ns == 0


def test_weights_are_those_of_the_active(core: Core) -> None:
    big, small = core.add_tenant(share=800_000), core.add_tenant(share=800_000)
    free, best = core.add_tenant(), core.add_tenant(cls=BEST_EFFORT)
    assert standing(core, big).a == 800_000
    for tenant in (big, small, free, best):
        core.tell(core.join(tenant), Op.WANT_TIME)
    weights = [standing(core, tenant).a for tenant in (big, small, free, best)]
    assert weights[0] == weights[1] == (PPM - 10_000) * 800_000 // 1_600_000
    assert weights[2:] == [10_000, PPM]


def test_a_limits_bucket_is_told_with_its_debt_as_it_is_by_now(core: Core) -> None:
    tenant = core.add_tenant(cap=PPM // 10)
    client = core.join(tenant)
    full = standing(core, tenant)
    assert (full.c, full.quantum_ns) == (STANDING_CREDIT | STANDING_LIMIT, 0)
    assert full.wait_ns > QUANTUM
    epoch = opened(core.tell(client, Op.WANT_TIME), client).epoch
    core.now += 100 * MS
    core.tell(client, Op.YIELD_TIME, epoch=epoch, used_ns=100 * MS)
    spent = standing(core, tenant)
    assert spent.wait_ns == 0
    assert spent.quantum_ns == pytest.approx(100 * MS - full.wait_ns - 10 * MS, abs=2)
    core.now += 100 * MS
    assert spent.quantum_ns - standing(core, tenant).quantum_ns == pytest.approx(10 * MS, abs=2)


def test_announced_work_is_in_flight_until_its_time_has_passed(core: Core) -> None:
    one, two = core.add_tenant(), core.add_tenant()
    a, b = core.join(one), core.join(two)
    epoch = opened(core.tell(a, Op.WANT_TIME), a).epoch
    core.tell(b, Op.WANT_TIME)
    core.now += 4 * MS
    acts = core.tell(a, Op.USED_TIME, epoch=epoch, a=1, window_ns=3 * MS, used_ns=4 * MS)
    assert Op.OPEN_GATE not in ops(acts)
    row = standing(core, one)
    assert (row.b, row.window_ns) == (1, 3 * MS)
    core.now += 2 * MS
    assert standing(core, one).window_ns == MS
    core.now += 5 * MS
    assert standing(core, one).window_ns == 0
    core.tell(a, Op.YIELD_TIME, epoch=epoch)
    assert standing(core, one).b == 0


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_processes_all_that_run_count_and_the_one_that_ends_last(
    core: Core, order: int
) -> None:
    tenant = core.add_tenant()
    both = [core.join(tenant), core.join(tenant)]
    epochs = [opened(core.tell(client, Op.WANT_TIME), client).epoch for client in both]
    windows_ns = (MS, 3 * MS)[::order]
    for client, epoch, window_ns in zip(both, epochs, windows_ns, strict=True):
        core.tell(client, Op.USED_TIME, epoch=epoch, a=1, window_ns=window_ns)
    row = standing(core, tenant)
    assert (row.b, row.window_ns) == (2, 3 * MS)


def test_a_policy_without_an_account_says_nothing_of_credit() -> None:
    core = Core(policy=FIFO)
    core.add_device(100 * GRANULE)
    row = standing(core, core.add_tenant(share=PPM // 4))
    assert (row.a, row.c, row.used_ns, row.copy_ns) == (0, 0, 0, 0)
    core.close()


def test_the_question_changes_nothing(core: Core) -> None:
    """A bucket that a look filled would be filled for ever."""
    tenant = core.add_tenant(cap=PPM // 10)
    client = core.join(tenant)
    epoch = opened(core.tell(client, Op.WANT_TIME), client).epoch
    core.now += 100 * MS
    core.tell(client, Op.YIELD_TIME, epoch=epoch, used_ns=100 * MS)
    for _ in range(3):
        core.step(ADMIN, msg=Msg(version=VERSION, op=Op.SNAPSHOT))
    first, second = standing(core, tenant), standing(core, tenant)
    assert bytes(first) == bytes(second)
