# SPDX-License-Identifier: Apache-2.0
"""What a job will need of all that is estimated, from the runs that have ended. Pure.

    adviser = Adviser()
    for run in history.runs():
        adviser.learn(run)
    adviser.ask(job, now_s)["gpu_mem_bytes"]     # Need: typical, bound, known, reason

An Estimator per target says what jobs alike needed; what is here keeps it honest (guard.py): three
runs of one job that agree are enough, a new job is not granted much less than its request for what
others needed, refusals raise the next bound, numbers outside of what was seen are not answered for.
Same runs in the same order, same answers: asking changes none.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from harp.estimator.draft import MEMORY, SHARE, Draft, request
from harp.estimator.estimate import Estimate, Estimator, Key
from harp.estimator.frozen import Reader, Writer
from harp.estimator.guard import Box, Peak, Trouble, limit_bytes, noise_bytes, peak
from harp.estimator.job import TARGETS, Job, Need, Outcome, Run
from harp.estimator.keys import SIMILAR, keys, on_device
from harp.estimator.rules import JOB_RULES, Safety
from harp.estimator.running import Running, running_of, running_plain
from harp.estimator.state import Keys

__all__ = ["AdviseConfig", "Adviser", "Record"]

#: targets that depend on how fast the device is
_ON_DEVICE = frozenset({SHARE, "duration_s"})
#: margins that are not calibrated
_FIXED = frozenset({Safety.MARGIN, Safety.TIMES})
#: of the share it had: one that used as much would have used more
_PRESSED, _PRESSED_NEXT = 0.97, 1.5
#: kinds of key that a refusal is remembered for: others are of different programs
_REMEMBERED = frozenset({"signature", "program", "owner", "user"})
#: bounds that a record's rate is taken over, and how many it takes at least
_LATELY, _LATELY_MIN = 200, 50


@dataclass(frozen=True, slots=True)
class AdviseConfig:
    """How."""

    above_request: bool = False  #: bounds may exceed what users ask for, up to the device
    probe: bool = True  #: one that takes all it is given is given 10 % less, run by run
    noise_bytes: int = 256 << 20  #: that a context's memory varies by, at least
    forget_s: float = 90 * 86400.0  #: keys not seen for so long are dropped


@dataclass(slots=True)
class Record:
    """How bounds of a target did, of runs that it was known for."""

    runs: int = 0
    held: int = 0
    asked: float = 0.0  #: sum of requests, of those that had one
    granted: float = 0.0  #: sum of their bounds
    lately: deque[bool] = field(default_factory=lambda: deque(maxlen=_LATELY))  #: which held

    def note(self, need: Need, value: float, asked: float | None) -> None:
        """What a run came to, of which that had been said."""
        if not need.known or need.bound is None:
            return
        held = value <= need.bound
        self.runs += 1
        self.held += held
        self.lately.append(held)
        if asked is not None:
            self.asked += asked
            self.granted += need.bound

    def below(self, confidence: float) -> bool:
        """Bounds have lately held more seldom than they should."""
        count = len(self.lately)
        return count >= _LATELY_MIN and sum(self.lately) < confidence * count


class Adviser:
    """All targets of one history.

    Args:
        config: how.
        keys: what is known of them already, see read(); None: nothing.
    """

    def __init__(self, config: AdviseConfig | None = None, keys: Keys | None = None) -> None:
        self.config = config or AdviseConfig()
        self.keys = Keys() if keys is None else keys
        #: {target: how its bounds did}
        self.records = {target: Record() for target in TARGETS}
        self._minds = {
            target: Estimator(
                JOB_RULES[target], self.keys.of(target, by_device=target in _ON_DEVICE)
            )
            for target in TARGETS
        }
        #: {(job, when it started): ...}
        self._running: dict[tuple[Job, float], Running] = {}

    def ask(self, job: Job, now_s: float) -> dict[str, Need]:
        """What a job will need, by target.

        Args:
            job: before it runs.
            now_s: wall clock; keys not seen for long are not asked.
        """
        return {target: need for target, (_, need) in self._say(job, now_s).items()}

    def explain(self, job: Job, now_s: float) -> list[str]:
        """Where the answers come from, line by line: each answer, each key, the job's own runs."""
        shown = JOB_RULES[MEMORY].shown
        mind = self._minds[MEMORY]
        found = keys(job)
        lines = [f"{target}: {need.reason}" for target, need in self.ask(job, now_s).items()]
        for key in found:
            past = mind.past(key)
            words = [f"{past.runs if past else 0} runs"]
            if (seen_s := self._seen_s(key)) is not None:
                words.append(f"last seen {max(now_s - seen_s, 0) / 3600:.1f} h ago")
            refused = self._not_asked(key, job, now_s)
            if refused:
                words.append(f"does not answer: {refused}")
            elif past:
                words.append(f"GPU memory p50 {shown(past.quantile(0.5) or 0.0)}")
                words.append(f"p95 {shown(past.quantile(0.95) or 0.0)}")
            lines.append(f"key {' '.join(str(part) for part in key)}: {', '.join(words)}")
        own = mind.past(found[0])
        if own:
            last = ", ".join(shown(value) for value in own.last)
            lines.append(f"its last {len(own.last)} runs, oldest first: {last}")
        trouble = self._trouble(found[0])
        lines.append(f"refusals: {trouble.told(shown) if trouble else 'none remembered'}")
        for target, record in self.records.items():
            if record.runs:
                lines.append(
                    f"{target} so far: {record.held} of {record.runs} bounds held"
                    f" ({record.held / record.runs:.1%})"
                )
        return lines

    def still(self, run: Run) -> None:
        """A run goes on: what it has used so far. One beyond its bound counts at once.

        Else only short ones would have been heard of. Call it when a run starts, and whenever it
        is looked at; what is said of it then is what its end is held against.

        Args:
            run: as far as it came; `ended_s` is now.
        """
        name = (run.job, run.started_s)
        if name not in self._running:
            self._running[name] = Running(self._say(run.job, run.ended_s))
        running = self._running[name]
        for target, value in run.used.items():
            estimate, need = running.said[target]
            if need.bound is None or not need.known or not need.bound < value < math.inf:
                continue
            if target not in running.beyond and JOB_RULES[target].safety is Safety.FACTOR:
                self._minds[target].exceeded(estimate, 0)
            running.beyond.add(target)
            if target == MEMORY:
                self._needs_at_least(run, need, value, "a run that goes on needed more")

    def learn(self, run: Run) -> None:
        """A run has ended; runs come in the order of their ends."""
        found = keys(run.job)
        running = self._running.pop((run.job, run.started_s), None)
        said = self._say(run.job, run.ended_s) if running is None else running.said
        states = {key: self.keys.touch(key) for key in found}
        for target in TARGETS:
            value = run.used.get(target)
            if value is not None and not 0 <= value < math.inf:
                value = None
            if target == MEMORY and (value is not None or run.outcome is Outcome.OOM):
                self._learn_memory(run, found, said[target], value or 0.0)
            elif target != MEMORY and value is not None:
                self._learn(target, run, found, said[target], value)
        for key, state in states.items():
            if state.seen_s is None or run.ended_s > state.seen_s:
                state.seen_s = run.ended_s
            if key[0] == "shape" and run.outcome is Outcome.DONE:
                state.box = state.box or Box()
                state.box.add(run.job.numbers)

    def prune(self, now_s: float) -> int:
        """Drop keys not seen for long; how many."""
        oldest_s = now_s - self.config.forget_s
        gone = self.keys.prune(oldest_s, now_s)
        for name in [name for name in self._running if name[1] < oldest_s]:
            del self._running[name]
        return gone

    def __len__(self) -> int:
        """Keys that are known."""
        return len(self.keys)

    def write(self) -> dict[str, bytes]:
        """All but the keys, in parts by name; read() goes on from there, those that run as well."""
        out = Writer()
        out.plain(
            [
                [record.runs, record.held, record.asked, record.granted, [*record.lately]]
                for record in self.records.values()
            ]
        )
        out.plain([running_plain(name, one) for name, one in self._running.items()])
        found = {"rest": out.done()}
        for target, mind in self._minds.items():
            found |= {f"{target} {name}": data for name, data in mind.write().items()}
        return found

    def read(self, parts: Mapping[str, bytes]) -> None:
        """Become what write() wrote of another, whose keys these are.

        Raises:
            ValueError, KeyError, TypeError, IndexError: it wrote something else.
        """
        data = Reader(parts["rest"])
        for record, (*sums, lately) in zip(self.records.values(), data.plain(), strict=True):
            record.runs, record.held, record.asked, record.granted = sums
            record.lately.extend(lately)
        self._running = dict(running_of(plain) for plain in data.plain())
        data.end()
        for target, mind in self._minds.items():
            begin = f"{target} "
            mind.read(
                {
                    name.removeprefix(begin): part
                    for name, part in parts.items()
                    if name.startswith(begin)
                }
            )

    def _seen_s(self, key: Key) -> float | None:
        """When a run of it last ended; None: none has."""
        state = self.keys.get(key)
        return None if state is None else state.seen_s

    def _trouble(self, key: Key) -> Trouble | None:
        state = self.keys.get(key)
        return None if state is None else state.trouble

    def _in_trouble(self, key: Key) -> Trouble:
        """Its trouble; begins with this, if it had none."""
        state = self.keys.touch(key)
        state.trouble = state.trouble or Trouble()
        return state.trouble

    def _say(self, job: Job, now_s: float) -> dict[str, tuple[Estimate, Need]]:
        found = keys(job)
        usable = [key for key in found if not self._not_asked(key, job, now_s)]
        return {target: self._answer(target, job, found[0], usable) for target in TARGETS}

    def _not_asked(self, key: Key, job: Job, now_s: float) -> str:
        """Why a key may not answer; empty: it may."""
        state = self.keys.get(key)
        seen = None if state is None else state.seen_s
        if seen is None:
            return "no run of it has ended"
        if now_s - seen > self.config.forget_s:
            return f"not seen for {(now_s - seen) / 86400:.0f} d"
        if key[0] == "shape":
            box = None if state is None else state.box
            return box.outside(job) if box is not None else "no run of it has ended well"
        return ""

    def _answer(self, target: str, job: Job, own: Key, usable: list[Key]) -> tuple[Estimate, Need]:
        mind, above = self._minds[target], self.config.above_request
        asked = [_of(target, key, job) for key in usable]
        estimate = mind.predict(asked)
        draft = Draft(mind.rule, job, own, estimate, self.config.noise_bytes)
        past = mind.past(asked[0]) if usable[:1] == [own] else None
        if past is not None:
            draft.agreed(past, mind.residuals(estimate.level, estimate.group))
        similar = next((key for key in asked if key[0] == draft.level), None)
        like = None if similar is None else mind.past(similar)
        if like is not None and draft.level not in SIMILAR:
            draft.as_new(like)
        if like is not None and draft.level == "shape":
            draft.raised(max(like.last), "the largest within its numbers")
        confidence = mind.rule.confidences[0]
        if mind.rule.safety in _FIXED and self.records[target].below(confidence):
            draft.widened()
        if target == MEMORY:
            if past is not None:
                draft.not_below(past)
            if (trouble := self._trouble(own)) is not None:
                draft.troubled(trouble, probe=self.config.probe, above_request=above)
        return estimate, draft.need(past, above_request=above)

    def _learn_memory(
        self, run: Run, found: list[Key], said: tuple[Estimate, Need], value: float
    ) -> None:
        """A run's GPU memory: what it needed, what it took, or what it needed at least."""
        mind, own, (estimate, need) = self._minds[MEMORY], found[0], said
        remembered = own[0] in _REMEMBERED
        how, held = peak(run, value, mind.past(own))
        if run.outcome is Outcome.OOM:
            if remembered:
                trouble = self._in_trouble(own)
                trouble.refused(run, value, need.bound or 0.0, self.config.noise_bytes)
        elif how is Peak.LEAST:
            self._needs_at_least(run, need, value, "a run that did not end well needed more")
        elif remembered and (how is Peak.TAKEN or self._trouble(own) is not None):
            trouble = self._in_trouble(own)
            trouble.ended_well(limit_bytes(run), how)
            if trouble.over:
                self.keys.touch(own).trouble = None
        if how is Peak.LEAST:
            self._at_least(MEMORY, run, said, held)
        if how is Peak.NEED:
            self.records[MEMORY].note(need, held, request(MEMORY, run.job))
            mind.observe(found, held, run.ended_s, found=estimate)

    def _needs_at_least(self, run: Run, need: Need, value: float, why: str) -> None:
        own = keys(run.job)[0]
        least = value + noise_bytes(value, self.config.noise_bytes)
        enough = need.known and need.bound is not None and need.bound >= least
        if own[0] in _REMEMBERED and not enough:
            self._in_trouble(own).at_least(least, why)

    def _learn(
        self, target: str, run: Run, found: list[Key], said: tuple[Estimate, Need], value: float
    ) -> None:
        if run.outcome is not Outcome.DONE:
            self._at_least(target, run, said, value)
            return
        if target == SHARE and 0 < run.share_ratio < 1 and value >= _PRESSED * run.share_ratio:
            value = min(_PRESSED_NEXT * run.share_ratio, 1.0)
        estimate, need = said
        self.records[target].note(need, value, request(target, run.job))
        asked = [_of(target, key, run.job) for key in found]
        self._minds[target].observe(asked, value, run.ended_s, found=estimate)

    def _at_least(self, target: str, run: Run, said: tuple[Estimate, Need], value: float) -> None:
        """One that did not end well teaches nothing, but a bound that it exceeded was missed."""
        estimate, need = said
        if estimate.grant is not None and value > estimate.grant:
            self._minds[target].observe((), value, run.ended_s, found=estimate)
        if need.bound is not None and value > need.bound:
            self.records[target].note(need, value, request(target, run.job))


def _of(target: str, key: Key, job: Job) -> Key:
    """A key as a target's: some depend on how fast a device is."""
    return on_device(key, job) if target in _ON_DEVICE else key
