# SPDX-License-Identifier: Apache-2.0
"""A training's step on a GPU in this host, and on one behind a network with delay, in turn.

The program is the demo's (tinygrad on digits, one loss read a step), or, where tinygrad is not
installed, a C program of the same shape. Either host has half of the CPUs.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from harp.bench.hosts import FAR, Cable, two_hosts, why_not
from harp.bench.machine import machine
from harp.bench.remote_figures import RemoteOutcome, Step
from harp.bench.remote_path import Host, far, host, near
from harp.errors import HarpError

__all__ = ["DELAYS_MS", "Plan", "steps"]

DELAYS_MS = (0.0, 0.2, 1.0)  #: each way
_TIMEOUT_S = 300.0
_WARM_UP = 8  #: steps that compile, or are captured
_RTT_CALLS = 300
_TRAINING = {
    "DEV": "CUDA:PTX",
    "CC": "false",  # tinygrad's CPU backend cannot stand in unnoticed
    "CACHELEVEL": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
}


@dataclass(frozen=True, slots=True)
class _Taken:
    """Of one run: how long its steps took, and what came out."""

    ms: tuple[float, ...]
    result: object


@dataclass(frozen=True, slots=True)
class Plan:
    """How much."""

    count: int  #: steps a run
    runs: int  #: on either side, in turn
    training: bool  #: a real one, if tinygrad is installed: it takes some 15 s to begin

    @property
    def real(self) -> bool:
        """Whether it will be tinygrad's."""
        return self.training and importlib.util.find_spec("tinygrad") is not None


def steps(
    env: Mapping[str, str], outcome: RemoteOutcome, plan: Plan, *, progress: Callable[[str], None]
) -> None:
    """Take them into the outcome, or why not.

    Args:
        env: the environment to measure in.
        outcome: where they go.
        plan: how much.
        progress: called with a line per figure.

    Raises:
        HarpError: a program failed, or computed something else there.
    """
    if (why := why_not()) is not None:
        outcome.not_run.append(f"steps behind a network: {why}")
        return
    with machine(env, harp=False) as box:
        soft = {"HARP_SOFT_DIR": box.env["HARP_SOFT_DIR"]}
        with host(env, driver=box.native.soft_cuda, more=soft) as at:
            for delay_ms in DELAYS_MS:
                step = _step(at, box.env, delay_ms, plan)
                outcome.steps.append(step)
                progress(
                    f"a step of {step.program}, {delay_ms:g} ms each way: x{step.ratio:.2f} there,"
                    f" a call that waits {step.rtt_us:.0f} us"
                )


def _step(at: Host, local_env: Mapping[str, str], delay_ms: float, plan: Plan) -> Step:
    take = _tinygrad if plan.real else _shape
    here: list[float] = []
    there: list[float] = []
    with (
        two_hosts(at.native, Cable(delay_ms=delay_ms)) as hosts,
        far(at, tls=True, listen=FAR, prefix=hosts.on_far()) as link,
        near(at, f"{FAR}:{link.port}", tls=True, prefix=hosts.on_near()) as path,
    ):
        for _ in range(plan.runs):
            local = take(at, local_env, plan.count)
            at.settle()
            remote = take(at, at.client_env(path), plan.count)
            if local.result != remote.result:
                raise HarpError(f"a step gave {local.result} here and {remote.result} there")
            here += local.ms
            there += remote.ms
        at.settle()
        waits = _program(at, at.client_env(path), "rtt", _RTT_CALLS)["ns"]
    name = f"{'tinygrad' if plan.real else 'harp-bench-remote'} ({hosts.kind})"
    return Step(name, delay_ms, tuple(here), tuple(there), sorted(waits)[len(waits) // 2] / 1e3)


def _shape(at: Host, env: Mapping[str, str], count: int) -> _Taken:
    said = _program(at, env, "step", count)
    return _Taken(tuple(ns / 1e6 for ns in said["ns"]), said["launches"])


def _program(at: Host, env: Mapping[str, str], *mode: object) -> dict[str, Any]:
    command = [str(at.native.file("harp-bench-remote")), *map(str, mode)]
    said: dict[str, Any] = json.loads(_said(at.cpus.command(command), env)[-1])
    return said


def _tinygrad(at: Host, env: Mapping[str, str], count: int) -> _Taken:
    """Its own clock's times between losses; all losses, which must be the same bits."""
    library = Path(env["LD_LIBRARY_PATH"]) / "libcuda.so.1"
    program = [sys.executable, "-m", "harp.demo.digits", "--steps", str(count + _WARM_UP)]
    lines = _said(
        at.cpus.command([*program, "--every", "1", "--hidden", "64"]),
        {**env, **_TRAINING, "LD_PRELOAD": str(library)},
    )
    told = [json.loads(line) for line in lines]
    done = [one for one in told if one["event"] == "step"]
    times = [one["time_s"] for one in done[_WARM_UP - 1 :]]
    ms = tuple((b - a) * 1e3 for a, b in pairwise(times))
    return _Taken(ms, tuple(one["loss"] for one in done))


def _said(command: list[str], env: Mapping[str, str]) -> list[str]:
    done = subprocess.run(
        command, env=dict(env), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode != 0 or not done.stdout:
        raise HarpError(f"{command[3]}: {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout.splitlines()
