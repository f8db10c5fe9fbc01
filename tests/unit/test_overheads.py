# SPDX-License-Identifier: Apache-2.0
"""What is beyond the leases: how much is charged, to whom, and what a context is taken to cost."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from harp.daemon.overheads import ContextCost, Correction, Overheads, Reading, Sight, learn, step
from harp.lease_wire import GRANULE_BYTES

MIB = 1 << 20
A, B = "GPU-a", "GPU-b"
CONTEXT = 500 * MIB
EXPECTED = {A: CONTEXT, B: 24 * MIB}


def reading(physical: int, leased: int = 0, **more: int | bool | str) -> Reading:
    base = Reading(1, A, physical, leased, CONTEXT, 0, 0, settled=True, exact=True)
    return replace(base, **more)  # type: ignore[arg-type]


def one(*readings: Reading) -> list[Correction]:
    return step(Overheads(), readings, EXPECTED)[1]


def test_a_context_as_expected_and_leased_memory_need_no_word() -> None:
    assert one(reading(CONTEXT + 300 * MIB, 300 * MIB)) == []
    assert one(reading(CONTEXT + 290 * MIB, 300 * MIB)) == []  # unused lease


def test_what_goes_beyond_the_context_is_the_tenants() -> None:
    (found,) = one(reading(CONTEXT + 380 * MIB, 300 * MIB))
    assert (found.beyond_bytes, found.counted_bytes) == (CONTEXT + 80 * MIB, 80 * MIB)


def test_a_granule_is_charged_to_the_device_and_counts_for_nothing() -> None:
    (found,) = one(reading(CONTEXT + GRANULE_BYTES))
    assert (found.beyond_bytes, found.counted_bytes) == (CONTEXT + GRANULE_BYTES, 0)


def test_a_cost_learnt_since_excuses_what_was_leased_too_small_for_a_context() -> None:
    old = CONTEXT - 100 * MIB
    (found,) = one(reading(CONTEXT, context_bytes=old))
    assert (found.beyond_bytes, found.counted_bytes) == (CONTEXT, 0)


def test_each_context_that_was_leased_is_excused() -> None:
    assert one(reading(2 * CONTEXT, context_bytes=2 * CONTEXT)) == []


def test_what_went_is_no_longer_charged() -> None:
    (found,) = one(reading(CONTEXT, extra_bytes=80 * MIB, counted_bytes=80 * MIB))
    assert (found.beyond_bytes, found.counted_bytes) == (CONTEXT, 0)


def test_what_was_told_once_is_not_told_again_and_again() -> None:
    """The arbiter may take less than it is told; nothing changes by repeating it."""
    state, first, _ = step(Overheads(), [reading(2 * CONTEXT)], EXPECTED)
    assert len(first) == 1
    state, again, _ = step(state, [reading(2 * CONTEXT)], EXPECTED)
    assert again == []
    state, more, _ = step(state, [reading(3 * CONTEXT)], EXPECTED)
    assert len(more) == 1


def test_moving_leases_raise_no_false_alarm() -> None:
    """Memory freed between NVML's look and the arbiter's looks like memory nobody leased."""
    state = Overheads()
    for physical in (*[CONTEXT + 900 * MIB] * 9, CONTEXT, *[CONTEXT + 900 * MIB] * 9):
        state, found, _ = step(state, [reading(physical, settled=False)], EXPECTED)
        assert found == []  # the smallest of ten


def test_leases_that_never_stand_still_hide_nothing_for_long() -> None:
    state = Overheads()
    for _ in range(10):
        moving = reading(CONTEXT + 80 * MIB, settled=False)
        state, found, _ = step(state, [moving], EXPECTED)
    assert [c.counted_bytes for c in found] == [80 * MIB]


def test_who_is_gone_is_forgotten() -> None:
    state, _, _ = step(Overheads(), [reading(2 * CONTEXT)], EXPECTED)
    assert state.told
    assert state.met
    state, _, _ = step(state, [], EXPECTED)
    assert state == Overheads()


sizes = st.integers(0, 1 << 40)


@given(sizes, sizes, sizes, sizes, sizes)
def test_nothing_is_ever_negative_or_counted_that_is_not_charged(
    physical: int, leased: int, context: int, extra: int, counted: int
) -> None:
    for found in one(
        reading(physical, leased, context_bytes=context, extra_bytes=extra, counted_bytes=counted)
    ):
        assert 0 <= found.counted_bytes <= max(0, found.beyond_bytes - context)
        assert found.beyond_bytes == max(0, physical - leased)


# --- what a context costs -----------------------------------------------------------------------


def test_context_costs_are_learnt_for_two_models() -> None:
    readings = [
        reading(CONTEXT + 3 * MIB),
        reading(30 * MIB, device_uuid=B, context_bytes=24 * MIB),
    ]
    state, _, sights = step(Overheads(), readings, EXPECTED)
    assert sights == [Sight(A, CONTEXT + 3 * MIB), Sight(B, 30 * MIB)]
    assert step(state, readings, EXPECTED)[2] == []  # one sight per client and device


def test_only_a_plain_first_context_tells_its_cost() -> None:
    for odd in (
        reading(CONTEXT, settled=False),
        reading(CONTEXT, exact=False),
        reading(2 * CONTEXT, context_bytes=2 * CONTEXT),
        reading(0, context_bytes=0),
    ):
        assert step(Overheads(), [odd], EXPECTED)[2] == []


def test_a_cost_nobody_measured_is_taken_from_the_first_client() -> None:
    cost = learn(ContextCost(512 * MIB, "default"), 24 * MIB)
    assert (cost.size_bytes, cost.source) == (24 * MIB, "seen")


def test_a_measured_cost_moves_when_eight_clients_agree_and_not_before() -> None:
    for seen, expected in ((300 * MIB, 300 * MIB), (600 * MIB, 600 * MIB)):
        cost = ContextCost(CONTEXT, "measured")
        for n in range(8):
            assert (cost.size_bytes, cost.source, len(cost.seen)) == (CONTEXT, "measured", n)
            cost = learn(cost, seen + n)
        assert cost.source == "seen"
        assert abs(cost.size_bytes - expected) < 8


def test_one_odd_client_moves_nothing() -> None:
    for odd in (10 * MIB, 5000 * MIB):
        cost = ContextCost(CONTEXT, "measured")
        for _ in range(7):
            cost = learn(cost, 300 * MIB if odd > CONTEXT else 700 * MIB)
        cost = learn(cost, odd)
        assert (cost.size_bytes, cost.source) == (CONTEXT, "measured")


def test_noise_below_a_granule_moves_nothing() -> None:
    cost = ContextCost(CONTEXT, "measured")
    for _ in range(20):
        cost = learn(cost, CONTEXT - MIB)
    assert (cost.size_bytes, len(cost.seen)) == (CONTEXT, 8)
