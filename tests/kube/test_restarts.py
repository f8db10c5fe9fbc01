# SPDX-License-Identifier: Apache-2.0
"""Kubelet, plugin, harpd and arbiter end and come back under pods that use the GPU."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from rig.harp import Harp
from rig.machine import wait_for
from rig.pods import Pod, Space, container

_STEPS = ["gpu_job.py", "--hold", "64", "--every", "0.5", "--seconds", "600"]


class Work:
    """Two pods on one GPU that step on and on; not one call of theirs may fail."""

    def __init__(self, space: Space) -> None:
        self.pods = [
            space.pod(name, container("main", _STEPS, size))
            for name, size in (("a", 30), ("b", 60))
        ]
        for pod in self.pods:
            pod.says("at ")
        self.go_on()

    def steps(self, pod: Pod) -> int:
        """How far it is."""
        lines = [line for line in pod.log().splitlines() if line.startswith("at ")]
        return int(lines[-1].split()[1]) if lines else 0

    def go_on(self) -> None:
        """Each goes on, without a call that failed and without having been started again."""
        for pod in self.pods:
            before = self.steps(pod)
            try:
                wait_for(f"{pod.name} steps on", lambda p=pod, b=before: self.steps(p) > b)
            except TimeoutError as error:
                raise AssertionError(f"{error}: {pod.why()}: {pod.logs()}") from None
            failing = [line for line in pod.log().splitlines() if " 0 calls failed" not in line]
            assert all(line.startswith(("GPUs: ", "memory: ")) for line in failing), failing
            assert pod.restarts() == 0


@pytest.fixture
def work(space: Space) -> Iterator[Work]:
    """Pods at work, before and after."""
    at_work = Work(space)
    yield at_work
    at_work.go_on()


def test_kubelet_restarts(work: Work, space: Space, harp: Harp) -> None:
    """Registered again within 2 s of kubelet's socket; the next pod gets what is free."""
    path = harp.node.path("/var/lib/kubelet/device-plugins/harp-gpu-share.sock")
    before = path.stat().st_ino
    harp.node.stop_kubelet()
    harp.node.start_kubelet()
    kubelet = harp.node.path("/var/lib/kubelet/device-plugins/kubelet.sock")
    wait_for("kubelet wipes our socket", lambda: not path.exists() or path.stat().st_ino != before)
    wait_for("kubelet serves", kubelet.exists, pause_s=0.01)
    began_s = time.monotonic()
    wait_for("the plugin serves again", path.exists, pause_s=0.01)
    wait_for("kubelet has its list", harp.offered)
    print(f"registered again {time.monotonic() - began_s:.2f} s after kubelet serves")
    work.go_on()
    late = space.pod("c", container("main", ["gpu_job.py", "--steps", "1"], 100))
    late.until("Succeeded")


def test_the_plugin_restarts(work: Work, space: Space, harp: Harp) -> None:
    kill(harp, "plugin")
    wait_for("slots are offered again", harp.offered)
    late = space.pod("c", container("main", ["gpu_job.py", "--steps", "1"], 10))
    late.until("Succeeded")
    assert {t["share_ratio"] for t in harp.cli("ps")["tenants"]} >= {0.3, 0.6}
    del work


def test_harpd_is_killed(work: Work, space: Space, harp: Harp) -> None:
    """Its container takes the arbiter with it: pods go on with what they have until both are back."""
    kill(harp, "daemon")
    work.go_on()
    late = space.pod("c", container("main", ["gpu_job.py", "--steps", "1"], 10))
    late.until("Succeeded")
    tenants = harp.cli("ps")["tenants"]
    assert {t["share_ratio"] for t in tenants} >= {0.3, 0.6}
    assert all(t["mem_leased_bytes"] for t in tenants if t["share_ratio"] in (0.3, 0.6))


def test_the_arbiter_is_killed(work: Work, space: Space, harp: Harp) -> None:
    old = harp.cli("daemon", "--status")["arbiter_pid"]
    os.kill(old, signal.SIGKILL)
    wait_for("another arbiter", lambda: harp.cli("daemon", "--status")["arbiter_pid"] != old)
    work.go_on()
    late = space.pod("c", container("main", ["gpu_job.py", "--steps", "1"], 10))
    late.until("Succeeded")


def kill(harp: Harp, name: str) -> None:
    """Kill the program of one of HARP's containers, and wait until kubelet has started it again."""
    old = harp.container_pid(name)
    os.kill(old, signal.SIGKILL)
    wait_for(f"{name} is started again", lambda: harp.container_pid(name) not in (0, old))
