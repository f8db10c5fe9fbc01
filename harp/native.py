# SPDX-License-Identifier: Apache-2.0
"""The compiled parts: where they are, and where the driver's own libraries are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from harp.errors import BuildMissing

__all__ = ["INJECTED", "DriverPaths", "NativeDir", "driver_paths", "find", "native_dir", "scrub"]

#: Names of the marker file that every folder of injected libraries holds.
MARKER = "harp-injected"
#: What `harp run` puts into a tenant's environment, and HARP's own processes take out.
INJECTED = ("HARP_GRANT", "HARP_REMOTE", "HARP_CUDA_REAL", "HARP_NVML_REAL", "HARP_TRACE")


@dataclass(frozen=True, slots=True)
class NativeDir:
    """The folder of built files (an install tree of native/)."""

    path: Path

    @property
    def libharp(self) -> Path:
        """The interposer; its SONAME is libcuda.so.1."""
        return self.file("libharp.so")

    @property
    def libharp_nvml(self) -> Path:
        """Its NVML twin."""
        return self.file("libharp-nvml.so")

    @property
    def soft_cuda(self) -> Path:
        """The software GPU as libcuda."""
        return self.file("soft/libcuda.so.1")

    @property
    def soft_nvml(self) -> Path:
        """The same as libnvidia-ml."""
        return self.file("soft/libnvidia-ml.so.1")

    @property
    def arbiter(self) -> Path:
        """The arbiter program."""
        return self.file("harp-arbiter")

    @property
    def arbiter_core(self) -> Path:
        """The arbiter's pure core as a library, for `harp sim`."""
        return self.file("libharp-arbiter-core.so")

    @property
    def ptxc(self) -> Path:
        """The software GPU's compiler driver."""
        return self.file("harp-ptxc")

    @property
    def link(self) -> Path:
        """harp-link, which only hosts with remote GPUs need.

        Raises:
            BuildMissing: it was not built.
        """
        path = self.path / "harp-link"
        if not path.exists():
            raise BuildMissing(
                f"{path} is not there: wheels do not hold it",
                "apt-get install libnghttp2-dev libssl-dev, then deploy/bootstrap in a checkout",
            )
        return path

    def optional(self, name: str) -> Path | None:
        """A file that may be missing."""
        path = self.path / name
        return path if path.exists() else None

    def file(self, name: str) -> Path:
        """A file that must be there.

        Raises:
            BuildMissing: it was not built.
        """
        path = self.path / name
        if not path.exists():
            raise BuildMissing(
                f"{path} is not there",
                "run deploy/quickstart, or `cmake --install BUILD --prefix DIR` and set"
                " HARP_NATIVE_DIR=DIR",
            )
        return path


def find(env: Mapping[str, str]) -> NativeDir:
    """The folder that holds: $HARP_NATIVE_DIR, else the installed package's own."""
    chosen = env.get("HARP_NATIVE_DIR")
    if chosen:
        return NativeDir(Path(chosen).absolute())
    # Joined first, converted last: an editable install maps single files, not folders.
    return NativeDir(Path(str(files("harp") / "_lib" / "libharp.so")).parent)


def native_dir() -> Path:
    """Path of that folder for this process."""
    return find(os.environ).path


@dataclass(frozen=True, slots=True)
class DriverPaths:
    """Absolute paths of the driver's libraries; None where there is none."""

    cuda: Path | None
    nvml: Path | None


_SEARCH = """
import ctypes, json
found = {}
for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
    try:
        ctypes.CDLL(name)
    except OSError:
        continue
    for line in open("/proc/self/maps"):
        path = line.rstrip("\\n").partition("/")
        if path[1] and path[2].rsplit("/", 1)[-1].startswith(name[:-2]):
            found[name] = "/" + path[2]
            break
print(json.dumps(found))
"""


def driver_paths(env: Mapping[str, str]) -> DriverPaths:
    """Ask the dynamic loader, in a process of its own, where the real driver's libraries are.

    $HARP_CUDA_REAL and $HARP_NVML_REAL override it. HARP's own libraries do not count.
    """
    done = subprocess.run(
        [sys.executable, "-I", "-c", _SEARCH],
        env=scrub(env),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    found: dict[str, str] = json.loads(done.stdout) if done.returncode == 0 else {}

    def path(name: str, override: str) -> Path | None:
        chosen = env.get(override) or found.get(name)
        if not chosen or is_injected(Path(chosen)):
            return None
        # libcuda.so.1 is a link to libcuda.so.<driver version>; programs expect the first name.
        plain = Path(chosen).with_name(name)
        return plain if plain.exists() else Path(chosen)

    return DriverPaths(
        path("libcuda.so.1", "HARP_CUDA_REAL"), path("libnvidia-ml.so.1", "HARP_NVML_REAL")
    )


def is_injected(path: Path) -> bool:
    """Whether a library lies in a folder made for injection (see harp/inject.py)."""
    return (path.parent / MARKER).exists()


def scrub(env: Mapping[str, str]) -> dict[str, str]:
    """The environment without HARP's injection: for HARP's own processes.

    Entries of LD_PRELOAD and LD_LIBRARY_PATH that are not ours stay.
    """
    clean = {name: value for name, value in env.items() if name not in INJECTED}
    preload = clean.pop("LD_PRELOAD", "")
    kept = [p for p in preload.replace(" ", ":").split(":") if p and not is_injected(Path(p))]
    if kept:
        clean["LD_PRELOAD"] = ":".join(kept)
    search = clean.pop("LD_LIBRARY_PATH", "")
    kept = [p for p in search.split(":") if p and not (Path(p) / MARKER).exists()]
    if kept:
        clean["LD_LIBRARY_PATH"] = os.pathsep.join(kept)
    return clean
