# SPDX-License-Identifier: Apache-2.0
"""From readings to figures: windows, shares, errors, percentiles. Pure.

Three books are kept of the same work: the engine's own ledger (`compute_ns`), what HARP charged
(`charged_ns`), and what the clients counted (`counted_ns`: iterations x calibrated kernel time).
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Mark", "Measured", "interpolate", "measure", "percentile", "shares"]

#: a shorter rest at the end of a run is no window
_LEAST_WINDOW_NS = 500_000_000


@dataclass(frozen=True, slots=True)
class Mark:
    """All books at one moment, one entry a tenant."""

    t_ns: int  #: device clock, which is CLOCK_MONOTONIC on the software GPU
    compute_ns: tuple[int, ...]
    overrun_ns: tuple[int, ...]
    charged_ns: tuple[int, ...] | None = None  #: None: no HARP
    counted_ns: tuple[float, ...] | None = None  #: None: the clients do not count
    arbiter_cpu_s: float | None = None  #: of the arbiter since it began


@dataclass(frozen=True, slots=True)
class Measured:
    """One run's figures. Shares are parts of what all tenants had together, 0..1."""

    achieved: tuple[float, ...]
    charged: tuple[float, ...] | None
    counted: tuple[float, ...] | None
    errors_pp: tuple[float, ...]  #: |share of a 1 s window - requested|, windows x tenants
    busy_ratio: float
    overrun_ratio: float
    charge_ratio: float | None  #: charged / busy; gaps inside a turn are the tenant's own
    arbiter_cpu_ratio: float | None  #: of one core

    @property
    def mean_error_pp(self) -> float:
        """Over windows and tenants."""
        return statistics.fmean(self.errors_pp)

    @property
    def p95_error_pp(self) -> float:
        """Over windows and tenants."""
        return percentile(self.errors_pp, 95)


def shares(amounts: Sequence[float]) -> tuple[float, ...]:
    """Each one's part of the sum; all 0 if there is nothing."""
    whole = sum(amounts)
    return tuple(amount / whole if whole > 0 else 0.0 for amount in amounts)


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank: the smallest value that at least `percent` of all do not exceed.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values")
    rank = max(1, math.ceil(percent / 100 * len(values)))
    return sorted(values)[rank - 1]


def interpolate(points: Sequence[tuple[int, float]], t_ns: int) -> float:
    """A growing count at `t_ns`, straight between its reports, constant beyond them.

    Args:
        points: (time, count), in order of time.
        t_ns: when.
    """
    if not points:
        return 0.0
    after = bisect_right(points, t_ns, key=lambda point: point[0])
    if after == 0:
        return points[0][1]
    if after == len(points):
        return points[-1][1]
    (t0, n0), (t1, n1) = points[after - 1], points[after]
    return n0 + (n1 - n0) * (t_ns - t0) / (t1 - t0)


def measure(marks: Sequence[Mark], requested: Sequence[float]) -> Measured:
    """Figures of one run.

    Args:
        marks: some 1 s apart, at least two.
        requested: one a tenant, 1 in sum.

    Raises:
        ValueError: fewer than two marks.
    """
    if len(marks) < 2:
        raise ValueError(f"{len(marks)} readings are no window")
    first, last = marks[0], marks[-1]
    span_ns = max(1, last.t_ns - first.t_ns)
    spans = _less(last.compute_ns, first.compute_ns)
    busy_ns = sum(spans)
    errors = [
        abs(got - want) * 100
        for a, b in pairwise(marks)
        if b.t_ns - a.t_ns >= _LEAST_WINDOW_NS
        for got, want in zip(shares(_less(b.compute_ns, a.compute_ns)), requested, strict=True)
    ]
    if not errors:  # shorter than a window: all of it is one
        errors = [abs(got - want) * 100 for got, want in zip(shares(spans), requested, strict=True)]
    charged = counted = None
    charge_ratio = cpu_ratio = None
    if first.charged_ns is not None and last.charged_ns is not None:
        charges = _less(last.charged_ns, first.charged_ns)
        charged, charge_ratio = shares(charges), sum(charges) / max(1, busy_ns)
    if first.counted_ns is not None and last.counted_ns is not None:
        counted = shares(_less(last.counted_ns, first.counted_ns))
    if first.arbiter_cpu_s is not None and last.arbiter_cpu_s is not None:
        cpu_ratio = (last.arbiter_cpu_s - first.arbiter_cpu_s) * 1e9 / span_ns
    return Measured(
        achieved=shares(spans),
        charged=charged,
        counted=counted,
        errors_pp=tuple(errors),
        busy_ratio=busy_ns / span_ns,
        overrun_ratio=sum(_less(last.overrun_ns, first.overrun_ns)) / max(1, busy_ns),
        charge_ratio=charge_ratio,
        arbiter_cpu_ratio=cpu_ratio,
    )


def _less(later: Sequence[float], earlier: Sequence[float]) -> list[float]:
    return [b - a for a, b in zip(earlier, later, strict=True)]
