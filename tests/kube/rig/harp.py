# SPDX-License-Identifier: Apache-2.0
"""HARP on the cluster, by its chart, and what can be asked of it on one node."""

from __future__ import annotations

import http.client
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from rig.binaries import ROOT
from rig.chart import DEVICES, NAMESPACE, Chart
from rig.cluster import Cluster
from rig.machine import NET, connect, wait_for
from rig.node import Node

__all__ = ["DAEMON_PORT", "PLUGIN_PORT", "RESOURCE", "SOFT_DIR", "Harp", "Series"]

RESOURCE = "harp.dev/gpu-share"
SOFT_DIR = "/run/harp/softgpu"
#: of their metrics, as the chart has them
DAEMON_PORT, PLUGIN_PORT = 9402, 9403
_LABEL = "harp.dev/enabled"

Series = list[tuple[str, Mapping[str, str], float]]


class Harp:
    """HARP, installed; asked on one node.

    Args:
        cluster: where.
        node: which; the first, if it is not said.
    """

    def __init__(self, cluster: Cluster, node: Node | None = None) -> None:
        self.cluster, self.node = cluster, node or cluster.nodes[0]
        self.chart = Chart(cluster)

    def install(self) -> None:
        """Install it on this node; returns when it offers all its slots."""
        self.mark(_LABEL, "true")
        self.chart.install()
        wait_for("all slots are offered", self.offered, limit_s=120)

    def uninstall(self) -> str:
        """Take it away again; what the chart's cleanup said."""
        said = self.chart.uninstall()
        self.mark(_LABEL, None)
        return said

    def on(self, number: int) -> Harp:
        """The same HARP, on another node; from 1."""
        other = Harp(self.cluster, self.cluster.nodes[number - 1])
        other.chart = self.chart
        return other

    def mark(self, label: str, value: str | None) -> None:
        """Label the node; None: no more."""
        change = {"metadata": {"labels": {label: value}}}
        self.cluster.client.merge(f"/api/v1/nodes/{self.node.name}", change)

    def gpus_here(self, here: bool) -> None:
        """Make the node one of HARP's with GPUs, or one of those without; waits for that."""
        self.mark(_LABEL, "true" if here else None)
        if here:
            wait_for(f"{self.node.name} offers slots", self.offered, limit_s=120)
        else:
            wait_for(f"{self.node.name} has none", lambda: not self.pods("node"), limit_s=60)

    def offered(self) -> bool:
        """Whether all slots are there and free of illness."""
        return self.allocatable() == 100 * len(DEVICES)

    def allocatable(self, resource: str = RESOURCE) -> int:
        """Slots that kubelet says can be had of the node."""
        status = self.cluster.client.get(f"/api/v1/nodes/{self.node.name}")["status"]
        return int(status["allocatable"].get(resource, 0))

    def pods(self, component: str) -> list[dict[str, Any]]:
        """Pods of a part of HARP's on the node, those that are about to go as well."""
        path, label = f"/api/v1/namespaces/{NAMESPACE}/pods", "app.kubernetes.io/component"
        found = self.cluster.client.get(path, labelSelector=f"{label}={component}")["items"]
        return [one for one in found if one["spec"].get("nodeName") == self.node.name]

    def pod(self, component: str = "node") -> dict[str, Any]:
        """The one that is to stay."""
        there = self.pods(component)
        (found,) = (one for one in there if not one["metadata"].get("deletionTimestamp"))
        return found

    def logs(self, container: str, component: str = "node") -> str:
        """What one of its containers has said."""
        name = self.pod(component)["metadata"]["name"]
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/log?container={container}"
        return self.cluster.client.text("GET", path)

    def container_pid(self, container: str) -> int:
        """Pid of the program of one of its containers; 0: it does not run."""
        for one in self.pod()["status"].get("containerStatuses", ()):
            if one["name"] == container and "running" in one["state"]:
                return self.pid_of(one["containerID"])
        return 0

    def pid_of(self, container_id: str) -> int:
        """Pid of a container's program, on whatever node; 0: it does not run."""
        wanted = container_id.rpartition("/")[2]
        for node in self.cluster.nodes:
            for line in node.ctr("tasks", "ls").splitlines()[1:]:
                name, pid, state = line.split()
                if name == wanted and state == "RUNNING":
                    return int(pid)
        return 0

    def cli(self, *arguments: str) -> dict[str, Any]:
        """`harp ... --json` in the daemon's container, with that one's environment."""
        pid = wait_for("harpd's container runs", lambda: self.container_pid("daemon"))
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        env = dict(one.decode().split("=", 1) for one in entries if b"=" in one)
        enter = ["nsenter", f"--mount=/proc/{pid}/ns/mnt", f"--root=/proc/{pid}/root"]
        done = subprocess.run(
            [*enter, "/opt/venv/bin/harp", *arguments, "--json"],
            env=env,
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"harp {' '.join(arguments)}: {done.stderr}")
        return json.loads(done.stdout.splitlines()[-1])

    def tenant(self, namespace: str, pod: str, container: str) -> dict[str, Any] | None:
        """A container's tenant, as `harp ps` has it; None: there is none."""
        named = f"{namespace}/{pod}/{container}"
        for one in self.cli("ps")["tenants"]:
            if one["name"] == named or one["name"].startswith(f"{pod}.{container}-"):
                return one
        return None

    def series(self, port: int) -> Series:
        """All series of harpd's page or the plugin's, asked over the network of pods."""
        host = self.pod()["status"]["podIP"]
        connection = http.client.HTTPConnection(host, port, timeout=10)
        connection.sock = connect(NET, host, port)
        try:
            connection.request("GET", "/metrics")
            page = connection.getresponse().read().decode()
        finally:
            connection.close()
        families = text_string_to_metric_families(page)
        return [(s.name, s.labels, s.value) for family in families for s in family.samples]

    def soft(self, tool: str, *arguments: str) -> str:
        """harp-soft-truth or harp-soft-fault, of the checkout, on the node's software GPU."""
        done = subprocess.run(
            [ROOT / "harp" / "_lib" / f"harp-soft-{tool}", *arguments],
            env={"HARP_SOFT_DIR": str(self.node.path(SOFT_DIR))},
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"harp-soft-{tool} {arguments}: {done.stderr}{done.stdout}")
        return done.stdout
