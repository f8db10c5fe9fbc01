# SPDX-License-Identifier: Apache-2.0
"""The device plugin: containers that get what they will need, or whose pods are told of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from plugin_node import grant_of, node, running
from plugin_world import NODE, World

from device_plugin.book import Made
from device_plugin.estimates import Modes
from device_plugin.identity import Container, Pod
from harp.estimator.job import Need
from harp.estimator.modes import Mode, read_modes

GIB = 1 << 30
MAIN = (Container("main", image="i:1", command=("train", "--lr=1")),)


def need(target: str, bound: float) -> Need:
    return Need(target, None, bound, 0.98, known=True, level="owner", runs=7, reason="because")


@pytest.fixture
def world() -> Iterator[World]:
    with node() as world:
        world.api.pods = [Pod("ns", "a", "u1", NODE, MAIN, pending=True, maker="ns/CronJob/train")]
        world.tenants.known["main"] = {
            one.target: one for one in (need("gpu_mem_bytes", 7.0 * GIB), need("share_ratio", 0.1))
        }
        yield world


def say(world: World, **annotations: str) -> None:
    told = {f"harp.dev/{name}": text for name, text in annotations.items()}
    world.api.pods = [replace(pod, annotations=told) for pod in world.api.pods]


def up(world: World, mode: Mode = Mode.OBSERVE, others: str = "") -> None:
    world.settings = replace(world.settings, modes=Modes(mode, read_modes(others)))
    world.up()


def had(world: World) -> tuple[int, int, int]:
    limits = grant_of(world, "a").limits
    return limits.mem_bytes // (1 << 20), limits.share_ppm, limits.limit_ppm


FULL = (40 * 1024 - 512, 500_000, 500_000)
LOWERED = (7 * 1024, 100_000, 500_000)


def test_observe_asks_nobody_and_changes_nothing(world: World) -> None:
    up(world)
    running(world, "a", 50)
    assert had(world) == FULL
    assert world.tenants.asked == []
    assert world.api.events == []
    # History hears of it all the same.
    assert grant_of(world, "a").made == Made("i:1", "ns/CronJob/train", ("train", "--lr=1"))


def test_recommend_tells_and_changes_nothing(world: World) -> None:
    up(world, others="ns=recommend")
    running(world, "a", 50)
    assert had(world) == FULL
    ((pod, reason, text),) = world.api.events
    assert (pod, reason) == ("a", "HarpEstimate")
    # (7 + 0.5) GiB of 80 are 9.4 slots, 10 % of the time are 10.
    assert text == (
        "container main would do with 7GiB of 40448MiB (because) and 10% of 50% (because);"
        " harp.dev/gpu-share: 10 would do"
    )


@pytest.mark.parametrize(
    ("mode", "said"), [(Mode.ENFORCE, ""), (Mode.OBSERVE, "auto"), (Mode.RECOMMEND, "auto")]
)
def test_enforce_and_auto_lower_its_limits(world: World, mode: Mode, said: str) -> None:
    say(world, **{"estimate": said} if said else {})
    up(world, mode)
    running(world, "a", 50)
    assert had(world) == LOWERED
    (asked,) = world.tenants.asked
    assert asked.limits.mem_bytes == FULL[0] << 20  # what it would have without is the request
    assert "has 7GiB of 40448MiB" in world.api.events[0][2]


def test_off_is_off_in_every_mode(world: World) -> None:
    say(world, estimate="off")
    up(world, Mode.ENFORCE)
    running(world, "a", 50)
    assert had(world) == FULL
    assert world.tenants.asked == []
    assert world.api.events == []


def test_its_own_annotation_holds_where_it_is_lower(world: World) -> None:
    say(world, estimate="auto", memory="6Gi", compute="20")
    up(world)
    running(world, "a", 50)
    assert had(world) == (6 * 1024, 100_000, 200_000)


def test_a_word_that_is_none_is_said_and_ignored(world: World) -> None:
    say(world, estimate="perhaps")
    up(world)
    running(world, "a", 50)
    assert had(world) == FULL
    assert "neither auto nor off" in world.api.events[0][2]


def test_what_runs_keeps_what_it_started_with_over_edits_and_restarts(world: World) -> None:
    say(world, estimate="auto")
    up(world)
    running(world, "a", 50)
    world.tenants.known["main"] = {"gpu_mem_bytes": need("gpu_mem_bytes", 1.0 * GIB)}
    for _ in range(2):
        assert world.plugin is not None
        say(world, estimate="auto", **{"class": "latency"})
        world.plugin.edits.look()
        assert had(world) == LOWERED
        world.stop_plugin()
        world.start_plugin()
        assert world.kubelet.listed.wait(20)
    say(world)  # it is wanted no more: what its slots say, at once
    assert world.plugin is not None
    world.plugin.edits.look()
    assert had(world) == FULL


def test_a_restart_of_its_container_asks_anew(world: World) -> None:
    say(world, estimate="auto")
    up(world)
    running(world, "a", 50)
    world.tenants.known["main"] = {"gpu_mem_bytes": need("gpu_mem_bytes", 10.5 * GIB)}
    world.kubelet.begin("ns", "a", "main")  # refused memory, it failed: the estimate has grown
    assert had(world) == (10 * 1024 + 512, 500_000, 500_000)
    world.tenants.known.clear()
    world.kubelet.begin("ns", "a", "main")
    assert had(world) == FULL
