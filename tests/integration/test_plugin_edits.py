# SPDX-License-Identifier: Apache-2.0
"""The device plugin: annotations that change under a running container, tenants that nobody has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from plugin_node import MAIN, admitted, grant_of, node, running
from plugin_world import NODE, World

from device_plugin.book import Grant
from device_plugin.checkpoint import load
from device_plugin.fake_kubelet import Ask
from device_plugin.identity import Pod
from device_plugin.plugin import Tempo
from device_plugin.tenants import tenant_name
from harp.errors import ConfigError, DaemonUnreachable
from harp.model import Limits, TenantClass


@pytest.fixture
def world() -> Iterator[World]:
    with node() as world:
        world.api.pods = [Pod("ns", "a", "u1", NODE, MAIN, pending=True)]
        world.up()
        yield world


def say(world: World, **annotations: str) -> None:
    told = {f"harp.dev/{name.replace('_', '-')}": text for name, text in annotations.items()}
    world.api.pods = [replace(pod, annotations=told) for pod in world.api.pods]


def look(world: World) -> None:
    assert world.plugin is not None
    world.plugin.edits.look()


def test_a_running_container_follows_its_annotations_within_its_share(world: World) -> None:
    running(world, "a", 50)
    before = grant_of(world, "a")
    say(world, memory="8Gi", compute="20", **{"class": "latency"})
    look(world)
    after = grant_of(world, "a").limits
    assert (after.mem_bytes, after.share_ppm, after.limit_ppm) == (8 << 30, 200_000, 200_000)
    assert after.tenant_class is TenantClass.LATENCY
    say(world, memory="79Gi", compute="100")  # more than the share: cut, and said
    look(world)
    look(world)
    assert grant_of(world, "a").limits == before.limits
    assert [reason for _, reason, _ in world.api.events] == ["HarpAnnotation"] * 2
    say(world)
    look(world)
    look(world)
    assert grant_of(world, "a").limits == before.limits
    assert len(world.api.events) == 2  # each is said once


def test_what_was_edited_is_known_after_a_restart_and_to_the_next_start(world: World) -> None:
    running(world, "a", 50)
    say(world, memory="8Gi")
    look(world)
    world.stop_plugin()
    world.start_plugin()
    assert world.kubelet.listed.wait(20)
    assert world.plugin is not None
    (grant,) = world.plugin.starts.living()
    assert grant.limits.mem_bytes == 8 << 30
    world.api.silent = True
    world.kubelet.begin("ns", "a", "main")
    assert grant_of(world, "a").limits.mem_bytes == 8 << 30


def test_with_the_api_server_away_all_go_on_as_they_are(world: World) -> None:
    running(world, "a", 50)
    say(world, memory="8Gi")
    world.api.silent = True
    before = grant_of(world, "a")
    look(world)
    assert grant_of(world, "a") == before
    world.kubelet.begin("ns", "a", "main")  # an edit that waits holds up no start
    # Whether it is the same pod still nobody knows.
    assert grant_of(world, "a") == replace(before, pod_uid="")
    world.api.silent = False
    look(world)
    assert grant_of(world, "a").limits.mem_bytes == 8 << 30


def test_a_start_without_the_api_server_is_made_good(world: World) -> None:
    say(world, memory="8Gi")
    world.api.silent = True
    running(world, "a", 50)
    assert grant_of(world, "a").pod_uid == ""
    world.api.silent = False
    look(world)
    assert (grant_of(world, "a").pod_uid, grant_of(world, "a").limits.mem_bytes) == ("u1", 8 << 30)


def test_another_pod_of_that_name_is_not_obeyed(world: World) -> None:
    running(world, "a", 50)
    before = grant_of(world, "a")
    for other in ({"uid": "u2"}, {"node": "elsewhere"}):
        world.api.pods = [replace(Pod("ns", "a", "u1", NODE, MAIN), **other)]  # type: ignore[arg-type]
        say(world, memory="8Gi")
        look(world)
        assert grant_of(world, "a") == before


def test_what_harpd_refuses_is_said_and_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(world, "a", 50)
    before = grant_of(world, "a")
    say(world, oversubscribe="true")

    def refuse(*_: object) -> None:
        raise ConfigError("2 processes run", "end them first")

    with monkeypatch.context() as patch:
        patch.setattr(world.tenants, "ensure", refuse)
        look(world)
    ((name, reason, text),) = world.api.events
    assert (name, reason) == ("a", "HarpAnnotation")
    assert text == "container main keeps what it has: 2 processes run; end them first"
    assert world.plugin is not None
    assert world.plugin.starts.living() == (before,)
    look(world)
    assert grant_of(world, "a").limits.oversubscribe


def test_without_harpd_an_edit_waits(world: World) -> None:
    running(world, "a", 50)
    say(world, memory="8Gi")
    world.tenants.away = True
    with pytest.raises(DaemonUnreachable):
        look(world)
    world.tenants.away = False
    look(world)
    assert grant_of(world, "a").limits.mem_bytes == 8 << 30


def test_the_gpu_that_the_extender_wrote_is_given(world: World) -> None:
    """Best fit would say the first one."""
    running(world, "a", 30)
    assert grant_of(world, "a").uuids == (world.slots.gpus[0].uuid,)
    told = {"harp.dev/gpu": world.slots.gpus[1].uuid}
    asks = (replace(MAIN[0], slots=20),)
    world.api.pods += [Pod("ns", "b", "u2", NODE, asks, pending=True, annotations=told)]
    running(world, "b", 20)
    assert grant_of(world, "b").uuids == (world.slots.gpus[1].uuid,)
    assert not world.api.events  # it is no annotation of the user's
    world.api.silent = True  # then as without
    admitted(world, "c", Ask("main", 20))
    (ids,) = world.kubelet.devices.held["ns", "c"].values()
    assert {world.slots.all[name].gpu for name in ids} == {0}


def test_a_tenant_that_is_in_no_book_ends_when_kubelet_does_not_name_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held tenants end with nobody: neither with the plugin that made them nor with its book."""
    for name in ("a", "b", "c"):
        running(world, name, 10)
    names = {name: tenant_name(grant_of(world, name)) for name in ("a", "b", "c")}
    world.stop_plugin()
    world.settings.checkpoint.unlink()
    world.kubelet.remove("ns", "a")
    world.kubelet.remove("ns", "b")
    world.tenants.busy.add(names["b"])
    plugin = world.start_plugin(Tempo(look_s=0.05, sweep_s=3600, health_s=3600, wake_s=0.05))
    assert world.kubelet.listed.wait(20)
    assert plugin.starts.living() == ()
    plugin.orphans.sweep()
    assert set(world.tenants.made) == set(names.values())  # it may be about to be named
    monkeypatch.setattr("device_plugin.book.GONE_S", 0)
    plugin.orphans.sweep()
    assert set(world.tenants.made) == {names["b"], names["c"]}
    assert len(list(world.settings.grants.iterdir())) == 2
    world.tenants.busy.clear()
    plugin.orphans.sweep()
    assert set(world.tenants.made) == {names["c"]}
    world.kubelet.begin("ns", "c", "main")
    plugin.orphans.sweep()
    assert set(world.tenants.made) == {names["c"]}


def test_a_node_whose_last_pod_is_gone_is_swept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty list is a kubelet that has just begun, if the API server does not say otherwise."""
    running(world, "a", 10)
    monkeypatch.setattr("device_plugin.book.GONE_S", 0)
    assert world.plugin is not None
    world.kubelet.devices.held.clear()
    world.api.silent = True
    world.plugin.starts.sweep()
    assert world.tenants.made
    world.api.silent = False
    world.plugin.starts.sweep()  # the pod is there
    assert world.tenants.made
    world.api.pods = [replace(world.api.pods[0], ended=True)]
    world.plugin.starts.sweep()
    assert not world.tenants.made
    assert list(world.settings.grants.iterdir()) == []


def test_a_refined_cost_of_a_context_does_not_cut_running_pods_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a restart of the plugin, nor an edit of something else, nor another start."""
    running(world, "a", 50)
    say(world, **{"class": "latency"})
    look(world)
    was = grant_of(world, "a").limits
    world.stop_plugin()
    dearer = [
        replace(gpu, context_bytes=gpu.context_bytes + (300 << 20)) for gpu in world.slots.gpus
    ]
    world.tenants.gpus = dearer
    ensured: list[Limits] = []
    ensure = world.tenants.ensure

    def noted(grant: Grant, folder: Path) -> None:
        ensured.append(grant.limits)
        ensure(grant, folder)

    monkeypatch.setattr(world.tenants, "ensure", noted)
    assert world.start_plugin().starts.living()[0].limits == was
    assert world.kubelet.listed.wait(20)
    look(world)
    assert world.plugin is not None
    world.plugin.starts.sweep()
    assert ensured == [], "nobody has edited anything"
    say(world, **{"class": "latency"}, compute="20")
    look(world)
    assert ensured == [replace(was, share_ppm=200_000, limit_ppm=200_000)]
    say(world, **{"class": "latency"})
    look(world)
    world.kubelet.begin("ns", "a", "main")
    assert grant_of(world, "a").limits == was
    world.api.pods.append(Pod("ns", "b", "u2", NODE, MAIN, pending=True))
    running(world, "b", 50)
    mem, context = grant_of(world, "b").limits.mem_bytes, dearer[0].context_bytes
    assert (mem, was.mem_bytes) == ((40 << 30) - context, (40 << 30) - context + (300 << 20))


def test_grants_of_a_plugin_that_did_not_say_their_share_keep_what_they_have(world: World) -> None:
    running(world, "a", 50)
    was = grant_of(world, "a").limits
    world.stop_plugin()
    text = world.settings.checkpoint.read_text()
    data = json.loads(text)
    for grant in data["grants"]:
        del grant["share"]
    world.settings.checkpoint.write_text(json.dumps(data))
    world.tenants.gpus = [replace(gpu, context_bytes=1 << 30) for gpu in world.slots.gpus]
    world.start_plugin()
    look(world)
    say(world, memory="8Gi")
    look(world)
    assert grant_of(world, "a").limits == replace(was, mem_bytes=8 << 30)
    say(world)
    look(world)
    assert grant_of(world, "a").limits == was


@pytest.mark.parametrize("restart", [False, True])
def test_an_edit_whose_answer_was_lost_is_told_once_more(
    world: World, monkeypatch: pytest.MonkeyPatch, *, restart: bool
) -> None:
    """It is in force, and taken back before the next look; the plugin may have ended at it too."""
    running(world, "a", 50)
    was = grant_of(world, "a").limits
    say(world, memory="8Gi")
    ensure = world.tenants.ensure

    def lost(grant: Grant, folder: Path) -> None:
        ensure(grant, folder)
        raise DaemonUnreachable("its answer is lost")

    with monkeypatch.context() as patch:
        patch.setattr(world.tenants, "ensure", lost)
        with pytest.raises(DaemonUnreachable):
            look(world)
    assert grant_of(world, "a").limits.mem_bytes == 8 << 30
    if restart:
        world.stop_plugin()
        world.start_plugin()
    say(world)
    look(world)
    assert grant_of(world, "a").limits == was
    assert world.plugin is not None
    (grant,) = world.plugin.starts.living()
    assert (grant.limits, grant.asked) == (was, None)


def test_an_edit_that_is_refused_leaves_nothing_to_tell(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(world, "a", 50)
    say(world, memory="8Gi")

    def refused(_grant: Grant, _folder: Path) -> None:
        raise ConfigError("not now")

    with monkeypatch.context() as patch:
        patch.setattr(world.tenants, "ensure", refused)
        look(world)
    assert world.plugin is not None
    (grant,) = world.plugin.starts.living()
    assert grant.asked is None
    assert load(world.settings.checkpoint).grants == (grant,)
    assert len(world.api.events) == 1
