# SPDX-License-Identifier: Apache-2.0
"""The cluster: control plane and nodes, as one thing that comes and goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rig.binaries import ROOT, SCHEDULER, install_packages, kube_folder, pause_program
from rig.client import ApiClient
from rig.control import BRIDGE, DNS, SERVICE, ControlPlane
from rig.machine import NET, RUN, Machine, sh, wait_for
from rig.names import Names
from rig.node import Node

__all__ = ["Cluster"]


class Cluster:
    """A running one.

    Args:
        nodes: how many.
    """

    def __init__(self, nodes: int = 1) -> None:
        install_packages()
        folder = kube_folder()
        self.machine = Machine()
        try:
            self._begin(folder, nodes)
        except BaseException:
            self.machine.close()
            raise

    def _begin(self, folder: Path, nodes: int) -> None:
        addresses = {f"node{n}": f"10.98.0.{n + 1}" for n in range(1, nodes + 1)}
        self.control = ControlPlane(self.machine, folder, NET, addresses)
        self.nodes = [Node(self.machine, folder, self.control.pki, n) for n in range(1, nodes + 1)]
        self._network()
        self.names = Names(NET, DNS, self.control.client)
        with ThreadPoolExecutor(nodes + 2) as pool:
            images = pool.submit(self._images, folder)
            control = pool.submit(self.control.start)
            for started in [pool.submit(node.start) for node in self.nodes]:
                started.result()
            archives = images.result()
            for loaded in [pool.submit(self._load, node, archives) for node in self.nodes]:
                loaded.result()
            control.result()
        for node in self.nodes:
            node.start_kubelet()
        for node in self.nodes:
            wait_for(f"{node.name} is ready", lambda name=node.name: self.ready(name), limit_s=120)

    @property
    def client(self) -> ApiClient:
        """The administrator's."""
        return self.control.client

    def ready(self, node: str) -> bool:
        """Whether a node is."""
        self.machine.alive()
        found = self.client.find(f"/api/v1/nodes/{node}")
        conditions = found["status"].get("conditions", ()) if found else ()
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def kubectl(self, *arguments: str | Path, text: str | None = None) -> str:
        """kubectl, as the administrator; what it said.

        Raises:
            RuntimeError: it failed.
        """
        enter = ["nsenter", f"--net=/run/netns/{NET}"]
        return sh(*enter, "kubectl", f"--kubeconfig={self.control.admin}", *arguments, input=text)

    def kubectl_env(self) -> dict[str, str]:
        """Environment in which kubectl finds it, for shells in its network namespace."""
        return {**os.environ, "KUBECONFIG": str(self.control.admin)}

    def down(self) -> None:
        """End it; nothing is left."""
        self.names.stop()
        self.machine.close()

    def _network(self) -> None:
        addresses = {NET: [f"{BRIDGE}/24", f"{SERVICE}/32", f"{DNS}/32"]}
        addresses |= {node.net: [f"{node.address}/24"] for node in self.nodes}
        self.machine.network([NET, *(node.net for node in self.nodes)], addresses)
        for node in self.nodes:
            sh("ip", "-n", node.net, "route", "add", "default", "via", BRIDGE)
            sh("ip", "-n", NET, "route", "add", node.pods, "via", node.address)

    def _images(self, kube: Path) -> list[Path]:
        """Archives of all images that pods here use."""
        ours, pause, scheduler = (RUN / f"{one}.tar" for one in ("harp", "pause", "scheduler"))
        done = subprocess.run(
            [sys.executable, ROOT / "deploy" / "images", "--out", ours],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"the images cannot be built: {done.stdout[-3000:]}")
        _one_file_image(pause_program(RUN), "docker.io/local/pause:3", pause)
        _one_file_image(kube / "kube-scheduler", SCHEDULER, scheduler)
        return [ours, pause, scheduler]

    @staticmethod
    def _load(node: Node, archives: Sequence[Path]) -> None:
        for archive in archives:
            node.load(archive)


def _one_file_image(program: Path, name: str, out: Path) -> None:
    """An image that is one static program, by buildah's means but without its time."""
    import hashlib
    import io

    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        archive.add(program.resolve(), f"bin/{program.name}", filter=_plain)
    data = layer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": [f"/bin/{program.name}"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    manifest = json.dumps(
        [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    ).encode()
    with tarfile.open(out, "w") as archive:
        for path, content in (
            ("config.json", config),
            ("layer.tar", data),
            ("manifest.json", manifest),
        ):
            info = tarfile.TarInfo(path)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info
