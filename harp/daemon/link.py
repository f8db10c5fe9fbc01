# SPDX-License-Identifier: Apache-2.0
"""harpd's end of the arbiter: start it if none runs, connect, and say when it is gone.

The arbiter is a child only in name: it has its own session, its output goes to its own log, and it
outlives harpd. A new harpd finds it by its socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import structlog

from harp.config import TimeConfig
from harp.errors import ArbiterError
from harp.lease_admin import AdminClient
from harp.lease_wire import Msg, Op
from harp.native import NativeDir, scrub
from harp.rundir import RunDir

__all__ = ["ArbiterLink", "deaf_socket", "listening_socket", "time_arguments", "time_of"]

_log = structlog.get_logger(__name__)
#: tenants' new memory waits meanwhile
_POLL_S = 0.002
#: harp-arbiter's options for its time settings
_TIME_OPTIONS = {"policy": "--policy", "quantum_us": "--quantum-us", "burst_us": "--burst-us"}


class ArbiterLink:
    """Keeps one AdminClient for the rest of harpd."""

    def __init__(
        self,
        run_dir: RunDir,
        native: NativeDir,
        timeout_s: float,
        env: Mapping[str, str],
        time: TimeConfig | None = None,
    ) -> None:
        self._time = time or TimeConfig()
        self._run_dir = run_dir
        self._native = native
        self._timeout_s = timeout_s
        self._env = env
        #: called with each EVENT_*; set before open()
        self.on_event: Callable[[Msg], None] = lambda _message: None
        self._client: AdminClient | None = None
        #: the arbiter we started, to be reaped if it ends before us
        self._child: asyncio.subprocess.Process | None = None
        #: arbiters started by this harpd
        self.started_count = 0
        self.pid = 0
        #: pidfd of it
        self._handle: int | None = None

    @property
    def client(self) -> AdminClient:
        """The connection.

        Raises:
            ArbiterError: there is none at the moment.
        """
        if self._client is None or self._client.lost.is_set():
            raise ArbiterError(
                "the arbiter is being restarted", f"try again; see {self._run_dir.arbiter_log}"
            )
        return self._client

    async def open(self) -> AdminClient:
        """Connect, to an arbiter that runs or to a new one. The caller runs its pump().

        Raises:
            ArbiterError: none could be started.
        """
        try:
            client = await AdminClient.connect(self._run_dir.admin, self._timeout_s)
        except ArbiterError:
            await self._ended()
            client = await self._start()
        client.on_event = self.on_event
        self.pid = client.peer_pid()
        self._client = client
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        with contextlib.suppress(OSError):  # it has ended already
            self._handle = os.pidfd_open(self.pid)
        return client

    def time_in_force(self) -> TimeConfig:
        """Time settings of the arbiter that runs, which may be older than we.

        Defaults if it is gone.
        """
        return time_of(self.pid)

    def time_stale(self) -> str:
        """Our settings that the arbiter was not started with, in words; "" if there are none."""
        ours, theirs = asdict(self._time), asdict(self.time_in_force())
        return ", ".join(
            f"time.{name} is {theirs[name]}, set is {ours[name]}"
            for name in ours
            if ours[name] != theirs[name]
        )

    async def hand_over(self) -> list[Msg]:
        """End the arbiter for another one; returns what it knew last (SNAP_*).

        Raises:
            ArbiterError: the program that would follow does not run; nothing was done.
        """
        program = self._native.arbiter
        try:
            trial = await asyncio.create_subprocess_exec(
                str(program), "--help", stdout=asyncio.subprocess.DEVNULL, cwd="/"
            )
            status = await trial.wait()
        except OSError as error:
            raise ArbiterError(f"{program} cannot be run: {error}", "install it again") from error
        if status != 0:
            raise ArbiterError(f"{program} --help ended with {status}", "install it again")
        return await self.client.hand_over()

    async def shutdown(self) -> None:
        """End the arbiter."""
        await self.client.request(Msg(op=Op.SHUTDOWN))
        if self._child is not None:
            async with asyncio.timeout(self._timeout_s):
                await self._child.wait()

    async def _ended(self) -> None:
        """Wait for the end of the arbiter before, which holds the run folder's lock till then."""
        if self._handle is None:
            return
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._handle, ended.set)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout_s):
                    await ended.wait()
        finally:
            loop.remove_reader(self._handle)

    async def _start(self) -> AdminClient:
        log_path = self._run_dir.arbiter_log
        program = self._native.arbiter
        with log_path.open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                str(program),
                "--run",
                str(self._run_dir.path),
                *time_arguments(self._time),
                env={**scrub(self._env), "HARP_RUN": str(self._run_dir.path)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )
        self.started_count += 1
        _log.info("arbiter_started", pid=self._child.pid, program=str(program))
        try:
            async with asyncio.timeout(self._timeout_s):
                while self._child.returncode is None:
                    try:
                        return await AdminClient.connect(self._run_dir.admin, self._timeout_s)
                    except ArbiterError:
                        await asyncio.sleep(_POLL_S)
        except TimeoutError:
            pass
        raise ArbiterError(
            f"{program} was not ready within {self._timeout_s:g} s"
            f" (exit status {self._child.returncode}): {_last_line(log_path)}",
            f"see {log_path}",
        )


def time_arguments(settings: TimeConfig) -> list[str]:
    """`settings` on harp-arbiter's command line."""
    return [
        word
        for name, option in _TIME_OPTIONS.items()
        for word in (option, str(getattr(settings, name)))
    ]


def time_of(pid: int) -> TimeConfig:
    """The settings that a process was started with; defaults for what it was not told."""
    try:
        words = (Path("/proc") / str(pid) / "cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return TimeConfig()
    said = {
        name: type(getattr(TimeConfig(), name))(words[words.index(option) + 1])
        for name, option in _TIME_OPTIONS.items()
        if option in words[:-1]
    }
    return replace(TimeConfig(), **said)


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def listening_socket(path: Path, uid: int, *, for_all: bool = False) -> socket.socket | None:
    """Bind a tenant's socket anew, for an arbiter that came while nobody had the old one open.

    In another user's folder only root can. The folder stays the one that was looked at, whatever
    its owner does to the path, and nothing in it is opened, followed or given away.

    Args:
        path: where.
        uid: whose folder it is.
        for_all: any uid may connect that gets there.

    Returns:
        None if the folder is not the tenant's (any more): then its clients cannot come back.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except (OSError, ValueError):  # ValueError: no name at all
        return None
    try:
        if os.fstat(folder).st_uid != uid or os.geteuid() not in (uid, 0):
            return None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        # The folder's mode keeps others out, or the mode of the one around it.
        before = os.umask(0 if for_all or uid != os.geteuid() else 0o077)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path.name, dir_fd=folder)
            sock.bind(f"/proc/self/fd/{folder}/{path.name}")
            sock.listen(128)
        except OSError:
            sock.close()
            return None
        finally:
            os.umask(before)
        return sock
    finally:
        os.close(folder)


@contextlib.contextmanager
def deaf_socket(folder: Path) -> Iterator[socket.socket]:
    """A listening socket that nobody can reach."""
    path = folder / "deaf.sock"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(path))
        path.unlink()
        sock.listen()
        yield sock
