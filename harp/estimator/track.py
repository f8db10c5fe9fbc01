# SPDX-License-Identifier: Apache-2.0
"""What was said of jobs, held against what came: how often it held, what it saves. Pure.

    verdicts = judge(job, needs, run)      # of one run that has ended
    track.count(verdicts)

A figure of coverage is to be believed, so it may not flatter:
(1) A run that was seen to its end is a hit or a miss. Of one that was not (killed, failed, lost)
    what was seen is a lower bound: above what was said it is a miss, below it says nothing.
(2) Refused memory within its limit, a run needed what it held and asked for, at least.
(3) What takes all it is given (`elastic`) says nothing of its need.
(4) Where nobody knew, the request stood in: no case of coverage, and nothing saved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from harp.estimator.job import TARGETS, Job, Need, Outcome, Run

__all__ = ["WINDOW_S", "Sums", "TargetTrack", "Track", "Verdict", "judge"]

#: of the figures that may go down as well
WINDOW_S = 7 * 86400.0
#: verdicts kept of a target: one a minute for a week
_MOST = 10_000
_MEMORY = "gpu_mem_bytes"
_PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target of one run that has ended. Whole numbers: what is added can be taken off again."""

    target: str
    ended_s: float  #: wall clock
    held: bool | None = None  #: None: that cannot be said
    confidence_ppm: int = 0  #: said
    asked: int = 0  #: by its user; the device where nobody asked; 0: neither is known
    bound: int = 0  #: said, at most what was asked; the same where nobody knew
    used: int = 0


@dataclass(slots=True)
class Sums:
    """Of some verdicts."""

    judged: int = 0  #: that held or did not
    held: int = 0
    confidence_ppm: int = 0  #: said of those judged, added up
    asked: int = 0  #: this and the rest: of runs whose request is known
    bound: int = 0
    used: int = 0

    def add(self, verdict: Verdict, sign: int = 1) -> None:
        """One more, or one less."""
        if verdict.held is not None:
            self.judged += sign
            self.held += sign * verdict.held
            self.confidence_ppm += sign * verdict.confidence_ppm
        if verdict.asked:
            self.asked += sign * verdict.asked
            self.bound += sign * verdict.bound
            self.used += sign * verdict.used

    @property
    def coverage_ratio(self) -> float | None:
        """How often it held; None: nothing was judged."""
        return self.held / self.judged if self.judged else None

    @property
    def confidence_ratio(self) -> float | None:
        """How often it was said to hold; None: likewise."""
        return self.confidence_ppm / self.judged / _PPM if self.judged else None

    @property
    def saved_ratio(self) -> float | None:
        """What the bounds leave of the requests; None: there was none."""
        return 1 - self.bound / self.asked if self.asked else None


def judge(job: Job, needs: Mapping[str, Need], run: Run) -> list[Verdict]:
    """What a run's end says of what was said before it.

    Args:
        job: as it was when it was asked for.
        needs: said then, by target.
        run: as it ended.
    """
    found = []
    for target in TARGETS:
        need = needs.get(target)
        if need is None:
            continue
        value = _least(target, run)
        held = _held(need, value, run) if need.known else None
        asked = (job.asked_mem_bytes or job.device_mem_bytes) if target == _MEMORY else 0
        bound = min(int(need.bound), asked) if need.known and need.bound is not None else asked
        sure = round(need.confidence * _PPM)
        found.append(Verdict(target, run.ended_s, held, sure, asked, bound, int(value or 0)))
    return found


def _least(target: str, run: Run) -> float | None:
    """What the run needed, as far as that was seen."""
    value = run.used.get(target)
    if target == _MEMORY and run.attempted_bytes:
        value = max(value or 0.0, float(run.attempted_bytes))  # (2)
    return value


def _held(need: Need, value: float | None, run: Run) -> bool | None:
    if value is None or need.bound is None:
        return None
    if need.target == _MEMORY and run.elastic:
        return None  # (3)
    if value > need.bound:
        return False
    return True if run.outcome is Outcome.DONE else None  # (1)


@dataclass(slots=True)
class TargetTrack:
    """One target's."""

    total: Sums = field(default_factory=Sums)  #: of all
    recent: Sums = field(default_factory=Sums)  #: of the window
    _kept: deque[Verdict] = field(default_factory=deque)

    def add(self, verdict: Verdict) -> None:
        """One more, and one more in the window."""
        self.total.add(verdict)
        self._kept.append(verdict)
        self.recent.add(verdict)
        if len(self._kept) > _MOST:
            self.recent.add(self._kept.popleft(), -1)

    def forget(self, before_s: float) -> None:
        """Those that ended until then are no more in the window."""
        while self._kept and self._kept[0].ended_s <= before_s:
            self.recent.add(self._kept.popleft(), -1)


class Track:
    """All targets'.

    Args:
        window_s: of the figures that forget.
    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        #: {target: its track}
        self.of: dict[str, TargetTrack] = {target: TargetTrack() for target in TARGETS}
        #: {(target, whether it was known): answers given}
        self.answers: dict[tuple[str, bool], int] = {}
        #: what an earlier one had counted is in it, or not to be had; else totals say little
        self.whole = True
        #: counted since take()
        self._new: deque[Verdict] = deque(maxlen=_MOST)

    def answered(self, needs: Mapping[str, Need]) -> None:
        """Something was said of a job."""
        for target, need in needs.items():
            key = target, need.known
            self.answers[key] = self.answers.get(key, 0) + 1

    def count(self, verdicts: Sequence[Verdict]) -> None:
        """Take a run's verdicts; runs come in the order of their ends."""
        for verdict in verdicts:
            self.of[verdict.target].add(verdict)
            self._new.append(verdict)

    def take(self) -> list[Verdict]:
        """The verdicts since the last call."""
        new = [*self._new]
        self._new.clear()
        return new

    def put_back(self, verdicts: Sequence[Verdict]) -> None:
        """What take() gave is to be given again."""
        self._new.extendleft(reversed(verdicts))

    def plain(self) -> dict[str, object]:
        """All but the verdicts, as JSON knows it."""
        return {
            "total": {target: asdict(track.total) for target, track in self.of.items()},
            "answers": [[*key, count] for key, count in self.answers.items()],
        }

    def resume(
        self, plain: Mapping[str, Any], verdicts: Iterable[Verdict], *, totals: bool = True
    ) -> None:
        """Go on from where another one was; what was counted since counts on top.

        Args:
            plain: see plain().
            verdicts: that it had in its window.
            totals: else they begin at 0.

        Raises:
            ValueError, KeyError, TypeError: plain() told of something else.
        """
        sums = {target: Sums(**plain["total"][target]) for target in TARGETS}
        answers = {(target, bool(known)): count for target, known, count in plain["answers"]}
        if not totals:
            sums, answers = {target: Sums() for target in TARGETS}, {}
        since, answered = self.take(), self.answers
        self.of = {target: TargetTrack() for target in TARGETS}
        self.count([*verdicts])
        for target, track in self.of.items():
            track.total = sums[target]
        self.take()
        self.count(since)
        for key, count in answered.items():
            answers[key] = answers.get(key, 0) + count
        self.answers, self.whole = answers, True

    def at(self, now_s: float) -> Mapping[str, TargetTrack]:
        """The targets' tracks now: what is older than the window has left it."""
        for track in self.of.values():
            track.forget(now_s - self._window_s)
        return self.of
