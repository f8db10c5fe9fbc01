# SPDX-License-Identifier: Apache-2.0
"""Memory and deaths as they happen: by the engine's own ledger, and as the arbiter tells harpd."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harp.bench.machine import Machine
from harp.errors import HarpError
from harp.lease_wire import MSG_BYTES, Msg, Op
from harp.model import ClientState

__all__ = ["Deaths", "Ledger", "Seen", "following", "wait_until"]

_PERIOD_S = 0.002
_POLL_S = 0.002


@dataclass
class Seen:
    """What the engine's ledger said of one process on device 0."""

    first_ns: int
    last_ns: int  #: of the last sample in which the device had it
    gone: bool = False  #: a later sample had it no more
    most_bytes: int = 0  #: memory without contexts


class Ledger:
    """Follows harp-soft-truth; all moments are the engine's own (CLOCK_MONOTONIC)."""

    def __init__(self, machine: Machine) -> None:
        program = machine.native.file("harp-soft-truth")
        self.samples = 0
        self._seen: dict[int, Seen] = {}
        self._process = subprocess.Popen(
            [str(program), "--json", "--watch", str(_PERIOD_S)],
            env=dict(machine.env),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()

    def of(self, pid: int) -> Seen | None:
        """What was seen of a process."""
        return self._seen.get(pid)

    def close(self) -> None:
        """Follow no more."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        text = ""
        for line in self._process.stdout:
            text += line
            if not line.endswith("]}\n"):
                continue
            self._take(json.loads(text))
            text = ""

    def _take(self, said: dict[str, object]) -> None:
        now_ns, rows = said["now_ns"], said["processes"]
        assert isinstance(now_ns, int)
        assert isinstance(rows, list)
        self.samples += 1
        held = {
            row["pid"]: row["mem_bytes"]
            for row in rows
            if row["device"] == 0 and row["state"] != "gone"
        }
        for pid, mem_bytes in held.items():
            seen = self._seen.setdefault(pid, Seen(now_ns, now_ns))
            seen.last_ns = now_ns
            seen.most_bytes = max(seen.most_bytes, mem_bytes)
        for pid, seen in self._seen.items():
            seen.gone |= pid not in held


class Deaths:
    """Hears of deaths as harpd does, on a connection of its own."""

    def __init__(self, machine: Machine) -> None:
        self._heard: dict[int, int] = {}
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.connect(str(Path(machine.env["HARP_RUN"]) / "admin.sock"))
        self._sock.send(Msg(op=Op.SUBSCRIBE, seq=1, a=1).pack())
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def heard_ns(self, pid: int) -> int:
        """When the arbiter told of it (CLOCK_MONOTONIC); 0: not yet."""
        return self._heard.get(pid, 0)

    def close(self) -> None:
        """Listen no more."""
        self._sock.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._sock.close()

    def _listen(self) -> None:
        while datagram := self._sock.recv(MSG_BYTES):
            now_ns = time.monotonic_ns()
            said = Msg.unpack(datagram)
            if said.op == Op.EVENT_CLIENT and said.d != ClientState.LIVE.value:
                self._heard.setdefault(said.pid, now_ns)


@contextmanager
def following(machine: Machine) -> Iterator[Ledger]:
    """A ledger that is followed for as long."""
    ledger = Ledger(machine)
    try:
        yield ledger
    finally:
        ledger.close()


def wait_until(look: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    """Poll.

    Raises:
        HarpError: it did not happen.
    """
    deadline = time.monotonic() + timeout_s
    while not look():
        if time.monotonic() > deadline:
            raise HarpError(f"{what}: not within {timeout_s:g} s", "see harpd.log and arbiter.log")
        time.sleep(_POLL_S)
