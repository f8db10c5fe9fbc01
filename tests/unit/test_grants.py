# SPDX-License-Identifier: Apache-2.0
"""Admission: promises never exceed a device."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harp.errors import ConfigError, NoDevice, QuotaExceeded
from harp.grants import (
    Promise,
    admit,
    choose,
    memory_left,
    promised_bytes,
    promised_ppm,
    select,
)
from harp.model import Device, DeviceKind, Limits
from harp.units import PPM

GIB = 1 << 30
MIB = 1 << 20


def device(index: int = 0, memory_bytes: int = 80 * GIB, overhead_bytes: int = 512 * MIB) -> Device:
    return Device(
        index=index,
        uuid=f"GPU-{index:08x}-0000-0000-0000-000000000000",
        name="test",
        kind=DeviceKind.SOFTWARE,
        memory_bytes=memory_bytes,
        overhead_bytes=overhead_bytes,
        overhead_source="measured",
        driver_version="1",
    )


def asks(mem_bytes: int = 0, share_ppm: int = 0, limit_ppm: int = 0) -> Promise:
    return Promise(Limits(mem_bytes, share_ppm, limit_ppm))


promises = st.builds(
    lambda mem, share, clients, leased: Promise(
        Limits(mem * MIB, share), clients, min(leased, mem) * MIB if mem else leased * MIB
    ),
    st.integers(0, 40_000),
    st.integers(0, PPM),
    st.integers(0, 4),
    st.integers(0, 4000),
)


@given(st.lists(promises, max_size=8), st.sampled_from([1.0, 1.5, 2.0]))
def test_admitted_promises_fit_the_device(wishes: list[Promise], ratio: float) -> None:
    gpu = device()
    held: list[Promise] = []
    for wish in wishes:
        try:
            admit(gpu, held, wish, ratio)
        except QuotaExceeded:
            continue
        if wish.limits.mem_bytes:  # what has no limit was promised nothing
            held.append(wish)
    assert promised_bytes(gpu, held) <= gpu.memory_bytes * ratio
    assert promised_ppm(held) <= PPM * ratio


@given(st.lists(promises, max_size=6))
def test_what_is_said_to_be_left_is_admitted_and_one_granule_more_is_not(
    held: list[Promise],
) -> None:
    gpu = device()
    left = memory_left(gpu, held, 1.0)
    if left:
        admit(gpu, held, asks(left), 1.0)
    with pytest.raises(QuotaExceeded):
        admit(gpu, held, asks(left + 2 * MIB), 1.0)


def test_a_context_of_each_tenant_is_kept_free() -> None:
    """Else the last tenant within its limit would meet a full device."""
    gpu = device(memory_bytes=2 * GIB, overhead_bytes=512 * MIB)
    admit(gpu, [], asks(1536 * MIB), 1.0)
    with pytest.raises(QuotaExceeded) as caught:
        admit(gpu, [], asks(2 * GIB), 1.0)
    assert caught.value.hint == "ask for --mem 1536MiB"


def test_each_process_of_a_tenant_costs_its_context() -> None:
    gpu = device(memory_bytes=4 * GIB)
    one = Promise(Limits(GIB), clients=1)
    four = Promise(Limits(GIB), clients=4)
    assert memory_left(gpu, [one], 1.0) - memory_left(gpu, [four], 1.0) == 3 * 512 * MIB


def test_a_container_has_its_contexts_within_its_part() -> None:
    """However many they are; and its part stays the same when what one costs is refined."""
    part = Limits(GIB, context_bytes=512 * MIB)
    for gpu in (device(memory_bytes=3 * GIB), device(memory_bytes=3 * GIB, overhead_bytes=GIB)):
        for clients in (0, 1, 5):
            held = Promise(part, clients, leased_bytes=GIB)
            assert promised_bytes(gpu, [held]) == GIB + 512 * MIB
            admit(gpu, [held], Promise(part, clients), 1.0)
            assert memory_left(gpu, [held], 1.0, Promise(part, clients)) == GIB
            with pytest.raises(QuotaExceeded):
                admit(gpu, [held, held], Promise(part), 1.0)


def test_a_refused_share_says_what_is_left() -> None:
    with pytest.raises(QuotaExceeded) as caught:
        admit(device(), [asks(share_ppm=700_000)], asks(share_ppm=400_000), 1.0)
    assert "30% left" in caught.value.message
    assert caught.value.hint == "ask for --share 30%"


def test_shares_may_be_overcommitted_by_the_daemons_owner() -> None:
    admit(device(), [asks(share_ppm=700_000)], asks(share_ppm=400_000), 1.5)


def test_a_share_above_its_own_limit_is_refused() -> None:
    with pytest.raises(QuotaExceeded, match="above the limit"):
        admit(device(), [], asks(share_ppm=500_000, limit_ppm=300_000), 1.0)


def swaps(mem_bytes: int, *, clients: int = 0, held: int = 0, stays: int = 0) -> Promise:
    return Promise(Limits(mem_bytes, oversubscribe=True), clients, held + stays, held)


def test_limits_of_tenants_that_oversubscribe_need_not_fit_together() -> None:
    gpu = device(memory_bytes=10 * GIB)
    held: list[Promise] = []
    for _ in range(3):
        admit(gpu, held, swaps(8 * GIB), 1.0)
        held.append(swaps(8 * GIB, clients=1, held=5 * GIB))
    # Each alone beside all contexts: three are there, and the fourth's is one more.
    with pytest.raises(QuotaExceeded, match="no room for a context of 512MiB on GPU 0 beside"):
        admit(gpu, [*held, swaps(8 * GIB, clients=1)], swaps(GIB), 1.0)
    with pytest.raises(QuotaExceeded) as caught:
        admit(gpu, [swaps(8 * GIB)], swaps(9 * GIB + 2 * MIB), 1.0)
    assert caught.value.hint == "ask for --mem 9GiB"


def test_what_others_were_promised_is_not_for_oversubscribing_nor_the_other_way_round() -> None:
    gpu = device(memory_bytes=10 * GIB)
    with pytest.raises(QuotaExceeded) as caught:
        admit(gpu, [asks(4 * GIB)], swaps(6 * GIB), 1.0)
    assert caught.value.hint == "ask for --mem 5GiB"
    admit(gpu, [asks(4 * GIB)], swaps(5 * GIB), 1.0)
    with pytest.raises(QuotaExceeded) as caught:
        admit(gpu, [swaps(8 * GIB), swaps(7 * GIB)], asks(GIB), 1.0)
    assert caught.value.hint == "ask for --mem 512MiB"


def test_an_overcommitted_device_is_not_larger_for_who_must_fit_alone() -> None:
    gpu = device(memory_bytes=10 * GIB)
    admit(gpu, [asks(8 * GIB)], asks(8 * GIB), 2.0)
    with pytest.raises(QuotaExceeded):
        admit(gpu, [], swaps(10 * GIB), 2.0)


mixed = st.builds(
    lambda mem, clients, swap, oversubscribes: (
        swaps(mem * MIB, clients=clients, held=min(swap, mem) * MIB)
        if oversubscribes
        else asks(mem * MIB)
    ),
    st.integers(1, 40_000),
    st.integers(0, 4),
    st.integers(0, 4000),
    st.booleans(),
)


@given(st.lists(mixed, max_size=8))
def test_each_that_was_admitted_fits_beside_all_that_cannot_leave(wishes: list[Promise]) -> None:
    gpu = device()
    held: list[Promise] = []
    for wish in wishes:
        try:
            admit(gpu, held, Promise(wish.limits), 1.0)
        except QuotaExceeded:
            continue
        held.append(Promise(wish.limits))
    for one in held:
        if one.limits.oversubscribe:
            stays = sum(p.cost_bytes(gpu) for p in held)
            assert stays + one.limits.mem_bytes <= gpu.memory_bytes
    assert promised_bytes(gpu, held) <= gpu.memory_bytes


def test_the_least_promised_device_is_chosen() -> None:
    gpus = [device(0), device(1), device(2)]
    held = {gpus[0].uuid: [asks(share_ppm=500_000)], gpus[1].uuid: [asks(GIB)]}
    assert choose(gpus, held, asks(GIB), 1.0) is gpus[2]
    held[gpus[2].uuid] = [asks(80 * GIB - 512 * MIB)]
    assert choose(gpus, held, asks(GIB), 1.0) is gpus[1]


def test_choosing_says_why_when_none_fits() -> None:
    with pytest.raises(QuotaExceeded, match="GPU 0"):
        choose([device(0), device(1)], {}, asks(100 * GIB), 1.0)


@pytest.mark.parametrize("selector", ["1", "GPU-00000001", "gpu-00000001-0000", "00000001"])
def test_a_gpu_is_named_by_index_or_uuid(selector: str) -> None:
    gpus = [device(0), device(1)]
    assert select(gpus, selector) == (gpus[1],)


def test_several_gpus_keep_the_order_they_were_named_in() -> None:
    gpus = [device(0), device(1), device(2)]
    assert select(gpus, "2,0") == (gpus[2], gpus[0])
    assert select(gpus, f"1, {gpus[2].uuid[:12]}") == (gpus[1], gpus[2])


@pytest.mark.parametrize("selectors", ["1,1", "0,1,GPU-00000001", "GPU-00000001,gpu-00000001-0"])
def test_a_gpu_named_twice_is_refused_with_what_to_do(selectors: str) -> None:
    with pytest.raises(ConfigError, match=r"names GPU 1 .* twice") as caught:
        select([device(0), device(1)], selectors)
    assert "once" in caught.value.hint


@pytest.mark.parametrize("selectors", ["0,", ",", "0,,1", "0,2"])
def test_one_wrong_name_among_several_is_refused(selectors: str) -> None:
    with pytest.raises(NoDevice, match="no GPU named") as caught:
        select([device(0), device(1)], selectors)
    assert "GPU-00000001" in caught.value.hint


@pytest.mark.parametrize("selector", ["2", "GPU-", "GPU-9", "first"])
def test_a_wrong_or_ambiguous_gpu_says_what_there_is(selector: str) -> None:
    with pytest.raises(NoDevice) as caught:
        select([device(0), device(1)], selector)
    assert "GPU-00000001" in caught.value.hint


def knows(need: float, limit: float, leased: float = 0, *, swaps: bool = False) -> Promise:
    """A tenant that may be counted by what it needs."""
    limits = Limits(int(limit * GIB), oversubscribe=swaps)
    return Promise(limits, 1, int(leased * GIB), need_bytes=int(need * GIB))


def buffer(tenants: int) -> float:
    """More beside fewer, to see that it is asked for the right number."""
    return {1: 0.3, 2: 0.2, 3: 0.1}[tenants]


@pytest.mark.parametrize(
    ("description", "held", "asked", "taken"),
    [
        ("needs fit, limits do not", [knows(20, 35), knows(20, 35)], knows(20, 35), True),
        ("the buffer is of three", [knows(23, 27), knows(23, 27)], knows(23, 27), True),
        ("needs and buffer do not fit", [knows(24, 27), knows(24, 27)], knows(24, 27), False),
        ("one could not reach its limit", [knows(20, 35), knows(20, 35)], knows(20, 45), False),
        ("one holds more than it needs by now", [knows(20, 60, 45)], knows(20, 35), False),
        ("one there has not agreed", [knows(20, 35), asks(35 * GIB)], knows(20, 35), False),
        ("who comes has not agreed", [knows(20, 35), knows(20, 35)], asks(35 * GIB), False),
        ("one there swaps", [knows(20, 35), knows(20, 70, swaps=True)], knows(20, 60), False),
        ("limits fit: nobody need agree", [asks(35 * GIB)], knows(20, 35), True),
        ("alone above its need", [], knows(20, 79), True),
    ],
)
def test_who_is_counted_by_what_it_needs(
    description: str,  # noqa: ARG001 - names the case
    held: list[Promise],
    asked: Promise,
    taken: bool,
) -> None:
    gpu = device()
    if taken:
        admit(gpu, held, asked, 1.0, buffer)
        assert choose([gpu], {gpu.uuid: held}, asked, 1.0, buffer) is gpu
    else:
        with pytest.raises(QuotaExceeded):
            admit(gpu, held, asked, 1.0, buffer)


def test_without_leave_limits_count_whatever_is_known() -> None:
    held = [knows(20, 35), knows(20, 35)]
    with pytest.raises(QuotaExceeded):
        admit(device(), held, knows(20, 35), 1.0)


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(1, 40), st.integers(0, 20)), min_size=1, max_size=8
    )
)
def test_who_has_not_agreed_always_finds_its_limit(wishes: list[tuple[bool, int, int]]) -> None:
    """Whatever was admitted before and after: all others at their limits leave it its own."""
    gpu = device(overhead_bytes=0)
    held: list[Promise] = []
    for agreed, need, more in wishes:
        asked = knows(need, need + more) if agreed else asks((need + more) * GIB)
        try:
            admit(gpu, held, asked, 1.0, lambda _: 0.1)
        except QuotaExceeded:
            continue
        held.append(asked)
    if any(not promise.need_bytes for promise in held):
        assert sum(promise.limits.mem_bytes for promise in held) <= gpu.memory_bytes
    assert sum(p.need_bytes or p.limits.mem_bytes for p in held) <= gpu.memory_bytes


def wants(duty: float, share: float = 0) -> Promise:
    """A tenant that will want so much of a device's time."""
    return Promise(Limits(GIB, int(share * PPM)), 1, duty_ppm=int(duty * PPM))


@pytest.mark.parametrize(
    ("description", "first", "second", "asked", "chosen"),
    [
        ("one that waits joins one that computes", [wants(0.9)], [wants(0.2)], wants(0.9), 1),
        ("one that computes joins one that waits", [wants(0.2)], [wants(0.9)], wants(0.9), 0),
        ("both leave room: who wants least", [wants(0.5)], [wants(0.3)], wants(0.2), 1),
        ("beyond on both: the least beyond", [wants(0.9)], [wants(0.8)], wants(0.9), 1),
        ("not known: the least promised", [wants(0.2, 0.5)], [wants(0.9, 0.1)], wants(0), 1),
        ("of others not known: they want none", [wants(0.3)], [wants(0)], wants(0.5), 1),
        ("it must fit before", [asks(79 * GIB)], [wants(0.9)], wants(0.9), 1),
    ],
)
def test_opposites_belong_together(
    description: str, first: list[Promise], second: list[Promise], asked: Promise, chosen: int
) -> None:
    gpus = [device(0), device(1)]
    held = {gpus[0].uuid: first, gpus[1].uuid: second}
    assert choose(gpus, held, asked, 1.0).index == chosen, description


@pytest.mark.parametrize("order", ["ccgg", "cgcg", "cggc", "gccg", "gcgc", "ggcc"])
def test_in_whatever_order_two_of_each_come_equals_are_not_paired(order: str) -> None:
    """Who comes first is placed without knowing who comes next: opposites in four orders of six."""
    gpus = [device(0), device(1)]
    held: dict[str, list[Promise]] = {gpu.uuid: [] for gpu in gpus}
    for letter in order:
        asked = wants(0.95 if letter == "c" else 0.25)
        held[choose(gpus, held, asked, 1.0).uuid].append(asked)
    duties = [[p.duty_ppm / PPM for p in there] for there in held.values()]
    assert sum(duty.count(0.95) for duty in duties) == 2
    assert all(duty.count(0.95) == 1 for duty in duties)
    if order not in ("cggc", "gcgc"):
        assert [sorted(duty) for duty in duties] == [[0.25, 0.95]] * 2
