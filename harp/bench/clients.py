# SPDX-License-Identifier: Apache-2.0
"""Programs that are measured: started, heard, ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from harp.bench.figures import interpolate
from harp.errors import HarpError

__all__ = ["Client", "Request", "asked", "calibrate", "running"]

_START_TIMEOUT_S = 60.0
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a client that is driven by requests; CLOCK_MONOTONIC."""

    arrived_ns: int
    ended_ns: int

    @property
    def latency_ms(self) -> float:
        """From its arrival, whether or not it was begun at once."""
        return (self.ended_ns - self.arrived_ns) / 1e6


class Client:
    """One tenant's program, which leads a process group of its own.

    What it says in lines of JSON (native/bench/busy.c) is kept; other lines are passed over.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], tenant: str = "") -> None:
        self.tenant = tenant  #: name at harpd; "": none
        #: {pid: [(t_ns, iterations)]}, one entry per process that said it is ready
        self.counts: dict[int, list[tuple[int, float]]] = {}
        self.requests: list[Request] = []
        self.calibration_ns: float | None = None
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            list(command),
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._listen, daemon=True),
            threading.Thread(target=self._listen_to_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def group(self) -> int:
        """Process group, which is the first process's pid."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether its first process lives."""
        return self._process.poll() is None

    def wait_ready(self, processes: int) -> None:
        """Until so many processes have said that they are ready.

        Raises:
            HarpError: it ended before, or takes too long.
        """
        deadline = time.monotonic() + _START_TIMEOUT_S
        with self._changed:
            while len(self.counts) < processes:
                if not self.is_running:
                    raise HarpError(f"a client ended with {self._process.poll()}: {self.words()}")
                if time.monotonic() > deadline:
                    raise HarpError(f"a client is not ready in {_START_TIMEOUT_S:g} s")
                self._changed.wait(0.05)

    def go(self, processes: int) -> None:
        """Let the processes that wait begin."""
        assert self._process.stdin is not None
        self._process.stdin.write("g" * processes)
        self._process.stdin.flush()

    def counted(self, t_ns: int) -> float:
        """Iterations of all its processes until then."""
        with self._changed:
            return sum(interpolate(points, t_ns) for points in self.counts.values())

    def heard(self) -> list[Request]:
        """The requests so far."""
        with self._changed:
            return list(self.requests)

    def wait(self) -> None:
        """Until it has ended by itself.

        Raises:
            HarpError: it failed, or takes too long.
        """
        try:
            status = self._process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise HarpError(f"a client runs longer than {_TIMEOUT_S:g} s") from error
        for reader in self._readers:
            reader.join()
        if status != 0:
            raise HarpError(f"a client ended with {status}: {self.words()}")

    def stop(self) -> None:
        """End it and all it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.group, signal.SIGKILL)
        self._process.wait()
        for reader in self._readers:
            reader.join(1)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()

    def words(self) -> str:
        """The end of what it wrote to stderr."""
        return " ".join(self._errors[-3:])[-300:] or "it said nothing"

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError, KeyError, TypeError), self._changed:
                said = json.loads(line)
                if "ready" in said:
                    self.counts.setdefault(said["pid"], [])
                elif "iterations" in said:
                    points = self.counts.setdefault(said["pid"], [])
                    points.append((said["t_ns"], said["iterations"]))
                elif "request" in said:
                    self.requests.append(Request(said["arrived_ns"], said["ended_ns"]))
                elif "kernel_ns" in said:
                    self.calibration_ns = said["kernel_ns"]
                self._changed.notify_all()

    def _listen_to_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors.extend(line.strip() for line in self._process.stderr)


def asked(tenant: str, share: int) -> list[str]:
    """Options of `harp run`; `share` in percent, 0: none asked."""
    shared = ["--share", f"{share}%"] if share else []
    return ["--name", tenant, "--mem", "1GiB", *shared]


@contextmanager
def running(clients: Sequence[Client]) -> Iterator[Sequence[Client]]:
    """Ends all of them afterwards."""
    try:
        yield clients
    finally:
        for client in clients:
            client.stop()


def calibrate(command: Sequence[str], env: Mapping[str, str]) -> float:
    """Device time of one iteration of `harp-bench-busy ...`, alone, in ns, by its own events.

    Raises:
        HarpError: it failed.
    """
    with running([Client([*command, "--calibrate"], env)]) as (client,):
        client.wait()
        if client.calibration_ns is None:
            raise HarpError(f"{command[0]} --calibrate said nothing")
        return client.calibration_ns
