# SPDX-License-Identifier: Apache-2.0
"""What is installed on this node: libraries, device nodes, NUMA nodes.

The nodes of a real GPU are read from the driver's own files in /proc, never guessed from an index:
its device node is numbered by the driver's minor, its place in NVML's order is another number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from device_plugin.answer import Hardware
from device_plugin.tenants import NodeView
from harp.errors import ConfigError, NoDevice
from harp.inject import FROM_DAEMON, shim_dir, soft_dir
from harp.model import DeviceKind
from harp.native import NativeDir

__all__ = ["survey"]

_COMMON = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
#: opened by the driver by these names; the rest of a driver is graphics
_BESIDE = ("libnvidia-ptxjitcompiler.so.*", "libnvidia-nvvm.so.*", "libnvidia-gpucomp.so.*")


@dataclass(frozen=True, slots=True)
class _Card:
    """A GPU as the driver lists it in /proc."""

    minor: int
    bus: str


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
    cards = _cards(root / "proc/driver/nvidia/gpus")
    lacking = [gpu.uuid for gpu in view.gpus if gpu.uuid not in cards]
    if lacking:
        raise NoDevice(
            f"the driver does not list {', '.join(lacking)} in /proc/driver/nvidia/gpus",
            "mount the host's /proc/driver into the plugin",
        )
    common = [f"/dev/{name}" for name in _COMMON if (root / "dev" / name).exists()]
    hardware = Hardware(
        shim,
        view.cuda.resolve(),
        view.nvml.resolve(),
        beside=tuple(_beside(view.cuda.resolve().parent)),
        common_nodes=tuple(common),
        nodes={gpu.uuid: (f"/dev/nvidia{cards[gpu.uuid].minor}",) for gpu in view.gpus},
    )
    gpus = tuple(replace(gpu, numa=_numa(root, cards[gpu.uuid].bus)) for gpu in view.gpus)
    return hardware, replace(view, gpus=gpus)


def _compiler(run: Path | None) -> Path | None:
    """The folder of the compiler's socket, where the node has one: images have no compiler.

    The folder is asked for, not the socket: a compiler that is restarted makes that anew in there.
    """
    folder = None if run is None else run / "ptxc"
    return folder if folder is not None and folder.is_dir() else None


def _cards(folder: Path) -> dict[str, _Card]:
    found = {}
    for path in sorted(folder.glob("*/information")):
        said = dict(_pairs(path.read_text().splitlines()))
        if "GPU UUID" in said and said.get("Device Minor", "").isdigit():
            found[said["GPU UUID"]] = _Card(int(said["Device Minor"]), path.parent.name.lower())
    return found


def _pairs(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    for line in lines:
        key, _, value = line.partition(":")
        yield key.strip(), value.strip()


def _beside(folder: Path) -> Iterable[Path]:
    for pattern in _BESIDE:
        # The name that is opened is the link, libX.so.1; its file is libX.so.<driver version>.
        yield from sorted(path for path in folder.glob(pattern) if path.is_symlink())


def _numa(root: Path, bus: str) -> int:
    try:
        return int((root / "sys/bus/pci/devices" / bus / "numa_node").read_text())
    except (OSError, ValueError):
        return -1
