# SPDX-License-Identifier: Apache-2.0
"""Tables of what jobs needed, as CSV files, gzipped or not: rows become cases.

    pods       pods_57s.csv[.gz]        t_s, pod, gpu_mem_bytes, gpu_util_pct, host_mem_frac
    requests   requests.csv[.gz]        submit_s, user, model, task, steps, images, num_lora,
                                        status, duration_s
    philly     philly_jobs.csv[.gz]     submit_s, vc, num_gpus, duration_s
    dlrm       dlrm_instances.csv[.gz]  instance, app, role, create_s, delete_s

A container's samples become windows of 60 samples: what it needs is the largest of the window (of
GPU utilization the 95 % quantile: a short burst need not be granted). An empty cell was not
observed. Who has not ended has no duration and is no case.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harp import csvfile
from harp.csvfile import Row
from harp.estimator.estimate import Key

__all__ = [
    "SAMPLE_S",
    "TABLES",
    "WHOLE_DEVICE_BYTES",
    "WINDOW_S",
    "Case",
    "Sample",
    "cases_of",
    "read",
    "samples",
]

SAMPLE_S = 57.0
WINDOW_S = 60 * SAMPLE_S
#: windows of fewer samples are learned from, not scored: their largest says little
_SCORED_MIN = 30
#: "whole device" of that trace, see its README
WHOLE_DEVICE_BYTES = 50_833_129_472.0


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to be estimated."""

    target: str
    name: str  #: key that coverage is told by: container, user, virtual cluster, app
    begin_s: float  #: estimated at
    end_s: float  #: known at
    keys: tuple[Key, ...]
    value: float
    request: float | None
    scored: bool = True


@dataclass(frozen=True, slots=True)
class Sample:
    """One container at one moment."""

    at_s: float
    pod: str
    values: dict[str, float]


_POD_REQUESTS = {
    "gpu_mem_bytes": WHOLE_DEVICE_BYTES,
    "host_mem_frac": 1.0,
    "gpu_util_pct": 100.0,
}
_FILES = {
    "pods": "pods_57s",
    "requests": "requests",
    "philly": "philly_jobs",
    "dlrm": "dlrm_instances",
}
TABLES = tuple(_FILES)


def read(folder: Path, table: str) -> list[Case]:
    """The cases of a table, by begin; those of equal begin in the file's order.

    Raises:
        ConfigError: no such file, a column is missing, a value is no number.
    """
    found = {"pods": _pods, "requests": _requests, "philly": _philly, "dlrm": _dlrm}[table](folder)
    return sorted(found, key=lambda case: (case.begin_s, case.target))


def samples(folder: Path) -> list[Sample]:
    """The samples of table pods, in the file's order.

    Raises:
        ConfigError: as read().
    """
    found = []
    for row in _rows(folder, "pods", ("t_s", "pod", *_POD_REQUESTS)):
        values = {
            name: max(0.0, value)
            for name in _POD_REQUESTS
            if (value := row.number(name)) is not None
        }
        found.append(Sample(row.needed("t_s"), row.text("pod"), values))
    return found


def cases_of(rows: Sequence[Sample]) -> Iterator[Case]:
    """Samples as windows, the three targets of each container."""
    windows: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for sample in rows:
        number = int(sample.at_s // WINDOW_S)
        for target, value in sample.values.items():
            windows[target, sample.pod, number].append(value)
    for (target, pod, number), values in windows.items():
        values.sort()
        at = int(0.95 * len(values)) if target == "gpu_util_pct" else -1
        yield Case(
            target,
            pod,
            number * WINDOW_S,
            (number + 1) * WINDOW_S,
            (("container", pod),),
            values[at],
            _POD_REQUESTS[target],
            scored=len(values) >= _SCORED_MIN,
        )


def _pods(folder: Path) -> Iterator[Case]:
    return cases_of(samples(folder))


def _requests(folder: Path) -> Iterator[Case]:
    columns = ("submit_s", "user", "model", "task", "steps", "images", "num_lora", "status")
    for row in _rows(folder, "requests", (*columns, "duration_s")):
        duration_s = row.number("duration_s")
        if row.text("status") != "SUCCEED" or not duration_s or duration_s <= 0:
            continue
        begin_s = row.needed("submit_s")
        user, model, task, steps, images, lora = (row.text(name) for name in columns[1:7])
        keys: tuple[Key, ...] = (
            ("user and signature", user, model, task, steps, images, lora),
            ("signature", model, task, steps, images, lora),
            ("model and size", model, task, steps, images),
            ("user and size", user, task, steps, images),
            ("model", model, task, images),
            ("size", task, steps, images),
            ("task", task, images),
            ("all",),
        )
        yield Case("duration_s", user, begin_s, begin_s + duration_s, keys, duration_s, None)


def _philly(folder: Path) -> Iterator[Case]:
    for row in _rows(folder, "philly", ("submit_s", "vc", "num_gpus", "duration_s")):
        duration_s = row.number("duration_s")
        if not duration_s or duration_s <= 0:
            continue
        begin_s = row.needed("submit_s")
        vc, gpus = row.text("vc"), row.text("num_gpus")
        keys: tuple[Key, ...] = (
            ("cluster and GPUs", vc, gpus),
            ("cluster", vc),
            ("GPUs", gpus),
            ("all",),
        )
        yield Case("duration_s", vc, begin_s, begin_s + duration_s, keys, duration_s, None)


def _dlrm(folder: Path) -> Iterator[Case]:
    for row in _rows(folder, "dlrm", ("instance", "app", "role", "create_s", "delete_s")):
        begin_s, end_s = row.number("create_s"), row.number("delete_s")
        if begin_s is None or end_s is None or end_s <= begin_s:
            continue
        app, role = row.text("app"), row.text("role")
        keys: tuple[Key, ...] = (
            ("app and role", app, role),
            ("app", app),
            ("role", role),
            ("all",),
        )
        yield Case("duration_s", app, begin_s, end_s, keys, end_s - begin_s, None)


def _rows(folder: Path, table: str, needed: Sequence[str]) -> Iterator[Row]:
    paths = [folder / f"{_FILES[table]}.csv{end}" for end in (".gz", "")]
    return csvfile.read(next((path for path in paths if path.exists()), paths[0]), needed)
