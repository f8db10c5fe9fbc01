# SPDX-License-Identifier: Apache-2.0
"""How far above its base a bound must be to hold as often as it says. Pure.

Rolling split-conformal calibration: of the last residuals (what came, less the base) the one of
rank ceil((n + 1) q). It answers for q of the next ones as far as these are like the last ones;
where they are not, q itself is moved after each miss and each hit (adaptive conformal inference:
Gibbs and Candes, NeurIPS'21).
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from dataclasses import dataclass

from harp.estimator.frozen import Reader, Writer

__all__ = ["Residual", "Residuals"]

#: misses that a bound may come to aim at, in parts of those wanted
_FARTHEST = 10.0


@dataclass(slots=True, eq=False)
class Residual:
    """One in a pool."""

    value: float
    kept: bool = True


class Residuals:
    """A pool of residuals and the quantile that it stands for.

    Args:
        confidence: 0..1, the share of cases that the bound is to hold in.
        size: residuals kept.
        enough: fewer answer nothing.
        gain: how far one miss moves q; 0: never.
    """

    def __init__(self, confidence: float, *, size: int, enough: int, gain: float) -> None:
        self._miss = self._wanted = 1.0 - confidence
        self._gain = gain
        self._enough = enough
        self._size = size
        self._kept: deque[Residual] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, value: float) -> Residual:
        """One more; the oldest goes."""
        if len(self._kept) == self._size:
            oldest = self._kept.popleft()
            oldest.kept = False
            self._take(oldest.value)
        bisect.insort(self._sorted, value)
        self._kept.append(Residual(value))
        return self._kept[-1]

    def change(self, residual: Residual, value: float) -> None:
        """What was taken for one value turned out to be another; one that has gone stays gone."""
        if residual.kept:
            self._take(residual.value)
            bisect.insort(self._sorted, value)
            residual.value = value

    def judge(self, *, held: bool) -> None:
        """Whether a bound made from here held."""
        moved = self._miss + self._gain * (self._wanted - (0.0 if held else 1.0))
        self._miss = min(max(moved, self._wanted / _FARTHEST), self._wanted * 2)

    def bound(self) -> float | None:
        """What to add to a base; None: too few to say."""
        count = len(self._sorted)
        if count < self._enough:
            return None
        rank = math.ceil((count + 1) * (1.0 - self._miss))
        return self._sorted[min(rank, count) - 1]

    def write(self, out: Writer) -> None:
        """All of it; read() makes one that goes on as this one would."""
        out.real(self._miss)
        out.reals(residual.value for residual in self._kept)

    def read(self, data: Reader) -> None:
        """Become what write() wrote of one of the same arguments.

        Raises:
            ValueError: it wrote something else.
        """
        self._miss = data.real()
        self._kept = deque(Residual(value) for value in data.reals())
        self._sorted = sorted(residual.value for residual in self._kept)

    def place(self, residual: Residual) -> int:
        """Which of those kept it is; -1: it has gone."""
        return next((at for at, one in enumerate(self._kept) if one is residual), -1)

    def at(self, place: int) -> Residual:
        """The one there."""
        return self._kept[place] if place >= 0 else Residual(0.0, kept=False)

    def _take(self, value: float) -> None:
        del self._sorted[bisect.bisect_left(self._sorted, value)]
