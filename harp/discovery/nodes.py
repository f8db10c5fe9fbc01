# SPDX-License-Identifier: Apache-2.0
"""What a container needs of the NVIDIA driver besides its two libraries: nodes, other libraries.

A GPU's node is numbered by the driver's minor, its place in NVML's order is another number: so it
is read from the driver's own files in /proc, never guessed from an index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harp.errors import NoDevice

__all__ = ["Card", "beside_driver", "cards", "common_nodes", "device_nodes"]

_COMMON = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
#: opened by the driver by these names; the rest of a driver is graphics
_BESIDE = ("libnvidia-ptxjitcompiler.so.*", "libnvidia-nvvm.so.*", "libnvidia-gpucomp.so.*")


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU as the driver lists it in /proc."""

    node: str
    bus: str  #: its folder in /sys/bus/pci/devices


def cards(uuids: Sequence[str], root: Path = Path("/")) -> Mapping[str, Card]:
    """The GPUs that the driver lists, by UUID.

    Args:
        uuids: those that must be there.
        root: where /proc is.

    Raises:
        NoDevice: the driver does not list one of them.
    """
    found = {}
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        lines = (line.partition(":") for line in path.read_text().splitlines())
        said = {key.strip(): value.strip() for key, _, value in lines}
        minor = said.get("Device Minor", "")
        if "GPU UUID" in said and minor.isdigit():
            found[said["GPU UUID"]] = Card(f"/dev/nvidia{int(minor)}", path.parent.name.lower())
    if lacking := [uuid for uuid in uuids if uuid not in found]:
        raise NoDevice(
            f"the driver does not list {', '.join(lacking)} in /proc/driver/nvidia/gpus",
            "in a container: mount the host's /proc/driver into it",
        )
    return found


def common_nodes(root: Path = Path("/")) -> tuple[str, ...]:
    """The nodes that every user of a GPU needs, as far as they are there."""
    return tuple(f"/dev/{name}" for name in _COMMON if (root / "dev" / name).exists())


def device_nodes(uuids: Sequence[str], root: Path = Path("/")) -> tuple[str, ...]:
    """All nodes that these GPUs need.

    Raises:
        NoDevice: as cards().
    """
    listed = cards(uuids, root)
    return (*common_nodes(root), *(listed[uuid].node for uuid in uuids))


def beside_driver(cuda: Path) -> tuple[Path, ...]:
    """Libraries that the driver opens by name.

    The name that is opened is the link, libX.so.1; its file is libX.so.<driver version>.
    """
    folder = cuda.resolve().parent
    return tuple(
        path for pattern in _BESIDE for path in sorted(folder.glob(pattern)) if path.is_symlink()
    )
