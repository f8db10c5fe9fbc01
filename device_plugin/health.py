# SPDX-License-Identifier: Apache-2.0
"""Whether a GPU's slots are healthy: quick to say no, slow to say yes again. Pure.

NVML's events say what went wrong at once, a probe that really uses the GPU says whether it works.
A GPU that was unhealthy is healthy again by itself: after CLEAN_PROBES good probes in a row and
CLEAN_S without trouble (or as long as is said), so one that fails every other minute stays out.
Kubelet takes slots of an unhealthy GPU from what can be asked for; pods that run on it go on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

__all__ = ["APPLICATION_XIDS", "CLEAN_PROBES", "CLEAN_S", "Health", "Lost", "Probe", "Xid", "step"]

#: errors of a program, not of its GPU: 13 an illegal access, 31 a page fault, 43 a channel reset,
#: 45 a channel taken down, 68 the video processor's, 109 a context switch that timed out.
#: Source: docs.nvidia.com/deploy/xid-errors; what NVIDIA's own device plugin ignores.
APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
CLEAN_PROBES = 3
CLEAN_S = 60.0
#: in a row; one alone may have met a busy machine
_FAILED_PROBES = 2


@dataclass(frozen=True, slots=True)
class Xid:
    """The driver reported an error of this GPU."""

    code: int


@dataclass(frozen=True, slots=True)
class Probe:
    """The GPU was used, and worked or did not."""

    good: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """The driver does not know the GPU any more."""


Event = Xid | Probe | Lost


@dataclass(frozen=True, slots=True)
class Health:
    """One GPU's."""

    healthy: bool = True
    why: str = ""  #: it is not, in words
    good: int = 0  #: probes in a row
    bad: int = 0  #: probes in a row
    trouble_s: float = -math.inf  #: when it last showed any


def step(health: Health, event: Event, now_s: float, clean_s: float = CLEAN_S) -> Health:
    """The GPU's health after an event.

    Args:
        health: before.
        event: what was seen.
        now_s: monotonic.
        clean_s: without trouble, before it is healthy again.
    """
    match event:
        case Xid(code) if code in APPLICATION_XIDS:
            return health
        case Xid(code):
            return _unhealthy(health, f"the driver reported Xid {code}", now_s)
        case Lost():
            return _unhealthy(health, "the driver does not list it", now_s)
        case Probe(good=False):
            bad = health.bad + 1
            if bad >= _FAILED_PROBES or not health.healthy:
                why = health.why or f"{bad} probes in a row failed"
                return replace(_unhealthy(health, why, now_s), bad=bad)
            return replace(health, bad=bad)
        case Probe():
            good = health.good + 1
            if health.healthy:
                return replace(health, good=good, bad=0)
            if good >= CLEAN_PROBES and now_s - health.trouble_s >= clean_s:
                return Health(good=good, trouble_s=health.trouble_s)
            return replace(health, good=good, bad=0)


def _unhealthy(health: Health, why: str, now_s: float) -> Health:
    return replace(health, healthy=False, why=why, good=0, trouble_s=now_s)
