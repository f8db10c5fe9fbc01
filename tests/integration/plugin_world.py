# SPDX-License-Identifier: Apache-2.0
"""A node for the device plugin: kubelet and harpd are fakes, sockets and files are not."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from device_plugin.answer import Hardware
from device_plugin.book import Book
from device_plugin.checkpoint import load
from device_plugin.fake_kubelet import FakeKubelet
from device_plugin.fake_tenants import FakeTenants
from device_plugin.identity import Pod
from device_plugin.kubelet import PodResources
from device_plugin.plugin import Others, Plugin, Tempo
from device_plugin.settings import Settings
from device_plugin.signs import HarpdSigns
from device_plugin.slots import Gpu, Slots
from device_plugin.starts import Patience
from harp.errors import DaemonUnreachable

NODE = "n1"


@dataclass
class FakeApi:
    """The API server's pods, and the events told it."""

    pods: list[Pod] = field(default_factory=list)
    events: list[tuple[str, str, str]] = field(default_factory=list)
    silent: bool = False

    def named(self, keys: Collection[tuple[str, str]]) -> Sequence[Pod]:
        if self.silent and keys:  # about nobody nobody is asked
            raise DaemonUnreachable("no API server")
        return [pod for pod in self.pods if pod.key in keys]

    def here(self, *, pending: bool = False) -> Sequence[Pod]:
        if self.silent:
            raise DaemonUnreachable("no API server")
        return [pod for pod in self.pods if pod.pending or not pending]

    def tell(self, pod: Pod, reason: str, message: str) -> None:
        self.events.append((pod.name, reason, message))


def until(what: Callable[[], object], seconds: float = 20) -> None:
    """Wait for it."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.01)


class World:
    """One node."""

    def __init__(self, folder: Path, gpus: int, per_gpu: int, memory_bytes: int) -> None:
        self.settings = Settings(
            kubelet_dir=folder / "k",
            state_dir=folder / "s",
            run_dir=folder / "r",
            node=NODE,
            slots_per_gpu=per_gpu,
        )
        self.slots = Slots(
            [
                Gpu(f"GPU-{i:08x}-0000-4000-8000-000000000000", i, memory_bytes, 512 << 20)
                for i in range(gpus)
            ],
            per_gpu,
        )
        self.hardware = Hardware(
            folder / "shim",
            folder / "soft" / "libcuda.so.1",
            folder / "soft" / "libnvidia-ml.so.1",
            env={"HARP_SOFT_DIR": "/dev/shm/soft"},
            soft=Path("/dev/shm/soft"),
        )
        self.kubelet = FakeKubelet(self.settings.kubelet_dir)
        self.tenants = FakeTenants(self.slots.gpus)
        self.api = FakeApi()
        self.plugin: Plugin | None = None
        self.resources: PodResources | None = None

    def start_plugin(self, tempo: Tempo | None = None, patience: Patience | None = None) -> Plugin:
        """Start it, with what its checkpoint says."""
        before = load(self.settings.checkpoint)
        self.resources = PodResources(self.settings.pod_resources, self.settings.resource)
        self.plugin = Plugin(
            self.settings,
            self.tenants.look(),
            self.hardware,
            Others(self.tenants, self.resources, self.api, self.api, HarpdSigns(self.tenants)),
            Book(before.grants),
            tempo=tempo or Tempo(look_s=0.05, sweep_s=3600, health_s=3600, wake_s=0.05),
            patience=patience or Patience(identity_s=2, harpd_s=2, pause_s=0.02),
        )
        self.plugin.start()
        return self.plugin

    def stop_plugin(self) -> None:
        if self.plugin is not None:
            self.plugin.stop()
            self.plugin = None
        if self.resources is not None:
            self.resources.close()
            self.resources = None

    def up(self) -> None:
        """Kubelet and plugin know each other."""
        self.kubelet.start()
        self.start_plugin()
        assert self.kubelet.listed.wait(20)

    def down(self) -> None:
        self.stop_plugin()
        self.kubelet.stop()
        self.tenants.close()
