# SPDX-License-Identifier: Apache-2.0
"""Where things are and what they are called."""

from __future__ import annotations

import argparse
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from device_plugin.estimates import Modes
from device_plugin.health import CLEAN_S
from harp.config import listen_address
from harp.errors import ConfigError

__all__ = ["Common", "Settings", "common_arguments", "common_values"]


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
    modes: Modes = field(default_factory=Modes)  #: what comes of estimates
    clean_s: float = CLEAN_S  #: without trouble, before slots of an unhealthy GPU are offered again
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


class Common(TypedDict):
    """Settings that each plugin takes from its command line."""

    kubelet_dir: Path
    state_dir: Path
    run_dir: Path
    node: str
    resource: str
    library_dirs: tuple[str, ...]
    metrics_listen: str


def common_arguments(parser: argparse.ArgumentParser, usual: Settings) -> None:
    """Options of each plugin, with the values of `usual` where they are not given."""
    parser.add_argument("--node", default=os.environ.get("NODE_NAME", ""), help="[$NODE_NAME]")
    parser.add_argument("--kubelet-dir", type=Path, default=usual.kubelet_dir)
    parser.add_argument("--state-dir", type=Path, default=usual.state_dir, help="lasts")
    parser.add_argument(
        "--run-dir",
        type=Path,
        default=usual.run_dir,
        help="of harpd, or of `harp remote keep` [$HARP_RUN]",
    )
    parser.add_argument("--resource", default=usual.resource)
    parser.add_argument(
        "--metrics",
        default=usual.metrics_listen,
        metavar="[HOST:]PORT",
        help="serve /metrics and /healthz there; a PORT alone: on loopback [nowhere]",
    )
    parser.add_argument(
        "--library-dir",
        action="append",
        metavar="DIR",
        help=f"where images look for the driver; several [{' '.join(usual.library_dirs)}]",
    )


def common_values(given: argparse.Namespace, usual: Settings) -> Common:
    """What common_arguments() was given.

    Raises:
        ConfigError: nobody says what this node is called; or where to serve pages is no address.
    """
    listen_address(given.metrics)
    if not given.node:
        raise ConfigError(
            "this node's name is not known: pods of others could not be told from its own",
            "give --node, or set NODE_NAME by the downward API (spec.nodeName)",
        )
    return Common(
        kubelet_dir=given.kubelet_dir,
        state_dir=given.state_dir,
        run_dir=given.run_dir,
        node=given.node,
        resource=given.resource,
        library_dirs=tuple(given.library_dir or usual.library_dirs),
        metrics_listen=given.metrics,
    )
