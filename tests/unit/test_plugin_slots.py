# SPDX-License-Identifier: Apache-2.0
"""Ids of slots: which there are, that they last, and how long the list of them is."""

from __future__ import annotations

import pytest
from plugin_cases import gpus, slots_of

from device_plugin.proto import deviceplugin_pb2 as pb
from device_plugin.slots import LIST_BYTES_MAX, SLOTS_PER_GPU, Gpu, Slot, Slots
from harp.errors import ConfigError


@pytest.mark.parametrize("per_gpu", SLOTS_PER_GPU)
def test_every_slot_has_one_short_id(per_gpu: int) -> None:
    slots = slots_of(8, per_gpu)
    assert len(slots.all) == 8 * per_gpu
    assert all(len(name) <= 63 for name in slots.all)
    assert all(slots.id(place) == name for name, place in slots.all.items())
    assert [slots.all[name] for name in slots.ids(3)] == [Slot(3, n) for n in range(per_gpu)]


def test_ids_do_not_depend_on_the_order_of_gpus_or_on_the_others() -> None:
    four = gpus(4)
    moved = [Gpu(g.uuid, 3 - g.index, g.memory_bytes) for g in four]
    assert set(Slots(four).all) == set(Slots(moved).all) > set(Slots(four[:1]).all)
    assert Slots(moved).all[f"{four[0].uuid[4:12]}-7"] == Slot(3, 7)


def test_gpus_that_begin_alike_are_told_apart() -> None:
    alike = [f"GPU-12345678-{n}000-4000-8000-000000000000" for n in (1, 2)]
    slots = Slots([*(Gpu(uuid, i, 1 << 30) for i, uuid in enumerate(alike)), *gpus(5)[2:]])
    assert len(slots.all) == 500
    assert {name.partition("-")[0] for name in slots.ids(0)} == {"1234567810004000"}
    assert len(slots.ids(2)[0]) < len(slots.ids(0)[0])


@pytest.mark.parametrize(
    "name", ["", "-", "1", "00000000-100", "00000000-01", "00000000--1", "x-1"]
)
def test_other_names_are_no_slots(name: str) -> None:
    slots = slots_of(2)
    assert "00000000-1" in slots.all
    assert name not in slots.all


@pytest.mark.parametrize("numa", [-1, 0, 1, 200])
@pytest.mark.parametrize("per_gpu", SLOTS_PER_GPU)
def test_the_list_is_as_long_as_said(per_gpu: int, numa: int) -> None:
    slots = slots_of(8, per_gpu, numa=numa)
    near = pb.TopologyInfo(nodes=[pb.NUMANode(ID=numa)]) if numa >= 0 else None
    sent = pb.ListAndWatchResponse(
        devices=[pb.Device(ID=name, health="Unhealthy", topology=near) for name in slots.all]
    )
    assert slots.list_bytes == sent.ByteSize()
    if per_gpu == 100:
        assert slots.list_bytes <= 64 << 10


def test_a_list_that_is_too_long_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"120 GPUs of 400 slots .* above the 1048576") as said:
        slots_of(120, 400)
    assert "fewer slots" in said.value.hint
    assert LIST_BYTES_MAX * 0.8 < slots_of(90, 400).list_bytes <= LIST_BYTES_MAX


@pytest.mark.parametrize("per_gpu", [0, 1, 99, 101, 1000])
def test_other_numbers_of_slots_are_refused(per_gpu: int) -> None:
    with pytest.raises(ConfigError, match=f"{per_gpu} slots"):
        slots_of(1, per_gpu)


def test_a_gpu_twice_or_without_a_uuid_is_refused() -> None:
    one = gpus(1)[0]
    with pytest.raises(ConfigError, match="twice"):
        Slots([one, one])
    with pytest.raises(ConfigError, match="UUID"):
        Slots([Gpu("GPU-what", 0, 1 << 30)])
