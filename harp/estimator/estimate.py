# SPDX-License-Identifier: Apache-2.0
"""What a job will need, from what jobs like it needed. Pure: same history, same answer.

    estimator = Estimator(RULES["gpu_mem_bytes"])
    found = estimator.predict(keys, request)      # before it runs
    estimator.observe(keys, used, at_s, found)    # once it has ended, and not before

`keys` say who is like it, the most alike first: the same job of the same user, ... , all jobs. The
first key with enough runs answers. One that nobody has an answer for gets its request.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from harp.estimator.calibration import Residual, Residuals
from harp.estimator.frozen import Reader, Writer
from harp.estimator.past import Past
from harp.estimator.rules import Base, Rule, Safety

__all__ = ["Estimate", "Estimator", "Key", "Pasts"]

#: (what kind of key, its values...)
Key = tuple[Hashable, ...]
#: least base, in parts of the request: a factor on 0 would be 0 for ever
_FLOOR = 1e-6
#: what one that exceeds its bound and goes on is taken for until it ends: e times the bound
_BEYOND = 1.0
#: what is not calibrated
_FIXED = (Safety.MARGIN, Safety.TIMES)
#: groups of keys, as added to a pool's name, and the last runs that their spread is taken over
_STEADY, _RESTLESS = ", steady", ", restless"
_SPREAD_OVER = 6


@dataclass(frozen=True, slots=True)
class Estimate:
    """An answer."""

    typical: float | None  #: half of such jobs need less; None: unknown
    bounds: tuple[float | None, ...]  #: by the rule's confidences; None: unknown
    known: bool  #: learned from runs; else the request stands in
    level: str  #: kind of the key that answered; "request"
    runs: int  #: of that key, before this one
    base: float | None  #: what the bounds were made from
    reason: str  #: one line
    number: int = 0  #: of this answer
    group: str = ""  #: of keys that spread as much; see Rule.steady
    made: str = ""  #: how the first bound was made; empty: unknown

    @property
    def grant(self) -> float | None:
        """The bound at the first confidence."""
        return self.bounds[0]


@dataclass(slots=True)
class _Pools:
    """Residuals by level and confidence, and of all levels together."""

    rule: Rule
    pools: dict[tuple[str, int], Residuals] = field(default_factory=dict)

    def of(self, level: str, index: int) -> Residuals:
        key = (level, index)
        if key not in self.pools:
            rule = self.rule
            self.pools[key] = Residuals(
                rule.confidences[index], size=rule.pool, enough=rule.pool_min, gain=rule.gain
            )
        return self.pools[key]


class Pasts(Protocol):
    """What keys have shown."""

    def get(self, key: Key, /) -> Past | None:
        """A key's; None: nothing was seen of it."""
        ...

    def __setitem__(self, key: Key, past: Past, /) -> None:
        """A key's first."""
        ...


class Estimator:
    """One target's.

    Args:
        rule: how.
        pasts: what is known already, and where what comes is kept; None: nothing, and here.
    """

    def __init__(self, rule: Rule, pasts: Pasts | None = None) -> None:
        self.rule = rule
        self._past: Pasts = {} if pasts is None else pasts
        self._pools = _Pools(rule)
        self._said = 0
        #: {(answer's number, confidence's index): residuals of those that run beyond their bound}
        self._beyond: dict[tuple[int, int], list[tuple[Residuals, Residual]]] = {}

    def predict(self, keys: Sequence[Key], request: float | None = None) -> Estimate:
        """Before a job runs.

        Args:
            keys: the most specific first.
            request: what its user asks for: never exceeded, and the answer where nobody has one.
        """
        found = self._answering(keys)
        if found is None:
            return self._unknown(request, "no run of a job like it has ended")
        level, past = found
        base = self._base(past)
        typical = past.quantile(0.5)
        group = self._group(past)
        bounds: list[float | None] = []
        words: list[str] = []
        made = ""
        for index, confidence in enumerate(self.rule.confidences):
            bound, word = self._bound(base, level, group, index, request)
            made = made or word
            if bound is None:
                return self._unknown(request, word)
            if request is not None and bound > request:
                bound, word = request, f"{word}, the request at most"
            bounds.append(bound)
            words.append(f"{bound:.6g} {self.rule.unit} at {confidence:.0%} = {word}")
        reason = f"{'; '.join(words)} ({level}, {past.runs} runs)"
        self._said += 1
        return Estimate(
            typical,
            tuple(bounds),
            known=True,
            level=level,
            runs=past.runs,
            base=base,
            reason=reason,
            number=self._said,
            group=group,
            made=made,
        )

    def exceeded(self, found: Estimate, index: int) -> None:
        """A job is beyond a bound, and goes on: that is known before it ends, and counts at once.

        Else a pool would hear of short ones first, and take them for all.

        Args:
            found: what predict() had said.
            index: which of its bounds.
        """
        bound = found.bounds[index]
        if not found.known or bound is None or found.base is None:
            return
        residual = self._residual(found.base, bound, None) + _BEYOND
        added = []
        for name in (found.level + found.group, found.group):
            pool = self._pools.of(name, index)
            pool.judge(held=False)
            added.append((pool, pool.add(residual)))
        self._beyond[found.number, index] = added

    def observe(
        self,
        keys: Sequence[Key],
        value: float,
        at_s: float,
        *,
        request: float | None = None,
        found: Estimate | None = None,
    ) -> None:
        """A job has ended.

        Args:
            keys: as for predict().
            value: what it needed, >= 0.
            at_s: when it ended.
            request: as for predict().
            found: what predict() had said of it, if it was asked: calibrates.
        """
        if found is not None and found.known:
            self._judge(found, value, request)
        elif self.rule.safety not in _FIXED:
            # The pool fills from those that it could not answer for, too.
            before = self._answering(keys)
            if before is not None:
                self._add(*before, value, request)
        for key in keys:
            past = self._past.get(key)
            if past is None:
                past = self._past[key] = self.rule.past()
            past.add(value, at_s)

    def past(self, key: Key) -> Past | None:
        """What a key has shown; None: nothing."""
        return self._past.get(key)

    def residuals(self, level: str, group: str) -> int:
        """How many a bound of this level is calibrated from; see Rule.pool_min."""
        return max(len(self._pools.of(name, 0)) for name in (level + group, group))

    def write(self) -> dict[str, bytes]:
        """All but the pasts, in parts by name; read() goes on from there."""
        found, names = {}, {}
        for at, ((level, index), pool) in enumerate(self._pools.pools.items()):
            out = Writer()
            out.plain([level, index])
            pool.write(out)
            names[id(pool)] = at
            found[f"pool {at}"] = out.done()
        out = Writer()
        beyond = [
            [*key, [[names[id(pool)], pool.place(one)] for pool, one in added]]
            for key, added in self._beyond.items()
        ]
        out.plain([self._said, beyond])
        found["said"] = out.done()
        return found

    def read(self, parts: Mapping[str, bytes]) -> None:
        """Become what write() wrote of another, whose pasts these are.

        Raises:
            ValueError, KeyError, TypeError, IndexError: it wrote something else.
        """
        self._pools, pools = _Pools(self.rule), []
        for at in range(len(parts) - 1):
            data = Reader(parts[f"pool {at}"])
            level, index = data.plain()
            pools.append(self._pools.of(level, index))
            pools[-1].read(data)
            data.end()
        data = Reader(parts["said"])
        self._said, beyond = data.plain()
        data.end()
        self._beyond = {
            (number, index): [(pools[at], pools[at].at(place)) for at, place in added]
            for number, index, added in beyond
        }

    def _answering(self, keys: Sequence[Key]) -> tuple[str, Past] | None:
        for key in keys:
            past = self._past.get(key)
            if past is not None and past.runs >= self.rule.runs_min:
                return str(key[0]), past
        return None

    def _base(self, past: Past) -> float:
        match self.rule.base:
            case Base.LAST:
                return past.last[-1]
            case Base.LARGEST_3:
                return max(past.last[-3:])
            case Base.LARGEST_3_OR_6:
                return max(past.last[-6:] if self._group(past) == _RESTLESS else past.last[-3:])
            case Base.DECAYED_P90:
                return past.quantile(0.9) or 0.0
            case Base.DECAYED_P90_OR_LAST:
                return max(past.quantile(0.9) or 0.0, past.last[-1])

    def _group(self, past: Past) -> str:
        if self.rule.steady is None:
            return ""
        steady, restless = self.rule.steady
        spread = past.spread(_SPREAD_OVER)
        return _STEADY if spread <= steady else _RESTLESS if spread > restless else ""

    def _bound(
        self, base: float, level: str, group: str, index: int, request: float | None
    ) -> tuple[float | None, str]:
        rule = self.rule
        name = rule.base.value
        if rule.safety is Safety.MARGIN:
            margin = rule.margin * (request or 1.0)
            return base + margin, f"{name} {rule.shown(base)} + {rule.shown(margin)}"
        if rule.safety is Safety.TIMES:
            margin = max(rule.margin * base, rule.margin_least)
            return base + margin, f"{name} {rule.shown(base)} + {rule.shown(margin)}"
        pool = self._pools.of(level + group, index)
        offset = pool.bound()
        if offset is None:
            pool = self._pools.of(group, index)
            offset = pool.bound()
        if offset is None and rule.start_margin is not None:
            factor = 1 + rule.start_margin
            return base * factor, (
                f"{name} {rule.shown(base)} x {factor:.3g} (not calibrated: {len(pool)} residuals "
                f"of {rule.pool_min})"
            )
        if offset is None:
            return None, f"{len(pool)} runs to calibrate from, {rule.pool_min} needed"
        if rule.safety is Safety.FACTOR:
            factor = math.exp(offset)
            return base * factor, (
                f"{name} {rule.shown(base)} x {factor:.3g} ({len(pool)} residuals)"
            )
        scale = request or 1.0
        return (
            max(base + offset * scale, 0.0),
            f"{name} {base:.6g} + {offset * scale:.6g} ({len(pool)} residuals)",
        )

    def _judge(self, found: Estimate, value: float, request: float | None) -> None:
        if self.rule.safety in _FIXED or found.base is None:
            return
        residual = self._residual(found.base, value, request)
        for index, bound in enumerate(found.bounds):
            known = self._beyond.pop((found.number, index), None)
            if known is not None:
                for pool, one in known:
                    pool.change(one, residual)
                continue
            for name in (found.level + found.group, found.group):
                pool = self._pools.of(name, index)
                pool.judge(held=bound is not None and value <= bound)
                pool.add(residual)

    def _add(self, level: str, past: Past, value: float, request: float | None) -> None:
        residual = self._residual(self._base(past), value, request)
        group = self._group(past)
        for index in range(len(self.rule.confidences)):
            for name in (level + group, group):
                self._pools.of(name, index).add(residual)

    def _residual(self, base: float, value: float, request: float | None) -> float:
        if self.rule.safety is Safety.FACTOR:
            return math.log(max(value, _FLOOR) / max(base, _FLOOR))
        return (value - base) / (request or 1.0)

    def _unknown(self, request: float | None, why: str) -> Estimate:
        said = "unknown" if request is None else f"the request, {request:.6g} {self.rule.unit}"
        bounds = (request,) * len(self.rule.confidences)
        return Estimate(
            None, bounds, known=False, level="request", runs=0, base=None, reason=f"{said}: {why}"
        )
