# SPDX-License-Identifier: Apache-2.0
"""Which slots are preferred, which sets of slots are shares, and what a share means."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plugin_cases import GIB, gpus, slots_of

from device_plugin.allocator import Chooser, Reason, Refused, Share, check, limits, prefer
from device_plugin.slots import SLOTS_PER_GPU, Slots
from harp.scheduler import Pod
from harp.units import PPM

BEST_FIT = Chooser()


def free_of(slots: Slots, *free: int) -> list[str]:
    """Ids of a node of which so many slots per GPU are free: the last ones."""
    return [name for gpu, n in enumerate(free) for name in slots.ids(gpu)[slots.per_gpu - n :]]


def chosen(
    slots: Slots, free: list[int], size: int, must: tuple[str, ...] = (), by: Chooser = BEST_FIT
) -> Share | None:
    """The share that is preferred."""
    ids = prefer(slots, free_of(slots, *free), must, size, by)
    assert set(must) <= set(ids) or not ids
    assert len(ids) in (0, size)
    return check(slots, ids) if ids else None


@pytest.mark.parametrize(
    ("free", "size", "gpu"),
    [
        ([100, 100], 30, 0),  # equal: the lower index
        ([100, 40], 30, 1),  # the least that fits
        ([25, 40, 30], 30, 2),
        ([25, 40, 30], 25, 0),
        ([99, 100], 100, 1),
        ([40, 40], 60, None),
        ([0, 0], 1, None),
    ],
)
def test_a_share_goes_where_least_is_left(free: list[int], size: int, gpu: int | None) -> None:
    found = chosen(slots_of(len(free)), free, size)
    assert found == (None if gpu is None else Share((gpu,), size))


@pytest.mark.parametrize("per_gpu", SLOTS_PER_GPU)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_what_is_preferred_is_a_share_of_the_fullest_gpu_that_fits(
    per_gpu: int, data: st.DataObject
) -> None:
    slots = slots_of(4, per_gpu)
    free = data.draw(st.lists(st.integers(0, per_gpu), min_size=4, max_size=4))
    size = data.draw(st.integers(1, per_gpu - 1))
    found = chosen(slots, free, size)
    fitting = [have for have in free if have >= size]
    if not fitting:
        assert found is None
    else:
        assert found is not None
        # thousandths round 400 slots: one of two that differ by less than one may be taken
        assert free[found.gpus[0]] - min(fitting) <= (per_gpu > 200)


def test_the_workload_decides_where_it_is_known() -> None:
    slots = slots_of(2)
    halves = Chooser([Pod(f"p{n}", 0, 0, 1, 500) for n in range(9)])
    # best fit would leave 45 and 60: only one half fits then
    assert chosen(slots, [60, 55], 10) == Share((1,), 10)
    assert chosen(slots, [60, 55], 10, by=halves) == Share((0,), 10)


@pytest.mark.parametrize(
    ("size", "must", "gpus_"),
    [
        (200, (), (1, 2)),
        (100, ("00000002-5",), (2,)),
        (200, ("00000003-5",), (1, 3)),
        (300, (), (1, 2, 3)),
        (400, (), None),
        (150, (), None),
        (100, ("00000000-99",), None),  # an init container has a part of GPU 0, which is shared
    ],
)
def test_whole_gpus_are_free_ones(
    size: int, must: tuple[str, ...], gpus_: tuple[int, ...] | None
) -> None:
    found = chosen(slots_of(4), [99, 100, 100, 100], size, must)
    assert found == (None if gpus_ is None else Share(gpus_, 100))


def test_whole_gpus_come_from_one_numa_node_where_one_has_them() -> None:
    near = [0, 1, 0, 1, 1, 0, 0]
    slots = Slots([replace(gpu, numa=n) for gpu, n in zip(gpus(7), near, strict=True)])
    everything = [100] * 7
    assert chosen(slots, everything, 200) == Share((1, 3), 100)  # the smaller group
    assert chosen(slots, everything, 400) == Share((0, 2, 5, 6), 100)
    assert chosen(slots, everything, 200, ("00000002-0",)) == Share((0, 2), 100)
    assert chosen(slots, everything, 500) == Share((0, 1, 2, 3, 4), 100)  # no group has five


def test_an_init_containers_slots_are_kept() -> None:
    slots = slots_of(2)
    must = slots.ids(1)[40:60]
    ids = prefer(slots, [*slots.ids(0), *slots.ids(1)[70:]], must, 30, BEST_FIT)
    assert check(slots, ids) == Share((1,), 30)
    assert set(must) < set(ids)
    assert prefer(slots, slots.ids(0), must, 60, BEST_FIT) == ()
    assert prefer(slots, slots.ids(0), (*must, slots.ids(0)[0]), 30, BEST_FIT) == ()
    assert prefer(slots, slots.ids(0), must, 10, BEST_FIT) == ()


def test_ids_that_are_none_are_not_preferred() -> None:
    slots = slots_of(1)
    assert prefer(slots, ["deadbeef-1", "00000000-1"], (), 2, BEST_FIT) == ()


@pytest.mark.parametrize(
    ("take", "share"),
    [
        ([1, 0], Share((0,), 1)),
        ([0, 100], Share((1,), 100)),
        ([100, 100], Share((0, 1), 100)),
    ],
)
def test_shares(take: list[int], share: Share) -> None:
    slots = slots_of(2)
    ids = free_of(slots, *take)
    random.Random(1).shuffle(ids)
    assert check(slots, ids) == share


@pytest.mark.parametrize(
    ("take", "reason", "message", "hint"),
    [
        ([40, 20], Reason.FRAGMENTED, "largest free share on one GPU is 40, need 60", "at most 40"),
        ([50, 50], Reason.FRAGMENTED, "need 100", "extender"),
        ([99, 100, 1], Reason.FRAGMENTED, "2 whole GPUs", "wait"),
        ([100, 50], Reason.NOT_WHOLE, "150 slots", "at most 100, or for 100 or 200"),
    ],
)
def test_slots_of_several_gpus_are_refused_with_a_remedy(
    take: list[int], reason: Reason, message: str, hint: str
) -> None:
    slots = slots_of(3)
    with pytest.raises(Refused) as said:
        check(slots, free_of(slots, *take), largest_free=40)
    assert said.value.reason is reason
    assert message in said.value.message
    assert hint in said.value.hint


def test_without_a_look_before_nothing_is_said_of_what_is_free() -> None:
    slots = slots_of(2)
    with pytest.raises(Refused, match="none has enough") as said:
        check(slots, free_of(slots, 40, 20))
    assert said.value.hint.startswith("ask for less")


def test_unknown_repeated_and_no_slots_are_refused() -> None:
    slots = slots_of(1)
    for ids, reason in (
        ([], Reason.EMPTY),
        (["00000000-1", "00000000-1"], Reason.TWICE),
        (["00000000-1", "00000009-1"], Reason.UNKNOWN),
    ):
        with pytest.raises(Refused) as said:
            check(slots, ids)
        assert said.value.reason is reason


@pytest.mark.parametrize("per_gpu", SLOTS_PER_GPU)
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_shares_of_a_gpu_never_add_up_to_more_than_it_has(
    per_gpu: int, data: st.DataObject
) -> None:
    memory = data.draw(st.integers(64 << 20, 200 * GIB))
    context = data.draw(st.integers(0, 1 << 30))
    slots = Slots(gpus(1, memory_bytes=memory, context_bytes=context), per_gpu)
    left, mem, ppm = per_gpu, 0, 0
    while left:
        take = data.draw(st.integers(1, left))
        left -= take
        try:
            got = limits(slots, Share((0,), take))
        except Refused:
            continue
        assert got.mem_bytes > 0  # 0 would be no limit
        assert got.limit_ppm == got.share_ppm > 0
        assert got.context_bytes >= context, "the first context is no part of the limit"
        mem, ppm = mem + got.mem_bytes + got.context_bytes, ppm + got.share_ppm
    assert mem <= memory
    assert ppm <= PPM


def test_a_share_is_as_large_as_it_says() -> None:
    slots = slots_of(2)
    quarter = limits(slots, Share((0,), 25))
    assert (quarter.mem_bytes, quarter.share_ppm) == (20 * GIB - (512 << 20), 250_000)
    whole = limits(slots, Share((0, 1), 100))
    assert (whole.mem_bytes, whole.limit_ppm) == (80 * GIB - (512 << 20), PPM)


def test_of_unlike_gpus_the_smaller_one_decides() -> None:
    small = gpus(2, memory_bytes=40 * GIB)[1]
    slots = Slots([gpus(1)[0], small])
    assert limits(slots, Share((0, 1), 100)).mem_bytes == 40 * GIB - (512 << 20)


def test_a_share_without_memory_is_refused_and_the_least_is_named() -> None:
    slots = Slots(gpus(1, memory_bytes=8 * GIB))
    with pytest.raises(Refused, match="6 slots of GPU 0 are 491 MiB") as said:
        limits(slots, Share((0,), 6))
    assert said.value.reason is Reason.TOO_SMALL
    assert said.value.hint == "ask for at least 7"
    assert limits(slots, Share((0,), 7)).mem_bytes == 60 << 20


def test_a_gpu_that_was_promised_is_preferred_while_it_has_enough() -> None:
    slots = slots_of(3)
    free = free_of(slots, 100, 40, 100)

    def place(size: int, *hint: int) -> set[int]:
        ids = prefer(slots, free, (), size, BEST_FIT, hint=hint)
        assert len(ids) == size
        return {slots.all[name].gpu for name in ids}

    assert place(30) == {1}
    assert place(30, 2) == {2}
    assert place(30, 0) == {0}
    assert place(60, 1) == {0}  # it has not so much: as without
    assert place(200, 0, 2) == {0, 2}
    assert place(100, 2) == {2}
