# SPDX-License-Identifier: Apache-2.0
"""`harp bench trace`: what a training's step costs more while it is recorded.

One program (the demo's training, one loss read a step) under `harp run`, whose trace is started and
stopped again and again: steps of both sorts alternate in the same process, on the same device, and
each pair of neighbouring blocks gives a ratio. Who is first in a pair changes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harp.api.v1 import control_pb2 as pb
from harp.bench.machine import Machine, machine
from harp.bench.verdict import Target, as_json
from harp.client import Client
from harp.errors import HarpError, NativeError, TraceError
from harp.trace.control import Wish, tell, untell
from harp.trace.format import Reader
from harp.trace.records import Call, DeviceTime, Why

__all__ = ["LIMIT_RATIO", "TraceOutcome", "run_trace"]

#: a step that is recorded may take so much longer
LIMIT_RATIO = 1.05
_NAME = "traced"
_WARM_UP = 12  #: steps that compile, or are captured
_SETTLE = 3  #: steps after each change that are not counted
_ANSWER_S = 10.0
_TRAINING = {"DEV": "CUDA:PTX", "CC": "false", "CACHELEVEL": "0", "PYTHONDONTWRITEBYTECODE": "1"}


@dataclass(slots=True)
class TraceOutcome:
    """What was measured."""

    plain_ms: list[float] = field(default_factory=list)  #: medians of blocks, pair by pair
    traced_ms: list[float] = field(default_factory=list)
    steps: int = 0  #: in a block
    calls_per_step: float = 0.0
    measured_per_step: float = 0.0  #: of these, whose time on the device is known
    bytes_per_step: float = 0.0
    lost: int = 0

    @property
    def ratio(self) -> float:
        """Median of the pairs' ratios."""
        return statistics.median(self._ratios())

    def _ratios(self) -> list[float]:
        return [t / p for t, p in zip(self.traced_ms, self.plain_ms, strict=True)]

    @property
    def ok(self) -> bool:
        """Steps were recorded, and all of them."""
        return self.calls_per_step > 0 and self.measured_per_step > 0 and self.lost == 0

    def json(self, *, load_1min: float, label: str) -> dict[str, object]:
        """For `--json`."""
        ratios = sorted(self._ratios())
        added_us = [1e3 * (t - p) for t, p in zip(self.traced_ms, self.plain_ms, strict=True)]
        return {
            "label": label,
            "pairs": len(ratios),
            "steps_per_block": self.steps,
            "step_ms_plain": statistics.median(self.plain_ms),
            "step_ms_traced": statistics.median(self.traced_ms),
            "step_ratio": self.ratio,
            "step_ratio_quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
            "targets": as_json(
                [
                    Target(
                        "tinygrad", "step_ratio", self.ratio, LIMIT_RATIO, self.ratio <= LIMIT_RATIO
                    )
                ]
            ),
            "added_us_per_step": statistics.median(added_us),
            "calls_per_step": self.calls_per_step,
            "measured_per_step": self.measured_per_step,
            "bytes_per_step": self.bytes_per_step,
            "lost": self.lost,
            "ok": self.ok,
            "load_1min": load_1min,
        }


class _Training:
    """The program, step by step."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._before_s = 0.0

    def step_ms(self) -> float:
        """How long the next step takes, by its own clock."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if said["event"] == "step":
                before_s, self._before_s = self._before_s, said["time_s"]
                return 1e3 * (self._before_s - before_s)
        raise HarpError(f"the training ended: {self._process.wait()}", "see `harp doctor`")

    def block_ms(self, steps: int) -> float:
        """The median of so many steps."""
        for _ in range(_SETTLE):
            self.step_ms()
        return statistics.median(self.step_ms() for _ in range(steps))


def run_trace(
    env: Mapping[str, str], pairs: int, steps: int, *, progress: Callable[[str], None]
) -> TraceOutcome:
    """Measure, on a private machine.

    Args:
        env: the environment to measure in.
        pairs: of blocks, one recorded and one not.
        steps: in each block.
        progress: called with a line per pair.

    Raises:
        NativeError: the training's packages are not there.
        HarpError: something did not run.
    """
    if importlib.util.find_spec("tinygrad") is None:
        raise NativeError("the training needs tinygrad", "pip install tinygrad scikit-learn")
    outcome = TraceOutcome(steps=steps)
    folder = Path(tempfile.mkdtemp(prefix="harp-bench-trace-"))
    try:
        with machine(env, harp=True) as box, _training(box) as training:
            for _ in range(_WARM_UP):
                training.step_ms()
            grant = _Grant(box)
            for number in range(pairs):
                _pair(outcome, training, grant, folder / f"{number}", plain_first=number % 2 == 0)
                progress(f"{outcome.plain_ms[-1]:.3f} ms, recorded {outcome.traced_ms[-1]:.3f} ms")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


@contextlib.contextmanager
def _training(box: Machine) -> Iterator[_Training]:
    words = [sys.executable, "-m", "harp.demo.digits", "--every", "1", "--hidden", "64"]
    with subprocess.Popen(
        box.under_harp(words, "--name", _NAME),
        env={**box.env, **_TRAINING},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield _Training(process)
        finally:
            process.send_signal(signal.SIGKILL)


class _Grant:
    """The training's, through which it is told."""

    def __init__(self, box: Machine) -> None:
        self._env = box.env
        with Client.connect(box.env) as client:
            tenants = client.state().tenants
        self._folder = Path(next(t.grant_dir for t in tenants if t.name == _NAME))

    def trace(self, wish: Wish | None) -> None:
        """To this file, or no more."""
        if wish is not None:
            tell(self._folder, wish)
        else:
            untell(self._folder)
        with Client.connect(self._env) as client:
            client.set(pb.SetTenantRequest(name=_NAME))


def _pair(
    outcome: TraceOutcome, training: _Training, grant: _Grant, file: Path, *, plain_first: bool
) -> None:
    if plain_first:
        outcome.plain_ms.append(training.block_ms(outcome.steps))
    grant.trace(Wish(file))
    _until(training, file, running=True)
    outcome.traced_ms.append(training.block_ms(outcome.steps))
    grant.trace(None)
    _until(training, file, running=False)
    if not plain_first:
        outcome.plain_ms.append(training.block_ms(outcome.steps))
    _read(outcome, file)


def _until(training: _Training, file: Path, *, running: bool) -> None:
    """Until the program has heard; it goes on meanwhile."""
    end = time.monotonic() + _ANSWER_S
    while time.monotonic() < end:
        training.step_ms()
        with contextlib.suppress(OSError, TraceError), file.open("rb") as opened:
            if (Reader(opened).header.why is Why.RUNNING) == running:
                return
    raise HarpError("the training did not hear of the trace", "see shim.log in its grant's folder")


def _read(outcome: TraceOutcome, file: Path) -> None:
    """What is in it, by the step: a step ends with the reading of its loss."""
    with file.open("rb") as opened:
        reader = Reader(opened)
        records = list(reader)
    calls = [r for r in records if isinstance(r, Call)]
    reads = sum(c.symbol.name.startswith("cuMemcpyDtoH") for c in calls) or 1
    outcome.calls_per_step = len(calls) / reads
    outcome.measured_per_step = sum(isinstance(r, DeviceTime) for r in records) / reads
    outcome.bytes_per_step = sum(96 + len(c.request) + len(c.reply) for c in calls) / reads
    outcome.lost += reader.header.lost_records + reader.header.dropped
    file.unlink()
