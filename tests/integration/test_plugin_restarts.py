# SPDX-License-Identifier: Apache-2.0
"""The device plugin on a kubelet's sockets: restarts of each side, and what ends a grant."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from plugin_node import admitted, grant_of, lives, node, running
from plugin_world import World, until

from device_plugin.book import Grant
from device_plugin.fake_kubelet import AdmissionError, Ask
from device_plugin.plugin import Tempo
from device_plugin.starts import Patience
from device_plugin.tenants import tenant_name


@pytest.fixture
def world() -> Iterator[World]:
    with node() as world:
        yield world


@pytest.mark.parametrize("downtime_s", [0, 1.0])
def test_it_is_registered_again_after_a_kubelet_restart(world: World, downtime_s: float) -> None:
    world.up()
    running(world, "a", 30)
    took = []
    for _ in range(3):
        world.kubelet.stop()
        time.sleep(downtime_s)
        began = time.monotonic()
        world.kubelet.start()
        assert world.kubelet.listed.wait(20)
        took.append(time.monotonic() - began)
        assert world.kubelet.registrations >= 1
        assert len(world.kubelet.devices.free()) == 170
        assert world.kubelet.begin("ns", "a", "main").mounts  # from kubelet's checkpoint
    print("registered again after", [round(t, 3) for t in took], "s")
    assert max(took) < 20  # the bench holds it to 2 s
    assert len(world.tenants.made) == 1


def test_a_kubelet_that_ends_takes_no_plugin(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin registers anew as soon as its stream ends, which is before the sockets' end."""
    world.up()
    forget = world.kubelet._forget

    def slowly() -> None:
        monkeypatch.undo()  # of this one end; that of a registration takes no time
        forget()
        time.sleep(0.5)

    monkeypatch.setattr(world.kubelet, "_forget", slowly)
    world.kubelet.stop()
    assert not world.kubelet.listed.is_set()
    assert world.kubelet.registrations == 1


def test_a_kubelet_that_dropped_the_stream_is_told_again(world: World) -> None:
    """Without a restart: its folder is as it was."""
    world.up()
    before = world.kubelet.registrations
    world.kubelet.drop()
    assert world.kubelet.listed.wait(20)
    assert world.kubelet.registrations == before + 1
    running(world, "a", 30)


def test_a_plugin_that_restarts_knows_its_grants(world: World) -> None:
    world.up()
    running(world, "a", 30)
    before = dict(world.tenants.made)
    world.stop_plugin()
    until(lambda: not world.kubelet.devices.healthy)
    plugin = world.start_plugin()
    assert world.kubelet.listed.wait(20)
    assert {g.id: g for g in plugin.starts.living()} == {g.id: g for g in before.values()}
    assert world.tenants.made == before
    running(world, "b", 70)
    assert grant_of(world, "b").uuids == grant_of(world, "a").uuids


@pytest.mark.slow
def test_without_harpd_containers_start_again_and_new_ones_wait(world: World) -> None:
    world.up()
    running(world, "a", 30)
    world.tenants.away = True
    world.kubelet.begin("ns", "a", "main")
    admitted(world, "b", Ask("main", 20))  # Allocate asks nobody
    with pytest.raises(AdmissionError, match="harpd does not answer, and grant"):
        world.kubelet.begin("ns", "b", "main")
    assert world.kubelet.devices.healthy  # it says nothing of the GPUs
    world.tenants.away = False
    world.kubelet.begin("ns", "b", "main")
    assert grant_of(world, "b").limits.share_ppm == 200_000


def test_a_start_waits_for_a_harpd_that_restarts(world: World) -> None:
    world.kubelet.start()
    world.start_plugin(patience=Patience(identity_s=2, harpd_s=30, pause_s=0.02))
    assert world.kubelet.listed.wait(20)
    world.tenants.away = True
    timer = threading.Timer(0.5, lambda: setattr(world.tenants, "away", False))
    timer.start()
    running(world, "a", 30)
    timer.join()
    assert lives(world, "a")


def test_a_tenant_that_ended_beside_its_container_is_made_again_in_its_folder(
    world: World,
) -> None:
    world.up()
    running(world, "a", 30)
    grant = grant_of(world, "a")
    folder = world.settings.grants / grant.id
    inode = folder.stat().st_ino
    world.tenants.lose(tenant_name(grant))
    assert world.plugin is not None
    world.plugin.starts.sweep()
    assert grant_of(world, "a") == grant
    assert folder.stat().st_ino == inode


def test_the_grant_of_a_pod_that_is_gone_is_swept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("device_plugin.book.GONE_S", 0.2)
    world.kubelet.start()
    world.start_plugin(tempo=Tempo(look_s=0.05, sweep_s=0.05, health_s=3600, wake_s=0.05))
    assert world.kubelet.listed.wait(20)
    running(world, "a", 30)
    running(world, "b", 30)
    world.kubelet.remove("ns", "a")
    until(lambda: not lives(world, "a"))
    assert lives(world, "b")
    until(lambda: len(list(world.settings.grants.iterdir())) == 1)


def test_what_is_not_listed_ends_only_if_nobody_uses_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kubelet that started while the API server was away lists none, then only some."""
    world.up()
    for name in ("a", "b", "c"):
        running(world, name, 10)
    monkeypatch.setattr("device_plugin.book.GONE_S", 0)
    assert world.plugin is not None
    world.tenants.busy.add(tenant_name(grant_of(world, "a")))
    known = dict(world.kubelet.devices.held)
    world.kubelet.devices.held.clear()
    world.api.silent = True
    world.plugin.starts.sweep()
    assert len(world.tenants.made) == 3
    world.api.silent = False
    world.kubelet.devices.held["ns", "c"] = known["ns", "c"]
    world.plugin.starts.sweep()
    assert {g.owner.pod for g in world.tenants.made.values() if g.owner} == {"a", "c"}
    world.tenants.busy.clear()
    world.plugin.starts.sweep()
    assert {g.owner.pod for g in world.tenants.made.values() if g.owner} == {"c"}


@pytest.mark.parametrize("next_pod", ["a", "b"])
def test_a_start_between_a_look_and_the_end_keeps_the_grant(
    world: World, monkeypatch: pytest.MonkeyPatch, next_pod: str
) -> None:
    """Of the same container, or of another that has the slots now."""
    world.up()
    running(world, "a", 10)
    running(world, "other", 10)
    assert world.plugin is not None
    starts = world.plugin.starts
    held, answers = world.kubelet.devices.held, world.kubelet._answers
    slots = held.pop(("ns", "a"))
    end = starts._end_unless_given_anew

    def late(grant: Grant) -> None:
        held["ns", next_pod] = slots
        answers["ns", next_pod, "main"] = answers["ns", "a", "main"]
        world.kubelet.begin("ns", next_pod, "main")
        end(grant)

    monkeypatch.setattr("device_plugin.book.GONE_S", 0)
    monkeypatch.setattr(starts, "_end_unless_given_anew", late)
    starts.sweep()
    grant = grant_of(world, next_pod)
    assert grant in starts.living()
    assert (world.settings.grants / grant.id / "arbiter.sock").exists()


def test_a_kubelet_that_is_away_ends_no_grant(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.up()
    running(world, "a", 30)
    monkeypatch.setattr("device_plugin.book.GONE_S", 0)
    monkeypatch.setattr("device_plugin.kubelet._LIST_S", 0.1)
    world.kubelet.stop()
    assert world.plugin is not None
    with pytest.raises(Exception, match="kubelet does not say"):
        world.plugin.starts.sweep()
    assert lives(world, "a")
