# SPDX-License-Identifier: Apache-2.0
"""Puts every question to the driver of one device, each probe in a process of its own.

A probe that crashes, hangs or is refused loses its own answers and no others.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

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
            "pip install 'cuda-python>=12.8', which is the extra harp[cuda]",
        )


def finish(
    command: Sequence[str], env: Mapping[str, str], patience_s: float = _PATIENCE_S
) -> tuple[list[str], str]:
    """Run a probe's process to its end; the lines that it said, and how it ended if not well."""
    with subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        try:
            out, err = child.communicate(timeout=patience_s)
            status: int | None = child.returncode
        except subprocess.TimeoutExpired:
            child.kill()
            out, err = child.communicate()
            status = None
    *_, last = err.decode(errors="replace").strip().splitlines() or [""]
    return out.decode(errors="replace").splitlines(), ending(status, patience_s, last)


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
    children = [
        subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    told = []
    try:
        for child in children:
            out, err = child.communicate(timeout=_PATIENCE_S)
            *_, last = err.strip().splitlines() or [""]
            if ended := ending(child.returncode, _PATIENCE_S, last):
                return {}, ended
            told.append(json.loads(out.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return {}, ending(None, _PATIENCE_S)
    finally:
        for child in children:
            child.kill()
            child.communicate()
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
