# SPDX-License-Identifier: Apache-2.0
"""What history must not be believed in, and what it must not be asked. Pure.

Refusals teach more than peaks do: one that was refused memory needs more than it ever held. One
that takes all it is given shows its limit, not its need. And runs with other numbers say nothing
of a job beyond them: models asked outside of what they had seen held in 5 % of cases, not in 95 %
(research/estimator.md, 3.6).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from harp.estimator.job import Job, Outcome, Run
from harp.estimator.past import KEPT, Past

__all__ = ["AGREEING", "Box", "Peak", "Trouble", "limit_bytes", "noise_bytes", "peak"]

#: runs that must agree, or take all they are given, before they are believed
AGREEING = 3
#: a peak from this part of its limit on may be the limit's, not the job's
_NEAR = 0.97
#: of such a peak, that it has needed before: then it is the job's
_AS_MUCH = 0.95
#: what one refused is given next, in parts of its limit: less made chains of refusals, more freed
#: nothing (research/estimator.md, 3.1)
_AFTER_REFUSAL = 1.5
#: clean runs after which a refusal is forgotten
_CLEAN = 5
#: how much less one that takes all is given next, and how near it may come to where it was refused
_PROBE, _APART = 0.9, 1.02
#: a context's and its libraries' memory varies by so much: in parts, and in bytes at least
_NOISE_RATIO, _NOISE_BYTES = 0.02, 256 << 20


def noise_bytes(of_bytes: float, least_bytes: float = _NOISE_BYTES) -> float:
    """What GPU memory varies by without any reason of the job's (research/estimator.md, 4)."""
    return max(least_bytes, _NOISE_RATIO * of_bytes)


class Peak(enum.Enum):
    """What a run's high-water of GPU memory says."""

    NEED = "need"  #: what it needed
    TAKEN = "taken"  #: what it was given
    LEAST = "least"  #: what it needed at least


def limit_bytes(run: Run) -> float:
    """The most that a run could hold; 0: not known."""
    return float(run.mem_limit_bytes or run.job.device_mem_bytes)


def peak(run: Run, held_bytes: float, past: Past | None) -> tuple[Peak, float]:
    """How to read a run's high-water, and as how much.

    One just under its limit is the limit's where nothing else is known of the job. Where it has
    needed something with room to spare it is the job's: limits made from history are that tight.
    One that was refused and ended well got along with its limit, which may be more than it held.

    Args:
        run: that has ended.
        held_bytes: its high-water.
        past: what its own key has shown.
    """
    limit = limit_bytes(run)
    if run.outcome is not Outcome.DONE:
        return Peak.LEAST, max(held_bytes, float(run.attempted_bytes))
    if run.attempted_bytes:
        wanted = max(held_bytes, float(run.attempted_bytes))
        return Peak.NEED, min(wanted, limit or wanted)
    near = limit > 0 and held_bytes >= _NEAR * limit
    before = 0.0 if past is None else max(past.last[-AGREEING:], default=0.0)
    if before >= _AS_MUCH * held_bytes or not (run.elastic or (near and not before)):
        return Peak.NEED, held_bytes
    return Peak.TAKEN, held_bytes


@dataclass(slots=True)
class Trouble:
    """What a key has gone through that its peaks do not tell."""

    floor_bytes: float = 0.0  #: no bound below it; inf: all it may have
    why: str = ""  #: the floor
    refusals: int = 0  #: not yet forgotten
    clean: int = 0  #: runs since
    taken: int = 0  #: clean runs that took all they were given, one after the other
    #: the smallest limit that one which takes all ended well under; inf: none yet
    good_bytes: float = math.inf
    refused_bytes: float = 0.0  #: the largest limit it was refused under

    def refused(self, run: Run, held_bytes: float, answer_bytes: float, least_bytes: float) -> None:
        """It ended because memory was refused.

        Args:
            run: that one.
            held_bytes: its high-water; 0: not seen.
            answer_bytes: what its bound would have been; 0: unknown.
            least_bytes: of noise.
        """
        limit = limit_bytes(run)
        wanted = max(float(run.attempted_bytes), held_bytes)
        self.refusals += 1
        self.clean = 0
        self.refused_bytes = max(self.refused_bytes, limit)
        if self.good_bytes <= self.refused_bytes:
            self.good_bytes = math.inf
        if self.refusals > 1 or limit + wanted == 0:
            self.floor_bytes = math.inf
            self.why = f"{self.refusals} runs were refused memory"
            return
        wanted += noise_bytes(wanted, least_bytes) if wanted else 0.0
        self.floor_bytes = max(_AFTER_REFUSAL * limit, wanted, answer_bytes, self.floor_bytes)
        self.why = "a run was refused memory"

    def at_least(self, need_bytes: float, why: str) -> None:
        """A run that did not end well had needed so much by then."""
        if need_bytes > self.floor_bytes:
            self.floor_bytes, self.why = need_bytes, why
        self.clean = 0

    def ended_well(self, under_bytes: float, how: Peak) -> None:
        """A clean run."""
        self.clean += 1
        if self.clean >= _CLEAN:
            self.floor_bytes, self.why, self.refusals = 0.0, "", 0
        if how is Peak.TAKEN:
            self.taken += 1
            if under_bytes > self.refused_bytes:
                self.good_bytes = min(self.good_bytes, under_bytes)
        else:
            self.taken, self.good_bytes = 0, math.inf

    def plain(self) -> list[object]:
        """All of it, as JSON knows it."""
        return [getattr(self, one.name) for one in fields(self)]

    @staticmethod
    def of(plain: Sequence[Any]) -> Trouble:
        """The one that plain() told of."""
        trouble = Trouble()
        for one, value in zip(fields(trouble), plain, strict=True):
            setattr(trouble, one.name, value)
        return trouble

    @property
    def over(self) -> bool:
        """Nothing is left to be remembered."""
        return self.floor_bytes == 0 and self.taken == 0

    def told(self, shown: Callable[[float], str]) -> str:
        """In words, for people."""
        words = []
        if self.floor_bytes:
            floor = "all it may have" if math.isinf(self.floor_bytes) else shown(self.floor_bytes)
            words.append(f"next bound at least {floor} ({self.why}), {self.clean} clean runs since")
        if self.refused_bytes:
            words.append(f"refused under {shown(self.refused_bytes)}")
        if self.taken:
            words.append(f"{self.taken} runs took all they were given")
        return "; ".join(words) or "none"

    def probe_bytes(self) -> float | None:
        """What to give one that takes all it is given; None: not known well enough."""
        if self.taken < AGREEING or math.isinf(self.good_bytes):
            return None
        less = self.good_bytes * _PROBE
        return less if less > self.refused_bytes * _APART else self.good_bytes


class Box:
    """The numbers of a shape's last runs: of these its bound is made, so of these it may speak."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: list[tuple[tuple[str, float], ...]] = []

    def add(self, numbers: tuple[tuple[str, float], ...]) -> None:
        """One more run's."""
        self._last.append(numbers)
        del self._last[:-KEPT]

    def plain(self) -> list[object]:
        """All of it, as JSON knows it."""
        return [*self._last]

    @staticmethod
    def of(plain: Sequence[Any]) -> Box:
        """The one that plain() told of."""
        box = Box()
        box._last = [tuple((name, value) for name, value in run) for run in plain]
        return box

    def outside(self, job: Job) -> str:
        """Which of a job's numbers is outside, in words; empty: none is."""
        for at, (name, value) in enumerate(job.numbers):
            seen = _numbers(self._last, at, name)
            if len(seen) < len(self._last) or not seen:
                return f"{name} is not in all runs seen"
            low, high = min(seen), max(seen)
            if not low <= value <= high:
                span = f"{low:g}..{high:g}" if low < high else f"{low:g}, all that was"
                return f"{name} {value:g} is outside {span} seen"
        if any(len(numbers) != len(job.numbers) for numbers in self._last):
            return "runs seen had more numbers"
        return ""


def _numbers(runs: Sequence[tuple[tuple[str, float], ...]], at: int, name: str) -> list[float]:
    return [run[at][1] for run in runs if at < len(run) and run[at][0] == name]
