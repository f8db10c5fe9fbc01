# SPDX-License-Identifier: Apache-2.0
"""HARP on the cluster: a DaemonSet by hand, for what the tests ask of it.

The chart of deploy/helm is tested by its own; what is here says what a node's pod needs at least.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from typing import Any

from rig.cluster import Cluster
from rig.machine import wait_for
from rig.node import Node

__all__ = ["DEVICES", "NAMESPACE", "RESOURCE", "SOFT_DIR", "Harp"]

NAMESPACE = "harp-system"
RESOURCE = "harp.dev/gpu-share"
SOFT_DIR = "/run/harp/soft"
DEVICES = ("t4-16g", "t4-16g")
_KUBELET = "/var/lib/kubelet"


class Harp:
    """HARP, installed."""

    def __init__(self, cluster: Cluster, devices: tuple[str, ...] = DEVICES) -> None:
        self.cluster, self.devices = cluster, devices

    @property
    def node(self) -> Node:
        """The first node."""
        return self.cluster.nodes[0]

    def install(self) -> None:
        """Apply the manifests; returns when every node offers all its slots."""
        for one in self._manifests():
            self.cluster.kubectl("apply", "-f", "-", text=json.dumps(one))
        wait_for("all slots are offered", self.offered, limit_s=120)

    def uninstall(self) -> None:
        """Take it away again."""
        self.cluster.kubectl("delete", "namespace", NAMESPACE, "--timeout=60s")
        for kind in ("clusterrole", "clusterrolebinding"):
            self.cluster.kubectl("delete", kind, "harp-device-plugin")

    def offered(self, node: Node | None = None) -> bool:
        """Whether all slots are there and free of illness."""
        return self.allocatable(node) == 100 * len(self.devices)

    def allocatable(self, node: Node | None = None) -> int:
        """Slots that kubelet says can be had of a node."""
        name = (node or self.node).name
        status = self.cluster.client.get(f"/api/v1/nodes/{name}")["status"]
        return int(status["allocatable"].get(RESOURCE, 0))

    def pod(self) -> dict[str, Any]:
        """HARP's pod on the first node."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        (found,) = (
            one
            for one in self.cluster.client.get(path, labelSelector="app=harp-node")["items"]
            if one["spec"].get("nodeName") == self.node.name
            and not one["metadata"].get("deletionTimestamp")
        )
        return found

    def logs(self, container: str) -> str:
        """What one of its containers has said."""
        name = self.pod()["metadata"]["name"]
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/log?container={container}"
        return self.cluster.client.text("GET", path)

    def container_pid(self, container: str) -> int:
        """Pid of the program of one of its containers; 0: it does not run."""
        for one in self.pod()["status"].get("containerStatuses", ()):
            if one["name"] == container and "running" in one["state"]:
                return self.pid_of(one["containerID"])
        return 0

    def pid_of(self, container_id: str) -> int:
        """Pid of a container's program; 0: it does not run."""
        wanted = container_id.rpartition("/")[2]
        for line in self.node.ctr("tasks", "ls").splitlines()[1:]:
            name, pid, state = line.split()
            if name == wanted and state == "RUNNING":
                return int(pid)
        return 0

    def cli(self, *arguments: str) -> dict[str, Any]:
        """`harp ... --json` in the daemon's container."""
        pid = wait_for("harpd's container runs", lambda: self.container_pid("daemon"))
        done = subprocess.run(
            [
                "nsenter",
                f"--mount=/proc/{pid}/ns/mnt",
                f"--root=/proc/{pid}/root",
                "/opt/venv/bin/harp",
                *arguments,
                "--json",
            ],
            env={"PATH": "/opt/venv/bin:/usr/bin:/bin", **self.settings()},
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

    def soft(self, tool: str, *arguments: str) -> str:
        """harp-soft-truth or harp-soft-fault, of the checkout, on the node's software GPU."""
        from rig.binaries import ROOT

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

    def settings(self) -> Mapping[str, str]:
        """Environment of its containers."""
        return {
            "HARP_RUN": "/run/harp",
            "HARP_SOFT_DIR": SOFT_DIR,
            "HARP_SOFT_DEVICES": ",".join(self.devices),
        }

    def _manifests(self) -> list[dict[str, Any]]:
        account = {"name": "harp-device-plugin", "namespace": NAMESPACE}
        role = {"name": "harp-device-plugin"}
        rbac = "rbac.authorization.k8s.io"
        return [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account},
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "ClusterRole",
                "metadata": role,
                "rules": [
                    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
                    {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
                ],
            },
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": role,
                "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", **role},
                "subjects": [{"kind": "ServiceAccount", **account}],
            },
            self._daemon_set(),
        ]

    def _daemon_set(self) -> dict[str, Any]:
        label = {"app": "harp-node"}
        env = [{"name": name, "value": value} for name, value in self.settings().items()]
        node_name = {
            "name": "NODE_NAME",
            "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}},
        }
        paths = {
            "run": "/run/harp",
            "state": "/var/lib/harp",
            "plugins": f"{_KUBELET}/device-plugins",
            "resources": f"{_KUBELET}/pod-resources",
        }
        mounts = [{"name": name, "mountPath": path} for name, path in paths.items()]
        common = {"imagePullPolicy": "Never", "securityContext": {"privileged": True}}
        spec = {
            "serviceAccountName": "harp-device-plugin",
            "hostPID": True,
            "terminationGracePeriodSeconds": 10,
            "tolerations": [{"operator": "Exists"}],
            "containers": [
                {
                    **common,
                    "name": "daemon",
                    "image": "localhost/harp-daemon:0.1.0",
                    "env": env,
                    "volumeMounts": mounts[:2],
                },
                {
                    **common,
                    "name": "plugin",
                    "image": "localhost/harp-plugin:0.1.0",
                    "env": [*env, node_name],
                    "volumeMounts": mounts,
                },
                {
                    "imagePullPolicy": "Never",
                    "name": "compiler",
                    "image": "localhost/harp-daemon:0.1.0",
                    "command": ["python", "-m", "harp.softgpu", "compiler"],
                    "args": ["--socket=/run/harp/ptxc/sock", "--jobs=2"],
                    "volumeMounts": mounts[:1],
                },
            ],
            "volumes": [
                {"name": name, "hostPath": {"path": path, "type": "DirectoryOrCreate"}}
                for name, path in paths.items()
            ],
        }
        return {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "harp-node", "namespace": NAMESPACE},
            "spec": {
                "selector": {"matchLabels": label},
                "template": {"metadata": {"labels": label}, "spec": spec},
            },
        }
