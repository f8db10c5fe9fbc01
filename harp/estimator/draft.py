# SPDX-License-Identifier: Apache-2.0
"""A bound in the making: what jobs alike needed, and what speaks against granting just that. Pure.

Each step may only raise a bound, but for that of few runs which agree; the last cuts it to what may
be granted. Every step that changes it says so in the reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from harp.estimator.estimate import Estimate, Key
from harp.estimator.guard import AGREEING, Trouble, noise_bytes
from harp.estimator.job import Job, Need
from harp.estimator.keys import SIMILAR
from harp.estimator.past import Past
from harp.estimator.rules import Rule

__all__ = ["MEMORY", "SHARE", "Draft", "request"]

MEMORY, SHARE = "gpu_mem_bytes", "share_ratio"
#: what jobs that are not alike are granted at least, in parts of the request (research: G8)
_NEW = 0.9
#: runs of a job agree if they lie so near to each other, in parts of the largest, over the last few
_AGREE, _AGREE_OVER = 0.05, 5


def request(target: str, job: Job) -> float | None:
    """What stands in for a need that is unknown; None: nothing."""
    if target == MEMORY:
        device = job.device_mem_bytes or math.inf
        asked = min(job.asked_mem_bytes or device, device)
        return None if asked == math.inf else float(asked)
    if target == SHARE:
        return min(job.asked_share_ratio or 1.0, 1.0)
    return None


def _ceiling(target: str, job: Job, *, above_request: bool) -> tuple[float, str]:
    """The most that may be granted, and whose word that is."""
    if target == MEMORY:
        asked, device = float(job.asked_mem_bytes), float(job.device_mem_bytes)
    elif target == SHARE:
        asked, device = job.asked_share_ratio, 1.0
    else:
        return math.inf, ""
    asked = math.inf if above_request else asked or math.inf
    return min((asked, "the request"), (device or math.inf, "the device"))


@dataclass(slots=True)
class Draft:
    """Of one target of one job."""

    rule: Rule
    job: Job
    own: Key  #: of the job's, the most alike
    estimate: Estimate
    noise_bytes: float  #: least one of GPU memory
    bound: float | None = None  #: None: unknown
    made: str = ""  #: how
    level: str = "request"
    runs: int = 0
    typical: float | None = None

    def __post_init__(self) -> None:
        """Begin with what jobs alike needed."""
        found = self.estimate
        self.bound, self.made = found.grant, found.made
        self.level, self.runs, self.typical = found.level, found.runs, found.typical
        if self.rule.target == MEMORY and self.bound is not None and found.base is not None:
            # A pool of jobs that shrink is no reason to grant less than what was needed.
            self.raised(found.base, "that at least")
            noise = noise_bytes(self.bound, self.noise_bytes)
            self.bound += noise
            self.made += f" + {self.rule.shown(noise)}"

    def raised(self, least: float, why: str) -> None:
        """No less than that."""
        if self.bound is not None and least > self.bound:
            self.bound, self.made = least, f"{self.made}; {why}"

    def agreed(self, past: Past, residuals: int) -> None:
        """Few runs of the job itself are enough if they agree and nothing is calibrated yet.

        Args:
            past: of its own key.
            residuals: that the bound so far is calibrated from.
        """
        rule, kind = self.rule, str(self.own[0])
        if rule.agreed_margin is None or past.runs < AGREEING or kind not in SIMILAR:
            return
        if self.level == kind and residuals >= rule.pool_min:
            return
        if past.spread(_AGREE_OVER) > _AGREE:
            return
        ratio, least = rule.agreed_margin
        largest = max(past.last[-_AGREE_OVER:])
        margin = max(ratio * largest, self.noise_bytes if rule.target == MEMORY else least)
        runs = min(past.runs, _AGREE_OVER)
        self.bound = largest + margin
        self.made = (
            f"largest of {runs} runs that agree {rule.shown(largest)} + {rule.shown(margin)}"
        )
        self.level, self.runs, self.typical = kind, past.runs, past.quantile(0.5)

    def as_new(self, like: Past) -> None:
        """What others needed is no reason to grant a new job much less than it asks for."""
        self.raised(like.quantile(0.95) or 0.0, f"p95 of {self.level}")
        asked = request(self.rule.target, self.job)
        if asked is not None:
            self.raised(_NEW * asked, f"{_NEW:.0%} of the request: its own runs are too few")

    def widened(self) -> None:
        """Fixed margins that have not held as often as they should are doubled."""
        base, bound = self.estimate.base, self.estimate.grant
        if base is not None and bound is not None:
            why = "its margin doubled: bounds have held too seldom"
            self.raised(bound + (bound - base), why)

    def not_below(self, past: Past) -> None:
        """Never below what the job itself has just needed, nor below where it is going."""
        last = past.last
        self.raised(max(last[-2:]), "its last runs needed more")
        if len(last) >= AGREEING and last[-3] < last[-2] < last[-1]:
            step = max(last[-1] - last[-2], last[-2] - last[-3])
            room = noise_bytes(last[-1], self.noise_bytes)
            self.raised(last[-1] + step + room, f"it grows by {self.rule.shown(step)} a run")

    def troubled(self, trouble: Trouble, *, probe: bool, above_request: bool) -> None:
        """What its peaks do not tell.

        Args:
            trouble: of its own key.
            probe: one that takes all it is given is given less, run by run.
            above_request: as need().
        """
        shown = self.rule.shown
        enough = trouble.probe_bytes() if probe else None
        if enough is not None:
            self.level, self.runs = str(self.own[0]), trouble.taken
            self.bound, self.typical = enough, None
            self.made = f"it takes all it is given, and {shown(trouble.good_bytes)} was enough"
        if trouble.floor_bytes == 0:
            return
        asked = request(self.rule.target, self.job)
        if self.bound is not None:
            self.raised(trouble.floor_bytes, trouble.why)
            return
        self.made = trouble.why
        if above_request and asked is not None and trouble.floor_bytes > asked:
            self.level, self.runs = str(self.own[0]), trouble.refusals
            self.bound = trouble.floor_bytes

    def need(self, own: Past | None, *, above_request: bool) -> Need:
        """The answer.

        Args:
            own: what its own key has shown.
            above_request: the user's request is not the most that it is granted.
        """
        rule = self.rule
        confidence = rule.confidences[0]
        ceiling, whose = _ceiling(rule.target, self.job, above_request=above_request)
        bound, made = self.bound, self.made
        if bound is not None and bound > ceiling:
            bound, made = ceiling, f"{made}; {whose} at most"
        if bound is None or math.isinf(bound):
            bound = request(rule.target, self.job)
            shown = "unknown" if bound is None else f"the request, {rule.shown(bound)}"
            return Need(
                rule.target,
                None,
                bound,
                confidence,
                known=False,
                level="request",
                runs=0,
                reason=f"{shown}: {made or self._too_few(own)}",
            )
        return Need(
            rule.target,
            None if self.typical is None else min(self.typical, bound),
            bound,
            confidence,
            known=True,
            level=self.level,
            runs=self.runs,
            reason=f"{rule.shown(bound)} at {confidence:.0%} = {made} ({self.level}, "
            f"{self.runs} runs)",
        )

    def _too_few(self, own: Past | None) -> str:
        if own is None or not own.runs:
            return "no run of a job like it has ended well"
        agree = f"{AGREEING} that agree or " if self.rule.agreed_margin is not None else ""
        have = f"{own.runs} {'run' if own.runs == 1 else 'runs'} of it"
        return f"{have}, {agree}{self.rule.runs_min} are needed"
