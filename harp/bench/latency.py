# SPDX-License-Identifier: Apache-2.0
"""`harp bench latency`: what a request-driven tenant feels of a saturating neighbour.

Requests come at random (Poisson, the same seed everywhere) and are some 10 ms of kernels each, as
an inference is; 30 % of the device. Three settings in turn: the latency tenant alone and native,
both native, both under HARP with classes latency and best-effort.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harp.bench.clients import Client, Request, asked, running
from harp.bench.figures import measure, percentile
from harp.bench.machine import LABEL, Machine, machine
from harp.bench.verdict import OVERRUN_RATIO, Target, Violation, as_json
from harp.bench.watch import Raw, Watch, device_name
from harp.errors import HarpError

__all__ = ["LatencyOutcome", "LatencyRun", "inside", "latency_row", "run_latency"]

KERNELS_US = (10, 200, 1000)  #: of the best-effort tenant
#: of the latency tenant: 10 kernels of 1 ms, 30 times a second
REQUEST_KERNEL_US, REQUEST_KERNELS, RATE = 1000, 10, 30
REQUEST_MS = REQUEST_KERNELS * REQUEST_KERNEL_US / 1000
INFLATION, BEST_EFFORT_RATIO = 1.15, 0.60
#: alone, most requests find nobody before them; where they take longer than their kernels, the
#: host was late, and all latencies are the host's
SOLO_P50_RATIO = 1.10
_LEAST_REQUESTS = 20
_WARM_UP_S = 1.0
_LATENCY_SHARE = 50  #: percent, promised; it needs 30
#: most that a request of the window may still take after it
_DRAIN_S = 20.0


@dataclass(frozen=True, slots=True)
class LatencyRun:
    """One setting, once."""

    latencies_ms: tuple[float, ...]  #: of the requests that came and ended inside the window
    latency_ratio: float  #: device time of the latency tenant / window
    best_effort_ratio: float  #: the same of the other; 0 when alone
    overrun_ratio: float

    @property
    def p99_ms(self) -> float:
        """Nearest rank."""
        return percentile(self.latencies_ms, 99)

    @property
    def of_the_rest(self) -> float:
        """What the best-effort tenant had of what the latency tenant left."""
        return self.best_effort_ratio / max(1e-9, 1 - self.latency_ratio)


@dataclass(frozen=True, slots=True)
class Row:
    """Figures beside one neighbour: medians over the runs."""

    name: str
    kernel_us: int
    p99_solo_ms: float
    p99_native_ms: float
    p99_harp_ms: float
    p50_solo_ms: float
    p50_harp_ms: float
    inflation: float  #: p99 under HARP / alone
    native_inflation: float
    best_effort_ratio: float
    native_best_effort_ratio: float
    overrun_ratio: float
    requests: int  #: least of any run
    spread: dict[str, list[float]]


def latency_row(kernel_us: int, runs: Mapping[str, Sequence[LatencyRun]]) -> Row:
    """Medians of `solo`, `native` and `harp`; the overrun is the worst one's."""
    p99 = {side: statistics.median(run.p99_ms for run in taken) for side, taken in runs.items()}
    p50 = {
        side: statistics.median(statistics.median(run.latencies_ms) for run in taken)
        for side, taken in runs.items()
    }
    rest = {
        side: statistics.median(run.of_the_rest for run in taken) for side, taken in runs.items()
    }
    every = [run for taken in runs.values() for run in taken]
    return Row(
        name=f"best-effort.{kernel_us}us",
        kernel_us=kernel_us,
        p99_solo_ms=p99["solo"],
        p99_native_ms=p99["native"],
        p99_harp_ms=p99["harp"],
        p50_solo_ms=p50["solo"],
        p50_harp_ms=p50["harp"],
        inflation=p99["harp"] / p99["solo"],
        native_inflation=p99["native"] / p99["solo"],
        best_effort_ratio=rest["harp"],
        native_best_effort_ratio=rest["native"],
        overrun_ratio=max(run.overrun_ratio for run in every),
        requests=min(len(run.latencies_ms) for run in every),
        spread={
            f"p99_{side}_ms": [min(run.p99_ms for run in taken), max(run.p99_ms for run in taken)]
            for side, taken in runs.items()
        },
    )


@dataclass
class LatencyOutcome:
    """All of it."""

    device: str = ""
    rows: list[Row] = field(default_factory=list)

    @property
    def targets(self) -> list[Target]:
        """Inflation and what is left to the neighbour."""
        found = []
        for row in self.rows:
            good = row.inflation <= INFLATION
            found.append(Target(row.name, "inflation", row.inflation, INFLATION, good))
            ratio = row.best_effort_ratio
            good = ratio >= BEST_EFFORT_RATIO
            found.append(Target(row.name, "best_effort_ratio", ratio, BEST_EFFORT_RATIO, good))
        return found

    @property
    def violations(self) -> list[Violation]:
        """The host did not keep up with the modelled device, or with a tenant that is alone."""
        figures = [
            (row.name, name, value, limit)
            for row in self.rows
            for name, value, limit in (
                ("overrun_ratio", row.overrun_ratio, OVERRUN_RATIO),
                ("solo_p50_ratio", row.p50_solo_ms / REQUEST_MS, SOLO_P50_RATIO),
            )
        ]
        return [Violation(*figure) for figure in figures if figure[2] > figure[3]]

    @property
    def can_tell(self) -> bool:
        """Without HARP the same requests must be late, or being in time proves nothing."""
        return all(row.native_inflation > INFLATION for row in self.rows)

    @property
    def ok(self) -> bool:
        """Whether the figures can be believed; `targets` says whether they are good."""
        return bool(self.rows) and self.can_tell and not self.violations

    @property
    def worst(self) -> Row:
        """The most inflated."""
        return max(self.rows, key=lambda row: row.inflation)

    def json(self, *, seconds: float, repeat: int) -> dict[str, object]:
        """As `--json` prints it: the worst neighbour's figures, then each one's."""
        worst = {name: _rounded(value) for name, value in asdict(self.worst).items()}
        return {
            "bench": "latency",
            "label": LABEL,
            "software": True,
            "device": self.device,
            "ok": self.ok,
            "can_tell": self.can_tell,
            **worst,
            "cells": [{n: _rounded(v) for n, v in asdict(row).items()} for row in self.rows],
            "violations": as_json(self.violations),
            "targets": as_json(self.targets),
            "seconds": seconds,
            "repeat": repeat,
            "load_1min": round(os.getloadavg()[0], 2),
        }


def inside(requests: Sequence[Request], begin_ns: int, end_ns: int) -> tuple[float, ...]:
    """Latencies, in ms, of what came inside the window. What has not ended is not in `requests`."""
    return tuple(r.latency_ms for r in requests if begin_ns <= r.arrived_ns < end_ns)


def run_latency(
    env: Mapping[str, str],
    *,
    kernels_us: Sequence[int] = KERNELS_US,
    seconds: float,
    repeat: int,
    raw: Path | None,
    progress: Callable[[str], None],
) -> LatencyOutcome:
    """Measure.

    Args:
        env: the environment to measure in.
        kernels_us: of the best-effort tenant, one row each.
        seconds: measured per run.
        repeat: runs per setting.
        raw: file for every request.
        progress: called with a line per run.

    Raises:
        HarpError: something did not run, or too few requests came.
    """
    outcome = LatencyOutcome()
    with (
        closing(Raw(raw)) as samples,
        machine(env, harp=False) as native,
        machine(env, harp=True) as harp,
    ):
        outcome.device = device_name(native)
        for kernel_us in kernels_us:
            runs: dict[str, list[LatencyRun]] = {"solo": [], "native": [], "harp": []}
            for number in range(repeat):
                for side, taken in runs.items():
                    box = harp if side == "harp" else native
                    name = f"{kernel_us}-{number}"
                    run = _one(box, name, None if side == "solo" else kernel_us, seconds, number)
                    taken.append(run)
                    progress(
                        f"best-effort.{kernel_us}us {side}: p99 {run.p99_ms:.1f} ms of"
                        f" {len(run.latencies_ms)}, latency tenant {run.latency_ratio * 100:.0f} %,"
                        f" neighbour {run.of_the_rest * 100:.0f} % of the rest"
                    )
                    for value in run.latencies_ms:
                        samples.write(
                            {"kernel_us": kernel_us, "side": side, "run": number, "ms": value}
                        )
            outcome.rows.append(latency_row(kernel_us, runs))
    return outcome


def _one(box: Machine, name: str, kernel_us: int | None, seconds: float, number: int) -> LatencyRun:
    program = str(box.native.file("harp-bench-busy"))
    asking = [program, "--mode", "requests", "--kernel-us", str(REQUEST_KERNEL_US)]
    asking += ["--request-kernels", str(REQUEST_KERNELS), "--rate", str(RATE)]
    asking += ["--seed", str(number + 1), "--go"]
    commands = [("latency", asking, _LATENCY_SHARE)]
    if kernel_us is not None:
        filling = [program, "--kernel-us", str(kernel_us), "--go"]
        commands.append(("best-effort", filling, 0))
    clients: list[Client] = []
    with running(clients):
        for klass, work, share in commands:
            tenant = f"{klass}-{name}"
            command = box.under_harp(work, *asked(tenant, share), "--class", klass)
            clients.append(Client(command, box.env, tenant))
        for client in clients:
            client.wait_ready(1)
        with closing(Watch(box, clients)) as watch:
            for client in clients:
                client.go(1)
            time.sleep(_WARM_UP_S)
            marks = watch.take(seconds)
            _wait_beyond(clients[0], marks[-1].t_ns)
        latencies = inside(clients[0].heard(), marks[0].t_ns, marks[-1].t_ns)
    if len(latencies) < _LEAST_REQUESTS:
        raise HarpError(
            f"{len(latencies)} requests ended, {_LEAST_REQUESTS} are the least that tell something",
            "measure longer: --seconds",
        )
    run = measure(marks, [1 / len(clients)] * len(clients))
    parts = [run.busy_ratio * part for part in run.achieved]
    return LatencyRun(latencies, parts[0], parts[1] if len(parts) > 1 else 0.0, run.overrun_ratio)


def _wait_beyond(client: Client, end_ns: int) -> None:
    """Until a request that came later has ended: requests are served in order of arrival.

    Raises:
        HarpError: not within 20 s.
    """
    deadline = time.monotonic() + _DRAIN_S
    while not any(request.arrived_ns >= end_ns for request in client.heard()):
        if time.monotonic() > deadline:
            raise HarpError(f"a request has not ended within {_DRAIN_S:g} s of the window's end")
        time.sleep(0.05)


def _rounded(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value
