# SPDX-License-Identifier: Apache-2.0
"""How a process that is not our child ended, and when.

A pidfd tells the moment. The status is read from the process itself while it is a zombie (proc(5):
field 52 of stat, for who may look into it), and after its parent has taken it from the pidfd
(PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15). Where neither is to be had it is not known.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from harp.procs import start_of

__all__ = ["Exits", "Left"]

#: linux/pidfd.h: struct pidfd_info as it was first (64 bytes), _IOWR(0xFF, 11, struct pidfd_info)
_INFO = struct.Struct("=QQ11Ii")
_GET_INFO = 3 << 30 | _INFO.size << 16 | 0xFF << 8 | 11
_INFO_EXIT = 1 << 3
#: descriptors kept for this: of more tenants at once the status is not known
_MOST = 400


@dataclass(frozen=True, slots=True)
class Left:
    """A process's end."""

    at_s: float  #: wall clock
    status: int | None  #: exit status, or the signal, negative; None: not known


@dataclass(slots=True)
class _Root:
    fd: int
    pid: int
    start: int
    at_s: float | None = None
    status: int | None = None


class Exits:
    """Root processes of tenants. On the event loop."""

    def __init__(self) -> None:
        #: {tenant_id: its root process}
        self._roots: dict[int, _Root] = {}

    def watch(self, tenant_id: int, pid: int, start: int) -> None:
        """From now on; one that is gone already is not."""
        self.forget(tenant_id)
        if len(self._roots) >= _MOST:
            return
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return
        if start_of(pid) != start:
            os.close(fd)  # the number is another's by now
            return
        root = self._roots[tenant_id] = _Root(fd, pid, start)
        asyncio.get_running_loop().add_reader(fd, self._left, root)

    def of(self, tenant_id: int) -> Left | None:
        """How a tenant's root process ended; None: it lives, or is not watched."""
        root = self._roots.get(tenant_id)
        if root is None:
            return None
        if root.at_s is None:
            if start_of(root.pid) == root.start:
                return None
            self._left(root)
        if root.status is None:
            root.status = _status(root)
        assert root.at_s is not None
        return Left(root.at_s, root.status)

    def forget(self, tenant_id: int) -> None:
        """It is not watched any more."""
        root = self._roots.pop(tenant_id, None)
        if root is not None:
            asyncio.get_running_loop().remove_reader(root.fd)
            os.close(root.fd)

    def close(self) -> None:
        """None is watched any more."""
        for tenant_id in list(self._roots):
            self.forget(tenant_id)

    def _left(self, root: _Root) -> None:
        asyncio.get_running_loop().remove_reader(root.fd)
        if root.at_s is None:
            root.at_s = time.time()
            root.status = _status(root)


def _status(root: _Root) -> int | None:
    raw = bytearray(_INFO.pack(_INFO_EXIT, *[0] * 12, 0))
    with contextlib.suppress(OSError):  # an older kernel
        fcntl.ioctl(root.fd, _GET_INFO, raw)
        told = _INFO.unpack(raw)
        if told[0] & _INFO_EXIT:
            return os.waitstatus_to_exitcode(told[-1])
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{root.pid}/stat").read_bytes().rpartition(b")")[2].split()
        if fields[0] == b"Z" and int(fields[19]) == root.start:
            return _seen(root.pid, int(fields[49]))
    return None


def _seen(pid: int, code: int) -> int | None:
    """To who may not look into it a process's status is 0, whatever it was."""
    uid = os.geteuid()
    if uid not in (0, Path(f"/proc/{pid}").stat().st_uid):
        return None
    return os.waitstatus_to_exitcode(code)
