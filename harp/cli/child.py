# SPDX-License-Identifier: Apache-2.0
"""A command as a child that looks to others as if this process had become it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from harp.cli.output import progress

__all__ = ["CANNOT_RUN", "NOT_FOUND", "Child"]

CANNOT_RUN, NOT_FOUND = 126, 127
_PR_SET_PDEATHSIG = 1
#: how the kernel marks what a terminal sends: to the whole group, so the child has it already
_SI_KERNEL = 0x80
_PASSED_ON = {
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
}


class Child:
    """A process that waits for its environment, and then becomes the command.

    It is forked here: before this process has threads, which a fork would not take along. It dies
    with this process, by SIGKILL. A signal for this process goes to it, also while it waits.
    """

    def __init__(self, program: Path, command: Sequence[str]) -> None:
        parent, (reading, self._start) = os.getpid(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._start)
            _become(program, command, reading, parent)
        os.close(reading)
        self._pidfd = os.pidfd_open(self.pid)
        self._status: int | None = None
        signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
        threading.Thread(target=_pass_on, args=(self._pidfd,), daemon=True).start()

    def __enter__(self) -> Self:
        """End it on leaving, if it has not ended."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """It is gone after this."""
        self._close()
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._reap()

    def start(self, env: Mapping[str, str]) -> None:
        """Let it become the command; it may have ended already."""
        text = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in env.items())
        with contextlib.suppress(BrokenPipeError), os.fdopen(self._start, "wb") as pipe:
            self._start = -1
            pipe.write(text)

    async def ended(self) -> int:
        """Its exit status, as a shell says it: 128 + the signal that ended it."""
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(self._pidfd, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(self._pidfd)
        return self._reap()

    def _reap(self) -> int:
        if self._status is None:
            code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self._status = code if code >= 0 else 128 - code
        return self._status

    def _close(self) -> None:
        if self._start >= 0:
            os.close(self._start)
            self._start = -1


def _pass_on(pidfd: int) -> None:
    while True:
        heard = signal.sigwaitinfo(_PASSED_ON)
        if heard.si_code != _SI_KERNEL:
            with contextlib.suppress(OSError):  # it has ended, or is another user's by now
                signal.pidfd_send_signal(pidfd, signal.Signals(heard.si_signo))


def _become(program: Path, command: Sequence[str], reading: int, parent: int) -> NoReturn:
    """In the child: wait for the environment, then exec. Nothing of the parent's runs here."""
    status = CANNOT_RUN
    try:
        # Python ignores two signals and makes an exception of a third: not so in the command.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(status)
        with os.fdopen(reading, "rb") as pipe:
            text = pipe.read()
        if not text:
            os._exit(status)  # it is not to be started
        env = dict(line.partition(b"=")[::2] for line in text.split(b"\0") if line)
        os.execve(program, list(command), env)  # noqa: S606 - that is what run is for
    except OSError as error:
        progress(f"harp: {program}: {error.strerror}")
        status = NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_RUN
    finally:
        os._exit(status)
