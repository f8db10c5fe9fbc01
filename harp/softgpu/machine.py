# SPDX-License-Identifier: Apache-2.0
"""A private machine of software GPUs: a folder of state, and the environment that leads there.

The folder is gone afterwards whatever happens: a shell that only waits for this process to end
removes it, so even SIGKILL leaves nothing.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harp.errors import BuildMissing, ConfigError
from harp.native import NativeDir, find, scrub

__all__ = ["DEFAULT_DEVICES", "PROFILES", "SoftGpu", "binaries", "compiler", "software_gpu"]

#: what a device can be; native/soft/gpu/profile.c has their figures
PROFILES = ("h100-80g", "h100-mig-2x40g", "a100-40g", "t4-16g", "h100-mini", "tiny")
DEFAULT_DEVICES = ("h100-80g",)
_MOST_DEVICES = 8
#: settings of another machine lead nowhere here; how long slices last is a wish of whoever asks
_KEPT = ("HARP_SOFT_SLICE_US", "HARP_SOFT_SWITCH_US")

#: names under which programs open the two libraries
_LIBRARIES = {
    "libcuda.so.1": "libcuda.so.1",
    "libcuda.so": "libcuda.so.1",
    "libnvidia-ml.so.1": "libnvidia-ml.so.1",
    "libnvidia-ml.so": "libnvidia-ml.so.1",
}
_MEMORY = "/dev/shm"  # noqa: S108 - state lies in memory where it can
#: waits for its input to end, which it does when the process that holds the other end dies
_REMOVE_LATER = 'trap "" HUP INT TERM; read -r _; rm -rf -- "$1"'


@dataclass(frozen=True)
class SoftGpu:
    """A machine: give `env` to programs that shall see it."""

    folder: Path  #: everything of it; removed in the end
    devices: tuple[str, ...]
    env: Mapping[str, str]
    log: Path | None  #: what the driver refused or failed, one line each; None: not kept

    @property
    def libraries(self) -> Path:
        """Folder of libcuda.so.1 and libnvidia-ml.so.1."""
        return self.folder / "lib"

    def log_text(self) -> str:
        """What the driver has logged so far."""
        return self.log.read_text() if self.log is not None and self.log.exists() else ""


def binaries(env: Mapping[str, str] = os.environ) -> NativeDir:
    """The folder of compiled parts.

    Raises:
        BuildMissing: this installation has none.
    """
    native = find(env)
    for name in ("soft/libcuda.so.1", "soft/libnvidia-ml.so.1", "harp-ptxc"):
        if not (native.path / name).exists():
            raise BuildMissing(
                f"this installation of harp has no software GPU: {native.path / name} is missing",
                "pip install --force-reinstall the wheel for this platform (manylinux, x86_64"
                " or aarch64); in a checkout: deploy/quickstart",
            )
    return native


def compiler(env: Mapping[str, str]) -> str | None:
    """The C compiler that kernels are compiled with; None: no kernel will run."""
    path = env.get("PATH")
    for name in (env.get("HARP_PTXC_CC") or "cc", "gcc", "clang"):
        if found := shutil.which(name, path=path):
            return found
    return None


def check_devices(devices: Sequence[str]) -> tuple[str, ...]:
    """The same, if there can be such devices.

    Raises:
        ConfigError: there is no such profile, or they are too many.
    """
    for name in devices:
        if name not in PROFILES:
            raise ConfigError(f"no device is called {name!r}", f"one of {', '.join(PROFILES)}")
    if len(devices) > _MOST_DEVICES:
        raise ConfigError(f"{len(devices)} devices are too many", f"up to {_MOST_DEVICES}")
    return tuple(devices)


@contextmanager
def software_gpu(
    devices: Sequence[str] = DEFAULT_DEVICES,
    *,
    folder: Path | None = None,
    keep: bool = False,
    verbose: bool = False,
    base: Mapping[str, str] = os.environ,
) -> Iterator[SoftGpu]:
    """Make a machine, and take it away.

    Args:
        devices: names from PROFILES; none: a machine without a GPU.
        folder: where, instead of a new folder in memory; must be empty or not there.
        keep: leave the folder.
        verbose: the driver's log goes to stderr, not into a file of the folder.
        base: environment to start from.

    Raises:
        BuildMissing: this installation has no binaries.
        ConfigError: no such device, or a folder in use.
    """
    native, chosen = binaries(base), check_devices(devices)
    home = _home(folder)
    with ExitStack() as stack:
        if not keep:
            stack.enter_context(_removed(home))
        home.mkdir(mode=0o700, parents=folder is not None, exist_ok=folder is not None)
        libraries = home / "lib"
        libraries.mkdir()
        for name, target in _LIBRARIES.items():
            (libraries / name).symlink_to(native.path / "soft" / target)
        state = home / "state"
        state.mkdir()
        log = None if verbose else home / "log"
        env = {k: v for k, v in scrub(base).items() if k in _KEPT or not k.startswith("HARP_SOFT_")}
        search = [str(libraries), env.get("LD_LIBRARY_PATH", "")]
        env |= {
            "LD_LIBRARY_PATH": os.pathsep.join(p for p in search if p),
            "HARP_PTXC": str(native.ptxc),
            "HARP_NATIVE_DIR": str(native.path),
            "HARP_SOFT_DIR": str(state),
            "HARP_SOFT_DEVICES": ",".join(chosen),
            "HARP_SOFT_VERBOSE": "1" if log is None else str(log),
        }
        yield SoftGpu(home, chosen, env, log)


def _home(folder: Path | None) -> Path:
    if folder is None:
        base = _MEMORY if os.access(_MEMORY, os.W_OK) else tempfile.gettempdir()
        return Path(base) / f"harp-softgpu-{secrets.token_hex(8)}"
    folder = folder.absolute()
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty", "name a folder that is new or empty")
    return folder


@contextmanager
def _removed(home: Path) -> Iterator[None]:
    """Remove the folder at the end, or when this process is no more. It need not be there yet."""
    with subprocess.Popen(
        ["/bin/sh", "-c", _REMOVE_LATER, "sh", str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ):
        try:
            yield
        finally:
            shutil.rmtree(home, ignore_errors=True)
