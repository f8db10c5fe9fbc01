# SPDX-License-Identifier: Apache-2.0
"""The list that kubelet gets: every slot, where its GPU is attached, and whether it is fit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from plugin_cases import gpus

from device_plugin.__main__ import _settings
from device_plugin.proto import deviceplugin_pb2 as pb
from device_plugin.server import Listing
from device_plugin.slots import Slots


def _lists(listing: Listing) -> Iterator[pb.ListAndWatchResponse]:
    return listing.follow(lambda: True)


def _numas(slots: Slots, message: pb.ListAndWatchResponse) -> dict[int, set[tuple[int, ...]]]:
    """{GPU's place: NUMA nodes that its slots are said to be at}."""
    found: dict[int, set[tuple[int, ...]]] = {}
    for device in message.devices:
        nodes = tuple(node.ID for node in device.topology.nodes)
        found.setdefault(slots.all[device.ID].gpu, set()).add(nodes)
    return found


def test_kubelet_is_told_numa_nodes_where_that_is_wanted_and_they_are_known() -> None:
    first, second, third = gpus(3)
    slots = Slots([replace(first, numa=0), replace(second, numa=1), replace(third, numa=-1)])
    told = next(_lists(Listing(slots, topology=True)))
    assert [device.ID for device in told.devices] == list(slots.all)
    assert _numas(slots, told) == {0: {(0,)}, 1: {(1,)}, 2: {()}}
    # Node 0 is a node, and not a topology that is left out.
    by_gpu = {slots.all[one.ID].gpu: one.HasField("topology") for one in told.devices}
    assert by_gpu == {0: True, 1: True, 2: False}
    kept = next(_lists(Listing(slots, topology=False)))
    assert not any(device.HasField("topology") for device in kept.devices)


@pytest.mark.parametrize(("given", "told"), [((), False), (("--topology",), True)])
def test_the_command_line_says_whether_numa_nodes_are_told(
    given: tuple[str, ...], told: bool, tmp_path: Path
) -> None:
    settings = _settings(["--node", "n1", "--run-dir", str(tmp_path), *given])
    assert settings.topology is told


def test_the_longest_list_of_eight_gpus_is_within_64_kib() -> None:
    """By default; each slot ill, and with a NUMA node (issue 7)."""
    slots = Slots([replace(gpu, numa=1) for gpu in gpus(8)])
    listing = Listing(slots, topology=True)
    listing.set_ill({gpu.uuid: "lost" for gpu in slots.gpus})
    message = next(_lists(listing))
    assert {device.health for device in message.devices} == {"Unhealthy"}
    assert message.ByteSize() == slots.list_bytes <= 64 << 10


def test_it_is_sent_again_when_a_gpus_health_changes_and_not_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("device_plugin.server._WAKE_S", 60.0)  # at once, not at the next look
    slots = Slots(gpus(2))
    listing = Listing(slots, topology=False)
    lists = _lists(listing)
    assert {device.health for device in next(lists).devices} == {"Healthy"}
    ill = slots.gpus[1].uuid
    listing.set_ill({ill: "Xid 63"})
    unfit = {slots.all[one.ID].gpu for one in next(lists).devices if one.health == "Unhealthy"}
    assert unfit == {1}
    assert listing.ill == {ill}
    listing.set_ill({ill: "Xid 63"})
    later: list[pb.ListAndWatchResponse] = []
    waiting = threading.Thread(target=lambda: later.append(next(lists)), daemon=True)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive(), "the same list came once more"
    listing.set_ill({})
    waiting.join(20)
    assert {device.health for device in later[0].devices} == {"Healthy"}
