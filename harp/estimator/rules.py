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

__all__ = ["RULES", "Base", "Rule", "Safety"]

_DAY_S = 86400.0


class Base(enum.Enum):
    """What a bound starts from."""

    LAST = "last value"
    LARGEST_3 = "largest of the last 3"
    DECAYED_P90 = "decayed p90"
    DECAYED_P90_OR_LAST = "decayed p90 or last value"  #: the larger


class Safety(enum.Enum):
    """What is put on top of it."""

    MARGIN = "margin"  #: a fixed one, in parts of the request
    OFFSET = "offset"  #: calibrated, in parts of the request
    FACTOR = "factor"  #: calibrated, as a factor


@dataclass(frozen=True, slots=True)
class Rule:
    """How one target is estimated."""

    target: str
    unit: str
    base: Base
    safety: Safety
    confidences: tuple[float, ...]  #: of its bounds; the first is what is granted
    margin: float = 0.04  #: Safety.MARGIN alone
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
