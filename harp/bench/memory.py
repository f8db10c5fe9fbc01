# SPDX-License-Identifier: Apache-2.0
"""`harp bench memory`: what an allocation and a start cost more, and whether limits hold in a race.

native/bench/memory.c does the work. Three parts: pairs of calls through the driver and libharp in
one process; processes from main() to their first allocation, with HARP and without in turn;
processes that race for their tenant's limit while the engine's own ledger is sampled. The control
is the same race without HARP: there the limit must be seen passed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harp.bench.machine import Machine, machine
from harp.bench.memory_figures import FEWER, MANY, SOME, Calls, MemoryOutcome, Race, Start
from harp.bench.program import Program, programs
from harp.bench.sampler import sampling
from harp.bench.watch import device_name
from harp.client import Client
from harp.errors import HarpError

__all__ = ["Effort", "run_memory"]

_PROGRAM = "harp-bench-memory"
_TIMEOUT_S = 240.0
#: after which nothing of the ended may be in the engine's ledger
_SETTLE_S = 1.0
_MIB = 1 << 20
#: two devices of the largest kind: contexts of 256 processes do not fit on one
_DEVICES = {"HARP_SOFT_DEVICES": "h100-80g,h100-80g"}
_LIVE = (0, 500)
_LIMIT_BYTES = 1024 * _MIB
_LIMIT = ("--mem", f"{_LIMIT_BYTES}")
_RACE_BYTES = 256 * _MIB
_RACERS = (8, 64)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is taken."""

    call_rounds: int = 20_000
    repeat: int = 3
    alone: int = 100  #: starts of a lone process in each run
    race_seconds: float = 5.0

    @staticmethod
    def quick() -> Effort:
        """Ends within a minute."""
        return Effort(call_rounds=4000, repeat=1, alone=100, race_seconds=2.0)


def run_memory(
    env: Mapping[str, str], effort: Effort, *, progress: Callable[[str], None]
) -> MemoryOutcome:
    """Measure, on private machines.

    Args:
        env: the environment to measure in.
        effort: how much.
        progress: called with a line per figure.

    Raises:
        HarpError: something did not run.
    """
    outcome = MemoryOutcome()
    with (
        machine(env, harp=False, extra=_DEVICES) as bare,
        machine(env, harp=True, extra=_DEVICES) as harp,
    ):
        outcome.device = device_name(bare)
        for processes in _RACERS:
            race = _race(harp, processes, effort.race_seconds)
            outcome.races.append(race)
            progress(_said(race, "HARP"))
        outcome.control = _race(bare, _RACERS[0], min(2.0, effort.race_seconds))
        progress(_said(outcome.control, "control without HARP"))
        for live in _LIVE:
            calls = _calls(harp, live, effort)
            outcome.calls.append(calls)
            progress(
                f"alloc and free beside {live}: bare {calls.bare_us_p50:.2f} us, added"
                f" {calls.added_us_p50:.2f} us, at p99 {calls.added_us_p99:.2f} us"
            )
        cores = os.cpu_count() or 1
        plan = [(1, 1), (SOME, SOME), (MANY, cores), (FEWER, FEWER), (MANY, MANY)]
        for processes, at_once in plan:
            start = _start(bare, harp, processes, at_once, effort)
            outcome.starts.append(start)
            progress(
                f"{start.name}: bare p50 {statistics.median(start.bare_ms):.2f} ms, added"
                f" {start.added_ms_p50:.2f}, at p99 {start.added_ms_p99:.2f} ms, wall"
                f" x{start.wall_ratio:.2f}"
            )
    return outcome


def _said(race: Race, side: str) -> str:
    return (
        f"race of {race.processes}, {side}: {race.over_limit_bytes} bytes over the limit,"
        f" {race.allocated} allocated, {race.denied} denied, {race.samples} samples"
        f" ({race.hz:.0f} a second)"
    )


def _json_of(box: Machine, command: Sequence[str], *options: str) -> dict[str, Any]:
    done = subprocess.run(
        box.under_harp(command, *options),
        env=dict(box.env),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0 or not done.stdout:
        raise HarpError(f"{command[-1]}: status {done.returncode}: {done.stderr.strip()[-300:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# --- calls ------------------------------------------------------------------------------------


def _calls(box: Machine, live: int, effort: Effort) -> Calls:
    # The program loads both libraries by itself: preloaded, ours would answer for the driver too.
    driver = box.native.soft_cuda
    command = ["env", "-u", "LD_PRELOAD", "-u", "LD_LIBRARY_PATH", f"HARP_CUDA_REAL={driver}"]
    command += [str(box.native.file(_PROGRAM)), "calls", str(driver), str(box.native.libharp)]
    command += ["--live", str(live), "--rounds", str(effort.call_rounds)]
    runs = [_json_of(box, command, *_LIMIT) for _ in range(effort.repeat)]
    if any(run["memory_bytes"] != _LIMIT_BYTES for run in runs):
        raise HarpError("no limit was in force: the figures are of something else", "harp doctor")

    def median_us(name: str) -> float:
        return statistics.median(float(run[name]) for run in runs) / 1e3

    return Calls(
        live=live,
        rounds=effort.call_rounds * effort.repeat,
        bare_us_p50=median_us("bare_p50_ns"),
        bare_us_p99=median_us("bare_p99_ns"),
        harp_us_p50=median_us("harp_p50_ns"),
        harp_us_p99=median_us("harp_p99_ns"),
    )


# --- starts -----------------------------------------------------------------------------------


def _start(bare: Machine, harp: Machine, processes: int, at_once: int, effort: Effort) -> Start:
    lone = processes == 1
    command = [str(harp.native.file(_PROGRAM)), "start", str(effort.alone if lone else processes)]
    command += ["--at-once", str(at_once), "--devices", "2", *(["--leave"] if lone else [])]
    sides: dict[str, list[dict[str, Any]]] = {"bare": [], "harp": []}
    begin_ns = _arbiter_ns(harp)
    for _ in range(effort.repeat):
        sides["bare"].append(_json_of(bare, command))
        sides["harp"].append(_json_of(harp, command, *_LIMIT, "--gpu", "0,1"))
    spent_ns = _arbiter_ns(harp) - begin_ns
    times = {
        side: tuple(ms for run in runs for ms in run["init_ms"]) for side, runs in sides.items()
    }
    wall = {side: statistics.median(run["wall_ms"] for run in runs) for side, runs in sides.items()}
    return Start(
        processes=processes,
        at_once=at_once,
        bare_ms=times["bare"],
        harp_ms=times["harp"],
        bare_wall_ms=wall["bare"],
        harp_wall_ms=wall["harp"],
        arbiter_us=spent_ns / 1e3 / len(times["harp"]),
    )


def _arbiter_ns(box: Machine) -> int:
    """CPU time of the arbiter since it began."""
    with Client.connect(box.env) as control:
        stat = Path(f"/proc/{control.info().arbiter_pid}/schedstat")
    return int(stat.read_text().split()[0]) if stat.exists() else 0


# --- races ------------------------------------------------------------------------------------


def _race(box: Machine, processes: int, seconds: float) -> Race:
    each_mib = 2 * _RACE_BYTES // _MIB // processes
    command = [str(box.native.file(_PROGRAM)), "race", str(processes)]
    command += ["--seconds", str(seconds), "--each-mib", str(each_mib)]
    with sampling(box.native.path, box.env) as sampler, programs() as racing:
        race = Program(box, command, "--mem", f"{_RACE_BYTES}", "--gpu", "0")
        racing.append(race)
        race.read()  # all have their contexts
        race.go()
        said = race.finish()
        time.sleep(_SETTLE_S)
        seen = sampler.stop()
    return Race(
        processes=processes,
        limit_bytes=_RACE_BYTES,
        peak_bytes=seen.peak_bytes[0],
        allocated=said["allocated"],
        denied=said["denied"],
        wrong_codes=said["wrong_codes"],
        samples=seen.samples,
        hz=seen.hz,
        longest_gap_ms=seen.longest_gap_ms,
        left_bytes=seen.last_bytes[0],
    )
