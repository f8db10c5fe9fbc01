# SPDX-License-Identifier: Apache-2.0
"""The device plugin on a kubelet's sockets: what runs is ended by nobody else's start or sweep."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from plugin_node import MAIN, admitted, grant_of, lives, node, running
from plugin_world import NODE, World, until

from device_plugin.book import Grant, grant_id
from device_plugin.fake_kubelet import Ask, Stage
from device_plugin.identity import Container, Kind, Owner, Pod
from device_plugin.proto import deviceplugin_pb2 as pb
from device_plugin.proto import deviceplugin_pb2_grpc
from device_plugin.starts import Patience
from device_plugin.tenants import Stray, tenant_name
from harp.errors import DaemonError, QuotaExceeded


@pytest.fixture
def world() -> Iterator[World]:
    with node() as world:
        world.kubelet.start()
        world.start_plugin(patience=Patience(identity_s=0.2, harpd_s=2, pause_s=0.02))
        assert world.kubelet.listed.wait(20)
        yield world


def long_since(world: World) -> None:
    assert world.plugin is not None
    starts = world.plugin.starts
    starts.sweep()
    starts._missing = dict.fromkeys(starts._missing, -math.inf)
    starts.sweep()


def test_a_container_that_runs_is_not_ended_by_its_siblings_crash(world: World) -> None:
    """Both have the size of an init container of which the API server hears late."""
    init = Container("init", Kind.INIT, slots=50)
    mains = (Container("one", slots=50), Container("two", slots=50))
    world.api.pods = [Pod("ns", "a", "u", NODE, (init, *mains), pending=True)]
    admitted(world, "a", Ask("init", 50, Stage.INIT), Ask("one", 50), Ask("two", 50))
    for name in ("init", "one"):  # a short one: it waits still, for the API server
        world.kubelet.begin("ns", "a", name)
    done = replace(init, ended=True)
    late = tuple(replace(main, running=True) for main in mains)
    world.api.pods = [Pod("ns", "a", "u", NODE, (done, *late))]
    for _ in range(2):
        world.kubelet.begin("ns", "a", "two")
    assert len(world.tenants.made) == 2
    assert lives(world, "a", "two")


def test_an_init_container_that_starts_again_ends_nobody(world: World) -> None:
    """The API server says that it runs, and knows another one of its size that is yet to."""
    init = Container("init", Kind.INIT, slots=50)
    small = {"harp.dev/memory": "8Gi"}
    mine = Pod("ns", "a", "u", NODE, (init, *MAIN), annotations=small, pending=True)
    world.api.pods = [mine]
    admitted(world, "a", Ask("init", 50, Stage.INIT))
    world.kubelet.begin("ns", "a", "init")
    before = grant_of(world, "a", "init")
    world.api.pods = [
        replace(mine, containers=(replace(init, running=True), *MAIN)),
        Pod("ns", "other", "v", NODE, (init, *MAIN), pending=True),
    ]
    world.kubelet.begin("ns", "a", "init")
    assert list(world.tenants.made.values()) == [before]
    assert before.limits.mem_bytes == 8 << 30


def test_who_is_misnamed_ends_nobody(world: World) -> None:
    """A book that has it wrong already, as one of an earlier version may."""
    world.api.pods = [Pod("ns", "a", "u", NODE, (Container("one"), Container("two")))]
    admitted(world, "a", Ask("one", 50), Ask("two", 50))
    world.kubelet.begin("ns", "a", "one")
    assert world.plugin is not None
    starts = world.plugin.starts
    (grant,) = starts.living()
    wrong = replace(grant, owner=Owner("ns", "a", "two"))
    world.tenants.made = {tenant_name(wrong): wrong}
    starts._put(wrong)
    given = world.kubelet.begin("ns", "a", "two")
    assert wrong in starts.living()
    assert len(world.tenants.made) == 2
    assert given.mounts


def test_a_pod_that_came_again_is_not_misnamed_while_the_first_is_listed(world: World) -> None:
    world.api.pods = [Pod("ns", "a", "u1", NODE, MAIN)]
    running(world, "a", 30)
    (first,) = world.tenants.made.values()
    held = world.kubelet.devices.held
    held["ns", "gone"] = held.pop(("ns", "a"))
    world.api.pods = [Pod("ns", "a", "u2", NODE, MAIN, pending=True)]
    admitted(world, "a", Ask("main", 30))
    held["ns", "a"]["of the first"] = held.pop(("ns", "gone"))["main"]
    world.kubelet.begin("ns", "a", "main")
    (grant,) = world.tenants.made.values()
    assert (grant.owner, grant.pod_uid) == (first.owner, "u2")
    assert not grant.ids & first.ids


def test_a_start_that_nobody_waits_for_ends_nobody(world: World) -> None:
    assert world.plugin is not None
    starts = world.plugin.starts
    running(world, "b", 20)
    grant = grant_of(world, "b")
    more = sorted(grant.ids) + [n for n in world.slots.ids(0) if n not in grant.ids][:10]
    world.api.pods = [Pod("ns", "b", "u", NODE, (Container("main", slots=20),))]
    with pytest.raises(DaemonError, match="ns/b/main has slots of grant"):
        starts.start(more)
    world.api.pods = []
    with pytest.raises(DaemonError, match="nobody waits"):
        starts.start(more, lambda: False)
    assert lives(world, "b")
    assert starts.living() == (grant,)


def test_kubelets_patience_is_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert world.plugin is not None
    asked = []
    start = world.plugin.starts.start

    def note(ids: list[str], waited: object) -> Grant:
        asked.append(waited() if callable(waited) else None)
        return start(ids)

    monkeypatch.setattr(world.plugin.starts, "start", note)
    running(world, "a", 20)
    assert asked == [True]


def test_a_kubelet_that_gave_up_is_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert world.plugin is not None
    gave_up = threading.Event()

    def wait(_ids: list[str], waited: Callable[[], bool]) -> Grant:
        until(lambda: not waited())
        gave_up.set()
        raise DaemonError("nobody waits")

    monkeypatch.setattr(world.plugin.starts, "start", wait)
    with grpc.insecure_channel(f"unix:{world.settings.own_socket}") as channel:
        stub = deviceplugin_pb2_grpc.DevicePluginStub(channel)
        request = pb.PreStartContainerRequest(devices_ids=world.slots.ids(0)[:20])
        with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
            stub.PreStartContainer(request, timeout=0.5)
    assert gave_up.wait(20)


def test_what_cannot_be_raised_again_stays_as_it_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"harp.dev/memory": "8Gi"}
    world.api.pods = [Pod("ns", "a", "u", NODE, MAIN, annotations=small)]
    running(world, "a", 50)
    before = grant_of(world, "a")
    world.api.pods = [replace(world.api.pods[0], annotations={})]

    def refuse(*_: object) -> None:
        raise QuotaExceeded("the rest is promised to others")

    with monkeypatch.context() as patch:
        patch.setattr(world.tenants, "ensure", refuse)
        world.kubelet.begin("ns", "a", "main")
    assert grant_of(world, "a") == before
    assert world.api.events == [
        ("a", "HarpAnnotation", "container main keeps what it has: the rest is promised to others")
    ]
    assert world.plugin is not None
    world.plugin.edits.look()
    assert grant_of(world, "a").limits.mem_bytes > before.limits.mem_bytes


def test_a_new_pod_is_followed_though_it_began_without_the_api_server(world: World) -> None:
    world.api.pods = [Pod("ns", "a", "u1", NODE, MAIN)]
    running(world, "a", 50)
    world.kubelet.remove("ns", "a")
    world.api.silent = True
    running(world, "a", 50)
    world.api.silent = False
    world.api.pods = [Pod("ns", "a", "u2", NODE, MAIN, annotations={"harp.dev/memory": "8Gi"})]
    assert world.plugin is not None
    world.plugin.edits.look()
    assert (grant_of(world, "a").pod_uid, grant_of(world, "a").limits.mem_bytes) == ("u2", 8 << 30)


def test_a_pod_is_followed_that_began_again_without_the_api_server(world: World) -> None:
    world.api.pods = [Pod("ns", "a", "u", NODE, MAIN, annotations={"harp.dev/memory": "8Gi"})]
    running(world, "a", 50)
    assert world.plugin is not None
    world.plugin.edits.look()
    before = grant_of(world, "a")
    world.api.silent = True
    world.kubelet.begin("ns", "a", "main")
    assert grant_of(world, "a").pod_uid == ""
    world.api.silent = False
    world.plugin.edits.look()
    assert world.plugin.starts.living() == (before,)


@pytest.mark.parametrize("named", [True, False])
def test_a_kubelet_that_lists_static_pods_alone_ends_nothing(world: World, *, named: bool) -> None:
    """It was restarted and has not heard from the API server whom it has to run."""
    asks = (Container("main", slots=30),)
    world.api.pods = [Pod("ns", "a", "u", NODE, asks)] if named else []
    running(world, "a", 30)
    (made,) = world.tenants.made.values()
    if not named:  # as one that was ambiguous
        assert world.plugin is not None
        world.tenants.lose(tenant_name(made))
        made = replace(made, owner=None)
        world.plugin.starts._put(made)
        world.tenants.ensure(made, world.settings.grants / made.id)
        world.api.pods = [Pod("ns", "a", "u", NODE, asks)]
    running(world, "static", 10)
    del world.kubelet.devices.held["ns", "a"]
    long_since(world)
    assert made in world.tenants.made.values()
    world.api.silent = True
    long_since(world)
    assert made in world.tenants.made.values()
    world.api.silent = False
    world.api.pods = [Pod("ns", "a", "u", "elsewhere", asks)]
    long_since(world)
    assert made not in world.tenants.made.values()


@pytest.mark.parametrize("now", [{"uid": "another"}, {"node": "elsewhere"}, {"ended": True}])
def test_what_is_another_pods_by_now_is_swept(world: World, now: dict[str, object]) -> None:
    pod = Pod("ns", "a", "u", NODE, MAIN)
    world.api.pods = [pod]
    running(world, "a", 30)
    running(world, "static", 10)
    world.kubelet.remove("ns", "a")
    long_since(world)
    assert lives(world, "a")
    world.api.pods = [replace(pod, **now)]  # type: ignore[arg-type]
    long_since(world)
    assert not lives(world, "a")


def test_orphans_are_not_ended_by_such_a_list(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.api.pods = [Pod("ns", "a", "u", NODE, (Container("main", slots=30),))]
    running(world, "a", 30)
    assert world.plugin is not None
    for grant in world.plugin.starts.living():
        world.plugin.starts._book.remove(grant.id)
    world.kubelet.devices.held.clear()
    monkeypatch.setattr("device_plugin.book.GONE_S", 0)
    world.plugin.orphans.sweep()
    assert lives(world, "a")
    world.api.silent = True
    world.plugin.orphans.sweep()
    assert lives(world, "a")
    world.api.silent = False
    world.api.pods = []
    world.plugin.orphans.sweep()
    assert not lives(world, "a")


def test_an_orphan_of_a_name_that_came_again_is_not_ended_by_name(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came again between what harpd said and the end; see also test_plugin_harpd."""
    running(world, "a", 30)
    name = tenant_name(grant_of(world, "a"))
    folder = world.settings.grants / grant_id(world.slots.ids(1)[:30])
    folder.mkdir()
    monkeypatch.setattr(world.tenants, "held_in", lambda _: {folder.name: Stray(name, False)})
    monkeypatch.setattr("device_plugin.book.GONE_S", 0)
    assert world.plugin is not None
    world.plugin.orphans.sweep()
    assert lives(world, "a")
    assert not folder.exists()


def test_nobody_is_at_a_grant_while_it_is_given(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.plugin is not None
    starts = world.plugin.starts
    ensure = world.tenants.ensure
    taken = []

    def note(grant: Grant, folder: Path) -> None:
        def take() -> None:
            with starts._turns.at(grant.id):
                taken.append(grant.id)

        thread = threading.Thread(target=take)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        ensure(grant, folder)

    monkeypatch.setattr(world.tenants, "ensure", note)
    running(world, "a", 30)
    until(lambda: taken == [grant_of(world, "a").id])


def test_a_start_waits_for_an_edit_of_the_grant_that_it_ends(world: World) -> None:
    """Otherwise the edit makes its tenant again, and strikes the new one out of the book."""
    assert world.plugin is not None
    starts = world.plugin.starts
    running(world, "a", 30)
    old = grant_of(world, "a")
    world.kubelet.remove("ns", "a")
    admitted(world, "a", Ask("main", 60))
    began = time.monotonic()
    with starts._turns.at(old.id):  # an edit
        with pytest.raises(AssertionError):
            _begun(world, 0.5)
        assert lives(world, "a")
        assert starts.living() == (old,)
    assert time.monotonic() - began < 10
    _begun(world, 10)
    assert len(starts.living()) == 1
    assert grant_of(world, "a").id != old.id


def _begun(world: World, within_s: float) -> None:
    thread = threading.Thread(target=world.kubelet.begin, args=("ns", "a", "main"))
    thread.start()
    thread.join(within_s)
    assert not thread.is_alive()


def test_folders_that_are_no_grants_of_ours_are_left_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root's `harp run` has its own there, if its XDG_RUNTIME_DIR is that of HARP's run folder."""
    running(world, "a", 30)
    theirs = [world.settings.grants / name for name in ("train-0123abcd", "fx3-0123abcd", "x")]
    ours = world.settings.grants / grant_id(world.slots.ids(1)[:30])
    for folder in (*theirs, ours):
        folder.mkdir()
    monkeypatch.setattr("device_plugin.book.GONE_S", 0)
    assert world.plugin is not None
    world.plugin.orphans.sweep()
    assert [folder.exists() for folder in (*theirs, ours)] == [True, True, True, False]


@pytest.mark.parametrize("size", [30, 50])
def test_a_start_that_was_named_too_early_ends_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Its pod goes while it is on its way, and the next one with its slots is faster."""
    assert world.plugin is not None
    starts = world.plugin.starts
    world.api.pods = [Pod("ns", "b", "u", NODE, (Container("main", slots=size),), pending=True)]
    admitted(world, "a", Ask("main", 30))
    ids = world.kubelet.devices.held["ns", "a"]["main"]
    on = starts._give_in_turn
    seen: list[Grant] = []

    def late(grant: Grant, named_at: int, waited: Callable[[], bool]) -> Grant | None:
        seen.append(grant)
        if len(seen) == 1:
            world.kubelet.remove("ns", "a")
            running(world, "b", size)
        return on(grant, named_at, waited)

    monkeypatch.setattr(starts, "_give_in_turn", late)
    if size == 30:  # whoever it is has b's slots, and only those
        starts.start(ids)
    else:
        with pytest.raises(DaemonError, match="ns/b/main has slots of grant"):
            starts.start(ids)
    assert seen[0].owner == Owner("ns", "a", "main")
    assert [grant.owner for grant in starts.living()] == [Owner("ns", "b", "main")]
    assert lives(world, "b")
    assert not lives(world, "a")


def test_a_start_that_nobody_waits_for_is_not_named_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.plugin is not None
    starts = world.plugin.starts
    admitted(world, "a", Ask("main", 30))
    monkeypatch.setattr(starts, "_give_in_turn", lambda *_: None)
    with pytest.raises(DaemonError, match="nobody waits"):
        starts.start(world.kubelet.devices.held["ns", "a"]["main"], lambda: False)


def test_a_start_that_is_taken_for_an_init_container_that_runs_does_not_end_it(
    world: World,
) -> None:
    """A static pod's, whose mirror is not there yet; and of the other the API server is late."""
    init = Container("init", Kind.INIT, slots=50)
    world.api.pods = [Pod("ns", "a", "u", NODE, (init, *MAIN), pending=True)]
    admitted(world, "a", Ask("init", 50, Stage.INIT))
    world.kubelet.begin("ns", "a", "init")
    assert world.plugin is not None
    given = world.plugin.starts.start(world.slots.ids(1)[:50])
    assert lives(world, "a", "init")
    assert given.owner is None
    assert len(world.tenants.made) == 2


def test_an_init_container_that_bears_the_name_of_the_one_before_is_not_swept(
    world: World,
) -> None:
    """Both have the same slots; the API server was late when the second one began."""
    first, second = (Container(name, Kind.INIT, slots=40) for name in ("first", "second"))
    pod = Pod("ns", "a", "u", NODE, (first, second, *MAIN), pending=True)
    world.api.pods = [pod]
    asks = [Ask("first", 40, Stage.INIT), Ask("second", 40, Stage.INIT), Ask("main", 100)]
    admitted(world, "a", *asks)
    for name in ("first", "second"):
        world.kubelet.begin("ns", "a", name)
    (grant,) = world.tenants.made.values()
    ended = replace(first, ended=True)
    world.api.pods = [replace(pod, containers=(ended, replace(second, running=True), *MAIN))]
    long_since(world)
    assert list(world.tenants.made.values()) == [grant]
    world.api.pods = [replace(pod, containers=(ended, replace(second, ended=True), *MAIN))]
    long_since(world)
    assert not world.tenants.made
