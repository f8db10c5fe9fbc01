# SPDX-License-Identifier: Apache-2.0
"""A lease's own folder, and its own user where root serves.

    HOME/arbiter.sock, shim.log   its tenant's: the folder is the grant (harp/daemon/service.py)
    HOME/images                   modules that its processes have put
    HOME/cache                    where the driver and the compiler of kernels keep theirs

A folder is its user's with mode 0700. Where that is another one, all above it are passable for
everybody and only root's to change: a worker loads libraries from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import stat
import subprocess
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harp.errors import ConfigError, DaemonError
from harp.inject import Backing, shim_dir, soft_dir
from harp.native import NativeDir
from harp.profile import make as make_profile
from harp.remote import clearing
from harp.remote.uids import Uids
from harp.rundir import check_socket

__all__ = ["Home", "Homes", "passable", "serving_folder"]

_BACKLOG = 128
#: a process that a lease's own processes have stopped or killed is started again
_KILLS = 5
_KILL_S = 5.0
#: what is left by then is deleted later
_CLEAR_S = 10.0
#: that end and delete at a time: many leases may end together
_CHILDREN = 8


@dataclass(frozen=True, slots=True)
class Home:
    """What a lease has of this host beside its share."""

    folder: Path
    uid: int = 0  #: of its processes; 0: ours

    def environment(self) -> dict[str, str]:
        """Of its workers, beside what makes them a tenant's."""
        found = {"HARP_WORKER_IMAGES": str(self.folder / "images")}
        if self.uid:
            cache = str(self.folder / "cache")
            found |= dict.fromkeys(("HOME", "XDG_CACHE_HOME", "TMPDIR"), cache)
            found["HARP_WORKER_USER"] = str(self.uid)
        return found


class Homes:
    """Those of one service.

    Args:
        folder: where they lie; swept by whoever serves next.
        libraries: below it are the folders of libraries that workers load.
        native: the built files.
        uids: users for them; None: all are ours.
    """

    def __init__(self, folder: Path, libraries: Path, native: NativeDir, uids: Uids | None) -> None:
        self._folder = folder
        self._libraries = libraries
        self._native = native
        self._uids = uids
        self._children = asyncio.Semaphore(_CHILDREN)

    def shim(self) -> Path:
        """The folder of the injected libraries."""
        return self._for_all(shim_dir(self._native, self._libraries))

    def soft(self) -> Backing:
        """The software GPU's libraries."""
        found = soft_dir(self._native, self._libraries)
        self._for_all(found.cuda.parent)
        return found

    @contextlib.contextmanager
    def make(self) -> Iterator[tuple[Home, socket.socket]]:
        """A new one, and its listening socket until it is handed in. Removing it is the caller's.

        Raises:
            DaemonError: no uid is free, or no folder can be made.
            RunDirUnsafe: its path is too long.
        """
        folder = self._folder / secrets.token_hex(4)
        path = folder / "arbiter.sock"
        short = "HARP_RUN" if self._uids else "XDG_RUNTIME_DIR"
        check_socket(path, f"set {short} to a shorter path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as sock:
            home = Home(folder, self._uids.take() if self._uids else 0)
            try:
                _furnish(home, path, sock)
            except OSError as error:
                shutil.rmtree(folder, ignore_errors=True)  # nobody else has been there
                self._give_back(home)
                raise DaemonError(f"cannot make {folder}: {error.strerror}") from error
            yield home, sock

    async def end(self, home: Home) -> None:
        """End all processes of its user; those of a plain user's lease end with their sessions.

        Raises:
            DaemonError: one may be left.
        """
        if not self._uids or not home.uid:
            return
        for _ in range(_KILLS):
            async with self._children:
                status = await _cleared(_KILL_S, "kill", home.uid)
            if status == 0:
                return
        raise DaemonError(f"processes of uid {home.uid} cannot be ended")

    async def remove(self, home: Home) -> None:
        """Its processes have ended, or have nothing any more.

        Raises:
            DaemonError: some of it is left; its user is not free then.
        """
        async with self._children:
            status = await _cleared(_CLEAR_S, "clear", home.uid, home.folder)
        if status != 0:
            raise DaemonError(f"{home.folder} is not deleted yet")
        with contextlib.suppress(FileNotFoundError):
            home.folder.rmdir()
        self._give_back(home)

    def _give_back(self, home: Home) -> None:
        if self._uids and home.uid:
            self._uids.give_back(home.uid)

    def check(self, environment: Mapping[str, str]) -> None:
        """Whether its user reaches what a worker opens.

        Raises:
            ConfigError: not so.
        """
        if self._uids:
            for name, within in (("HARP_CUDA_REAL", ""), ("HARP_SOFT_DIR", "state")):
                if name in environment:
                    passable(Path(environment[name], within))

    def _for_all(self, folder: Path) -> Path:
        """Whatever the umask."""
        if self._uids:
            for path in (folder, folder.parent):
                path.chmod(0o755)
        return folder


def _furnish(home: Home, path: Path, sock: socket.socket) -> None:
    inner = [home.folder / name for name in (("images", "cache") if home.uid else ("images",))]
    for folder in (home.folder, *inner):
        folder.mkdir(mode=0o700)
    sock.bind(str(path))
    sock.listen(_BACKLOG)
    make_profile(home.folder, home.uid or None)
    if home.uid:
        for its in (path, *inner, home.folder):
            os.chown(its, home.uid, home.uid)


def passable(path: Path, owner: int | None = None) -> None:
    """Whether other users can go through all folders above, and `owner` alone can change them.

    Raises:
        ConfigError: the first folder where not.
    """
    for folder in reversed(path.resolve().parents):
        try:
            found = folder.stat()
        except FileNotFoundError:
            return
        if not found.st_mode & stat.S_IXOTH:
            raise ConfigError(
                f"workers run as users of their own, who cannot enter {folder}: {path} is below",
                f"chmod o+x {folder}, or serve with --worker-uids none",
            )
        others = stat.S_IWOTH | (stat.S_IWGRP if found.st_gid else 0)
        if found.st_mode & stat.S_ISVTX:
            others = 0  # what lies there is its owner's to move
        if owner is not None and (found.st_uid != owner or found.st_mode & others):
            raise ConfigError(
                f"{folder} is not root's alone (uid {found.st_uid}, mode"
                f" {stat.S_IMODE(found.st_mode):o}): workers would load libraries from below it",
                "let HARP_RUN name another folder, or serve with --worker-uids none",
            )


@contextlib.contextmanager
def serving_folder(base: Path, mode: int, uids: Uids | None = None) -> Iterator[Path]:
    """A folder of this process's in `base`; those of the killed are swept.

    Args:
        base: made if need be.
        mode: of both.
        uids: users that leases may have had.
    """
    base.mkdir(mode=mode, exist_ok=True)
    base.chmod(mode)  # whatever the umask
    folder = base / f"serve-{os.getpid()}"
    with contextlib.ExitStack() as held:
        with _locked(base, fcntl.LOCK_EX):  # nobody sweeps what is not locked yet
            for old in base.iterdir():
                with contextlib.suppress(OSError), _locked(old, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    _sweep(old, uids)
            while folder.exists():  # of one with our pid, and could not be deleted
                folder = folder.with_name(f"{folder.name}+")
            folder.mkdir(mode=mode)
            held.callback(_sweep, folder, uids)
            held.enter_context(_locked(folder, fcntl.LOCK_EX))
            folder.chmod(mode)
        yield folder


def _sweep(folder: Path, uids: Uids | None) -> None:
    """Delete a service's folder; each lease's as its user, whose processes go first.

    What cannot be deleted is left.
    """
    for path in folder.iterdir():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            found = path.lstat()
            if not stat.S_ISDIR(found.st_mode):
                path.unlink()
                continue
            uid = found.st_uid if os.geteuid() == 0 else 0
            with uids.unused(uid) if uids else contextlib.nullcontext(False) as ours:  # noqa: FBT003
                if ours:
                    _run(_KILL_S, "kill", uid)
                _run(_CLEAR_S, "clear", uid, path)
            path.rmdir()
    with contextlib.suppress(OSError):
        folder.rmdir()


def _run(patience_s: float, what: str, uid: int, *folders: Path) -> None:
    command = _command(what, uid, *folders)
    subprocess.run(command, check=True, timeout=patience_s, stdin=DEVNULL, stderr=DEVNULL, cwd="/")


def _command(what: str, uid: int, *folders: Path) -> list[str]:
    return [sys.executable, "-I", "-S", clearing.__file__, what, str(uid), *map(str, folders)]


async def _cleared(patience_s: float, what: str, uid: int, *folders: Path) -> int:
    """How clearing.py ended."""
    process = await asyncio.create_subprocess_exec(
        *_command(what, uid, *folders), stdin=DEVNULL, stderr=DEVNULL, cwd="/"
    )
    try:
        async with asyncio.timeout(patience_s):
            return await process.wait()
    except TimeoutError:
        return -1
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@contextlib.contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    """Hold its lock; BlockingIOError: somebody has it."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)
