# SPDX-License-Identifier: Apache-2.0
"""The device plugin on a kubelet's sockets: admission, identity, starts, health."""

from __future__ import annotations

import math
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import pytest
from plugin_node import MAIN, admitted, grant_of, lives, node, running
from plugin_world import NODE, World, until

from device_plugin.fake_kubelet import AdmissionError, Ask, Stage
from device_plugin.health import CLEAN_S
from device_plugin.identity import Container, Kind, Pod
from device_plugin.plugin import Tempo
from device_plugin.proto import deviceplugin_pb2 as pb
from device_plugin.proto import deviceplugin_pb2_grpc
from device_plugin.starts import Patience
from harp.metrics import families


@pytest.fixture
def world() -> Iterator[World]:
    with node() as world:
        yield world


def test_a_pod_gets_its_part_of_one_gpu(world: World) -> None:
    world.up()
    assert len(world.kubelet.devices.healthy) == 200
    given = running(world, "a", 30)
    grant = grant_of(world, "a")
    assert grant.limits.share_ppm == grant.limits.limit_ppm == 300_000
    assert grant.limits.mem_bytes == 24 * (1 << 30) - (512 << 20)
    mounts = {m.container_path: (m.host_path, m.read_only) for m in given.mounts}
    folder = world.settings.grants / grant.id
    assert mounts["/opt/harp/grant"] == (str(folder), True)
    assert mounts["/opt/harp/shim"] == (str(world.hardware.shim), True)
    assert mounts["/opt/harp/soft"] == ("/dev/shm/soft", False)
    for library in world.settings.library_dirs:
        for name in ("libcuda.so", "libcuda.so.1", "libnvidia-ml.so", "libnvidia-ml.so.1"):
            host = name if name.endswith(".1") else f"{name}.1"
            assert mounts[f"{library}/{name}"] == (f"{world.hardware.shim}/{host}", True)
    env = dict(given.envs)
    assert env["HARP_GRANT"] == "/opt/harp/grant"
    assert env["LD_PRELOAD"] == "/opt/harp/shim/libcuda.so.1"
    assert env["HARP_CUDA_REAL"] == "/opt/harp/driver/libcuda.so.1"
    assert env["CUDA_VISIBLE_DEVICES"] == grant.uuids[0]
    assert env["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert env["HARP_SOFT_DIR"] == "/opt/harp/soft"
    assert "LD_LIBRARY_PATH" not in env


def test_grants_are_closed_on_the_host_and_open_in_the_container(world: World) -> None:
    world.up()
    running(world, "a", 30)
    folder = world.settings.grants / grant_of(world, "a").id
    assert stat.S_IMODE(world.settings.grants.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert stat.S_IMODE(world.settings.own_socket.stat().st_mode) == 0o600


def test_scattered_slots_fail_at_admission_and_the_status_says_why(world: World) -> None:
    world.up()
    for name in ("a", "b"):
        running(world, name, 60)
    with pytest.raises(AdmissionError) as said:
        running(world, "c", 60)
    assert "largest free share on one GPU is 40, need 60" in str(said.value)
    assert "at most 40" in str(said.value)
    assert len(world.kubelet.devices.free()) == 80
    running(world, "d", 40)
    assert len(world.tenants.made) == 3


def test_a_share_with_no_memory_in_it_fails_at_admission() -> None:
    with node(memory_bytes=8 << 30) as world:
        world.up()
        with pytest.raises(AdmissionError, match="ask for at least 7"):
            admitted(world, "a", Ask("main", 6))
        running(world, "b", 7)
        assert grant_of(world, "b").limits.mem_bytes == 60 << 20


def test_whole_gpus_come_in_multiples(world: World) -> None:
    world.up()
    with pytest.raises(AdmissionError, match="150 slots are more than one GPU"):
        running(world, "a", 150)
    env = dict(running(world, "b", 200).envs)
    assert env["CUDA_VISIBLE_DEVICES"] == ",".join(gpu.uuid for gpu in world.slots.gpus)
    assert grant_of(world, "b").uuids == tuple(gpu.uuid for gpu in world.slots.gpus)
    with pytest.raises(AdmissionError, match="available: 0"):
        running(world, "c", 1)


def test_annotations_refine_and_what_they_cannot_is_an_event(world: World) -> None:
    world.api.pods = [
        Pod(
            "ns",
            "a",
            "uid-a",
            NODE,
            MAIN,
            pending=True,
            annotations={"harp.dev/memory": "8Gi", "harp.dev/compute": "60"},
        )
    ]
    world.up()
    running(world, "a", 50)
    grant = grant_of(world, "a")
    assert grant.pod_uid == "uid-a"
    assert (grant.limits.mem_bytes, grant.limits.share_ppm) == (8 << 30, 500_000)
    assert [(name, reason) for name, reason, _ in world.api.events] == [("a", "HarpAnnotation")]


def test_a_silent_api_server_is_waited_for_and_then_done_without(world: World) -> None:
    world.api.pods = [
        Pod("ns", "a", "u", NODE, MAIN, pending=True, annotations={"harp.dev/memory": "8Gi"})
    ]
    world.api.silent = True
    world.kubelet.start()
    world.start_plugin(patience=Patience(identity_s=0.5, harpd_s=2, pause_s=0.02))
    assert world.kubelet.listed.wait(20)
    began = time.monotonic()
    running(world, "a", 50)
    assert time.monotonic() - began >= 0.5
    assert grant_of(world, "a").limits.share_ppm == 500_000
    assert grant_of(world, "a").limits.mem_bytes > 8 << 30
    world.api.silent = False
    world.kubelet.begin("ns", "a", "main")  # its next start finds what it says
    assert grant_of(world, "a").limits.mem_bytes == 8 << 30
    world.api.silent = True  # and that is known from here on
    world.kubelet.begin("ns", "a", "main")
    assert grant_of(world, "a").limits.mem_bytes == 8 << 30
    assert grant_of(world, "a").pod_uid == ""  # it may be another one of that name


def test_a_pod_that_comes_again_under_its_name_is_another(world: World) -> None:
    """As a StatefulSet's: the same names and the same slots, another UID."""
    world.up()
    for uid in ("u1", "u2"):
        world.api.pods = [Pod("ns", "a", uid, NODE, MAIN, pending=True)]
        running(world, "a", 50)
        folder = world.settings.grants / grant_of(world, "a").id
        assert not (folder / "left").exists()
        (folder / "left").touch()
        assert grant_of(world, "a").pod_uid == uid
        world.kubelet.begin("ns", "a", "main")
        assert (folder / "left").exists()
        world.kubelet.remove("ns", "a")


def test_two_pods_with_the_same_slots_get_what_the_slots_say_and_an_event(world: World) -> None:
    """A kubelet that lists a pod twice: no annotation of either is read."""
    world.api.pods = [
        Pod("ns", name, name, NODE, MAIN, pending=True, annotations={"harp.dev/memory": "8Gi"})
        for name in ("a", "b")
    ]
    world.kubelet.start()
    world.start_plugin(patience=Patience(identity_s=0.2, harpd_s=2, pause_s=0.02))
    assert world.kubelet.listed.wait(20)
    admitted(world, "a", Ask("main", 50))
    world.kubelet.devices.held["ns", "b"] = dict(world.kubelet.devices.held["ns", "a"])
    world.kubelet.begin("ns", "a", "main")
    (grant,) = world.tenants.made.values()
    assert grant.owner is None
    assert grant.limits.mem_bytes > 8 << 30
    told = {(name, reason) for name, reason, _ in world.api.events}
    assert told == {("a", "HarpOwnerAmbiguous"), ("b", "HarpOwnerAmbiguous")}


def test_init_containers_sidecars_and_those_after_them(world: World) -> None:
    """Slots of an init container are given on; nothing is promised twice."""
    asks = (
        Ask("init", 100, Stage.INIT),
        Ask("side", 20, Stage.SIDECAR),
        Ask("one", 30),
        Ask("two", 50),
    )
    kinds = {Stage.INIT: Kind.INIT, Stage.SIDECAR: Kind.SIDECAR, Stage.MAIN: Kind.MAIN}
    containers = tuple(Container(a.name, kinds[a.stage], slots=a.size) for a in asks)
    world.api.pods = [Pod("ns", "a", "u", NODE, containers, pending=True)]
    world.up()
    running(world, "other", 100)
    admitted(world, "a", *asks)
    for ask in asks:
        world.kubelet.begin("ns", "a", ask.name)
    living = {g.owner.container: g.limits.share_ppm for g in world.tenants.made.values() if g.owner}
    assert living == {"main": 1_000_000, "side": 200_000, "one": 300_000, "two": 500_000}
    assert {p.name for p in world.settings.grants.iterdir()} == {
        g.id for g in world.tenants.made.values()
    }


def test_the_same_slots_for_an_init_container_and_the_next(world: World) -> None:
    init = Container("init", Kind.INIT, slots=40)
    world.api.pods = [Pod("ns", "a", "u", NODE, (init, Container("main", slots=40)), pending=True)]
    world.up()
    admitted(world, "a", Ask("init", 40, Stage.INIT), Ask("main", 40))
    world.kubelet.begin("ns", "a", "init")
    assert grant_of(world, "a", "init").limits.share_ppm == 400_000
    done = (replace(init, ended=True), Container("main", slots=40))
    world.api.pods = [Pod("ns", "a", "u", NODE, done, pending=True)]
    world.kubelet.begin("ns", "a", "main")
    assert not lives(world, "a", "init")
    assert grant_of(world, "a").limits.share_ppm == 400_000


def test_an_init_container_is_named_though_kubelet_does_not_list_it(world: World) -> None:
    """And keeps its grant for as long as it runs, whatever it does with the GPU until then."""
    init = Container("init", Kind.INIT, slots=60)
    small = {"harp.dev/memory": "1Gi"}
    for name, after in (("a", Container("main", slots=20)), ("b", Container("main"))):
        world.api.pods.append(
            Pod("ns", name, name, NODE, (init, after), pending=True, annotations=small)
        )
    world.up()
    admitted(world, "a", Ask("init", 60, Stage.INIT), Ask("main", 20))
    admitted(world, "b", Ask("init", 60, Stage.INIT))
    for name in ("a", "b"):
        began = time.monotonic()
        world.kubelet.begin("ns", name, "init")
        assert time.monotonic() - began < 4, "it was waited for, in vain"
        assert grant_of(world, name, "init").limits.mem_bytes == 1 << 30
    assert world.plugin is not None
    starts = world.plugin.starts
    starts.sweep()
    starts._missing = dict.fromkeys(starts._missing, -math.inf)  # long since
    starts.sweep()
    assert lives(world, "a", "init")
    assert lives(world, "b", "init")
    world.api.pods = [
        replace(pod, containers=(replace(init, ended=True), *pod.containers[1:]))
        for pod in world.api.pods
    ]
    starts.sweep()
    starts._missing = dict.fromkeys(starts._missing, -math.inf)
    starts.sweep()
    assert not lives(world, "a", "init")
    assert not lives(world, "b", "init")


def test_a_pod_that_is_gone_leaves_its_slots_to_the_next(world: World) -> None:
    world.up()
    for name in ("a", "b", "c"):
        running(world, name, 100)
        running(world, f"{name}2", 70)
        world.kubelet.remove("ns", name)
        world.kubelet.remove("ns", f"{name}2")
    assert {g.owner.pod for g in world.tenants.made.values() if g.owner} == {"c", "c2"}


def test_a_container_starts_again_in_the_folder_it_had(world: World) -> None:
    world.up()
    first = running(world, "a", 30)
    folder = world.settings.grants / grant_of(world, "a").id
    inode = folder.stat().st_ino
    again = world.kubelet.begin("ns", "a", "main")
    assert again == first
    assert folder.stat().st_ino == inode
    assert len(world.tenants.made) == 1


def test_another_pod_of_the_same_slots_gets_a_fresh_folder(world: World) -> None:
    world.up()
    running(world, "a", 30)
    folder = world.settings.grants / grant_of(world, "a").id
    (folder / "left").write_text("secret")
    world.kubelet.remove("ns", "a")
    running(world, "b", 30)
    assert grant_of(world, "b").id == folder.name
    assert not (folder / "left").exists()
    assert not lives(world, "a")


def test_an_unhealthy_gpu_is_taken_from_the_list_and_comes_back(world: World) -> None:
    world.settings = replace(world.settings, clean_s=0.1)
    world.kubelet.start()
    # Probes come as much sooner as less time without trouble is enough: every 50 ms here.
    health_s = 0.05 * CLEAN_S / world.settings.clean_s
    world.start_plugin(tempo=Tempo(look_s=0.05, sweep_s=3600, health_s=health_s, wake_s=0.05))
    assert world.kubelet.listed.wait(20)
    running(world, "a", 30)
    gpus = world.slots.gpus
    world.tenants.gpus = gpus[:1]
    until(lambda: len(world.kubelet.devices.unhealthy) == 100)
    with pytest.raises(AdmissionError, match="available: 70"):
        running(world, "b", 100)
    assert lives(world, "a")
    world.tenants.gpus = gpus
    until(lambda: len(world.kubelet.devices.healthy) == 200)


def test_a_list_of_3200_slots_passes_kubelets_limit() -> None:
    with node(gpus=8, per_gpu=400) as world:
        world.up()
        assert len(world.kubelet.devices.healthy) == 3200
        assert world.kubelet.list_bytes < 205_000
        running(world, "a", 10)
        assert grant_of(world, "a").limits.share_ppm == 25_000


@pytest.mark.parametrize("topology", [True, False])
def test_numa_nodes_reach_kubelet_where_the_settings_say_so(world: World, topology: bool) -> None:
    world.settings = replace(world.settings, topology=topology)
    world.tenants.gpus = tuple(replace(gpu, numa=gpu.index) for gpu in world.tenants.gpus)
    world.up()
    with grpc.insecure_channel(f"unix:{world.settings.own_socket}") as channel:
        stub = deviceplugin_pb2_grpc.DevicePluginStub(channel)
        devices = next(stub.ListAndWatch(pb.Empty())).devices
    told = {world.slots.all[one.ID].gpu: [n.ID for n in one.topology.nodes] for one in devices}
    assert told == ({0: [0], 1: [1]} if topology else {0: [], 1: []})


def test_a_newer_kubelets_list_says_the_same_in_more_words(world: World) -> None:
    """It names each slot by itself, once for each NUMA node, beside others' resources."""
    world.kubelet.newer = True
    world.up()
    world.api.pods = [
        Pod("ns", "a", "uid-a", NODE, MAIN, annotations={"harp.dev/memory": "1Gi"}, pending=True)
    ]
    running(world, "a", 30)
    grant = grant_of(world, "a")
    assert grant.ids == world.kubelet.devices.held["ns", "a"]["main"]
    assert (grant.pod_uid, grant.limits.mem_bytes) == ("uid-a", 1 << 30)
    running(world, "whole", 100)
    assert len(grant_of(world, "whole").ids) == 100
    assert world.plugin is not None
    world.plugin.starts.sweep()
    assert lives(world, "a")
    assert lives(world, "whole")


@pytest.mark.slow
def test_110_pods_at_once_get_their_own_grants() -> None:
    with node(gpus=4) as world:
        world.up()
        sizes = {f"p{n}": 1 + n % 5 for n in range(110)}
        world.api.pods = [
            Pod(
                "ns",
                name,
                f"uid-{name}",
                NODE,
                MAIN,
                pending=True,
                annotations={"harp.dev/memory": f"{100 + n}Mi"},
            )
            for n, name in enumerate(sizes)
        ]
        for name, size in sizes.items():
            admitted(world, name, Ask("main", size))
        with ThreadPoolExecutor(110) as pool:
            list(pool.map(lambda name: world.kubelet.begin("ns", name, "main"), sizes))
        assert len(world.tenants.made) == 110
        for n, (name, size) in enumerate(sizes.items()):
            grant = grant_of(world, name)
            assert grant.ids == world.kubelet.devices.held["ns", name]["main"]
            assert grant.limits.share_ppm == size * 10_000
            assert grant.limits.mem_bytes == (100 + n) // 2 * 2 << 20
            assert grant.pod_uid == f"uid-{name}"


def test_slots_that_nobody_holds_get_what_they_say(world: World) -> None:
    world.up()
    assert world.plugin is not None
    ids = world.slots.ids(0)[:20]
    channel = grpc.insecure_channel(f"unix:{world.settings.own_socket}")
    with channel:
        call = channel.unary_unary(
            "/v1beta1.DevicePlugin/PreStartContainer",
            request_serializer=pb.PreStartContainerRequest.SerializeToString,
            response_deserializer=pb.PreStartContainerResponse.FromString,
        )
        call(pb.PreStartContainerRequest(devices_ids=ids), timeout=20)
    (grant,) = world.tenants.made.values()
    assert grant.owner is None
    assert grant.limits.share_ppm == 200_000
    assert world.plugin.counts.value(families.PLUGIN_UNRESOLVED, "unknown") == 1
