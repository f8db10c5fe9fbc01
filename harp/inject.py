# SPDX-License-Identifier: Apache-2.0
"""Injection: the folders of libraries a tenant loads, and its environment.

A folder's name is the hash of what is in it, so an upgrade makes a new one and no file that some
process has mapped is ever written to. Folders lie in the user's own run folder. One that is not the
current one goes when no process has it mapped or in its environment, where its children find it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harp.errors import DaemonError, RunDirUnsafe
from harp.native import MARKER, NativeDir, driver_paths, scrub
from harp.procs import may_have_environ

__all__ = [
    "FROM_DAEMON",
    "Backing",
    "driver_backing",
    "remote_env",
    "shim_dir",
    "soft_dir",
    "tenant_env",
]

#: a folder handed out so lately may be on its way into a process that does not show it yet
_FRESH_S = 60.0
#: what we put beside a folder of libraries: others, and what is being made or removed
_OURS = re.compile(r"[0-9a-f]{16}|\.(new|gone)-.+")
#: how often, and how far apart, a process in execve() is looked at
_EXEC_TRIES, _EXEC_S = 100, 0.001


@dataclass(frozen=True, slots=True)
class Backing:
    """The driver libraries that a tenant's calls end in."""

    cuda: Path
    nvml: Path


#: what harpd may say of a tenant's environment; anything else it says is not taken
FROM_DAEMON = (
    "HARP_SOFT_DIR",
    "HARP_SOFT_DEVICES",
    "HARP_SOFT_TEARDOWN_MS",
    "HARP_SOFT_SLICE_US",
    "HARP_SOFT_SWITCH_US",
)


def driver_backing(env: Mapping[str, str], uid: int, cuda: str, nvml: str) -> Backing:
    """The real driver's libraries.

    A daemon of another plain user may not say which files our processes load.

    Args:
        env: where we look for them ourselves.
        uid: the daemon's.
        cuda: the paths that it says.
        nvml: the same.

    Raises:
        DaemonError: it may not, and none are found from here.
    """
    if uid in (0, os.geteuid()):
        return Backing(Path(cuda), Path(nvml))
    paths = driver_paths(env)
    if paths.cuda is None or paths.nvml is None:
        raise DaemonError(
            "harpd serves an NVIDIA GPU, but no driver library is found from here",
            "see `harp doctor`, or set HARP_CUDA_REAL and HARP_NVML_REAL",
        )
    return Backing(paths.cuda, paths.nvml)


def shim_dir(native: NativeDir, base: Path, *, keep_old: bool = False) -> Path:
    """Make the folder of injected libraries under `base` and return it.

    Args:
        native: what is built.
        base: the folder of such folders.
        keep_old: other versions stay although no process of ours is seen to use them: containers
            do, under other paths, and will again when they start again.
    """
    cuda, nvml = native.libharp, native.libharp_nvml
    return _content_folder(
        base / "shim",
        {"libcuda.so.1": cuda, "libnvidia-ml.so.1": nvml},
        {"libcuda.so": "libcuda.so.1", "libnvidia-ml.so": "libnvidia-ml.so.1"},
        marker=True,
        keep_old=keep_old,
    )


def soft_dir(native: NativeDir, base: Path, *, keep_old: bool = False) -> Backing:
    """Make the folder of the software GPU's libraries under `base`; see shim_dir()."""
    folder = _content_folder(
        base / "soft",
        {
            "libcuda.so.1": native.soft_cuda,
            "libnvidia-ml.so.1": native.soft_nvml,
            "harp-ptxc": native.ptxc,
        },
        {"libcuda.so": "libcuda.so.1", "libnvidia-ml.so": "libnvidia-ml.so.1"},
        marker=False,
        keep_old=keep_old,
    )
    return Backing(folder / "libcuda.so.1", folder / "libnvidia-ml.so.1")


def tenant_env(
    base: Mapping[str, str], *, grant_dir: Path, shim: Path, backing: Backing
) -> dict[str, str]:
    """The environment of a tenant's process: `base` with the injection put first.

    Raises:
        RunDirUnsafe: a path has a character that separates entries of LD_PRELOAD.
    """
    env = _injected(base, shim)
    env["HARP_GRANT"] = str(grant_dir)
    env["HARP_CUDA_REAL"] = str(backing.cuda)
    env["HARP_NVML_REAL"] = str(backing.nvml)
    env.setdefault("HARP_LOG", str(grant_dir / "shim.log"))
    return env


def remote_env(base: Mapping[str, str], *, shim: Path, socket: Path, log: Path) -> dict[str, str]:
    """The same of a process whose GPU is elsewhere: no driver of this host is asked.

    Raises:
        RunDirUnsafe: as tenant_env().
    """
    env = _injected(base, shim)
    env["HARP_REMOTE"] = str(socket)
    env.setdefault("HARP_LOG", str(log))
    return env


def _injected(base: Mapping[str, str], shim: Path) -> dict[str, str]:
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
    return env


def _content_folder(
    base: Path,
    copies: Mapping[str, Path],
    links: Mapping[str, str],
    *,
    marker: bool,
    keep_old: bool,
) -> Path:
    digest = hashlib.sha256()
    for name, source in sorted(copies.items()):
        digest.update(name.encode() + b"\0" + source.read_bytes())
    target = base / digest.hexdigest()[:16]
    if target.is_dir():
        with contextlib.suppress(OSError):  # swept between the two calls: made again below
            os.utime(target)
            _open_to_all(base, target)
            if not keep_old:
                _sweep(base, target)
            return target
    base.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=base) as scratch:
        fresh = Path(scratch) / "x"
        fresh.mkdir()
        for name, source in copies.items():
            shutil.copyfile(source, fresh / name)
            (fresh / name).chmod(0o755)
        for name, goal in links.items():
            (fresh / name).symlink_to(goal)
        if marker:
            (fresh / MARKER).write_text("made by harp run; scrubbed from HARP's own processes\n")
            (fresh / MARKER).chmod(0o644)
        _open_to_all(base, fresh)
        try:
            os.rename(fresh, target)  # noqa: PTH104 - rename(2): fails if the target is not empty
        except OSError:
            if not target.is_dir():
                raise
            # Another `harp run` was faster; its content is the same by name.
    if not keep_old:
        _sweep(base, target)
    return target


def _open_to_all(*folders: Path) -> None:
    """Also under a strict umask: a container's processes may be any user's."""
    for folder in folders:
        if folder.stat().st_mode & 0o777 != 0o755:
            folder.chmod(0o755)


def _sweep(base: Path, current: Path) -> None:
    """Remove what earlier versions left, if nobody uses it any more."""
    now_s = time.time()
    old = []
    for folder in base.iterdir():
        if not _OURS.fullmatch(folder.name):
            continue  # whoever put it there
        with contextlib.suppress(OSError):
            if folder != current and now_s - folder.stat().st_mtime > _FRESH_S:
                old.append(folder)
    if not old:
        return
    used = _used(old)
    for folder in old:
        if folder in used:
            continue
        # Out of the way first: who makes the same folder again meanwhile makes a whole one.
        gone = base / f".gone-{os.getpid()}-{folder.name}"
        with contextlib.suppress(OSError):
            folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _used(folders: list[Path], proc: Path = Path("/proc")) -> set[Path]:
    """Those that a process has mapped or named in its environment.

    Processes that cannot be read are other users', and the folders are in ours; or have made
    themselves unreadable: what they have mapped stays whole, for the kernel keeps the file.
    """
    found: set[Path] = set()
    for process in proc.glob("[0-9]*"):
        text = _held(process)
        if text is None:
            return set(folders)
        found.update(folder for folder in folders if os.fsencode(folder) in text)
    return found


def _held(process: Path) -> bytes | None:
    """What a process has mapped and its environment; None if it is in execve() all the time."""
    for _ in range(_EXEC_TRIES):
        try:
            maps, environ = (process / "maps").read_bytes(), (process / "environ").read_bytes()
            if environ or not may_have_environ(process):
                return maps + environ
        except OSError:  # it ended meanwhile, or see above
            return b""
        time.sleep(_EXEC_S)
    return None
