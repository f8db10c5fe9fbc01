# SPDX-License-Identifier: Apache-2.0
"""Injection: the folders of libraries a tenant loads, and its environment.

A folder's name is the hash of what is in it, so an upgrade makes a new one and no file that some
process has mapped is ever written to. Folders lie in the user's own run folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harp.errors import RunDirUnsafe
from harp.native import MARKER, NativeDir, scrub

__all__ = ["Backing", "shim_dir", "soft_dir", "tenant_env"]


@dataclass(frozen=True, slots=True)
class Backing:
    """The driver libraries that a tenant's calls end in."""

    cuda: Path
    nvml: Path


def shim_dir(native: NativeDir, base: Path) -> Path:
    """Make the folder of injected libraries under `base` and return it."""
    cuda, nvml = native.libharp, native.libharp_nvml
    return _content_folder(
        base / "shim",
        {"libcuda.so.1": cuda, "libnvidia-ml.so.1": nvml},
        {"libcuda.so": "libcuda.so.1", "libnvidia-ml.so": "libnvidia-ml.so.1"},
        marker=True,
    )


def soft_dir(native: NativeDir, base: Path) -> Backing:
    """Make the folder of the software GPU's libraries under `base`."""
    folder = _content_folder(
        base / "soft",
        {
            "libcuda.so.1": native.soft_cuda,
            "libnvidia-ml.so.1": native.soft_nvml,
            "harp-ptxc": native.ptxc,
        },
        {"libcuda.so": "libcuda.so.1", "libnvidia-ml.so": "libnvidia-ml.so.1"},
        marker=False,
    )
    return Backing(folder / "libcuda.so.1", folder / "libnvidia-ml.so.1")


def tenant_env(
    base: Mapping[str, str], *, grant_dir: Path, shim: Path, backing: Backing
) -> dict[str, str]:
    """The environment of a tenant's process: `base` with the injection put first.

    Raises:
        RunDirUnsafe: a path has a character that separates entries of LD_PRELOAD.
    """
    if any(c in str(shim) for c in " :"):
        raise RunDirUnsafe(
            f"{shim} has a blank or a colon, which LD_PRELOAD cannot hold",
            "set XDG_RUNTIME_DIR to another folder",
        )
    env = scrub(base)
    env["LD_PRELOAD"] = ":".join(
        p for p in (str(shim / "libcuda.so.1"), env.get("LD_PRELOAD")) if p
    )
    env["LD_LIBRARY_PATH"] = ":".join(p for p in (str(shim), env.get("LD_LIBRARY_PATH")) if p)
    env["HARP_GRANT"] = str(grant_dir)
    env["HARP_CUDA_REAL"] = str(backing.cuda)
    env["HARP_NVML_REAL"] = str(backing.nvml)
    env.setdefault("HARP_LOG", str(grant_dir / "shim.log"))
    return env


def _content_folder(
    base: Path, copies: Mapping[str, Path], links: Mapping[str, str], *, marker: bool
) -> Path:
    digest = hashlib.sha256()
    for name, source in sorted(copies.items()):
        digest.update(name.encode() + b"\0" + source.read_bytes())
    target = base / digest.hexdigest()[:16]
    if target.is_dir():
        return target
    base.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=base) as scratch:
        fresh = Path(scratch) / "x"
        fresh.mkdir(mode=0o755)
        for name, source in copies.items():
            shutil.copyfile(source, fresh / name)
            (fresh / name).chmod(0o755)
        for name, goal in links.items():
            (fresh / name).symlink_to(goal)
        if marker:
            (fresh / MARKER).write_text("made by harp run; scrubbed from HARP's own processes\n")
        try:
            os.rename(fresh, target)  # noqa: PTH104 - rename(2): fails if the target is not empty
        except OSError:
            if not target.is_dir():
                raise
            # Another `harp run` was faster; its content is the same by name.
    return target
