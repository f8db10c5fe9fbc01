# SPDX-License-Identifier: Apache-2.0
"""What a container needs of the NVIDIA driver besides its two libraries: nodes, other libraries.

A GPU's node is numbered by the driver's minor, its place in NVML's order is another number: so it
is read from the driver's own files in /proc.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harp.errors import NoDevice

__all__ = ["beside_driver", "device_nodes"]

_COMMON = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
#: opened by the driver by these names; the rest of a driver is graphics
_BESIDE = ("libnvidia-ptxjitcompiler.so.*", "libnvidia-nvvm.so.*", "libnvidia-gpucomp.so.*")


def device_nodes(uuids: Sequence[str], root: Path = Path("/")) -> tuple[str, ...]:
    """The nodes of these GPUs.

    Raises:
        NoDevice: the driver does not list one of them.
    """
    minors = {}
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        lines = (line.partition(":") for line in path.read_text().splitlines())
        said = {key.strip(): value.strip() for key, _, value in lines}
        if said.get("Device Minor", "").isdigit():
            minors[said.get("GPU UUID", "")] = said["Device Minor"]
    lacking = [uuid for uuid in uuids if uuid not in minors]
    if lacking:
        raise NoDevice(f"the driver does not list {', '.join(lacking)} in /proc/driver/nvidia/gpus")
    common = [f"/dev/{name}" for name in _COMMON if (root / "dev" / name).exists()]
    return (*common, *(f"/dev/nvidia{minors[uuid]}" for uuid in uuids))


def beside_driver(cuda: Path) -> tuple[Path, ...]:
    """Libraries that the driver opens by name: links, whose name is the one that is opened."""
    folder = cuda.resolve().parent
    return tuple(
        path for pattern in _BESIDE for path in sorted(folder.glob(pattern)) if path.is_symlink()
    )
