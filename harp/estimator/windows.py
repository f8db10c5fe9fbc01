# SPDX-License-Identifier: Apache-2.0
"""What running containers need next: from a key's own past, and from all others'. Pure.

The calls of Estimator. All keys are of one pool of machines, and alike somehow:

- Who is new is granted what others needed: a quantile of all needs, in parts of the request.
- Where keys hardly keep to what they were, that (or the key's last two needs, if more) bounds known
  ones better than their own past does. Both bounds are made for each case, and what each cost is
  kept: what it granted too much, and many times that what it granted too little (pinball loss,
  which is least at the quantile). The one that cost less lately answers.
- Few runs say less than many. On the largest of one or two is put what the next one was above the
  largest of the last one or two, as often as the rule's confidence says, of all keys.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from harp.estimator.calibration import Residuals
from harp.estimator.estimate import Estimate, Estimator, Key
from harp.estimator.rules import Rule

__all__ = ["Window", "Windows", "estimator_for"]

#: what a bound cost weighs half after so many cases
_HALF_LIFE = 300.0
#: last needs of a key, below which it is not bounded by others'
_KEPT = 2


@dataclass(frozen=True, slots=True)
class Window(Estimate):
    """An answer, and what it was chosen from."""

    own: Estimate | None = None  #: by the key's own past
    others: float | None = None  #: bound by all needs
    young: float | None = None  #: bound by few runs
    few: int = 0  #: how many these are


class Windows:
    """One target's.

    Args:
        rule: how. It has one confidence.
    """

    def __init__(self, rule: Rule) -> None:
        (self._confidence,) = rule.confidences
        self.rule = rule
        self._own = Estimator(rule)
        self._others = self._pool()
        #: by own past, by the others
        self._costs = [0.0, 0.0]
        #: by how many runs are known, less one
        self._young = [self._pool() for _ in range(rule.young)]
        self._last: dict[Key, deque[float]] = {}

    def predict(self, keys: Sequence[Key], request: float | None = None) -> Window:
        """As Estimator.predict()."""
        own = self._own.predict(keys, request)
        others = young = None
        last = self._last.get(keys[0], ())
        if self.rule.others:
            least = max(list(last)[-_KEPT:], default=0.0)
            others = _bound(0.0, self._others, request, least)
        if own.known and 0 < len(last) <= len(self._young):
            young = _bound(max(last), self._young[len(last) - 1], request)
        said = {field.name: getattr(own, field.name) for field in dataclasses.fields(own)}
        found = Window(**said, own=own, others=others, young=young, few=len(last))
        cost, cost_others = self._costs
        if others is not None and (not own.known or cost_others < cost):
            why = f"what {len(self._others)} of all needed, or its last {_KEPT}"
            return self._answer(found, others, "others", why)
        if young is not None and own.grant is not None and young > own.grant:
            why = f"largest of {found.few}, and what came on top of so few of all"
            return self._answer(found, young, own.level, why)
        return found

    def exceeded(self, found: Estimate, index: int) -> None:
        """As Estimator.exceeded()."""
        own = found.own if isinstance(found, Window) else found
        if own is not None:
            self._own.exceeded(own, index)

    def observe(
        self,
        keys: Sequence[Key],
        value: float,
        at_s: float,
        *,
        request: float | None = None,
        found: Estimate | None = None,
    ) -> None:
        """As Estimator.observe()."""
        said = found if isinstance(found, Window) else None
        own = None if said is None else said.own
        self._own.observe(keys, value, at_s, request=request, found=own)
        scale = request or 1.0
        if self.rule.others:
            if said is not None and said.others is not None:
                self._others.judge(held=value <= said.others)
                self._compare(said, value, scale)
            self._others.add(value / scale)
        size = max(len(self._young) + 1, _KEPT)
        last = self._last.setdefault(keys[0], deque(maxlen=size))
        if self._young:
            if said is not None and said.young is not None:
                self._young[said.few - 1].judge(held=value <= said.young)
            recent = list(last)[-len(self._young) :]
            for count in range(1, len(recent) + 1):
                self._young[count - 1].add((value - max(recent[-count:])) / scale)
        last.append(value)

    def _compare(self, said: Window, value: float, scale: float) -> None:
        if said.own is None or not said.own.known:
            return
        for at, bound in enumerate((said.own.grant, said.others)):
            assert bound is not None
            above = (value - bound) / scale
            cost = above * (self._confidence if above > 0 else self._confidence - 1)
            self._costs[at] = self._costs[at] * 0.5 ** (1 / _HALF_LIFE) + cost

    def _pool(self) -> Residuals:
        rule = self.rule
        return Residuals(self._confidence, size=rule.pool, enough=rule.pool_min, gain=rule.gain)

    def _answer(self, found: Window, bound: float, level: str, why: str) -> Window:
        reason = f"{bound:.6g} {self.rule.unit} at {self._confidence:.0%} ({why})"
        return dataclasses.replace(found, bounds=(bound,), known=True, level=level, reason=reason)


def estimator_for(rule: Rule) -> Estimator | Windows:
    """What a rule asks for."""
    return Windows(rule) if rule.others or rule.young else Estimator(rule)


def _bound(base: float, pool: Residuals, request: float | None, least: float = 0.0) -> float | None:
    offset = pool.bound()
    if offset is None:
        return None
    bound = max(base + offset * (request or 1.0), least)
    return bound if request is None else min(bound, request)
