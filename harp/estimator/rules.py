# SPDX-License-Identifier: Apache-2.0
"""One row per thing that is estimated: from what, and how it is made safe. Pure.

GPU memory and duration are calibrated. Host memory and GPU share have a fixed margin in parts of
the request: calibrated ones held less often on later data than they said, and a factor (the
Kubernetes autoscaler's 15 %) gives much to who uses much and little to who uses little, while both
vary by as much. A miss of memory kills a job, one of share slows it: hence the confidences.
Peaks of GPU memory of containers that serve one application hardly depend on which had the last:
there all others' needs answer as soon as they prove the better bound (windows.py).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from harp.estimator.past import Past

__all__ = ["JOB_RULES", "RULES", "Base", "Rule", "Safety"]

_DAY_S = 86400.0


class Base(enum.Enum):
    """What a bound starts from."""

    LAST = "last value"
    LARGEST_3 = "largest of the last 3"
    DECAYED_P90 = "decayed p90"
    DECAYED_P90_OR_LAST = "decayed p90 or last value"  #: the larger
    LARGEST_3_OR_6 = "largest of the last few"  #: 3; 6 of a key whose runs differ much


class Safety(enum.Enum):
    """What is put on top of it."""

    MARGIN = "margin"  #: a fixed one, in parts of the request
    OFFSET = "offset"  #: calibrated, in parts of the request
    FACTOR = "factor"  #: calibrated, as a factor
    TIMES = "times"  #: a fixed factor


@dataclass(frozen=True, slots=True)
class Rule:
    """How one target is estimated."""

    target: str
    unit: str
    base: Base
    safety: Safety
    confidences: tuple[float, ...]  #: of its bounds; the first is what is granted
    margin: float = 0.04  #: Safety.MARGIN, in parts of the request; Safety.TIMES, of the base
    margin_least: float = 0.0  #: Safety.TIMES: in the target's unit
    runs_min: int = 1  #: fewer runs of a key ask the next wider one
    half_life_s: float | None = None  #: of the decay; None: half_life_runs
    half_life_runs: float = 20.0
    #: what all keys needed, in parts of the request, answers too: see windows.py
    others: bool = False
    #: up to so many runs of a key are too few to bound it as others are: see windows.py
    young: int = 0
    pool: int = 1000  #: residuals kept
    pool_min: int = 50
    gain: float = 0.005  #: see calibration.Residuals
    requested: bool = True  #: users ask for it, so the request is the ceiling
    #: spread of a key's last runs, in parts of the largest, up to which it is steady and from which
    #: it is restless: each group has residuals of its own. None: one group
    steady: tuple[float, float] | None = None
    #: margin in parts of the base until there are residuals enough; None: unknown until then
    start_margin: float | None = None
    #: what is put on top of three runs that agree, in parts of the largest and in the unit at
    #: least; None: so few never answer
    agreed_margin: tuple[float, float] | None = None

    def past(self) -> Past:
        """What a key has shown of it so far: nothing."""
        return Past(self.half_life_s or self.half_life_runs, timed=bool(self.half_life_s))

    def shown(self, value: float) -> str:
        """A value as people read it, rounded."""
        if self.unit != "bytes":
            return f"{value:.4g} {self.unit}"
        for size, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if value >= size:
                return f"{value / size:.4g} {name}"
        return f"{value:.0f} bytes"


RULES = {
    rule.target: rule
    for rule in (
        Rule(
            "gpu_mem_bytes",
            "bytes",
            Base.LAST,
            Safety.OFFSET,
            (0.98,),
            pool=600,
            half_life_s=_DAY_S,
            others=True,
        ),
        Rule(
            "host_mem_frac",
            "of the limit",
            Base.DECAYED_P90_OR_LAST,
            Safety.MARGIN,
            (0.98,),
            half_life_s=_DAY_S,
        ),
        Rule(
            "gpu_util_pct",
            "%",
            Base.LARGEST_3,
            Safety.MARGIN,
            (0.99,),
            half_life_s=_DAY_S,
            young=2,
        ),
        Rule(
            "duration_s",
            "s",
            Base.DECAYED_P90,
            Safety.FACTOR,
            (0.90, 0.95),
            runs_min=3,
            pool=3000,
            gain=0.001,
            requested=False,
        ),
    )
}

#: spreads that part steady keys from others, and others from restless ones
_STEADY = (0.05, 0.25)

#: of whole runs of jobs: advise.py. Runs of a key needed, what is calibrated and the margins of
#: what is not are those of research/estimator.md, sections 3.4 and 4; the share's is that of RULES,
#: which saved more at as many held. The margin before anything is calibrated is the autoscaler's
#: too: with it the largest of all runs held for 98.3 % (memory). That of durations is a guess.
JOB_RULES = {
    rule.target: rule
    for rule in (
        Rule(
            "gpu_mem_bytes",
            "bytes",
            Base.LARGEST_3_OR_6,
            Safety.FACTOR,
            (0.98,),
            runs_min=5,
            steady=_STEADY,
            start_margin=0.15,
            agreed_margin=(0.02, 256 << 20),
        ),
        Rule(
            "share_ratio",
            "of a GPU",
            Base.LARGEST_3,
            Safety.MARGIN,
            (0.99,),
            runs_min=3,
        ),
        Rule(
            "host_mem_bytes",
            "bytes",
            Base.DECAYED_P90_OR_LAST,
            Safety.TIMES,
            (0.98,),
            margin=0.15,
            margin_least=64 << 20,
            runs_min=3,
            requested=False,
        ),
        Rule(
            "cpu_cores",
            "cores",
            Base.DECAYED_P90_OR_LAST,
            Safety.TIMES,
            (0.95,),
            margin=0.15,
            margin_least=0.1,
            runs_min=3,
            requested=False,
        ),
        Rule(
            "duration_s",
            "s",
            Base.DECAYED_P90,
            Safety.FACTOR,
            (0.90,),
            runs_min=3,
            pool=3000,
            gain=0.001,
            requested=False,
            steady=_STEADY,
            start_margin=0.5,
            agreed_margin=(0.15, 1.0),
        ),
    )
}
