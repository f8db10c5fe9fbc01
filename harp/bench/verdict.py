# SPDX-License-Identifier: Apache-2.0
"""Is it good? Two rules: what makes a bench exit 1, and the stricter figures HARP is held to. Pure.

The first: in every cell the engine's ledger, HARP's charge and the client's count are within two
points of what was asked and of each other (three points where a kernel is longer than a quantum),
and the host kept up with the modelled device. And the same rule must fail where HARP's gates are
off; else the bench cannot tell.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from harp.bench.cells import Cell
from harp.bench.figures import Measured

__all__ = [
    "Case",
    "Target",
    "Violation",
    "as_json",
    "control_fails",
    "judge",
    "severity",
    "targets",
    "violations",
    "worst_figure",
]

OVERRUN_RATIO = 0.02
MEAN_ERROR_PP, P95_ERROR_PP, LONG_ERROR_PP = 0.5, 1.5, 3.0
AGGREGATE_RATIO, ALONE_RATIO, ARBITER_CPU_RATIO = 0.97, 0.99, 0.02
_BUSY_TENANTS = 16  #: with so many the arbiter's own use is judged


@dataclass(frozen=True, slots=True)
class Violation:
    """A figure and the limit that it must not pass."""

    cell: str
    figure: str
    value: float
    limit: float

    def __str__(self) -> str:
        return f"{self.cell}: {self.figure} is {self.value:.3f}, the limit {self.limit:g}"


@dataclass(frozen=True, slots=True)
class Target:
    """A figure HARP is held to, met or missed."""

    cell: str
    figure: str
    value: float
    limit: float
    met: bool


@dataclass(frozen=True, slots=True)
class Case:
    """A cell's figures: medians over its runs."""

    cell: Cell
    achieved: tuple[float, ...]
    charged: tuple[float, ...] | None
    counted: tuple[float, ...] | None
    mean_error_pp: float
    p95_error_pp: float
    aggregate_ratio: float | None  #: busy under HARP / busy without; None: not compared
    busy_ratio: float
    native_busy_ratio: float | None
    overrun_ratio: float  #: the worst of both sides
    charge_ratio: float | None
    arbiter_cpu_ratio: float | None
    spread: dict[str, list[float]]  #: {figure: [least, most]} over the runs
    repeat: int

    @property
    def meter_error_pp(self) -> float | None:
        """HARP's charge against the engine's ledger, the worst tenant's, in points."""
        return None if self.charged is None else _off_pp(self.charged, self.achieved)

    @property
    def client_error_pp(self) -> float | None:
        """The clients' count against the engine's ledger, the worst tenant's, in points."""
        return None if self.counted is None else _off_pp(self.counted, self.achieved)

    def json(self) -> dict[str, object]:
        """As `harp bench share --json` prints it."""
        return {
            "name": self.cell.name,
            "requested": [round(part, 4) for part in self.cell.requested],
            "achieved": [round(part, 4) for part in self.achieved],
            "meter_error_pp": _round(self.meter_error_pp),
            "client_error_pp": _round(self.client_error_pp),
            "mean_error_pp": _round(self.mean_error_pp),
            "p95_error_pp": _round(self.p95_error_pp),
            "aggregate_ratio": _round(self.aggregate_ratio),
            "charged": None if self.charged is None else [round(p, 4) for p in self.charged],
            "counted": None if self.counted is None else [round(p, 4) for p in self.counted],
            "busy_ratio": _round(self.busy_ratio),
            "native_busy_ratio": _round(self.native_busy_ratio),
            "overrun_ratio": _round(self.overrun_ratio),
            "charge_ratio": _round(self.charge_ratio),
            "arbiter_cpu_ratio": _round(self.arbiter_cpu_ratio),
            "spread": {name: [round(v, 4) for v in ends] for name, ends in self.spread.items()},
            "repeat": self.repeat,
        }


def judge(cell: Cell, harp: Sequence[Measured], native: Sequence[Measured]) -> Case:
    """Medians over the runs of a cell; the overrun is the worst one's.

    Args:
        cell: what was run.
        harp: runs under HARP, at least one.
        native: runs beside them without HARP.

    Raises:
        statistics.StatisticsError: no runs.
    """
    busy = _median([run.busy_ratio for run in harp])
    native_busy = _median([run.busy_ratio for run in native]) if native else None
    spread = {
        "mean_error_pp": [run.mean_error_pp for run in harp],
        "p95_error_pp": [run.p95_error_pp for run in harp],
        "busy_ratio": [run.busy_ratio for run in harp],
        "native_busy_ratio": [run.busy_ratio for run in native],
    }
    return Case(
        cell=cell,
        achieved=_medians([run.achieved for run in harp]) or (),
        charged=_medians([run.charged for run in harp]),
        counted=_medians([run.counted for run in harp]),
        mean_error_pp=_median([run.mean_error_pp for run in harp]),
        p95_error_pp=_median([run.p95_error_pp for run in harp]),
        aggregate_ratio=busy / native_busy if native_busy else None,
        busy_ratio=busy,
        native_busy_ratio=native_busy,
        overrun_ratio=max(run.overrun_ratio for run in (*harp, *native)),
        charge_ratio=_maybe([run.charge_ratio for run in harp]),
        arbiter_cpu_ratio=_maybe([run.arbiter_cpu_ratio for run in harp]),
        spread={name: [min(taken), max(taken)] for name, taken in spread.items() if taken},
        repeat=len(harp),
    )


def violations(case: Case) -> list[Violation]:
    """What is wrong with a case; none: good.

    A program that does not count leaves the client's figure out; HARP's charge is never left out.
    """
    return [one for one in _checks(case) if not one.value <= one.limit]  # NaN is wrong too


def worst_figure(case: Case) -> Violation:
    """The figure nearest to its limit, or furthest past it."""
    return max(_checks(case), key=lambda one: _severity(one.value / one.limit))


def severity(case: Case) -> float:
    """How near the worst figure is to its limit: above 1 it is past it."""
    worst = worst_figure(case)
    return _severity(worst.value / worst.limit)


def _severity(ratio: float) -> float:
    return float("inf") if math.isnan(ratio) else ratio


def _checks(case: Case) -> list[Violation]:
    cell, found = case.cell, []

    def check(figure: str, value: float, limit: float) -> None:
        found.append(Violation(cell.name, figure, value, limit))

    check("achieved_off_pp", _off_pp(case.achieved, cell.requested), cell.tolerance_pp)
    charged = case.charged if case.charged is not None else (0.0,) * len(cell.shares)
    check("charged_off_pp", _off_pp(charged, cell.requested), cell.tolerance_pp)
    check("meter_error_pp", _off_pp(charged, case.achieved), cell.tolerance_pp)
    if case.counted is not None:
        check("counted_off_pp", _off_pp(case.counted, cell.requested), cell.tolerance_pp)
        check("client_error_pp", _off_pp(case.counted, case.achieved), cell.tolerance_pp)
    check("overrun_ratio", case.overrun_ratio, OVERRUN_RATIO)
    return found


def control_fails(cell: Cell, run: Measured) -> bool:
    """Whether the rule refuses a run that nobody gated, by what the engine says of it."""
    return _off_pp(run.achieved, cell.requested) > cell.tolerance_pp


def targets(case: Case) -> list[Target]:
    """The stricter figures; they decide no exit code."""
    name, found = case.cell.name, []

    def most(figure: str, value: float, limit: float) -> None:
        found.append(Target(name, figure, value, limit, value <= limit))

    if case.cell.is_long:
        most("achieved_off_pp", _off_pp(case.achieved, case.cell.requested), LONG_ERROR_PP)
    elif len(case.cell.shares) > 1:
        most("mean_error_pp", case.mean_error_pp, MEAN_ERROR_PP)
        most("p95_error_pp", case.p95_error_pp, P95_ERROR_PP)
    if case.aggregate_ratio is not None:
        least = ALONE_RATIO if len(case.cell.shares) == 1 else AGGREGATE_RATIO
        ratio = case.aggregate_ratio
        found.append(Target(name, "aggregate_ratio", ratio, least, ratio >= least))
    if len(case.cell.shares) >= _BUSY_TENANTS and case.arbiter_cpu_ratio is not None:
        most("arbiter_cpu_ratio", case.arbiter_cpu_ratio, ARBITER_CPU_RATIO)
    return found


def as_json(found: Sequence[Violation] | Sequence[Target]) -> list[dict[str, object]]:
    """One object each."""
    return [asdict(one) for one in found]


def _off_pp(parts: Sequence[float], wanted: Sequence[float]) -> float:
    return max(abs(got - want) for got, want in zip(parts, wanted, strict=True)) * 100


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _maybe(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _medians(runs: Sequence[tuple[float, ...] | None]) -> tuple[float, ...] | None:
    known = [run for run in runs if run is not None]
    if not known:
        return None
    return tuple(statistics.median(column) for column in zip(*known, strict=True))
