# SPDX-License-Identifier: Apache-2.0
"""Series of the estimator: how often its bounds hold, and what they save. Pure.

Totals of what bounds did are kept over restarts of a harpd that ended by itself, and begin at 0
after one that was killed; those of windows begin at 0 with each harpd. What was said of jobs that
lived through a restart is not judged. Gauges of coverage are of the last 7 days, and there is none
while there is no case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from harp.estimator.track import Sums
from harp.metrics.families import GPU_LABELS, Family, Kind, Sample
from harp.model import Device

__all__ = ["ESTIMATOR", "EstimatorSeen", "PoolSeen", "estimator_samples"]


def _gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Family:
    return Family(f"harp_estimator_{name}", Kind.GAUGE, text, labels)


def _counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Family:
    return Family(f"harp_estimator_{name}", Kind.COUNTER, text, labels)


#: what was estimated: gpu_mem_bytes, share_ratio, host_mem_bytes, cpu_cores, duration_s
_TARGET = ("target",)

MODE = _gauge("mode", "What comes of estimates where nothing else is said; always 1.", ("mode",))
PREDICTIONS = _counter(
    "predictions_total",
    "Answers given of jobs that were to run; known: learned from runs.",
    ("target", "known"),
)
JUDGED = _counter("judged_total", "Runs that ended and of which a bound held or did not.", _TARGET)
COVERED = _counter("covered_total", "Of those judged, the ones whose bound held.", _TARGET)
COVERAGE = _gauge("coverage_ratio", "How often bounds held in the last 7 days.", _TARGET)
CONFIDENCE = _gauge(
    "confidence_ratio", "How often the same bounds were said to hold, in the mean.", _TARGET
)
WINDOW_RUNS = _gauge("judged_runs", "Runs judged in the last 7 days.", _TARGET)
ASKED = _counter(
    "asked_bytes_total", "GPU memory asked for by runs that ended; unasked, the whole GPU."
)
BOUND = _counter(
    "bound_bytes_total", "GPU memory that the estimate said they need at most; unknown, as asked."
)
USED = _counter("used_bytes_total", "GPU memory that they had at their peak.")
SAVED = _gauge(
    "saved_ratio", "Part of the GPU memory asked for that bounds leave, in the last 7 days."
)
BUFFER = _gauge(
    "buffer_ratio",
    "Part of a GPU kept free for what its jobs need beyond what is typical, in mode enforce.",
    GPU_LABELS,
)
RESERVED = _gauge(
    "reserved_bytes",
    "What jobs on the GPU typically need, added up; no series: not known of all of them.",
    GPU_LABELS,
)
WINDOWS = _counter(
    "windows_total", "Windows in which all jobs on the GPU had an estimate.", GPU_LABELS
)
WINDOWS_OVER = _counter(
    "windows_over_total",
    "Of those, the ones whose jobs needed more than sum and buffer.",
    GPU_LABELS,
)

#: of harpd, as well
ESTIMATOR = (
    MODE,
    PREDICTIONS,
    JUDGED,
    COVERED,
    COVERAGE,
    CONFIDENCE,
    WINDOW_RUNS,
    ASKED,
    BOUND,
    USED,
    SAVED,
    BUFFER,
    RESERVED,
    WINDOWS,
    WINDOWS_OVER,
)


@dataclass(frozen=True, slots=True)
class PoolSeen:
    """What a GPU's jobs are expected to need together."""

    device: Device
    buffer_ratio: float
    reserved_bytes: int | None = None  #: None: not known of all of them
    windows: int = 0
    over: int = 0


@dataclass(frozen=True, slots=True)
class EstimatorSeen:
    """The estimator at one moment."""

    mode: str
    #: {(target, whether it was known): answers}
    answers: Mapping[tuple[str, bool], int] = field(default_factory=dict)
    #: {target: (of all, of the last 7 days)}
    targets: Mapping[str, tuple[Sums, Sums]] = field(default_factory=dict)
    pools: tuple[PoolSeen, ...] = ()


def estimator_samples(seen: EstimatorSeen) -> Iterator[Sample]:
    """Every sample of the estimator."""
    yield Sample(MODE, (seen.mode,), 1)
    for (target, known), count in sorted(seen.answers.items()):
        yield Sample(PREDICTIONS, (target, str(known).lower()), count)
    for target, (total, recent) in seen.targets.items():
        yield Sample(JUDGED, (target,), total.judged)
        yield Sample(COVERED, (target,), total.held)
        yield Sample(WINDOW_RUNS, (target,), recent.judged)
        for family, ratio in (
            (COVERAGE, recent.coverage_ratio),
            (CONFIDENCE, recent.confidence_ratio),
        ):
            if ratio is not None:
                yield Sample(family, (target,), ratio)
        if target == "gpu_mem_bytes":
            yield from _savings(total, recent)
    for pool in seen.pools:
        yield from _of_pool(pool)


def _savings(total: Sums, recent: Sums) -> Iterator[Sample]:
    yield Sample(ASKED, (), total.asked)
    yield Sample(BOUND, (), total.bound)
    yield Sample(USED, (), total.used)
    if (saved := recent.saved_ratio) is not None:
        yield Sample(SAVED, (), saved)


def _of_pool(pool: PoolSeen) -> Iterator[Sample]:
    labels = (str(pool.device.index), pool.device.uuid, pool.device.kind.value)
    yield Sample(BUFFER, labels, pool.buffer_ratio)
    if pool.reserved_bytes is not None:
        yield Sample(RESERVED, labels, pool.reserved_bytes)
    yield Sample(WINDOWS, labels, pool.windows)
    yield Sample(WINDOWS_OVER, labels, pool.over)
