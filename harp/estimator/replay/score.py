# SPDX-License-Identifier: Apache-2.0
"""How good what was said turned out to be. Pure.

coverage       share of cases whose need was not above the grant
saved          1 - granted / requested; unknown is granted its request
median_ratio   of grant / need
ci95           95 % interval of coverage and saved: bootstrap over keys, whose cases belong together
worst_key      the key of at least 20 cases that was covered least
by_runs        coverage by how many runs of its key were known
within_25      share of cases whose typical value was within 25 % of what came; unknown is not
"""

from __future__ import annotations

import random
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from harp.estimator.replay.baselines import BASELINES
from harp.estimator.replay.walk import Judged
from harp.estimator.rules import RULES

__all__ = ["report"]

_ROUNDS = 1000
_SEED = 20261127
_WORST_MIN = 20
_BUCKETS = ((0, 0, "0"), (1, 4, "1-4"), (5, 19, "5-19"), (20, 10**9, "20+"))
#: numbers that say how long a case is, not how much: nothing is saved by a longer grant
_EPSILON = 1e-9


def report(judged: Iterable[Judged]) -> dict[str, object]:
    """{"targets": {...}, "baselines": {target: {name: ...}}}."""
    by_target: dict[str, list[Judged]] = defaultdict(list)
    for one in judged:
        by_target[one.case.target].append(one)
    targets, baselines = {}, {}
    for target, cases in sorted(by_target.items()):
        grants = [one.found.grant for one in cases]
        figures = _figures(cases, grants, spread=True)
        figures["by_runs"] = _by_runs(cases)
        figures["unknown"] = sum(not one.found.known for one in cases)
        if not RULES[target].requested:
            figures |= _duration(cases)
        targets[target] = figures
        baselines[target] = {
            name: _figures(cases, [one.others[name] for one in cases], spread=False)
            for name in BASELINES
        }
    return {"targets": targets, "baselines": baselines}


def _figures(
    cases: Sequence[Judged], grants: Sequence[float | None], *, spread: bool
) -> dict[str, object]:
    keyed: dict[str, list[tuple[bool, float, float]]] = defaultdict(list)
    ratios = []
    for one, said in zip(cases, grants, strict=True):
        case = one.case
        grant = said if said is not None else case.request
        if grant is not None and case.request is not None:
            grant = min(grant, case.request)
        held = grant is not None and case.value <= grant * (1 + _EPSILON)
        keyed[case.name].append((held, grant or 0.0, case.request or 0.0))
        if grant is not None and case.value > 0:
            ratios.append(grant / case.value)
    every = [row for rows in keyed.values() for row in rows]
    coverage, saved = _rates(every)
    figures: dict[str, object] = {
        "coverage": coverage,
        "saved": saved,
        "median_ratio": statistics.median(ratios) if ratios else None,
        "n": len(every),
    }
    if spread:
        figures["ci95"] = _intervals(list(keyed.values()))
        figures["worst_key"] = _worst(keyed)
    return figures


def _rates(rows: Sequence[tuple[bool, float, float]]) -> tuple[float, float | None]:
    coverage = sum(held for held, _, _ in rows) / len(rows)
    requested = sum(request for _, _, request in rows)
    saved = 1 - sum(grant for _, grant, _ in rows) / requested if requested else None
    return coverage, saved


def _intervals(keys: Sequence[Sequence[tuple[bool, float, float]]]) -> dict[str, object]:
    sums = [
        (
            sum(h for h, _, _ in rows),
            sum(g for _, g, _ in rows),
            sum(r for *_, r in rows),
            len(rows),
        )
        for rows in keys
    ]
    rng = random.Random(_SEED)  # noqa: S311 - a model; the same interval each time
    coverages, savings = [], []
    for _ in range(_ROUNDS):
        drawn = rng.choices(sums, k=len(sums))
        held, granted, requested, count = (sum(column) for column in zip(*drawn, strict=True))
        coverages.append(held / count)
        if requested:
            savings.append(1 - granted / requested)
    return {"coverage": _middle(coverages), "saved": _middle(savings) if savings else None}


def _middle(values: list[float]) -> list[float]:
    values.sort()
    return [values[int(0.025 * len(values))], values[int(0.975 * len(values)) - 1]]


def _worst(keyed: dict[str, list[tuple[bool, float, float]]]) -> dict[str, object] | None:
    rates = [
        (sum(h for h, _, _ in rows) / len(rows), name, len(rows))
        for name, rows in keyed.items()
        if len(rows) >= min(_WORST_MIN, max(map(len, keyed.values())))
    ]
    if not rates:
        return None
    coverage, name, count = min(rates)
    return {"key": name, "coverage": coverage, "n": count}


def _by_runs(cases: Sequence[Judged]) -> dict[str, object]:
    found: dict[str, list[bool]] = {label: [] for _, _, label in _BUCKETS}
    for one in cases:
        label = next(label for lo, hi, label in _BUCKETS if lo <= one.found.runs <= hi)
        grant = one.found.grant
        found[label].append(grant is not None and one.case.value <= grant * (1 + _EPSILON))
    return {
        label: {"coverage": sum(held) / len(held), "n": len(held)}
        for label, held in found.items()
        if held
    }


def _duration(cases: Sequence[Judged]) -> dict[str, object]:
    typical = [(one.found.typical, one.case.value) for one in cases]
    known = [(said, value) for said, value in typical if said]
    figures: dict[str, object] = {
        "within_25": sum(abs(said - value) <= 0.25 * value for said, value in known) / len(cases),
        "off_2x": sum(max(said / value, value / said) >= 2 for said, value in known) / len(cases),
        "median_error": statistics.median(abs(said - value) / value for said, value in known)
        if known
        else None,
    }
    for index, confidence in enumerate(RULES["duration_s"].confidences):
        bounds = [(one.found.bounds[index], one.case.value) for one in cases if one.found.known]
        figures[f"coverage_{confidence * 100:.0f}"] = (
            sum(b is not None and v <= b * (1 + _EPSILON) for b, v in bounds) / len(bounds)
            if bounds
            else None
        )
    return figures
