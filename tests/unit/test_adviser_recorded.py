# SPDX-License-Identifier: Apache-2.0
"""harp.estimator.advise on recorded tables: each row is a run, asked for at its begin.

The judge of `harp estimate replay` asks an Estimator with keys of each table's own; here the same
rows go the way that runs of harpd go, through Adviser and its keys.
"""

from __future__ import annotations

import dataclasses
import heapq
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from harp.estimator.advise import Adviser
from harp.estimator.job import Job, Need, Run
from harp.estimator.replay import tables

TRACES = Path(os.environ.get("HARP_TRACES", "../shared/data")) / "traces"
#: of the time, that is only learned from
_WARM = 0.6

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TRACES.is_dir(), reason="recorded traces are not here (HARP_TRACES)"),
]


def _pods() -> Iterator[Run]:
    windows: dict[tuple[float, float, str], dict[str, float]] = defaultdict(dict)
    for case in tables.read(TRACES, "pods"):
        if case.scored:
            windows[case.begin_s, case.end_s, case.name][case.target] = case.value
    for (begin_s, end_s, name), values in windows.items():
        device = int(tables.WHOLE_DEVICE_BYTES)
        used = {
            ours: values[theirs] / scale
            for theirs, ours, scale in (
                ("gpu_mem_bytes", "gpu_mem_bytes", 1.0),
                ("gpu_util_pct", "share_ratio", 100.0),
            )
            if theirs in values
        }
        of = Job(program=name, user="u", gpu="g", device_mem_bytes=device)
        yield Run(of, started_s=begin_s, ended_s=end_s, used=used)


def _requests() -> Iterator[Run]:
    for case in tables.read(TRACES, "requests"):
        _, user, model, task, *numbers = case.keys[0]
        names = ("steps", "images", "loras")
        of = Job(
            program=repr(case.keys[1]),
            shape=f"{model}/{task}",
            numbers=tuple((n, float(str(v) or 0)) for n, v in zip(names, numbers, strict=True)),
            user=str(user),
            image=str(model),
            framework=str(task),
        )
        yield Run(of, started_s=case.begin_s, ended_s=case.end_s, used={"duration_s": case.value})


def _walk(runs: Iterator[Run]) -> list[tuple[Run, dict[str, Need]]]:
    """What is said of each at its begin; it is looked at when its duration's bound is over."""
    every = sorted(runs, key=lambda one: one.started_s)
    first_s, last_s = every[0].started_s, every[-1].started_s
    adviser = Adviser()
    #: (when, number, ended, run)
    pending: list[tuple[float, int, bool, Run]] = []
    said = []
    for number, one in enumerate(every):
        while pending and pending[0][0] <= one.started_s:
            _, _, ended, known = heapq.heappop(pending)
            (adviser.learn if ended else adviser.still)(known)
        needs = adviser.ask(one.job, one.started_s)
        adviser.still(dataclasses.replace(one, used={}, ended_s=one.started_s))
        limit_s, lasts_s = needs["duration_s"].bound, one.used.get("duration_s", 0.0)
        if limit_s is not None and lasts_s > limit_s:
            beyond_s = (limit_s + min(lasts_s, limit_s * 1.001)) / 2
            at_s = one.started_s + beyond_s
            seen = dataclasses.replace(one, ended_s=at_s, used={"duration_s": beyond_s})
            heapq.heappush(pending, (at_s, number, False, seen))
        heapq.heappush(pending, (one.ended_s, number, True, one))
        if one.started_s >= first_s + _WARM * (last_s - first_s):
            said.append((one, needs))
    return said


def _rate(said: list[tuple[Run, dict[str, Need]]], target: str) -> tuple[float, float, int]:
    """(bounds that held, parts of the request not granted, how many)."""
    rows = [(needs[target], one.used[target]) for one, needs in said if target in one.used]
    held = sum(need.bound is None or value <= need.bound for need, value in rows)
    scale = tables.WHOLE_DEVICE_BYTES if target == "gpu_mem_bytes" else 1.0
    granted = sum(scale if need.bound is None else need.bound for need, _ in rows)
    return held / len(rows), 1 - granted / (scale * len(rows)), len(rows)


def test_containers() -> None:
    said = _walk(_pods())
    held, saved, count = _rate(said, "gpu_mem_bytes")
    assert count > 400
    assert held >= 0.98
    assert saved >= 0.07
    held, saved, _ = _rate(said, "share_ratio")
    assert held >= 0.99
    assert saved >= 0.45


def test_requests() -> None:
    said = _walk(_requests())
    held, _, count = _rate(said, "duration_s")
    assert count > 7000
    assert held == pytest.approx(0.90, abs=0.015)
    near = [
        abs((needs["duration_s"].typical or 0) - one.used["duration_s"])
        <= 0.25 * one.used["duration_s"]
        for one, needs in said
    ]
    assert sum(near) / len(near) >= 0.60
