# SPDX-License-Identifier: Apache-2.0
"""What HARP's estimator is to be better than: the same two calls, other rules. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from harp.estimator.estimate import Key
from harp.estimator.sketch import Decayed

__all__ = ["BASELINES", "Baseline"]

_DAY_S = 86400.0


class Baseline(Protocol):
    """A rule."""

    def predict(self, keys: Sequence[Key], request: float | None = None) -> float | None:
        """Its grant; None: unknown, the request stands in."""
        ...

    def observe(self, keys: Sequence[Key], value: float, at_s: float) -> None:
        """A job has ended."""
        ...


class _Request:
    def predict(self, keys: Sequence[Key], request: float | None = None) -> float | None:
        del keys
        return request

    def observe(self, keys: Sequence[Key], value: float, at_s: float) -> None:
        pass


class _ByKey:
    """Of the most specific key that has ended once."""

    def __init__(self) -> None:
        self._last: dict[Key, float] = {}

    def predict(self, keys: Sequence[Key], request: float | None = None) -> float | None:
        del request
        return next((self._last[key] for key in keys if key in self._last), None)

    def observe(self, keys: Sequence[Key], value: float, at_s: float) -> None:
        del at_s
        for key in keys:
            self._last[key] = self._of(self._last.get(key), value)

    def _of(self, before: float | None, value: float) -> float:
        del before
        return value


class _RunningMax(_ByKey):
    def _of(self, before: float | None, value: float) -> float:
        return value if before is None else max(before, value)


class _Autoscaler:
    """The Kubernetes vertical autoscaler's: a quantile of the last day, and 15 %.

    Source: kubernetes/autoscaler, vertical-pod-autoscaler, recommender: half-life 24 h, 15 %.
    """

    def __init__(self, quantile: float, margin: float) -> None:
        self._quantile, self._margin = quantile, margin
        self._sketches: dict[Key, Decayed] = {}

    def predict(self, keys: Sequence[Key], request: float | None = None) -> float | None:
        del request
        for key in keys:
            if key in self._sketches:
                return (self._sketches[key].quantile(self._quantile) or 0.0) * self._margin
        return None

    def observe(self, keys: Sequence[Key], value: float, at_s: float) -> None:
        for key in keys:
            self._sketches.setdefault(key, Decayed(_DAY_S)).add(value, at_s)


BASELINES: dict[str, Callable[[], Baseline]] = {
    "request": _Request,
    "last": _ByKey,
    "vpa_p90": lambda: _Autoscaler(0.90, 1.0),
    "vpa_p90_15": lambda: _Autoscaler(0.90, 1.15),
    "vpa_p95": lambda: _Autoscaler(0.95, 1.0),
    "vpa_p95_15": lambda: _Autoscaler(0.95, 1.15),
    "running_max": _RunningMax,
}
