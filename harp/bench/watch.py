# SPDX-License-Identifier: Apache-2.0
"""Reading all books at the same moments while programs run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from harp.bench.clients import Client
from harp.bench.figures import Mark
from harp.bench.machine import Machine
from harp.client import Client as Control
from harp.demo.truth import Truth
from harp.demo.truth import read as read_truth
from harp.errors import HarpError

__all__ = ["Raw", "Watch", "cpu_s"]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
#: a count is known some time after the moment it is of: clients report every 50 ms
_REPORT_S = 0.15


class Raw:
    """Every sample, one JSON object a line."""

    def __init__(self, path: Path | None) -> None:
        self._file: IO[str] | None = path.open("w") if path is not None else None

    def write(self, sample: Mapping[str, object]) -> None:
        """Append one; nothing if no file was asked for."""
        if self._file is not None:
            self._file.write(json.dumps(sample) + "\n")

    def close(self) -> None:
        """No more samples."""
        if self._file is not None:
            self._file.close()


class Watch:
    """The books of some clients on one machine."""

    def __init__(self, machine: Machine, clients: Sequence[Client]) -> None:
        self._machine = machine
        self._clients = clients
        self._client_of: dict[int, int] = {}  #: {pid: number of its client}
        self._control = Control.connect(machine.env) if machine.has_harp else None
        self._arbiter = self._control.info().arbiter_pid if self._control is not None else 0

    def close(self) -> None:
        """Leave harpd alone; the clients are not ours."""
        if self._control is not None:
            self._control.close()

    def wait_launches(self, timeout_s: float) -> None:
        """Until the engine knows every client: for programs that say nothing.

        Raises:
            HarpError: not within the time, or one ended.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            mark = self._read()
            if all(mark.compute_ns):
                return
            self._insist()
            if time.monotonic() > deadline:
                idle = [i for i, used in enumerate(mark.compute_ns) if not used]
                raise HarpError(f"clients {idle} launched nothing within {timeout_s:g} s")
            time.sleep(0.1)

    def take(self, seconds: float, kernel_ns: Sequence[float] | None = None) -> list[Mark]:
        """Marks at the beginning, each second, and the end.

        Args:
            seconds: from the first to the last.
            kernel_ns: device time of an iteration of each client; None: they do not count.

        Raises:
            HarpError: a client ended meanwhile.
        """
        begin_s = time.monotonic()
        marks = [self._read()]
        for at_s in _moments(seconds):
            time.sleep(max(0.0, begin_s + at_s - time.monotonic()))
            marks.append(self._read())
        self._insist()
        time.sleep(_REPORT_S)
        if kernel_ns is None:
            return marks
        return [self._with_counts(mark, kernel_ns) for mark in marks]

    def _insist(self) -> None:
        for number, client in enumerate(self._clients):
            if not client.is_running:
                raise HarpError(f"client {number} ended too early: {client.words()}")

    def _read(self) -> Mark:
        ledger = read_truth(self._machine.native.path, self._machine.env)
        charged = self._charges()
        compute, overrun = [0] * len(self._clients), [0] * len(self._clients)
        for pid, use in ledger.uses.items():
            number = self._number(pid)
            if number is not None:
                compute[number] += use.compute_ns
                overrun[number] += use.overrun_ns
        return Mark(
            ledger.now_ns, tuple(compute), tuple(overrun), charged, None, self._arbiter_cpu_s()
        )

    def _number(self, pid: int) -> int | None:
        if pid not in self._client_of:
            try:
                group = os.getpgid(pid)
            except ProcessLookupError:
                return None
            for number, client in enumerate(self._clients):
                if client.group == group:
                    self._client_of[pid] = number
        return self._client_of.get(pid)

    def _charges(self) -> tuple[int, ...] | None:
        if self._control is None:
            return None
        used = {tenant.name: tenant.used_ns for tenant in self._control.state().tenants}
        return tuple(used.get(client.tenant, 0) for client in self._clients)

    def _arbiter_cpu_s(self) -> float | None:
        return cpu_s(self._arbiter) if self._arbiter else None

    def _with_counts(self, mark: Mark, kernel_ns: Sequence[float]) -> Mark:
        counted = tuple(
            client.counted(mark.t_ns) * each_ns
            for client, each_ns in zip(self._clients, kernel_ns, strict=True)
        )
        return replace(mark, counted_ns=counted)


def device_name(machine: Machine) -> str:
    """What is measured."""
    ledger: Truth = read_truth(machine.native.path, machine.env)
    return ledger.device


def _moments(seconds: float) -> list[float]:
    whole = [float(n) for n in range(1, int(seconds) + 1)]
    return whole if whole and whole[-1] == seconds else [*whole, seconds]


def cpu_s(pid: int) -> float | None:
    """CPU time that a process has had; None: it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S  # utime, stime: proc(5)
