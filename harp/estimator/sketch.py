# SPDX-License-Identifier: Apache-2.0
"""Quantiles of what was seen, the older the lighter. Pure.

DDSketch keeps relative errors under 1 %; here each value comes in with a weight that doubles every
half-life (forward decay: Cormode et al., ICDE'09), which is the same as halving all older ones. The
weights must not grow for ever: long before that a young sketch is fed beside the old one, and takes
its place once what it lacks weighs less than a thousandth.
"""

from __future__ import annotations

from ddsketch import LogCollapsingLowestDenseDDSketch

__all__ = ["Decayed"]

_ACCURACY = 0.01
#: bins of a sketch: from 1 to e**40; more put the smallest values together
_BINS = 2048
#: half-lives after which a young sketch begins, and for how many both are fed
_BEGIN, _BESIDE = 60.0, 10.0


def _empty() -> LogCollapsingLowestDenseDDSketch:
    return LogCollapsingLowestDenseDDSketch(_ACCURACY, _BINS)


class Decayed:
    """A decayed sketch of values >= 0.

    Args:
        half_life: in the unit of `at` (seconds, or runs).
    """

    def __init__(self, half_life: float) -> None:
        self._half_life = half_life
        self._began: float | None = None
        self._old = _empty()
        self._young: LogCollapsingLowestDenseDDSketch | None = None

    def add(self, value: float, at: float) -> None:
        """One value; `at` does not fall (one that does counts as the oldest)."""
        if self._began is None:
            self._began = at
        age = max(0.0, (at - self._began) / self._half_life)
        if age > _BEGIN + _BESIDE and self._young is None:
            # Nothing came for so long that all before weighs nothing.
            self._old, self._began, age = _empty(), at, 0.0
        if self._young is None and age > _BEGIN:
            self._young = _empty()
        if self._young is not None:
            young_age = max(0.0, age - _BEGIN)
            self._young.add(value, 2.0**young_age)
            if young_age > _BESIDE:
                self._old, self._young = self._young, None
                self._began += _BEGIN * self._half_life
                return
        self._old.add(value, 2.0**age)

    def quantile(self, q: float) -> float | None:
        """The value that a share `q` of the weight is not above; None: nothing came yet."""
        value = self._old.get_quantile_value(q)
        return None if value is None else float(value)
