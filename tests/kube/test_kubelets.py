# SPDX-License-Identifier: Apache-2.0
"""The same cases on device_plugin's fake kubelet and on the real one: it must do the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import KUBELETS
from rig.cases import CASES, refusal, run
from rig.harp import RESOURCE, Harp
from rig.machine import wait_for
from rig.pods import Pod, Space, container

from device_plugin.fake_kubelet import AdmissionError, Ask, Stage
from device_plugin.kubelet import PodResources
from device_plugin.slots import Gpu, Slots

sys.path.append(str(Path(__file__).resolve().parent.parent / "integration"))
from plugin_node import node as fake_node
from plugin_world import World

#: case -> why the real one differs; nothing does as far as is known
KNOWN: Mapping[str, str] = {}


def listed(resources: PodResources, namespace: str, pod: str) -> Mapping[str, frozenset[str]]:
    """Who has what in a pod, by kubelet's own list."""
    key = (namespace, pod)
    return {h.owner.container: h.ids for h in resources.holdings() if h.owner.pod_key == key}


@dataclass
class Fake:
    """device_plugin's."""

    world: World
    resources: PodResources

    def admit(self, pod: str, asks: tuple[Ask, ...]) -> str:
        try:
            self.world.kubelet.admit("ns", pod, *asks)
            for ask in asks:
                if ask.size:
                    self.world.kubelet.begin("ns", pod, ask.name)
        except AdmissionError as error:
            return refusal(str(error))
        return ""

    def held(self, pod: str) -> Mapping[str, frozenset[str]]:
        return listed(self.resources, "ns", pod)

    def gpu_of(self, slot: str) -> int:
        return self.world.slots.all[slot].gpu

    def remove(self, pod: str) -> None:
        self.world.kubelet.remove("ns", pod)

    def restart(self) -> None:
        kubelet = self.world.kubelet
        before = kubelet.registrations
        kubelet.stop()
        kubelet.start()
        wait_for("registered again", lambda: kubelet.registrations > before)
        wait_for("its list", lambda: len(kubelet.devices.healthy) == 200)


@dataclass
class Real:
    """Kubelet 1.20. Pods are bound to it by name, for the scheduler would hold some back."""

    space: Space
    resources: PodResources
    slots: Slots
    pods: dict[str, Pod] = field(default_factory=dict)

    @property
    def harp(self) -> Harp:
        return self.space.harp

    def admit(self, pod: str, asks: tuple[Ask, ...]) -> str:
        wait = ["sleep", "600"]
        init = [container(a.name, ["true"], a.size) for a in asks if a.stage is Stage.INIT]
        main = [container(a.name, wait, a.size) for a in asks if a.stage is Stage.MAIN]
        made = self.space.pod(pod, *main, init=init, nodeName=self.harp.node.name)
        self.pods[pod] = made
        if made.until("Running", "Failed") == "Failed":
            return refusal(made.why())
        return ""

    def held(self, pod: str) -> Mapping[str, frozenset[str]]:
        return listed(self.resources, self.space.name, self.pods[pod].name)

    def gpu_of(self, slot: str) -> int:
        return self.slots.all[slot].gpu

    def remove(self, pod: str) -> None:
        self.pods.pop(pod).end()

    def restart(self) -> None:
        self.harp.node.stop_kubelet()
        socket = self.harp.node.path("/var/lib/kubelet/device-plugins/harp-gpu-share.sock")
        before = socket.stat().st_ino
        self.harp.node.start_kubelet()
        wait_for("ours is another socket", lambda: _inode(socket) not in (0, before))
        wait_for("kubelet is ready", lambda: self.harp.cluster.ready(self.harp.node.name))
        wait_for("its list", self.harp.offered)


def _inode(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0


@pytest.fixture(scope="module")
def slots(harp: Harp) -> Slots:
    """As the plugin makes them of the node's GPUs."""
    devices = harp.cli("devices")["devices"]
    return Slots([Gpu(one["uuid"], one["index"], one["memory_bytes"], 0) for one in devices])


@pytest.fixture
def real(space: Space, slots: Slots) -> Iterator[Real]:
    node = space.harp.node
    resources = PodResources(node.path("/var/lib/kubelet/pod-resources/kubelet.sock"), RESOURCE)
    yield Real(space, resources, slots)
    resources.close()


@pytest.fixture
def fake() -> Iterator[Fake]:
    with fake_node(gpus=2) as world:
        world.up()
        resources = PodResources(world.settings.pod_resources, RESOURCE)
        yield Fake(world, resources)
        resources.close()


@pytest.mark.parametrize("case", CASES)
def test_the_fake_kubelet_does_what_the_real_one_does(
    real: Real, fake: Fake, case: str, request: pytest.FixtureRequest
) -> None:
    at_fake, at_real = run(fake, CASES[case]), run(real, CASES[case])
    told = request.config.stash.setdefault(KUBELETS, {}).setdefault(case, [])
    for ours, theirs in zip(at_fake, at_real, strict=True):
        print(f"{theirs}" if ours == theirs else f"real: {theirs}\nfake: {ours}")
        if ours != theirs:
            told += [f"real: {theirs}", f"fake: {ours}"]
    if case in KNOWN:
        assert at_fake != at_real, f"it does the same now: {KNOWN[case]}"
    else:
        assert at_fake == at_real
