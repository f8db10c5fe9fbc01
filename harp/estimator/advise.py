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
from dataclasses import dataclass

from harp.estimator.estimate import Estimate, Estimator, Key
from harp.estimator.guard import AGREEING, Box, Peak, Trouble, noise_bytes, peak
from harp.estimator.job import TARGETS, Job, Need, Outcome, Run
from harp.estimator.keys import SIMILAR, keys, on_device
from harp.estimator.past import Past
from harp.estimator.rules import JOB_RULES

__all__ = ["AdviseConfig", "Adviser", "Record"]

_MEMORY, _SHARE = "gpu_mem_bytes", "share_ratio"
#: targets that depend on how fast the device is
_ON_DEVICE = frozenset({_SHARE, "duration_s"})
#: what jobs that are not alike are granted at least, in parts of the request (research: G8)
_NEW = 0.9
#: runs of a job agree if they lie so near to each other, in parts of the largest, over the last few
_AGREE, _AGREE_OVER = 0.05, 5
#: of the share it had: one that used as much would have used more
_PRESSED, _PRESSED_NEXT = 0.97, 1.5
#: kinds of key that a refusal is remembered for: others are of different programs
_REMEMBERED = frozenset({"signature", "program", "owner", "user"})


@dataclass(frozen=True, slots=True)
class AdviseConfig:
    """How."""

    above_request: bool = False  #: bounds may exceed what users ask for, up to the device
    noise_bytes: int = 256 << 20  #: that a context's memory varies by, at least
    forget_s: float = 90 * 86400.0  #: keys not seen for so long are dropped


@dataclass(slots=True)
class Record:
    """How bounds of a target did, of runs that it was known for."""

    runs: int = 0
    held: int = 0
    asked: float = 0.0  #: sum of requests, of those that had one
    granted: float = 0.0  #: sum of their bounds


@dataclass(slots=True)
class _Said:
    """An answer in the making."""

    bound: float | None
    made: str  #: how
    estimate: Estimate
    own: Key  #: the job's, most alike
    level: str = "request"
    runs: int = 0
    typical: float | None = None

    def raised(self, least: float, why: str) -> None:
        if self.bound is not None and least > self.bound:
            self.bound = least
            self.made = f"{self.made}; {why}"


class Adviser:
    """All targets of one history."""

    def __init__(self, config: AdviseConfig | None = None) -> None:
        self.config = config or AdviseConfig()
        #: {target: how its bounds did}
        self.records = {target: Record() for target in TARGETS}
        self._minds = {target: Estimator(JOB_RULES[target]) for target in TARGETS}
        #: {key: when a run of it last ended}
        self._seen: dict[Key, float] = {}
        self._troubles: dict[Key, Trouble] = {}
        self._boxes: dict[Key, Box] = {}

    def ask(self, job: Job, now_s: float) -> dict[str, Need]:
        """What a job will need, by target.

        Args:
            job: before it runs.
            now_s: wall clock; keys not seen for long are not asked.
        """
        return {target: self._need(target, job, said) for target, said in self._say(job, now_s)}

    def explain(self, job: Job, now_s: float) -> list[str]:
        """Where the answers come from, line by line: each answer, each key, the job's own runs."""
        shown = JOB_RULES[_MEMORY].shown
        mind = self._minds[_MEMORY]
        found = keys(job)
        lines = [f"{target}: {need.reason}" for target, need in self.ask(job, now_s).items()]
        for key in found:
            past = mind.past(key)
            words = [f"{past.runs if past else 0} runs"]
            if key in self._seen:
                words.append(f"last seen {max(now_s - self._seen[key], 0) / 3600:.1f} h ago")
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
        trouble = self._troubles.get(found[0])
        lines.append(f"refusals: {trouble.told(shown) if trouble else 'none remembered'}")
        for target, record in self.records.items():
            if record.runs:
                lines.append(
                    f"{target} so far: {record.held} of {record.runs} bounds held"
                    f" ({record.held / record.runs:.1%})"
                )
        return lines

    def learn(self, run: Run) -> None:
        """A run has ended; runs come in the order of their ends."""
        found = keys(run.job)
        for target, said in self._say(run.job, run.ended_s):
            value = run.used.get(target)
            if target == _MEMORY:
                self._learn_memory(run, found, said, value)
            elif value is not None and _sane(value):
                self._learn(target, run, found, said, value)
        for key in found:
            self._seen[key] = max(run.ended_s, self._seen.get(key, run.ended_s))
            if key[0] == "shape" and run.outcome is Outcome.DONE:
                self._boxes.setdefault(key, Box()).add(run.job.numbers)

    def prune(self, now_s: float) -> int:
        """Drop keys not seen for long; how many."""
        # A clock that was ahead for a while may not keep a key for ever.
        self._seen = {key: min(seen, now_s) for key, seen in self._seen.items()}
        stale = [key for key, seen in self._seen.items() if now_s - seen > self.config.forget_s]
        for key in stale:
            del self._seen[key]
            self._troubles.pop(key, None)
            self._boxes.pop(key, None)
        gone = set(stale)
        for target, mind in self._minds.items():
            if target in _ON_DEVICE:
                mind.forget([key for key in mind.known() if key[:-1] in gone])
            else:
                mind.forget(stale)
        return len(stale)

    def __len__(self) -> int:
        """Keys that are known."""
        return len(self._seen)

    def _say(self, job: Job, now_s: float) -> list[tuple[str, _Said]]:
        found = keys(job)
        usable = [key for key in found if not self._not_asked(key, job, now_s)]
        return [(target, self._answer(target, job, found, usable)) for target in TARGETS]

    def _not_asked(self, key: Key, job: Job, now_s: float) -> str:
        """Why a key may not answer; empty: it may."""
        seen = self._seen.get(key)
        if seen is None:
            return "no run of it has ended"
        if now_s - seen > self.config.forget_s:
            return f"not seen for {(now_s - seen) / 86400:.0f} d"
        if key[0] == "shape":
            box = self._boxes.get(key)
            return box.outside(job) if box is not None else "no run of it has ended well"
        return ""

    def _answer(self, target: str, job: Job, found: list[Key], usable: list[Key]) -> _Said:
        mind = self._minds[target]
        asked = [_of(target, key, job) for key in usable]
        estimate = mind.predict(asked)
        said = _Said(
            estimate.grant, estimate.made, estimate, found[0], estimate.level, estimate.runs
        )
        said.typical = estimate.typical
        past = mind.past(asked[0]) if usable[:1] == found[:1] else None
        if target == _MEMORY and said.bound is not None:
            noise = noise_bytes(said.bound, self.config.noise_bytes)
            said.bound += noise
            said.made += f" + {mind.rule.shown(noise)}"
        if past is not None:
            self._agreed(target, said, past)
        if said.bound is None:
            return said
        if said.level not in SIMILAR and said.level != said.own[0]:
            self._as_new(target, job, said, asked)
        if said.level == "shape":
            like = self._answering(target, said, asked)
            said.raised(max(like.last), "the largest within its numbers")
        if target == _MEMORY and past is not None:
            self._not_below(said, past)
        return said

    def _answering(self, target: str, said: _Said, asked: list[Key]) -> Past:
        past = self._minds[target].past(next(key for key in asked if key[0] == said.level))
        assert past is not None  # it answered
        return past

    def _agreed(self, target: str, said: _Said, past: Past) -> None:
        """Few runs of the job itself are enough if they agree and nothing is calibrated yet."""
        rule = self._minds[target].rule
        kind = str(said.own[0])
        if rule.agreed_margin is None or past.runs < AGREEING:
            return
        residuals = self._minds[target].residuals(said.level, said.estimate.group)
        if said.level == kind and residuals >= rule.pool_min:
            return
        if kind not in SIMILAR or past.spread(_AGREE_OVER) > _AGREE:
            return
        largest = max(past.last[-_AGREE_OVER:])
        ratio, least = rule.agreed_margin
        if target == _MEMORY:
            least = self.config.noise_bytes
        margin = max(ratio * largest, least)
        runs = min(past.runs, _AGREE_OVER)
        said.bound = largest + margin
        said.made = (
            f"largest of {runs} runs that agree {rule.shown(largest)} + {rule.shown(margin)}"
        )
        said.level, said.runs, said.typical = kind, past.runs, past.quantile(0.5)

    def _as_new(self, target: str, job: Job, said: _Said, asked: list[Key]) -> None:
        """What others needed is no reason to grant a new job much less than it asks for."""
        like = self._answering(target, said, asked)
        said.raised(like.quantile(0.95) or 0.0, f"p95 of {said.level}")
        request = self._request(target, job)
        if request is not None:
            said.raised(_NEW * request, f"{_NEW:.0%} of the request: its own runs are too few")

    def _not_below(self, said: _Said, past: Past) -> None:
        """Never below what the job itself has just needed, nor below where it is going."""
        last = past.last
        said.raised(max(last[-2:]), "its last runs needed more")
        if len(last) >= AGREEING and last[-3] < last[-2] < last[-1]:
            step = max(last[-1] - last[-2], last[-2] - last[-3])
            room = noise_bytes(last[-1], self.config.noise_bytes)
            shown = JOB_RULES[_MEMORY].shown(step)
            said.raised(last[-1] + step + room, f"it grows by {shown} a run")

    def _need(self, target: str, job: Job, said: _Said) -> Need:
        rule = self._minds[target].rule
        confidence = rule.confidences[0]
        ceiling, whose = self._ceiling(target, job)
        trouble = self._troubles.get(said.own) if target == _MEMORY else None
        if trouble is not None:
            self._trouble(said, trouble, self._request(target, job))
        if said.bound is None or math.isinf(said.bound):
            bound = self._request(target, job)
            shown = "unknown" if bound is None else f"the request, {rule.shown(bound)}"
            reason = f"{shown}: {said.made or self._too_few(target, job, said)}"
            return Need(
                target, None, bound, confidence, known=False, level="request", runs=0, reason=reason
            )
        bound, made = said.bound, said.made
        if ceiling is not None and bound > ceiling:
            bound, made = ceiling, f"{made}; {whose} at most"
        typical = said.typical if said.typical is None else min(said.typical, bound)
        reason = (
            f"{rule.shown(bound)} at {confidence:.0%} = {made} ({said.level}, {said.runs} runs)"
        )
        return Need(
            target,
            typical,
            bound,
            confidence,
            known=True,
            level=said.level,
            runs=said.runs,
            reason=reason,
        )

    def _trouble(self, said: _Said, trouble: Trouble, request: float | None) -> None:
        """What its peaks do not tell."""
        shown = JOB_RULES[_MEMORY].shown
        probe = trouble.probe_bytes()
        if probe is not None:
            said.level, said.runs = str(said.own[0]), trouble.taken
            said.bound, said.typical = probe, None
            said.made = f"it takes all it is given, {shown(trouble.good_bytes)} was enough"
        if trouble.floor_bytes == 0:
            return
        if said.bound is not None:
            said.raised(trouble.floor_bytes, trouble.why)
        elif request is not None and trouble.floor_bytes > request:
            said.level, said.runs = str(said.own[0]), trouble.refusals
            said.bound, said.made = trouble.floor_bytes, trouble.why

    def _too_few(self, target: str, job: Job, said: _Said) -> str:
        past = self._minds[target].past(_of(target, said.own, job))
        if past is None:
            return "no run of a job like it has ended"
        needed = self._minds[target].rule.runs_min
        return f"{past.runs} runs of it have ended, {AGREEING} that agree or {needed} are needed"

    def _request(self, target: str, job: Job) -> float | None:
        """What stands in for one that is unknown; None: nothing."""
        if target == _MEMORY:
            return float(job.asked_mem_bytes or job.device_mem_bytes) or None
        if target == _SHARE:
            return job.asked_share_ratio or 1.0
        return None

    def _ceiling(self, target: str, job: Job) -> tuple[float | None, str]:
        if target == _MEMORY:
            device = float(job.device_mem_bytes) or None
            asked = None if self.config.above_request else float(job.asked_mem_bytes) or None
            if asked is not None and (device is None or asked <= device):
                return asked, "the request"
            return device, "the device"
        if target == _SHARE:
            if job.asked_share_ratio and not self.config.above_request:
                return min(job.asked_share_ratio, 1.0), "the request"
            return 1.0, "the device"
        return None, ""

    def _learn_memory(self, run: Run, found: list[Key], said: _Said, value: float | None) -> None:
        """A run's GPU memory: what it needed, what it took, or what it needed at least."""
        mind, own = self._minds[_MEMORY], found[0]
        held = value if value is not None and _sane(value) else 0.0
        need = self._need(_MEMORY, run.job, said)
        remembered = own[0] in _REMEMBERED
        if run.outcome is Outcome.OOM:
            if remembered:
                trouble = self._troubles.setdefault(own, Trouble())
                trouble.refused(run, held, need.bound or 0.0, self.config.noise_bytes)
            held = max(held, float(run.attempted_bytes))
        elif value is None or not _sane(value):
            return
        how = peak(run, held, mind.past(own))
        if how is Peak.NEED:
            held = max(held, float(run.attempted_bytes))
        if how is Peak.LEAST:
            self._at_least(_MEMORY, run, need, said, held)
            if run.outcome is not Outcome.OOM and remembered:
                least = held + noise_bytes(held, self.config.noise_bytes)
                if not need.known or need.bound is None or least > need.bound:
                    why = "a run that did not end well needed more"
                    self._troubles.setdefault(own, Trouble()).at_least(least, why)
            return
        if remembered and (how is Peak.TAKEN or own in self._troubles):
            trouble = self._troubles.setdefault(own, Trouble())
            trouble.ended_well(float(run.mem_limit_bytes), how)
            if trouble.over:
                del self._troubles[own]
        if how is Peak.NEED:
            self._note(_MEMORY, run, need, held)
            mind.observe(found, held, run.ended_s, found=said.estimate)

    def _learn(self, target: str, run: Run, found: list[Key], said: _Said, value: float) -> None:
        need = self._need(target, run.job, said)
        if run.outcome is not Outcome.DONE:
            self._at_least(target, run, need, said, value)
            return
        if target == _SHARE and 0 < run.share_ratio < 1 and value >= _PRESSED * run.share_ratio:
            value = min(_PRESSED_NEXT * run.share_ratio, 1.0)
        asked = [_of(target, key, run.job) for key in found]
        self._note(target, run, need, value)
        self._minds[target].observe(asked, value, run.ended_s, found=said.estimate)

    def _at_least(self, target: str, run: Run, need: Need, said: _Said, value: float) -> None:
        """One that did not end well teaches nothing, but a bound that it exceeded was missed."""
        if said.estimate.grant is not None and value > said.estimate.grant:
            self._minds[target].observe((), value, run.ended_s, found=said.estimate)
        if need.bound is not None and value > need.bound:
            self._note(target, run, need, value)

    def _note(self, target: str, run: Run, need: Need, value: float) -> None:
        if not need.known or need.bound is None:
            return
        record = self.records[target]
        record.runs += 1
        record.held += value <= need.bound
        request = self._request(target, run.job)
        if request is not None:
            record.asked += request
            record.granted += need.bound


def _of(target: str, key: Key, job: Job) -> Key:
    """A key as a target's: some depend on how fast a device is."""
    return on_device(key, job) if target in _ON_DEVICE else key


def _sane(value: float) -> bool:
    return 0 <= value < math.inf
