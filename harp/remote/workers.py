# SPDX-License-Identifier: Apache-2.0
"""Sessions as processes of this node: a file each, which harp-link reads, and a harp-worker each.

The file is there before the client is told of its session; who removes it ends the session; the
session's process holds a lock on it until its worker has ended (native/src/link/many.c).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from harp.errors import DaemonError, DaemonUnreachable
from harp.procs import read, start_of
from harp.remote.events import Lease, Session
from harp.remote.far import Far
from harp.remote.sessions import Worker
from harp.remote.tenants import Tenants
from harp.remote.traffic import Traffic

__all__ = ["Workers", "text_of"]

_log = structlog.get_logger(__name__)
_LOOK_S = 0.02
#: so long a session may outlive its lease: to know what it has is worth no more
_ASK_S = 1.0
#: a session's process that has not ended by then is killed, and its worker with it
_PATIENCE_S = 4.0
#: so long is waited for harpd to see the memory back; its look at the device may take that
_BACK_S = 2.0
#: harp-link reads so much of a file
_FILE_BYTES = 4095


@dataclass(slots=True)
class _Place:
    """A session's file and who serves it."""

    far: Far
    path: Path
    fd: int = -1  #: of the file, once it is taken back: its lock outlives its name


class Workers:
    """See Sessions.

    Args:
        tenants: whose processes the workers are.
        far: who serves clients with certificates; without TLS: all of this machine.
        token_far: who serves those that have none; None: nobody.
        host: by which clients reach this node.
        traffic: who is to know whose sessions are.
    """

    def __init__(
        self, tenants: Tenants, far: Far, token_far: Far | None, host: str, traffic: Traffic
    ) -> None:
        self._tenants = tenants
        self._far = far
        self._token_far = token_far
        self._host = host
        self._traffic = traffic
        #: {session_id: where}
        self._places: dict[str, _Place] = {}

    async def start(self, lease: Lease, session: Session, token: str) -> Worker:
        """Grant it to whoever says `token`; the worker itself starts when its client comes."""
        far = self._far
        if session.by_token and self._token_far is not None:
            far = self._token_far
        if not far.up:
            raise DaemonUnreachable("the node's data side is being started again", "try again")
        path = far.options.sessions / session.session_id
        environment = self._tenants.environment(lease.lease_id)
        names = self._tenants.names()
        self._traffic.begin(session.session_id, self._tenants.name_of(lease.lease_id), names)
        _write(path, text_of(token, environment, session.resume_s))
        self._places[session.session_id] = _Place(far, path)
        return Worker(f"{self._host}:{far.port}", far.options.bulk_streams)

    async def end(self, session: Session, reason: str) -> int:
        """Take it back, and wait for its process and its memory."""
        place = self._places.get(session.session_id)
        if place is None:
            return 0  # the first call was on its way, and did it
        if place.fd < 0:
            place.fd = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        held = None
        try:
            async with asyncio.timeout(_ASK_S):
                held = await self._held_by(session.lease_id, place.far, session.session_id)
        except TimeoutError:
            _log.warning("harpd_slow", session=session.session_id)
        finally:
            place.path.unlink(missing_ok=True)
        if not await _let_go(place.fd, _PATIENCE_S):
            _log.warning("session_killed", session=session.session_id, reason=reason)
            _kill(place.far, session.session_id)
            await _let_go(place.fd, None)
        os.close(place.fd)
        del self._places[session.session_id]
        if session.session_id not in place.far.running:  # else its end is told, after its last word
            self._traffic.ended(session.session_id)
        if held is None:
            return 0
        pid, freed_bytes = held
        with contextlib.suppress(TimeoutError, DaemonError):
            async with asyncio.timeout(_BACK_S):
                while pid in await self._tenants.clients(session.lease_id):  # noqa: ASYNC110 - has no event
                    await asyncio.sleep(_LOOK_S)
        return freed_bytes

    async def tell(self, session: Session, drain_s: float) -> None:
        """Only for the log: its client hears of it with its next Renew."""
        _log.info("session_told", session=session.session_id, drain_s=drain_s)

    async def held(self) -> Mapping[str, int]:
        """See Sessions; nothing of those whose harpd does not answer."""
        by_parent: dict[int, int] = {}
        with contextlib.suppress(DaemonError):
            for pid, held_bytes in (await self._tenants.all_clients()).items():
                worker = read(pid)
                if worker is not None:
                    by_parent[worker.ppid] = held_bytes
        return {
            session_id: by_parent.get(place.far.running.get(session_id, 0), 0)
            for session_id, place in self._places.items()
        }

    async def _held_by(self, lease_id: str, far: Far, session_id: str) -> tuple[int, int] | None:
        """The worker's pid and what it has; None: it has no memory, or nobody knows."""
        serving = far.running.get(session_id)
        if serving is None:
            return None
        try:
            clients = await self._tenants.clients(lease_id)
        except DaemonError:
            return None
        for pid, held_bytes in clients.items():
            worker = read(pid)
            if worker is not None and worker.ppid == serving:
                return pid, held_bytes
        return None


def text_of(token: str, environment: Mapping[str, str], resume_s: float) -> str:
    """A session's file: its token, how long it outlives its connection, its worker's environment.

    Raises:
        DaemonError: it cannot be written so.
    """
    lines = [token, f"resume_s={resume_s:.3f}"]
    lines += [f"{name}={value}" for name, value in sorted(environment.items())]
    text = "".join(f"{line}\n" for line in lines)
    if any("\n" in line or "\0" in line for line in lines):
        raise DaemonError(
            "a variable for the worker has a line break in it",
            "start `harp remote serve` without it: HOME, PATH and the like are handed on",
        )
    if len(text.encode()) > _FILE_BYTES:
        raise DaemonError(
            f"the worker's environment has {len(text.encode())} bytes, {_FILE_BYTES} at most",
            "start `harp remote serve` with a shorter PATH",
        )
    return text


def _write(path: Path, text: str) -> None:
    """Whole or not at all, for nobody but us."""
    fresh = path.with_name(f".{path.name}")  # no session has such a name
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(text)
        fresh.rename(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


async def _let_go(fd: int, patience_s: float | None) -> bool:
    """Whether the session's process has let go of its file in that time; None: wait."""
    try:
        async with asyncio.timeout(patience_s):
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    await asyncio.sleep(_LOOK_S)
                else:
                    return True
    except TimeoutError:
        return False


def _kill(far: Far, session_id: str) -> None:
    """Kill the process that serves a session, if it still is that one."""
    pid = far.running.get(session_id, 0)
    found = read(pid) if pid else None
    if found is None or found.ppid != far.pid or not start_of(pid):
        return
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
