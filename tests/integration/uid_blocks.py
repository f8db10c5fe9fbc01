# SPDX-License-Identifier: Apache-2.0
"""Users for the leases of each node that a test serves.

Machines of tests have locks of their own, and one host's uids: two nodes that do not know of each
other would give their leases the same one, and whoever's lease ends first ends the processes of
both. So each node has some that no other test has, in whatever process that runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat

from harp.remote.uids import DEFAULT, Range, lock_dir

__all__ = ["UidBlock"]

_LOCKS = lock_dir("") / "harp-test-uids.lock"
_BLOCK = 64
_BLOCKS = (DEFAULT.last + 1 - DEFAULT.first) // _BLOCK
#: of this process: the file is never closed, which would let go of all
_fd = -1
_mine: set[int] = set()


class UidBlock:
    """Some uids, until close()."""

    def __init__(self) -> None:
        self._number = next(n for n in range(_BLOCKS) if n not in _mine and _locked(n))
        _mine.add(self._number)

    @property
    def range(self) -> Range:
        first = DEFAULT.first + self._number * _BLOCK
        return Range(first, first + _BLOCK - 1)

    def close(self) -> None:
        if self._number in _mine:
            _mine.remove(self._number)
            fcntl.lockf(_fd, fcntl.LOCK_UN, 1, self._number)


def _locked(number: int) -> bool:
    global _fd  # noqa: PLW0603 - one a process
    if _fd < 0:
        _fd = os.open(_LOCKS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        assert stat.S_ISREG(os.fstat(_fd).st_mode)
    with contextlib.suppress(BlockingIOError, PermissionError):
        fcntl.lockf(_fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        return True
    return False
