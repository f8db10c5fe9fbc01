# SPDX-License-Identifier: Apache-2.0
"""What a key has shown of one target, in a few hundred bytes. Pure.

Most keys have few runs: those are kept as they are, and their quantiles are exact. Once that would
take as much as a decayed sketch (kilobytes), there is one, and the last 16 beside it
(research/estimator.md, section 4).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from harp.estimator.frozen import Reader, Writer
from harp.estimator.sketch import Decayed

__all__ = ["KEPT", "Past"]

#: last runs of a key, always kept as they are
KEPT = 16
#: runs that are kept as they are before there is a sketch
_EXACT = 48
#: two that weigh the same but for rounding do: the larger stands
_TIE = 1e-9
#: of its memory, beside its values
_HELD_BYTES = 250


class Past:
    """Values of one key, in the order they came.

    Args:
        half_life: of the decay, in the unit of `at`.
        timed: `at` is a time; else it is how many runs came before.
    """

    __slots__ = ("_at", "_half_life", "_sketch", "_values", "runs")

    def __init__(self, half_life: float, *, timed: bool) -> None:
        self._half_life = half_life
        self.runs = 0
        #: the last values, oldest first: all, or KEPT once there is a sketch
        self._values = array("d")
        #: when they came, until there is a sketch; None: not timed
        self._at = array("d") if timed else None
        self._sketch: Decayed | None = None

    @property
    def last(self) -> array[float]:
        """The last KEPT values, oldest first."""
        return self._values[-KEPT:]

    def add(self, value: float, at: float = 0.0) -> None:
        """One more run; `at` does not fall (one that does counts as the oldest)."""
        if self._sketch is None and len(self._values) == _EXACT:
            self._sketch = Decayed(self._half_life)
            for old, when in zip(self._values, self._when(), strict=True):
                self._sketch.add(old, when)
            del self._values[: 1 - KEPT]
            self._at = None if self._at is None else array("d")
        if self._sketch is not None:
            self._sketch.add(value, self.runs if self._at is None else at)
            del self._values[: 1 - KEPT]
        elif self._at is not None:
            self._at.append(at)
        self._values.append(value)
        self.runs += 1

    def quantile(self, q: float) -> float | None:
        """The value that a share `q` of the weight is not above; None: nothing came yet."""
        if self._sketch is not None:
            return self._sketch.quantile(q)
        if not self._values:
            return None
        # As the sketch weighs them, so that nothing jumps once there is one.
        when = self._when()
        weighed = sorted(
            (value, 2.0 ** (max(0.0, at - when[0]) / self._half_life))
            for value, at in zip(self._values, when, strict=True)
        )
        rank = q * (sum(weight for _, weight in weighed) - 1.0)
        for value, weight in weighed:
            rank -= weight
            if rank < -_TIE:
                return value
        return weighed[-1][0]

    @property
    def held_bytes(self) -> int:
        """What it takes of memory, about."""
        sketch = self._sketch.held_bytes if self._sketch is not None else 0
        times = len(self._at) if self._at is not None else 0
        return _HELD_BYTES + 8 * (len(self._values) + times) + sketch

    def write(self, out: Writer) -> None:
        """All of it; read() makes one that goes on as this one would."""
        out.row(self.runs, self._sketch is not None, self._values)
        if self._sketch is not None:
            self._sketch.write(out)
        elif self._at is not None:
            out.reals(self._at)

    def read(self, data: Reader) -> None:
        """Become what write() wrote of one with the same half-life.

        Raises:
            ValueError: it wrote something else.
        """
        self.runs, sketched, self._values = data.row()
        if sketched:
            self._sketch = Decayed(self._half_life)
            self._sketch.read(data)
        elif self._at is not None:
            self._at = data.reals()

    def _when(self) -> Sequence[float]:
        return range(self.runs) if self._at is None else self._at

    def spread(self, runs: int) -> float:
        """How far the last ones lie apart, in parts of the largest."""
        values = self._values[-runs:]
        largest = max(values, default=0.0)
        return (largest - min(values)) / largest if largest > 0 else 0.0
