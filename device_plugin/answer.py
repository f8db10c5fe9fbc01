# SPDX-License-Identifier: Apache-2.0
"""What a container with a share is given: environment, mounts, device nodes. Pure.

Everything of ours appears under INSIDE, and the shim once more over each name under which a loader
looks for the driver: a program that clears its environment still finds the shim there. The real
driver is at a private path. LD_LIBRARY_PATH is the image's own and stays.

The answer follows from the slots and from what is installed. Kubelet keeps it and uses it for every
start of the container, so the host paths in it outlive upgrades: the shim's folder is named by its
content, the grant's by its slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harp.inject import Backing, tenant_env

__all__ = ["INSIDE", "Answer", "Hardware", "Mount", "answer"]

#: our folder in a container
INSIDE = Path("/opt/harp")
_SHIM, _GRANT, _DRIVER = INSIDE / "shim", INSIDE / "grant", INSIDE / "driver"
#: the software GPU's; what is here decides, as with _GRANT, whatever the environment says
_SOFT = INSIDE / "soft"
_PTXC = INSIDE / "ptxc"
_NAMES = ("libcuda.so.1", "libnvidia-ml.so.1")


@dataclass(frozen=True, slots=True)
class Mount:
    """A bind mount."""

    inside: str
    host: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class Hardware:
    """What is installed on this node, as host paths."""

    shim: Path  #: folder of the shim's libraries
    cuda: Path  #: the real driver's
    nvml: Path
    beside: tuple[Path, ...] = ()  #: libraries that the driver opens by name
    common_nodes: tuple[str, ...] = ()  #: device nodes of every container
    nodes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  #: by UUID
    env: Mapping[str, str] = field(default_factory=dict)  #: settings of the software GPU
    soft: Path | None = None  #: folder of its state, which containers write to
    ptxc: Path | None = None  #: folder with the socket of its compiler, "sock"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the container gets."""

    env: Mapping[str, str]
    mounts: tuple[Mount, ...]
    nodes: tuple[str, ...]


def answer(
    hardware: Hardware, uuids: Sequence[str], grant_dir: Path, library_dirs: Sequence[str]
) -> Answer:
    """What a container with slots of these GPUs gets.

    Args:
        hardware: of this node.
        uuids: its GPUs, in the order it is to see them.
        grant_dir: the folder that says who it is.
        library_dirs: where its image's loader may look.
    """
    backing = Backing(_DRIVER / "libcuda.so.1", _DRIVER / "libnvidia-ml.so.1")
    env = tenant_env({}, grant_dir=_GRANT, shim=_SHIM, backing=backing)
    del env["LD_LIBRARY_PATH"]  # the image's own stays
    del env["HARP_LOG"]  # the grant's folder is read-only in there
    env["CUDA_VISIBLE_DEVICES"] = ",".join(uuids)
    # A node whose default runtime is NVIDIA's would add what the image asks for: all GPUs.
    env["NVIDIA_VISIBLE_DEVICES"] = ",".join(uuids) if hardware.common_nodes else "void"
    env |= hardware.env
    if hardware.soft is not None:
        env["HARP_SOFT_DIR"] = str(_SOFT)
    if hardware.ptxc is not None:
        env["HARP_PTXC_SOCKET"] = str(_PTXC / "sock")
    mounts = [
        Mount(str(_SHIM), str(hardware.shim)),
        Mount(str(_GRANT), str(grant_dir)),
        *_driver(hardware),
    ]
    if hardware.soft is not None:
        mounts.append(Mount(str(_SOFT), str(hardware.soft), read_only=False))
    if hardware.ptxc is not None:
        mounts.append(Mount(str(_PTXC), str(hardware.ptxc)))
    for folder in library_dirs:
        for name in _NAMES:
            ours = str(hardware.shim / name)
            mounts.append(Mount(f"{folder}/{name}", ours))
            mounts.append(Mount(f"{folder}/{name.removesuffix('.1')}", ours))
    if library_dirs:
        mounts += [Mount(f"{library_dirs[0]}/{path.name}", str(path)) for path in hardware.beside]
    nodes = [*hardware.common_nodes, *(n for uuid in uuids for n in hardware.nodes.get(uuid, ()))]
    return Answer(env, tuple(mounts), tuple(nodes))


def _driver(hardware: Hardware) -> list[Mount]:
    if hardware.cuda.parent == hardware.nvml.parent and hardware.env:
        # The software GPU's folder is ours: its compiler lies in it, and belongs beside it.
        return [Mount(str(_DRIVER), str(hardware.cuda.parent))]
    return [
        Mount(str(_DRIVER / "libcuda.so.1"), str(hardware.cuda)),
        Mount(str(_DRIVER / "libnvidia-ml.so.1"), str(hardware.nvml)),
    ]
