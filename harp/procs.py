# SPDX-License-Identifier: Apache-2.0
"""Processes, as /proc tells them: identity, ancestry, environment.

A pid alone names nobody for long; (pid, start time) does. Start times are in clock ticks since
boot, as the kernel writes them: psutil's `create_time` is the same rounded through a float.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

__all__ = [
    "Proc",
    "all_procs",
    "container_of",
    "environ_of",
    "has_mounted",
    "may_have_environ",
    "memory_of",
    "name_of",
    "read",
    "send_signal",
    "start_of",
    "user_name",
]

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_CONTAINER_ID = re.compile(r"[0-9a-f]{32,}")
#: how often, and how far apart, a process in execve() is looked at; harpd's loop waits meanwhile
_EXEC_TRIES, _EXEC_S = 20, 0.001


@dataclass(frozen=True, slots=True)
class Proc:
    """One process."""

    pid: int
    ppid: int
    session: int
    start: int  #: clock ticks since boot
    zombie: bool
    #: processor time, that of its children it has waited for included; not who it is
    cpu_ticks: int = field(default=0, compare=False)


def read(pid: int) -> Proc | None:
    """The process, or None if there is none."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The name is in parentheses and may contain anything, also ")": the last one closes it.
    fields = text[text.rindex(")") + 2 :].split()
    # proc(5): utime, stime, cutime, cstime are the fields 14 to 17.
    cpu_ticks = int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])
    return Proc(pid, int(fields[1]), int(fields[3]), int(fields[19]), fields[0] in "ZX", cpu_ticks)


def memory_of(pid: int) -> tuple[int, int]:
    """Bytes of memory that a process has, and those of them that others may have as well.

    psutil's memory_info() reads the same file, at five times the cost.
    """
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:  # noqa: PTH123 - as in all_procs()
            words = file.read(256).split()
    except OSError:
        return 0, 0
    return int(words[1]) * _PAGE_BYTES, int(words[2]) * _PAGE_BYTES


def start_of(pid: int) -> int:
    """Start time of a living process; 0 if there is none, or it is a zombie."""
    found = read(pid)
    return found.start if found and not found.zombie else 0


def all_procs() -> dict[int, Proc]:
    """Every process there is, by pid."""
    found = {}
    for entry in os.listdir(_PROC):  # noqa: PTH208 - runs every second; iterdir costs 4x
        if entry.isdigit():
            one = read(int(entry))
            if one is not None:
                found[one.pid] = one
    return found


def environ_of(pid: int, name: str) -> str | None:
    """A variable of the environment the process started with; None if unset or not to be seen."""
    prefix = os.fsencode(name) + b"="
    for entry in _environ(_PROC / str(pid)).split(b"\0"):
        if entry.startswith(prefix):
            return os.fsdecode(entry.removeprefix(prefix))
    return None


def has_mounted(pid: int, folder: str, inside: str = "opt/harp/grant") -> bool:
    """Whether a process sees a folder of ours at the place where containers have their grant.

    Unlike its environment that is nothing a process could write. Only root gets to see it.
    """
    try:
        theirs, ours = (_PROC / str(pid) / "root" / inside).stat(), Path(folder).stat()
    except OSError:
        return False
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)


def may_have_environ(process: Path) -> bool:
    """Whether a process that /proc showed without an environment may have one all the same.

    In execve() a process has a new address space, and its environment is empty until the kernel has
    laid it out: proc(5) has env_end, the 51st field of stat, at 0 so long. By now that may be over;
    then there is something between env_start and env_end. A kernel's thread and a zombie have no
    address space at all: vsize, the 23rd, is 0.

    Args:
        process: its folder in /proc.

    Raises:
        OSError: it is gone.
    """
    fields = (process / "stat").read_bytes().rpartition(b")")[2].split()
    vsize, env_start, env_end = (int(fields[i]) for i in (20, 47, 48))
    return vsize > 0 and (env_end == 0 or env_end > env_start)


def _environ(process: Path) -> bytes:
    for _ in range(_EXEC_TRIES):
        try:
            found = (process / "environ").read_bytes()
            if found or not may_have_environ(process):
                return found
        except OSError:  # it is gone, or not to be seen
            break
        time.sleep(_EXEC_S)
    return b""


def container_of(pid: int) -> str:
    """Its control group, if that is a container's own; "" if not, or not to be seen.

    Container runtimes name the group after the container's id; a plain job shares its group with
    everything else in the login session, which says nothing.
    """
    with contextlib.suppress(OSError):
        for line in (_PROC / str(pid) / "cgroup").read_text().splitlines():
            if line.startswith("0::") and _CONTAINER_ID.search(line):
                return line[3:]
    return ""


def name_of(pid: int) -> tuple[str, int]:
    """Program name and uid; ("?", -1) if it is gone."""
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        return process.name(), process.uids().real
    return "?", -1


def user_name(uid: int) -> str:
    """Login name, or the uid in digits, or "?" for an unknown one."""
    if uid < 0:
        return "?"
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def send_signal(pid: int, start: int, number: signal.Signals) -> None:
    """Signal exactly the process that started at `start`, never a later one of the same pid.

    Raises:
        ProcessLookupError: it is gone.
        PermissionError: it is another user's.
    """
    fd = os.pidfd_open(pid)
    try:
        # The descriptor pins the process; only now is its start time worth comparing.
        if start_of(pid) != start:
            raise ProcessLookupError(pid)
        signal.pidfd_send_signal(fd, number)
    finally:
        os.close(fd)
