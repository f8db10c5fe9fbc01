# SPDX-License-Identifier: Apache-2.0
"""The control plane: etcd, API server, scheduler, controller manager."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rig.certificates import Authority, Users
from rig.client import ApiClient
from rig.machine import RUN, Machine, wait_for

__all__ = ["BRIDGE", "DNS", "PORT", "SERVICE", "ControlPlane"]

BRIDGE = "10.98.0.1"
#: what pods are told the API server's address is; no kube-proxy runs, so the bridge has it as well
SERVICE = "10.97.0.1"
#: what pods ask for names
DNS = "10.97.0.10"
#: the service's port too, for the same reason
PORT = 443
_SERVICES = "10.97.0.0/16"
_ETCD = "http://127.0.0.1:12379"
_ETCD_PEERS = "http://127.0.0.1:12380"


class ControlPlane:
    """It, in the namespace `net` of a machine.

    Args:
        machine: where.
        folder: of Kubernetes' programs.
        net: network namespace.
        nodes: {name of a node: its address}.
    """

    def __init__(self, machine: Machine, folder: Path, net: str, nodes: Mapping[str, str]) -> None:
        self._machine, self._folder, self._net = machine, folder, net
        self.pki = RUN / "pki"
        self._certificates(nodes)
        self.users = Users(self.pki, f"https://{BRIDGE}:{PORT}")
        self.admin = self.users.add("admin", "admin", "system:masters")
        self._scheduler = self.users.add("scheduler", "system:kube-scheduler")
        self._manager = self.users.add("manager", "system:kube-controller-manager")
        for node in nodes:
            self.users.add(node, f"system:node:{node}", "system:nodes")
        self.client = ApiClient(net, BRIDGE, PORT, self.pki / "ca.crt", self.users.tokens["admin"])

    def start(self) -> None:
        """All of it; returns when the API server is ready."""
        folder = self._machine.space / "etcd"
        folder.mkdir(mode=0o700, exist_ok=True)
        self._run(
            "etcd",
            [
                "etcd",
                "--name=hk",
                f"--data-dir={folder}",
                "--logger=zap",
                f"--listen-client-urls={_ETCD}",
                f"--advertise-client-urls={_ETCD}",
                f"--listen-peer-urls={_ETCD_PEERS}",
                f"--initial-advertise-peer-urls={_ETCD_PEERS}",
                f"--initial-cluster=hk={_ETCD_PEERS}",
            ],
        )
        self._start_api()
        wait_for("the API server is ready", self._ready, limit_s=120)
        self._start_scheduler()
        self._run(
            "manager",
            [
                self._folder / "kube-controller-manager",
                f"--kubeconfig={self._manager}",
                f"--authentication-kubeconfig={self._manager}",
                f"--authorization-kubeconfig={self._manager}",
                "--bind-address=127.0.0.1",
                "--port=0",
                "--leader-elect=false",
                "--v=1",
                f"--service-account-private-key-file={self.pki / 'sa.key'}",
                f"--root-ca-file={self.pki / 'ca.crt'}",
                "--use-service-account-credentials=true",
                "--node-monitor-grace-period=16s",
            ],
        )

    def _start_scheduler(self) -> None:
        config = RUN / "scheduler.json"
        config.write_text(
            json.dumps(
                {
                    "apiVersion": "kubescheduler.config.k8s.io/v1beta1",
                    "kind": "KubeSchedulerConfiguration",
                    "clientConnection": {"kubeconfig": str(self._scheduler)},
                    "leaderElection": {"leaderElect": False},
                    "healthzBindAddress": "127.0.0.1:10251",
                    "metricsBindAddress": "127.0.0.1:10251",
                    # a pod that did not fit is looked at again soon
                    "podInitialBackoffSeconds": 1,
                    "podMaxBackoffSeconds": 2,
                }
            )
        )
        self._run(
            "scheduler",
            [
                self._folder / "kube-scheduler",
                f"--config={config}",
                "--port=0",
                f"--authentication-kubeconfig={self._scheduler}",
                f"--authorization-kubeconfig={self._scheduler}",
                "--v=1",
            ],
        )

    def _start_api(self) -> None:
        pki = self.pki
        self._run(
            "api",
            [
                self._folder / "kube-apiserver",
                f"--etcd-servers={_ETCD}",
                "--v=1",
                "--bind-address=0.0.0.0",
                f"--secure-port={PORT}",
                "--insecure-port=0",
                f"--advertise-address={BRIDGE}",
                f"--service-cluster-ip-range={_SERVICES}",
                f"--tls-cert-file={pki / 'api.crt'}",
                f"--tls-private-key-file={pki / 'api.key'}",
                f"--client-ca-file={pki / 'ca.crt'}",
                f"--token-auth-file={pki / 'tokens.csv'}",
                "--authorization-mode=Node,RBAC",
                "--anonymous-auth=true",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={pki / 'sa.pub'}",
                f"--service-account-signing-key-file={pki / 'sa.key'}",
                f"--kubelet-client-certificate={pki / 'api-kubelet.crt'}",
                f"--kubelet-client-key={pki / 'api-kubelet.key'}",
                f"--kubelet-certificate-authority={pki / 'ca.crt'}",
                "--kubelet-preferred-address-types=InternalIP",
                "--allow-privileged=true",
                "--enable-admission-plugins=NodeRestriction",
                "--endpoint-reconciler-type=none",
            ],
        )

    def _run(self, name: str, command: list[str | Path]) -> None:
        self._machine.start(name, command, netns=self._net)

    def _ready(self) -> bool:
        self._machine.alive()
        try:
            return self.client.text("GET", "/readyz") == "ok"
        except OSError:
            return False

    def _certificates(self, nodes: Mapping[str, str]) -> None:
        authority = Authority(self.pki)
        names = ["kubernetes.default.svc", "kubernetes", "kubernetes.default", "localhost"]
        authority.server("api", names, ["127.0.0.1", BRIDGE, SERVICE])
        authority.client("api-kubelet", "kube-apiserver-kubelet-client", "system:masters")
        for node, address in nodes.items():
            authority.server(node, [node, "localhost"], ["127.0.0.1", address])
