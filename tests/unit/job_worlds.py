# SPDX-License-Identifier: Apache-2.0
"""Synthetic jobs whose true needs are known, and a host that runs them under what is advised.

What comes of them is never to be put beside figures of recorded jobs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from harp.estimator.advise import Adviser
from harp.estimator.job import Job, Need, Outcome, Run

GIB = float(1 << 30)
DEVICE = int(80 * GIB)
DAY_S = 86400.0


def job(name: str = "a", *, asked: float = 24 * GIB, user: str = "u", **fields: object) -> Job:
    """A job of a program of that name."""
    base = Job(
        program=name,
        user=user,
        framework="tinygrad",
        gpu="soft",
        asked_mem_bytes=int(asked),
        device_mem_bytes=DEVICE,
    )
    return dataclasses.replace(base, **fields)  # type: ignore[arg-type]


def run(of: Job, peak: float, at_s: float = 1000.0, **fields: object) -> Run:
    """A run that ended well, with room to spare."""
    base = Run(of, started_s=at_s - 100, ended_s=at_s, used={"gpu_mem_bytes": peak})
    return dataclasses.replace(base, **fields)  # type: ignore[arg-type]


def memory(adviser: Adviser, of: Job, now_s: float = 2000.0) -> Need:
    """What is said of its GPU memory."""
    return adviser.ask(of, now_s)["gpu_mem_bytes"]


@dataclass
class Told:
    """What a host has seen."""

    needs: list[Need] = field(default_factory=list)  #: before each first attempt
    held: list[bool] = field(default_factory=list)  #: whether the first attempt ended well
    attempts: list[int] = field(default_factory=list)  #: that each took

    def rate(self, begin: int = 0) -> float:
        """How many first attempts of known needs ended well, from a run on."""
        known = [
            held
            for need, held in zip(self.needs[begin:], self.held[begin:], strict=True)
            if need.known
        ]
        return sum(known) / len(known) if known else 1.0

    def saved(self, asked: float, begin: int = 0) -> float:
        """Parts of the request that were not granted."""
        bounds = [need.bound or asked for need in self.needs[begin:]]
        return 1 - sum(bounds) / (asked * len(bounds))

    def in_a_row(self) -> int:
        """Most first attempts in a row that did not end well."""
        longest = now = 0
        for held in self.held:
            now = 0 if held else now + 1
            longest = max(longest, now)
        return longest


def enforce(
    adviser: Adviser,
    runs: Iterable[tuple[Job, float]],
    *,
    grabs: Callable[[Job], bool] = lambda _: False,
    most: int = 4,
) -> Told:
    """Run jobs one after the other, each within its bound; one that is refused is tried again.

    Args:
        adviser: learns from each attempt.
        runs: jobs with what each needs, in bytes.
        grabs: whether a job takes all that it is given.
        most: attempts; then it is given up.
    """
    told, now_s = Told(), 0.0
    for of, need in runs:
        for attempt in range(1, most + 1):
            now_s += 600.0
            said = memory(adviser, of, now_s)
            limit = said.bound or DEVICE
            well = need <= limit
            if attempt == 1:
                told.needs.append(said)
                told.held.append(well)
            peak = limit if grabs(of) else min(need, limit)
            adviser.learn(
                Run(
                    of,
                    started_s=now_s - 60,
                    ended_s=now_s,
                    outcome=Outcome.DONE if well else Outcome.OOM,
                    used={"gpu_mem_bytes": peak, "duration_s": 60.0},
                    mem_limit_bytes=int(limit),
                    attempted_bytes=0 if well else int(need),
                )
            )
            if well:
                break
        told.attempts.append(attempt)
    return told
