# SPDX-License-Identifier: Apache-2.0
"""`harp-link far`: the data side of a node, as a child of its control side.

What it says (native/src/link/many.c), a line each:
    ready PORT          it listens
    began SESSION PID   a client has come, and this process serves it
    ended SESSION       that process has ended, and its worker with it
    traffic SESSION ... what it has carried so far (traffic.py)
It ends when its stdin does, however we end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from harp.errors import DaemonError
from harp.remote.traffic import WORD, Traffic

__all__ = ["Far", "FarOptions"]

_log = structlog.get_logger(__name__)
_READY_S = 10.0
_END_S = 5.0
_AGAIN_S = 0.2
_AGAIN_MAX_S = 10.0
#: so long without a fault, and the next one counts as the first
_CALM_S = 60.0


@dataclass(frozen=True, slots=True)
class FarOptions:
    """How to run it."""

    program: Path
    worker: Sequence[str]  #: its command line
    sessions: Path  #: folder of the sessions' files
    host: str  #: where to listen; with brackets if it is an IPv6 address
    port: int  #: 0: any
    tls: Mapping[str, Path] = field(default_factory=dict)  #: {"cert": ..., "key": ..., "ca": ...}
    environment: Mapping[str, str] = field(default_factory=dict)
    bulk_streams: int = 0  #: connections beside a session's own that its large copies may have


class Far:
    """One, started again when it dies. `ended` is called for each session that is over."""

    def __init__(self, options: FarOptions, ended: Callable[[str], None], traffic: Traffic) -> None:
        self.options = options
        self._ended = ended
        self._traffic = traffic
        #: the port; 0 before the first start. It stays the same: clients were told
        self.port = options.port
        #: {session_id: pid of the process that serves it}
        self.running: dict[str, int] = {}
        self._process: Process | None = None

    @property
    def up(self) -> bool:
        """Whether clients are taken."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """Its process; 0: none."""
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Start it, and wait until it listens.

        Raises:
            DaemonError: it does not.
        """
        process = await asyncio.create_subprocess_exec(
            *self._command(),
            stdin=PIPE,
            stdout=PIPE,
            env=dict(self.options.environment),
            start_new_session=True,  # what a terminal sends is for us: sessions end in order
        )
        assert process.stdout is not None
        words: list[bytes] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READY_S):
                words = (await process.stdout.readline()).split()
        if len(words) != 2 or words[0] != b"ready":
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise DaemonError(
                f"harp-link does not listen at {self.options.host}:{self.port}",
                "what it said is above; is the port another program's?",
            )
        self.port = int(words[1])
        self._process = process

    async def keep(self) -> None:
        """Hear what it says; start it again when it has died. Until cancelled; then it ends."""
        loop = asyncio.get_running_loop()
        pause_s = _AGAIN_S
        try:
            while True:
                began_s = loop.time()
                if self._process is not None:
                    await self._hear(self._process)
                    await self._died(self._process)
                if loop.time() - began_s > _CALM_S:
                    pause_s = _AGAIN_S
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _AGAIN_MAX_S)
                try:
                    await self.start()
                except (DaemonError, OSError) as error:
                    _log.error("data_side_not_started", reason=str(error), again_s=pause_s)
                else:
                    _log.info("data_side_started", pid=self.pid, port=self.port)
        finally:
            await self.stop()

    async def stop(self) -> None:
        """End it, and all its sessions."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_END_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def read_again(self) -> None:
        """Have it read its certificate again, as at SIGUSR2 (upgrade.c): all else stays."""
        if self._process is not None:
            with contextlib.suppress(
                ProcessLookupError
            ):  # it has just ended: the next one reads it
                self._process.send_signal(signal.SIGUSR2)

    async def _hear(self, process: Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            match line.decode(errors="replace").split():
                case ["began", session_id, pid] if pid.isdigit():
                    self.running[session_id] = int(pid)
                    _log.info("client_came", session=session_id, pid=int(pid))
                case ["ended", session_id]:
                    self.running.pop(session_id, None)
                    self._traffic.ended(session_id)
                    self._ended(session_id)
                case [first, *words] if first == WORD and self._traffic.heard(" ".join(words)):
                    pass
                case _:
                    _log.warning("data_side_said", line=line.decode(errors="replace")[:200])

    async def _died(self, process: Process) -> None:
        """Nobody else ends it: all sessions are over."""
        status = await process.wait()
        self._process = None
        _log.error("data_side_died", status=status, sessions=len(self.running))
        gone, self.running = self.running, {}
        for session_id in gone:
            self._traffic.ended(session_id)
            self._ended(session_id)

    def _command(self) -> list[str]:
        options = self.options
        where = ["--listen", f"{options.host}:{self.port}", "--sessions", str(options.sessions)]
        tls = [word for name, path in options.tls.items() for word in (f"--{name}", str(path))]
        program = os.fspath(options.program)
        bulk = ["--bulk-streams", str(options.bulk_streams)]
        return [
            program,
            "far",
            *where,
            "--attended",
            "--traffic",
            *bulk,
            *tls,
            "--",
            *options.worker,
        ]
