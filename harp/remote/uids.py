# SPDX-License-Identifier: Apache-2.0
"""Users of their own for leases: uids out of a range, each as long as possible after its last use.

The default range is one that nobody is known to use: above the containers of systemd-nspawn, which
end at 1879048191 (systemd's UIDS-GIDS document), and the subordinate uids of useradd (600100000);
below 2147483648, from where on some take a uid for negative. An account in it is left out.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from harp.errors import ConfigError, DaemonError

__all__ = ["DEFAULT", "Range", "Uids", "lock_dir", "parse"]

_LOWEST = 1000
_HIGHEST = (1 << 32) - 2
_LOCK_DIRS = ("/run/lock", "/var/lock", "/dev/shm", "/tmp")  # noqa: S108 - see _open
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Range:
    """Uids from `first` to `last`, both of them too."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def __contains__(self, uid: int) -> bool:
        return self.first <= uid <= self.last


DEFAULT = Range(0x70000000, 0x7000FFFF)


def parse(text: str) -> Range | None:
    """A range as a user writes it; None: "none".

    Raises:
        ConfigError: it is no range, or has uids of the system's own.

    >>> str(parse("70000-70999"))
    '70000-70999'
    """
    if text == "none":
        return None
    found = re.fullmatch(r"([0-9]{1,10})-([0-9]{1,10})", text)
    if found is None:
        raise ConfigError(f"{text!r} is no range of uids", "write FIRST-LAST, or none")
    first, last = map(int, found.groups())
    if not _LOWEST <= first <= last <= _HIGHEST:
        raise ConfigError(
            f"the uids {text} do not lie in {_LOWEST}-{_HIGHEST}, the lower one first",
            f"leave them out for {DEFAULT}",
        )
    return Range(first, last)


class Uids:
    """Those of one process. What others of this host have is left to them.

    Args:
        uids: the range.
        locks: folder of the host's locks: who serves there as well takes others.
        proc: where the host's processes are seen.

    Raises:
        ConfigError: they are none of this user namespace, or the locks are another user's.
    """

    def __init__(self, uids: Range, locks: Path, proc: Path = _PROC) -> None:
        self._range = uids
        self._proc = proc
        if not _mapped(uids, proc):
            raise ConfigError(
                f"the uids {uids} are not all there in this user namespace",
                f"name some of {proc}/self/uid_map with --worker-uids FIRST-LAST, or none",
            )
        self._taken: set[int] = set()
        self._next = uids.first  #: who had the one before may have left something
        self._taking = threading.Lock()
        #: {uid: it is an account's}; asking may take a directory server's time
        self._accounts: dict[int, bool] = {}
        self._locks = _open(locks / "harp-worker-uids.lock")

    def take(self) -> int:
        """The next that is nobody's; from any thread.

        Raises:
            DaemonError: there is none.
        """
        with self._taking:
            busy = self._taken | self._running()
            first, after = self._range.first, self._range.last + 1
            for uid in chain(range(self._next, after), range(first, self._next)):
                if uid not in busy and not self._account(uid) and self._lock(uid):
                    self._taken.add(uid)
                    self._next = uid + 1
                    return uid
        raise DaemonError(
            f"all uids of {self._range} are in use", "wait, or serve with more: --worker-uids"
        )

    def give_back(self, uid: int) -> None:
        """It is free once its last process has ended."""
        self._taken.discard(uid)
        fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, uid)

    @contextlib.contextmanager
    def unused(self, uid: int) -> Iterator[bool]:
        """Whether it is one of ours that no service of this host uses; none does meanwhile."""
        found = uid in self._range and uid not in self._taken and not self._account(uid)
        found = found and self._lock(uid)
        try:
            yield found
        finally:
            if found:
                fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, uid)

    def close(self) -> None:
        """Give all back."""
        os.close(self._locks)

    def _running(self) -> set[int]:
        """Those of the range that a process has, in whatever role."""
        found: set[int] = set()
        for entry in self._proc.glob("[0-9]*/status"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                lines = entry.read_text(errors="replace").splitlines()
                told = {name: words.split() for name, _, words in (x.partition(":") for x in lines)}
                # Of one that has ended, and whose parent does not ask, one thread is left to see.
                if told["State"][0] != "Z" or int(told["Threads"][0]) > 1:
                    found.update(uid for uid in map(int, told["Uid"]) if uid in self._range)
        return found

    def _account(self, uid: int) -> bool:
        if uid not in self._accounts:
            try:
                pwd.getpwuid(uid)
            except KeyError:
                self._accounts[uid] = False
            else:
                self._accounts[uid] = True
        return self._accounts[uid]

    def _lock(self, uid: int) -> bool:
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, uid)
        except (BlockingIOError, PermissionError):
            return False
        return True


def lock_dir(asked: str) -> Path:
    """Where this host's locks lie; the arbiter looks there for those of devices."""
    fitting = (path for path in _LOCK_DIRS if os.access(path, os.W_OK | os.X_OK))
    return Path(asked or next(fitting, "/tmp"))  # noqa: S108 - see _open


def _open(path: Path) -> int:
    """One byte a uid is locked; the file itself stays empty, and stays."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot open {path}: {error.strerror}", "remove it") from error
    if os.fstat(fd).st_uid != os.geteuid():
        os.close(fd)
        raise ConfigError(f"{path} is another user's, who could keep uids from us", "remove it")
    return fd


def _mapped(uids: Range, proc: Path) -> bool:
    """Whether this user namespace has them all."""
    next_uid = uids.first
    lines = (proc / "self" / "uid_map").read_text().splitlines()
    for first, _, count in sorted(tuple(map(int, line.split())) for line in lines):
        if first <= next_uid < first + count:
            next_uid = first + count
    return next_uid > uids.last
