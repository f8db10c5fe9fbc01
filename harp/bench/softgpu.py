# SPDX-License-Identifier: Apache-2.0
"""`harp bench softgpu`: how fast the software GPU is, beside NumPy and the C compiler.

Its kernels are two (softgpu_kernels.py): an add of 16 M floats, a 512 x 512 product by way of
shared memory. Each launch is followed by NumPy's own, in the same process; NumPy adds on one core
and multiplies on all. A start is a process of its own, from cuInit to the end of its first launch:
cold, with an empty cache of kernels; warm, with a full one; `loaded` is the part from
cuModuleLoadData on. What a busy host does to times it does to both sides of a ratio.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harp.bench import softgpu_kernels
from harp.bench.machine import LABEL, Machine, machine
from harp.bench.verdict import Target, as_json
from harp.errors import HarpError

__all__ = ["Effort", "SoftgpuOutcome", "run_softgpu"]

#: what is promised: times of NumPy's, and milliseconds
ADD_RATIO, MATMUL_RATIO, COLD_MS, WARM_MS = 2.0, 20.0, 150.0, 2.0
_KERNELS = {"add": softgpu_kernels.ADD, "matmul": softgpu_kernels.MATMUL}
_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Effort:
    """How much of it."""

    rounds: int = 15  #: launches of a process
    processes: int = 3  #: of each kernel, on one core and on all
    starts: int = 9

    @staticmethod
    def quick() -> Effort:
        """Ends within half a minute."""
        return Effort(rounds=5, processes=1, starts=3)


@dataclass(slots=True)
class SoftgpuOutcome:
    """What was measured: all readings by name, and whether every result was right."""

    readings: dict[str, list[float]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)  #: runs whose results were not NumPy's

    def add(self, name: str, *values: float) -> None:
        """Take readings."""
        self.readings.setdefault(name, []).extend(values)

    def median(self, name: str) -> float:
        """The middle of what was read."""
        return statistics.median(self.readings[name])

    @property
    def ok(self) -> bool:
        """Every result was right."""
        return not self.wrong

    @property
    def targets(self) -> list[Target]:
        """What is promised, and whether it is kept here and now."""
        held = {
            "add_ratio": ADD_RATIO,
            "matmul_ratio": MATMUL_RATIO,
            "cold_ms": COLD_MS,
            "warm_ms": WARM_MS,
        }
        return [
            Target("softgpu", name, value, limit, value <= limit)
            for name, limit in held.items()
            for value in (self.median(name),)
        ]

    def json(self, *, load_1min: float) -> dict[str, object]:
        """For `--json`."""
        figures = {
            name: {"median": self.median(name), "least": min(all_), "most": max(all_)}
            for name, all_ in self.readings.items()
        }
        return {
            "label": LABEL,
            "software": True,
            "cores": os.cpu_count(),
            "figures": figures,
            "targets": as_json(self.targets),
            "wrong": self.wrong,
            "ok": self.ok,
            "load_1min": load_1min,
        }


def run_softgpu(
    env: Mapping[str, str], effort: Effort, *, progress: Callable[[str], None]
) -> SoftgpuOutcome:
    """Measure, on a private machine.

    Args:
        env: the environment to measure in.
        effort: how much.
        progress: called with a line per part.

    Raises:
        HarpError: a program failed.
    """
    outcome = SoftgpuOutcome()
    with (
        tempfile.TemporaryDirectory(prefix="harp-bench-ptx-") as cache,
        machine(env, harp=False, extra={"XDG_CACHE_HOME": cache}) as box,
    ):
        _starts(box, Path(cache), effort, outcome, progress)
        for name, ptx in _KERNELS.items():  # the fast form: what a kernel comes to
            _compile(box, Path(cache), name, ptx)
        for number in range(effort.processes):
            for name in _KERNELS:
                progress(f"{name}, process {number + 1} of {effort.processes}")
                _processes(box, name, effort.rounds, outcome)
    return outcome


def _processes(box: Machine, name: str, rounds: int, outcome: SoftgpuOutcome) -> None:
    found = _step(box, ["run", name, str(rounds)], outcome)
    alone = _step(box, ["run", name, str(rounds)], outcome, HARP_SOFT_WORKERS="1")
    for figure, over in (("ratio", ""), ("cpu_ratio", "cpu_")):
        pairs = zip(found[f"soft_{over}ms"], found[f"numpy_{over}ms"], strict=True)
        outcome.add(f"{name}_{figure}", *(soft / numpy for soft, numpy in pairs))
    outcome.add(f"{name}_ms", *found["soft_ms"])
    outcome.add(f"{name}_numpy_ms", *found["numpy_ms"])
    # How many cores a launch keeps busy; a busy host leaves it fewer.
    busy = zip(found["soft_cpu_ms"], found["soft_ms"], strict=True)
    outcome.add(f"{name}_cores", *(cpu / wall for cpu, wall in busy))
    gain = statistics.median(alone["soft_ms"]) / statistics.median(found["soft_ms"])
    outcome.add(f"{name}_gain_of_cores", gain)


def _starts(
    box: Machine,
    cache: Path,
    effort: Effort,
    outcome: SoftgpuOutcome,
    progress: Callable[[str], None],
) -> None:
    for number in range(effort.starts):
        progress(f"start {number + 1} of {effort.starts}")
        for name in _KERNELS:
            suffix = "" if name == "add" else f"_{name}"
            shutil.rmtree(cache / "harp", ignore_errors=True)
            for kind in ("cold", "warm"):
                found = _step(box, ["start", name], outcome)
                for figure in ("ms", "cpu_ms", "loaded_ms", "loaded_cpu_ms"):
                    outcome.add(f"{kind}{suffix}_{figure}", found[figure])
        # Where the time of a cold one goes: text to C; a C compiler over nothing.
        outcome.add("emit_ms", _emit_ms(box))
        outcome.add("empty_c_ms", _empty_c_ms(box))
    colds = zip(outcome.readings["cold_ms"], outcome.readings["empty_c_ms"], strict=True)
    outcome.add("cold_over_empty_c", *(cold / empty for cold, empty in colds))


def _step(
    box: Machine, arguments: Sequence[str], outcome: SoftgpuOutcome, **more: str
) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        _output([sys.executable, "-m", "harp.bench.softgpu_step", *arguments], {**box.env, **more})
    )
    if not found["right"]:
        outcome.wrong.append(" ".join(arguments))
    return found


def _compile(box: Machine, cache: Path, name: str, ptx: str) -> None:
    folder = cache / "harp" / "ptx"
    arguments = ["compile", "--kernel", name, "--cache", str(folder), "-"]
    _output([str(box.native.file("harp-ptxc")), *arguments], box.env, ptx)


def _emit_ms(box: Machine) -> float:
    began_s = time.perf_counter()
    arguments = ["emit", "--kernel", "add", "-"]
    _output([str(box.native.file("harp-ptxc")), *arguments], box.env, softgpu_kernels.ADD)
    return (time.perf_counter() - began_s) * 1e3


def _empty_c_ms(box: Machine) -> float:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise HarpError("no C compiler (cc, gcc or clang) in PATH", "apt install gcc")
    with tempfile.TemporaryDirectory(prefix="harp-bench-cc-") as folder:
        began_s = time.perf_counter()
        flags = ["-x", "c", "-O1", "-shared", "-fPIC", "-nostdlib", "-o", f"{folder}/x.so", "-"]
        _output([compiler, *flags], box.env, "int x;\n")
        return (time.perf_counter() - began_s) * 1e3


def _output(command: Sequence[str], env: Mapping[str, str], text: str = "") -> str:
    done = subprocess.run(
        command,
        env=dict(env),
        input=text,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        what = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise HarpError(f"{Path(command[0]).name} failed: {what[:300]}", "harp doctor")
    return done.stdout
