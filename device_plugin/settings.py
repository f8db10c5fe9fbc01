# SPDX-License-Identifier: Apache-2.0
"""Where things are and what they are called."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one plugin. Host paths must be the same in the plugin's container: kubelet mounts them."""

    kubelet_dir: Path = Path("/var/lib/kubelet")
    state_dir: Path = Path("/var/lib/harp")  #: lasts: libraries that pods have mounted, checkpoint
    run_dir: Path = Path("/run/harp")  #: may be gone after a restart of the machine: grant folders
    node: str = ""  #: this node's name in Kubernetes
    resource: str = "harp.dev/gpu-share"
    endpoint: str = "harp-gpu-share.sock"
    slots_per_gpu: int = 100
    metrics_listen: str = ""  #: PORT (loopback alone) or HOST:PORT; "": nowhere
    topology: bool = False  #: tell kubelet the GPUs' NUMA nodes: its topology manager may then
    #: insist on one, against what HARP prefers
    library_dirs: tuple[str, ...] = (
        f"/usr/lib/{platform.machine()}-linux-gnu",
        "/usr/lib64",
    )  #: where images' loaders look for the driver

    @property
    def sockets(self) -> Path:
        """Kubelet's folder of plugins."""
        return self.kubelet_dir / "device-plugins"

    @property
    def kubelet_socket(self) -> Path:
        """Where kubelet takes registrations."""
        return self.sockets / "kubelet.sock"

    @property
    def own_socket(self) -> Path:
        """Where kubelet asks us."""
        return self.sockets / self.endpoint

    @property
    def pod_resources(self) -> Path:
        """Where kubelet says who has what."""
        return self.kubelet_dir / "pod-resources" / "kubelet.sock"

    @property
    def checkpoint(self) -> Path:
        """What outlives the plugin."""
        return self.state_dir / "device-plugin.json"

    @property
    def grants(self) -> Path:
        """Folder of grant folders."""
        return self.run_dir / "grants"
