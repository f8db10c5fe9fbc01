# SPDX-License-Identifier: Apache-2.0
"""Time walked through a table: each case is estimated at its begin, told at its end. Pure.

Nothing that ended later than a case began has been told when it is estimated; a case's own value is
told last of all. So no later row, whatever it says, changes an earlier estimate.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from harp.estimator.estimate import Estimate, Estimator
from harp.estimator.replay.baselines import BASELINES, Baseline
from harp.estimator.replay.tables import Case
from harp.estimator.rules import RULES
from harp.estimator.windows import Windows, estimator_for

__all__ = ["Judged", "later", "walk"]


@dataclass(frozen=True, slots=True)
class Judged:
    """A case, and what was said of it beforehand."""

    case: Case
    found: Estimate
    others: dict[str, float | None]  #: grants by baseline


def later(warmup: Sequence[Case], score: Sequence[Case]) -> list[Case]:
    """The cases to score, moved so that they begin no earlier than the last of the warm-up.

    Two tables may count their seconds from beginnings of their own.
    """
    if not warmup or not score:
        return list(score)
    offset_s = max(case.begin_s for case in warmup) - min(case.begin_s for case in score)
    if offset_s <= 0:
        return list(score)
    return [
        dataclasses.replace(case, begin_s=case.begin_s + offset_s, end_s=case.end_s + offset_s)
        for case in score
    ]


def walk(
    warmup: Sequence[Case],
    score: Sequence[Case],
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[Judged]:
    """What is said of each case to score, by begin.

    Args:
        warmup: cases to learn from.
        score: later ones.
        progress: told after each 1000 cases.
    """
    minds: dict[str, tuple[Estimator | Windows, dict[str, Baseline]]] = {}
    #: (when it is known, number, index of the bound exceeded or -1: it ended, case, estimate)
    pending: list[tuple[float, int, int, Case, Estimate]] = []
    cases = [*((case, False) for case in warmup), *((case, True) for case in score)]
    cases.sort(key=lambda pair: pair[0].begin_s)

    def tell(until_s: float) -> None:
        while pending and pending[0][0] <= until_s:
            end_s, _, index, case, found = heapq.heappop(pending)
            estimator, others = minds[case.target]
            if index >= 0:
                estimator.exceeded(found, index)
                continue
            estimator.observe(case.keys, case.value, end_s, request=case.request, found=found)
            for other in others.values():
                other.observe(case.keys, case.value, end_s)

    for number, (case, scored) in enumerate(cases):
        if case.target not in minds:
            others = {name: make() for name, make in BASELINES.items()}
            minds[case.target] = estimator_for(RULES[case.target]), others
        tell(case.begin_s)
        estimator, others = minds[case.target]
        found = estimator.predict(case.keys, case.request)
        if scored and case.scored:
            said = {name: other.predict(case.keys, case.request) for name, other in others.items()}
            yield Judged(case, found, said)
        heapq.heappush(pending, (case.end_s, number, -1, case, found))
        if not RULES[case.target].requested and found.known:
            # It is seen to run, so it is seen to run longer than was said.
            for index, bound in enumerate(found.bounds):
                if bound is not None and case.begin_s + bound < case.end_s:
                    heapq.heappush(pending, (case.begin_s + bound, number, index, case, found))
        if number % 1000 == 999:
            progress(number + 1)
