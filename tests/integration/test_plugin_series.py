# SPDX-License-Identifier: Apache-2.0
"""The plugin's page on kubelet's sockets: who has what right after Allocate, what is met, timed."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator

import pytest
from plugin_node import MAIN, admitted, node, running
from plugin_world import NODE, World, until
from prometheus_client.parser import text_string_to_metric_families

from device_plugin.fake_kubelet import AdmissionError, Ask
from device_plugin.health import Xid
from device_plugin.identity import Pod
from device_plugin.plugin import Tempo
from device_plugin.signs import HarpdSigns
from harp.metrics import families

Series = dict[tuple[str, str], float]
#: "series for a grant <= 2 s after Allocate" (issue 7), tenfold
SEEN_S = 20.0
APART = ("container", "reason", "part", "xid")


@pytest.fixture
def world() -> Iterator[World]:
    with node() as found:
        yield found


def scrape(world: World) -> Series:
    """{(name, the label of APART that it has): value}"""
    page = asyncio.run(world.plugin.routes()["/metrics"](""))
    return {
        (s.name, next((s.labels[n] for n in APART if n in s.labels), "")): s.value
        for metric in text_string_to_metric_families(page.body.decode())
        for s in metric.samples
        if not s.name.endswith("_bucket")
    }


def test_a_containers_slots_are_told_from_allocate_to_its_end(world: World) -> None:
    world.up()
    slots = ("harp_plugin_slots", "main")
    assert slots not in scrape(world)
    began_s = time.monotonic()
    admitted(world, "p", Ask("main", 30))  # Allocate; it does not start yet
    assert scrape(world)[slots] == 30
    took_s = time.monotonic() - began_s
    print(f"from Allocate to its series: {1000 * took_s:.0f} ms")
    assert took_s < SEEN_S
    assert scrape(world)["harp_plugin_grants", ""] == 0
    world.api.pods.append(Pod("ns", "p", "u1", NODE, MAIN))
    world.kubelet.begin("ns", "p", "main")
    found = scrape(world)
    assert found["harp_plugin_grants", ""] == 1
    assert found["harp_plugin_allocate_duration_seconds_count", ""] == 1
    assert found["harp_plugin_start_duration_seconds_count", ""] == 1
    assert 0 < found["harp_plugin_allocate_duration_seconds_sum", ""] < SEEN_S
    world.kubelet.remove("ns", "p")
    assert slots not in scrape(world)


def test_a_pod_that_no_gpu_has_room_for_is_counted_as_fragmented(world: World) -> None:
    world.up()
    for name in "ab":
        running(world, name, 60)
    refused = ("harp_plugin_allocate_errors_total", "fragmented")
    assert scrape(world)[refused] == 0
    with pytest.raises(AdmissionError, match="largest free share on one GPU is 40, need 60"):
        admitted(world, "c", Ask("main", 60))
    found = scrape(world)
    assert found[refused] == 1
    assert found["harp_plugin_allocate_duration_seconds_count", ""] == 3
    assert found["harp_plugin_allocations_total", ""] == 2


def test_a_kubelet_that_comes_again_is_counted_and_timed(world: World) -> None:
    world.up()
    assert scrape(world)["harp_plugin_registered", ""] == 1
    world.kubelet.stop()
    failed = ("harp_plugin_errors_total", "list")
    before = scrape(world)[failed]
    assert before >= 1  # the scrape that asks counts it itself
    world.kubelet.refuses = True
    world.kubelet.start()
    errors = world.plugin.counts
    until(lambda: errors.value(families.PLUGIN_ERRORS, "registration") >= 2)
    world.kubelet.refuses = False
    until(lambda: scrape(world)["harp_plugin_reregister_duration_seconds_count", ""] == 1)
    found = scrape(world)
    assert found["harp_plugin_kubelet_restarts_total", ""] == 1
    assert 0 < found["harp_plugin_reregister_duration_seconds_sum", ""] < SEEN_S
    assert found["harp_plugin_registered", ""] == 1


def test_what_the_plugins_loops_meet_is_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No harpd to ask, of grants or of GPUs, and an Xid of one of these."""
    world.kubelet.start()
    uuid = world.slots.gpus[1].uuid
    turns = itertools.chain([[(uuid, Xid(79))]], itertools.repeat([]))

    def wait(_signs: HarpdSigns, timeout_s: float) -> list[tuple[str, Xid]]:
        time.sleep(timeout_s)
        return next(turns)

    monkeypatch.setattr(HarpdSigns, "wait", wait)
    plugin = world.start_plugin(Tempo(look_s=0.05, sweep_s=0.1, health_s=0.1, wake_s=0.05))
    until(lambda: scrape(world).get(("harp_device_xid_errors_total", "79")) == 1)
    assert plugin.listing.ill == {uuid}
    assert plugin.counts.value(families.PLUGIN_ERRORS, "health") == 0
    world.tenants.away = True
    until(lambda: plugin.counts.value(families.PLUGIN_ERRORS, "health") >= 1)
    until(lambda: plugin.counts.value(families.PLUGIN_ERRORS, "sweep") >= 1)
    world.tenants.away = False
