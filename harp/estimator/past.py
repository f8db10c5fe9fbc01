# SPDX-License-Identifier: Apache-2.0
"""What a key has shown of one target, in a few hundred bytes. Pure.

Most keys have few runs: those are kept as they are, and their quantiles are exact. From the 17th
run on a decayed sketch is kept beside the last 16 (research/estimator.md, section 4).
"""

from __future__ import annotations

from array import array

from harp.estimator.sketch import Decayed

__all__ = ["KEPT", "Past"]

#: runs of a key that are kept as they are
KEPT = 16


class Past:
    """Values of one key, in the order they came.

    Args:
        half_life: of the decay, in the unit of `at`.
    """

    __slots__ = ("_at", "_half_life", "_sketch", "last", "runs")

    def __init__(self, half_life: float) -> None:
        self._half_life = half_life
        self.runs = 0
        #: the last KEPT values, oldest first
        self.last = array("d")
        #: when they came; emptied once there is a sketch
        self._at = array("d")
        self._sketch: Decayed | None = None

    def add(self, value: float, at: float) -> None:
        """One more run; `at` does not fall (one that does counts as the oldest)."""
        self.runs += 1
        if self._sketch is None and len(self.last) == KEPT:
            self._sketch = Decayed(self._half_life)
            for old, when in zip(self.last, self._at, strict=True):
                self._sketch.add(old, when)
            del self._at[:]
        if self._sketch is None:
            self._at.append(at)
        else:
            self._sketch.add(value, at)
            del self.last[0]
        self.last.append(value)

    def quantile(self, q: float) -> float | None:
        """The value that a share `q` of the weight is not above; None: nothing came yet."""
        if self._sketch is not None:
            return self._sketch.quantile(q)
        if not self.last:
            return None
        # As the sketch weighs them, so that nothing jumps at the 17th.
        began = self._at[0]
        weighed = sorted(
            (value, 2.0 ** (max(0.0, when - began) / self._half_life))
            for value, when in zip(self.last, self._at, strict=True)
        )
        rank = q * (sum(weight for _, weight in weighed) - 1.0)
        for value, weight in weighed:
            rank -= weight
            if rank < 0:
                return value
        return weighed[-1][0]

    def spread(self, runs: int) -> float:
        """How far the last ones lie apart, in parts of the largest."""
        values = self.last[-runs:]
        largest = max(values, default=0.0)
        return (largest - min(values)) / largest if largest > 0 else 0.0
