# SPDX-License-Identifier: Apache-2.0
"""Quantiles of what was seen of one run, in a form that goes into a note. Pure.

DDSketch's ladder of values, which keeps relative errors under 1 %; its sketches themselves are not
plain enough for JSON.
"""

from __future__ import annotations

from collections.abc import Mapping

from ddsketch.mapping import LogarithmicMapping

__all__ = ["Spread"]

_LADDER = LogarithmicMapping(0.01)
#: values up to here are none
_LEAST = 1e-9
_ZERO = -(10**6)


class Spread:
    """Weights by value, values within 1 %: quantiles of any number of them."""

    def __init__(self, weights: Mapping[int, float] | None = None) -> None:
        #: {rung of the ladder of values: weight}; none: 0
        self.weights: dict[int, float] = dict(weights or {})

    def add(self, value: float, weight: float = 1.0) -> None:
        """One value, >= 0."""
        rung = int(_LADDER.key(value)) if value > _LEAST else _ZERO
        self.weights[rung] = self.weights.get(rung, 0.0) + weight

    def quantile(self, q: float) -> float | None:
        """The value that a part `q` of the weight is not above; None: nothing came."""
        if not self.weights:
            return None
        left = q * sum(self.weights.values())
        for rung in sorted(self.weights):
            left -= self.weights[rung]
            if left <= 1e-9:
                break
        return 0.0 if rung == _ZERO else float(_LADDER.value(rung))
