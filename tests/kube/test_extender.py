# SPDX-License-Identifier: Apache-2.0
"""Two nodes of two GPUs, and the chart's own scheduler with the extender beside it, twice."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from rig.chart import NAMESPACE
from rig.harp import Harp
from rig.machine import wait_for
from rig.pods import Pod, Space, container

SLEEP = ["sleep", "600"]
GPU = "harp.dev/gpu"


@pytest.fixture(scope="module")
def nodes(harp: Harp) -> Iterator[dict[str, Harp]]:
    """Both nodes have GPUs; shares are placed by the extender."""
    harp.chart.install({"extender": {"enabled": True, "replicas": 2}})
    second = harp.on(2)
    second.gpus_here(True)
    rollout = ["rollout", "status", "deployment/harp-extender", "--timeout=120s"]
    harp.cluster.kubectl("-n", NAMESPACE, *rollout)
    yield {one.node.name: one for one in (harp, second)}
    second.gpus_here(False)
    harp.chart.install()


def placed(space: Space, name: str, share: int, **more: object) -> Pod:
    """A pod that asks for the second scheduler."""
    main = container("main", SLEEP, share)
    return space.pod(name, main, schedulerName="harp-scheduler", **more)


def where(nodes: dict[str, Harp], pod: Pod) -> tuple[str, list[str]]:
    """Node and GPUs that it has, as that node's harpd says."""
    node = pod.object["spec"]["nodeName"]
    tenant = nodes[node].tenant(pod.namespace, pod.name, "main")
    assert tenant is not None
    return node, tenant["device_uuids"]


def promised(nodes: dict[str, Harp], pod: Pod) -> tuple[str, list[str]]:
    """Node and GPUs that the extender wrote on it."""
    found = pod.object
    node, written = found["spec"]["nodeName"], found["metadata"]["annotations"][GPU].split(",")
    names = {}
    for one in nodes[node].cli("devices")["devices"]:
        names |= {one["uuid"]: one["uuid"], str(one["index"]): one["uuid"]}
    return node, [names[word] for word in written]


def leader(harp: Harp) -> str:
    """The pod whose scheduler has the lease; "": nobody at this moment."""
    kubectl = harp.cluster.kubectl
    lease = kubectl("-n", NAMESPACE, "get", "lease", "harp-scheduler", "-o", "json")
    holder = json.loads(lease)["spec"].get("holderIdentity") or ""
    return str(holder.rpartition("_")[0])


def test_forty_and_forty_free_wait_for_sixty(space: Space, nodes: dict[str, Harp]) -> None:
    """On each of four GPUs are 40 free: no GPU has 60, so it waits, and runs when one has."""
    pods = [placed(space, f"a{number}", 60) for number in range(4)]
    for pod in pods:
        pod.until("Running")
    assert len({str(where(nodes, pod)) for pod in pods}) == 4
    late = placed(space, "late", 60)
    why = "largest free share on one GPU is 40, need 60"
    wait_for("the scheduler has said why", lambda: why in late.why())
    assert late.phase == "Pending"
    small = placed(space, "small", 40)
    small.until("Running")
    assert late.phase == "Pending"
    taken = where(nodes, small)
    freed = next(pod for pod in pods if where(nodes, pod) != taken)
    place = where(nodes, freed)
    freed.end()
    late.until("Running")
    assert where(nodes, late) == place


def test_pods_are_packed_onto_the_gpu_that_is_written_on_them(
    space: Space, nodes: dict[str, Harp]
) -> None:
    """On a node with two empty GPUs, three shares that fill one come to one."""
    (first, _) = nodes
    pods = []
    for name, share in (("a", 30), ("b", 30), ("c", 40)):
        there = {"kubernetes.io/hostname": first}
        pods.append(placed(space, name, share, nodeSelector=there))
        pods[-1].until("Running")
    for pod in pods:
        assert where(nodes, pod) == promised(nodes, pod)
    assert len({str(where(nodes, pod)) for pod in pods}) == 1
    rest = [placed(space, f"r{number}", 100) for number in range(3)]
    for pod in rest:
        pod.until("Running")
        assert where(nodes, pod) == promised(nodes, pod)


@pytest.mark.parametrize("gpu", [0, 1])
def test_the_plugin_gives_the_gpu_that_is_written(
    space: Space, nodes: dict[str, Harp], gpu: int
) -> None:
    """On an empty node either GPU would do: what is written decides."""
    (first, _) = nodes
    pod = space.pod("a", container("main", SLEEP, 30), annotations={GPU: str(gpu)}, nodeName=first)
    pod.until("Running")
    tenant = nodes[first].tenant(space.name, pod.name, "main")
    assert tenant is not None
    assert tenant["gpus"] == [gpu]


def test_pods_of_one_size_have_the_gpus_that_are_written(
    space: Space, nodes: dict[str, Harp]
) -> None:
    """All at once on one node: kubelet serves them in any order, and the plugin has but a hint."""
    (first, _) = nodes
    there = {"kubernetes.io/hostname": first}
    for turn in range(3):
        pods = [placed(space, f"p{turn}{n}", 60, nodeSelector=there) for n in range(2)]
        pods += [placed(space, f"q{turn}{n}", 40, nodeSelector=there) for n in range(2)]
        for pod in pods:
            pod.until("Running")
        for pod in pods:
            assert where(nodes, pod) == promised(nodes, pod)
        for pod in pods:
            pod.end()


def test_the_scheduler_that_leads_dies(space: Space, nodes: dict[str, Harp]) -> None:
    """While it binds. The other goes on; each pod runs where it is written, none beside another."""
    harp = nodes[min(nodes)]
    died = wait_for("a scheduler leads", lambda: leader(harp))
    pods = [placed(space, f"a{n}", 60) for n in range(2)]
    kill = ["delete", "pod", died, "--grace-period=0", "--force"]
    harp.cluster.kubectl("-n", NAMESPACE, *kill)
    pods += [placed(space, f"b{n}", 60) for n in range(2)]
    for pod in pods:
        pod.until("Running", limit_s=120)  # the lease lasts 15 s
    assert leader(harp) not in ("", died)
    assert all(where(nodes, pod) == promised(nodes, pod) for pod in pods)
    assert len({str(where(nodes, pod)) for pod in pods}) == 4
    late = placed(space, "late", 60)
    why = "largest free share on one GPU is 40, need 60"
    wait_for("the scheduler has said why", lambda: why in late.why())
    pods[0].end()
    late.until("Running")
    assert where(nodes, late) == promised(nodes, late)
