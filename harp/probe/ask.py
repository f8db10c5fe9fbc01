# SPDX-License-Identifier: Apache-2.0
"""Puts every question to the driver of one device, each probe in a process of its own.

A probe that crashes, hangs or is refused loses its own answers and no others.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO

from harp.discovery import Found, discover, measure_overhead
from harp.errors import ConfigError, NoDevice, NvmlError
from harp.model import DeviceKind
from harp.native import NativeDir, scrub
from harp.probe.questions import PROBES, Answer, Value, answers, ending, read_said

__all__ = ["Probed", "finish", "probe", "require", "slices"]

_PATIENCE_S = 60.0
_SPAN_MS = 300
_START_S = 5.0
_SETTLE_S = 0.5
_CHILD = "harp.probe.child"


@dataclass(frozen=True, slots=True)
class Probed:
    """A device and what its driver does."""

    name: str
    uuid: str
    driver_version: str
    software: bool
    others: int  #: processes that had the device when it was begun: times may be theirs, too
    answers: tuple[tuple[str, Answer], ...]  #: (probe, answer)


def require() -> None:
    """See that cuda-python is there.

    Raises:
        ConfigError: it is not.
    """
    if importlib.util.find_spec("cuda") is None or not importlib.util.find_spec("cuda.bindings"):
        raise ConfigError(
            "harp doctor --probe asks the driver through cuda-python, which is not installed",
            "pip install 'cuda-python>=12.8'",
        )


class _Running:
    """A probe's process, with all that it starts.

    What it says goes to files: a pipe has no end as long as any of those has it open.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._out, self._err = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115
        self._child = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=self._out, stderr=self._err,
            start_new_session=True,
        )  # fmt: skip

    def end(self, patience_s: float) -> tuple[list[str], str]:
        """Wait for its end; the lines that it said, and how it ended if not well."""
        pidfd = os.pidfd_open(self._child.pid)
        try:
            ended, _, _ = select.select([pidfd], [], [], patience_s)
        finally:
            os.close(pidfd)
        self.kill()
        out, err = self._read(self._out), self._read(self._err)
        *_, last = err.strip().splitlines() or [""]
        status = self._child.returncode if ended else None
        return out.splitlines(), ending(status, patience_s, last)

    def kill(self) -> None:
        """End all of it, if it is there: what is left of it would keep memory of the device."""
        if self._child.returncode is None:
            os.killpg(self._child.pid, signal.SIGKILL)  # not reaped: the number is still its own
            self._child.wait()

    def close(self) -> None:
        """End it, and forget what it said."""
        self.kill()
        self._out.close()
        self._err.close()

    @staticmethod
    def _read(file: IO[bytes]) -> str:
        file.seek(0)
        return file.read().decode(errors="replace")


def finish(
    command: Sequence[str], env: Mapping[str, str], patience_s: float = _PATIENCE_S
) -> tuple[list[str], str]:
    """Run a probe's process to its end; the lines that it said, and how it ended if not well."""
    with contextlib.closing(_Running(command, env)) as running:
        return running.end(patience_s)


def probe(
    native: NativeDir,
    env: Mapping[str, str],
    wanted: str,
    gpu: str | None,
    progress: Callable[[str], None],
) -> Probed:
    """Ask the driver of one device everything.

    Args:
        native: what is built.
        env: environment to start from.
        wanted: kind of device, as in the setting device.kind.
        gpu: index or UUID; None: the first.
        progress: is told what is being asked.

    Raises:
        ConfigError: cuda-python is not installed.
        NoDevice: there is none, or none of that name.
        NvmlError: NVML does not answer.
    """
    require()
    found = discover(native, env, wanted)
    try:
        device = next((d for d in found.devices if gpu in (None, str(d.index), d.uuid)), None)
        if device is None:
            there = ", ".join(f"{d.index} ({d.uuid})" for d in found.devices)
            raise NoDevice(f"no device {gpu}", f"there is {there}")
        inner = {**scrub(env), "CUDA_VISIBLE_DEVICES": device.uuid}
        found.nvml.processes(device.uuid)  # who has just died goes at the second look
        time.sleep(_SETTLE_S)
        others = len(found.nvml.processes(device.uuid))
        said: list[tuple[str, Answer]] = []
        for name in PROBES:
            progress(f"asking: {name}")
            said += ((name, answer) for answer in _one(name, found, device.uuid, inner))
        return Probed(
            device.name,
            device.uuid,
            found.nvml.driver_version(),
            found.kind is DeviceKind.SOFTWARE,
            others,
            tuple(said),
        )
    finally:
        found.nvml.close()


def _one(name: str, found: Found, uuid: str, env: Mapping[str, str]) -> Iterator[Answer]:
    if name == "context":
        values, ended = _context(found, uuid, env)
    elif name == "slices":
        values, ended = _slices(found.cuda_path, env)
    else:
        command = [sys.executable, "-m", _CHILD, str(found.cuda_path), name]
        lines, ended = finish(command, env)
        values, unknown = read_said(lines)
        yield from answers(name, values, unknown, ended)
        return
    yield from answers(name, values, {}, ended)


def _context(found: Found, uuid: str, env: Mapping[str, str]) -> tuple[dict[str, Value], str]:
    try:
        measured = asyncio.run(measure_overhead(found.nvml, found.cuda_path, uuid, env))
    except (NvmlError, OSError) as error:
        return {}, str(error)
    if measured.problem:
        return {}, measured.problem
    return {"context": measured.cost_bytes, "context_unlisted": measured.unlisted_bytes}, ""


def _slices(library: Path, env: Mapping[str, str]) -> tuple[dict[str, Value], str]:
    start_s = time.monotonic() + _START_S
    command = [sys.executable, "-m", _CHILD, str(library), "slices", str(_SPAN_MS), str(start_s)]
    told = []
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(contextlib.closing(_Running(command, env))) for _ in range(2)
        ]
        for one in running:
            lines, ended = one.end(_PATIENCE_S)
            if ended:
                return {}, ended
            told.append(json.loads(lines[-1]))
    return slices([(one["had_us"], one["away_us"]) for one in told])


def slices(told: Sequence[tuple[Sequence[float], Sequence[float]]]) -> tuple[dict[str, Value], str]:
    """Slices and switches from what each of two processes had and had not, in us."""
    (had, away), (other, _) = told
    if len(had) < 3 or len(other) < 3 or not away:
        return {}, "the two did not take turns: they may run at once, or one kernel to its end"
    values: dict[str, Value] = {
        "slice": float(f"{median([*had, *other]):.4g}"),
        "slice_most": float(f"{max([*had, *other]):.4g}"),
    }
    switch_us = median(away) - median(other)
    if switch_us > 0:
        values["switch"] = float(f"{switch_us:.3g}")
    return values, "" if switch_us > 0 else "gaps are no longer than the other's slices"
