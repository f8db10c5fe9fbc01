# SPDX-License-Identifier: Apache-2.0
"""Kubelet, plugin, harpd, arbiter, all of HARP: they end and come back under pods at work."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator

import pytest
from rig.chart import NAMESPACE
from rig.client import ApiError
from rig.harp import Harp
from rig.machine import RUN, wait_for
from rig.pods import Pod, Space, container

_DAY_S = 86400
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
        """How far it is; 0: kubelet does not say."""
        try:
            lines = [line for line in pod.log().splitlines() if line.startswith("at ")]
        except ApiError:
            return 0
        return int(lines[-1].split()[1]) if lines else 0

    def go_on(self) -> None:
        """Each goes on, without a call that failed and without having been started again."""
        for pod in self.pods:
            before = wait_for("its log can be read", lambda p=pod: self.steps(p), limit_s=30)
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
    """It is registered again, within 2 s on an idle machine; the next pod gets what is free."""
    log = RUN / "log" / f"{harp.node.name}-kubelet"
    harp.node.stop_kubelet()
    said = log.stat().st_size
    harp.node.start_kubelet()
    ask = re.compile(r"^I\d{4} (\S+) .*Got registration request from device plugin", re.MULTILINE)
    asked = wait_for("the plugin registers", lambda: ask.search(log.read_text()[said:]))
    serving = harp.node.path("/var/lib/kubelet/device-plugins/kubelet.sock").stat().st_ctime
    took_s = (_clock(asked[1]) - serving % _DAY_S) % _DAY_S
    print(f"registered again {took_s:.2f} s after kubelet serves")
    assert took_s < 20
    wait_for("kubelet has its list", harp.offered)
    work.go_on()
    late = space.pod("c", container("main", ["gpu_job.py", "--steps", "1"], 100))
    late.until("Succeeded")


def test_the_plugin_restarts(work: Work, space: Space, harp: Harp) -> None:
    kill(harp, "plugin")
    wait_for("slots are offered again", harp.offered)
    late = space.pod("c", container("main", ["gpu_job.py", "--steps", "1"], 10))
    late.until("Succeeded")
    assert {"a/main", "b/main"} <= set(space.tenants())
    del work


def test_harpd_is_killed(work: Work, space: Space, harp: Harp) -> None:
    """Its container takes the arbiter along: pods go on with what they have until both are back."""
    kill(harp, "daemon")
    work.go_on()
    late = space.pod("c", container("main", ["gpu_job.py", "--steps", "1"], 10))
    late.until("Succeeded")
    tenants = space.tenants()
    for name, share in (("a/main", 0.3), ("b/main", 0.6)):
        assert tenants[name]["share_ratio"] == share
        assert tenants[name]["mem_leased_bytes"] >= 64 << 20


def test_the_arbiter_is_killed(work: Work, space: Space, harp: Harp) -> None:
    old = harp.cli("daemon", "--status")["arbiter_pid"]
    os.kill(old, signal.SIGKILL)
    wait_for("another arbiter", lambda: harp.cli("daemon", "--status")["arbiter_pid"] != old)
    work.go_on()
    late = space.pod("c", container("main", ["gpu_job.py", "--steps", "1"], 10))
    late.until("Succeeded")


def rolled_out(harp: Harp) -> None:
    """Wait until every node has the newest of HARP's pods, and it serves."""
    rollout = ["rollout", "status", "daemonset/harp-node", "--timeout=120s"]
    harp.cluster.kubectl("-n", NAMESPACE, *rollout)
    wait_for("slots are offered", harp.offered)


def uids(harp: Harp) -> set[str]:
    """Of HARP's pods on the node, those that are about to go as well."""
    return {one["metadata"]["uid"] for one in harp.pods("node")}


def test_the_node_is_upgraded(work: Work, space: Space, harp: Harp) -> None:
    """Another template of its DaemonSet: a new pod with new containers of everything."""
    (old,) = uids(harp)
    grants = {name: one["tenant_id"] for name, one in space.tenants().items()}
    harp.chart.install({"podAnnotations": {"example.org/edition": "second"}})
    try:
        wait_for("another pod", lambda: uids(harp) - {old})
        work.go_on()
        rolled_out(harp)
        work.go_on()
        late = space.pod("c", container("main", ["gpu_job.py", "--steps", "1"], 10))
        late.until("Succeeded")
        assert grants.items() <= {n: o["tenant_id"] for n, o in space.tenants().items()}.items()
    finally:
        harp.chart.install()
        rolled_out(harp)


def _clock(text: str) -> float:
    """Seconds of the day of a log's time; the machine's clock is UTC or is not, as the log's."""
    hours, minutes, seconds = text.split(":")
    local_s = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    return local_s - time.localtime().tm_gmtoff


def kill(harp: Harp, name: str) -> None:
    """Kill the program of one of HARP's containers, and wait until kubelet has started it again."""
    old = harp.container_pid(name)
    os.kill(old, signal.SIGKILL)
    wait_for(f"{name} is started again", lambda: harp.container_pid(name) not in (0, old))
