# SPDX-License-Identifier: Apache-2.0
"""What is installed on this node: libraries, device nodes, NUMA nodes.

What a real GPU's container needs of the driver harp/discovery/nodes.py knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from device_plugin.answer import Hardware
from device_plugin.tenants import NodeView
from harp.discovery.nodes import beside_driver, cards, common_nodes
from harp.errors import ConfigError
from harp.inject import FROM_DAEMON, shim_dir, soft_dir
from harp.model import DeviceKind
from harp.native import NativeDir

__all__ = ["survey"]


def survey(
    view: NodeView,
    native: NativeDir,
    base: Path,
    env: Mapping[str, str],
    root: Path = Path("/"),
    *,
    run: Path | None = None,
) -> tuple[Hardware, NodeView]:
    """What containers are given of this node, and `view` with its GPUs' NUMA nodes.

    Args:
        view: what harpd says of the node.
        native: what is built.
        base: folder that lasts, for the libraries that containers mount.
        env: of the plugin.
        root: where /proc, /sys and /dev are.
        run: HARP's run folder; the software GPU's compiler may have its socket's folder there.

    Raises:
        NoDevice: the driver does not list a GPU that harpd has.
        ConfigError: the software GPU's state is not said to be anywhere.
    """
    shim = shim_dir(native, base, keep_old=True)
    if view.kind is DeviceKind.SOFTWARE:
        if not env.get("HARP_SOFT_DIR"):
            raise ConfigError(
                "the software GPU's state is nowhere that containers could share",
                "set HARP_SOFT_DIR, the same for harpd and the plugin",
            )
        backing = soft_dir(native, base, keep_old=True)
        hardware = Hardware(
            shim,
            backing.cuda,
            backing.nvml,
            env={name: env[name] for name in FROM_DAEMON if name in env},
            soft=Path(env["HARP_SOFT_DIR"]),
            ptxc=_compiler(run),
        )
        return hardware, view
    listed = cards([gpu.uuid for gpu in view.gpus], root)
    hardware = Hardware(
        shim,
        view.cuda.resolve(),
        view.nvml.resolve(),
        beside=beside_driver(view.cuda),
        common_nodes=common_nodes(root),
        nodes={gpu.uuid: (listed[gpu.uuid].node,) for gpu in view.gpus},
    )
    gpus = tuple(replace(gpu, numa=_numa(root, listed[gpu.uuid].bus)) for gpu in view.gpus)
    return hardware, replace(view, gpus=gpus)


def _compiler(run: Path | None) -> Path | None:
    """The folder of the compiler's socket, where the node has one: images have no compiler.

    The folder is asked for, not the socket: a compiler that is restarted makes that anew in there.
    """
    folder = None if run is None else run / "ptxc"
    return folder if folder is not None and folder.is_dir() else None


def _numa(root: Path, bus: str) -> int:
    try:
        return int((root / "sys/bus/pci/devices" / bus / "numa_node").read_text())
    except (OSError, ValueError):
        return -1
