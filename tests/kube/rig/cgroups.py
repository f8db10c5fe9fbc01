# SPDX-License-Identifier: Apache-2.0
"""The rig's control groups: every process of it is in them, so none can be left behind.

What the rig starts is put into ROOT/rig before it is executed; its children (containerd's shims)
are there by inheritance, and containers are below ROOT/<node>, where kubelet makes their groups.
Whoever cleans up ends what is in ROOT, by pid, and knows of no other process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

__all__ = ["ROOT", "end_all", "make", "members", "of_pod", "spawn_prefix"]

ROOT = "harp-kube"
_MOUNT = Path("/sys/fs/cgroup")
_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids")
_KILL_S = 20.0


def _unified() -> bool:
    return (_MOUNT / "cgroup.controllers").exists()


def _hierarchies() -> list[Path]:
    """Where controllers are mounted: one folder with version 2, one each with version 1."""
    if _unified():
        return [_MOUNT]
    names = (*_CONTROLLERS, "systemd")
    return [_MOUNT / name for name in names if (_MOUNT / name).is_dir()]


def make(*groups: str) -> None:
    """Make ROOT and these groups below it, fit for kubelet to make its own in them."""
    for base in _hierarchies():
        for folder in (base / ROOT, *(base / ROOT / group for group in groups)):
            folder.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                file = folder / name
                if not _unified() and file.exists() and not file.read_text().strip():
                    file.write_text((folder.parent / name).read_text())
            if _unified() and folder.name != "rig":
                there = (folder.parent / "cgroup.controllers").read_text().split()
                for controller in there:
                    with contextlib.suppress(OSError):
                        (folder.parent / "cgroup.subtree_control").write_text(f"+{controller}")


def spawn_prefix() -> list[str]:
    """Command line in front of a program that is to be one of the rig's processes."""
    base = _MOUNT if _unified() else _MOUNT / "pids"
    procs = base / ROOT / "rig" / "cgroup.procs"
    return ["sh", "-c", f'echo $$ >"{procs}" && exec "$@"', "rig"]


def members() -> set[int]:
    """Pids of all processes of the rig."""
    found = set[int]()
    for base in _hierarchies():
        for folder, _, _ in os.walk(base / ROOT):
            with contextlib.suppress(OSError):
                found.update(map(int, (Path(folder) / "cgroup.procs").read_text().split()))
    return found


def end_all() -> None:
    """End every process of the rig and take the groups away.

    Raises:
        TimeoutError: something does not end.
    """
    deadline = time.monotonic() + _KILL_S
    while pids := members():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {sorted(pids)} of the rig do not end")
        time.sleep(0.05)
    for base in _hierarchies():
        for folder, _, _ in os.walk(base / ROOT, topdown=False):
            _remove(Path(folder), deadline)


def _remove(folder: Path, deadline: float) -> None:
    while folder.exists():  # busy until the kernel has done with the dead
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def of_pod(uid: str) -> set[int]:
    """Pids of a pod's processes."""
    base = _MOUNT if _unified() else _MOUNT / "pids"
    found = set[int]()
    for folder, _, _ in os.walk(base / ROOT):  # groups go while we look
        if f"/pod{uid}" in folder:
            with contextlib.suppress(OSError):
                found.update(map(int, (Path(folder) / "cgroup.procs").read_text().split()))
    return found
