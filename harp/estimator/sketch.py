# SPDX-License-Identifier: Apache-2.0
"""Quantiles of what was seen, the older the lighter. Pure.

DDSketch keeps relative errors under 1 %; here each value comes in with a weight that doubles every
half-life (forward decay: Cormode et al., ICDE'09), which is the same as halving all older ones. The
weights must not grow for ever: long before that a young sketch is fed beside the old one, and takes
its place once what it lacks weighs less than a thousandth.
"""

from __future__ import annotations

from ddsketch import LogCollapsingLowestDenseDDSketch

from harp.estimator.frozen import Reader, Writer

__all__ = ["Decayed"]

_ACCURACY = 0.01
#: bins of a sketch: from 1 to e**40; more put the smallest values together
_BINS = 2048
#: half-lives after which a young sketch begins, and for how many both are fed
_BEGIN, _BESIDE = 60.0, 10.0
#: of a sketch's memory: itself, a bin; and how many numbers it has beside its bins
_HELD_BYTES, _BIN_BYTES, _SUMS = 1500, 16, 5


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

    @property
    def held_bytes(self) -> int:
        """What it takes of memory, about."""
        sketches = [self._old] if self._young is None else [self._old, self._young]
        sizes = (len(one._store.bins) for one in sketches)  # noqa: SLF001
        return sum(_HELD_BYTES + _BIN_BYTES * size for size in sizes)

    def write(self, out: Writer) -> None:
        """All of it; read() makes one that goes on as this one would."""
        out.plain(self._began)
        out.whole(self._young is not None)
        _write(self._old, out)
        if self._young is not None:
            _write(self._young, out)

    def read(self, data: Reader) -> None:
        """Become what write() wrote of another.

        Raises:
            ValueError: it wrote something else.
        """
        began, beside = data.plain(), data.whole()
        self._began = None if began is None else float(began)
        self._old = _read(data)
        self._young = _read(data) if beside else None


def _write(sketch: LogCollapsingLowestDenseDDSketch, out: Writer) -> None:
    # The library's own serialization forgets where its bins begin, and so how they come to grow.
    store = sketch._store  # noqa: SLF001
    bins = [(at, weight) for at, weight in enumerate(store.bins) if weight]
    out.reals((sketch._zero_count, sketch._count, sketch._min, sketch._max, sketch._sum))  # noqa: SLF001
    out.plain([store.count, store.offset, len(store.bins), store.is_collapsed])
    if store.bins:
        out.plain([int(store.min_key), int(store.max_key)])
    out.plain([at for at, _ in bins])
    out.reals(weight for _, weight in bins)


def _read(data: Reader) -> LogCollapsingLowestDenseDDSketch:
    sketch = _empty()
    store = sketch._store  # noqa: SLF001
    sums = data.reals()
    if len(sums) != _SUMS:
        raise ValueError(f"{len(sums)} sums of a sketch, not {_SUMS}")
    sketch._zero_count, sketch._count, sketch._min, sketch._max, sketch._sum = sums  # noqa: SLF001
    store.count, store.offset, size, store.is_collapsed = data.plain()
    if not 0 <= size <= _BINS:
        raise ValueError(f"{size} bins of a sketch")
    if size:
        store.min_key, store.max_key = data.plain()
    where, weights = data.plain(), data.reals()
    store.bins = [0.0] * size
    for at, weight in zip(where, weights, strict=True):
        if not 0 <= at < size:
            raise ValueError(f"bin {at} of {size}")
        store.bins[at] = weight
    return sketch
