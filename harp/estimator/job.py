# SPDX-License-Identifier: Apache-2.0
"""A job before it runs, a run once it has ended, and what a job is said to need. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

__all__ = ["TARGETS", "Job", "Need", "Outcome", "Run"]

#: what is estimated of a job, in the order it is shown
TARGETS = ("gpu_mem_bytes", "share_ratio", "host_mem_bytes", "cpu_cores", "duration_s")


@dataclass(frozen=True, slots=True)
class Job:
    """What is known of a job before it runs; an empty field is not known."""

    program: str = ""  #: its normalised command, a digest: signature.program()
    shape: str = ""  #: the same with its numbers left out: signature.shape()
    #: numbers of its command by name, in order: what `shape` leaves out
    numbers: tuple[tuple[str, float], ...] = ()
    user: str = ""  #: a digest, salted by the machine
    image: str = ""
    framework: str = ""
    owner: str = ""  #: of a pod: namespace/Kind/name of what made it
    gpu: str = ""  #: the device's name
    asked_mem_bytes: int = 0  #: GPU memory its user asks for; 0: nothing said
    asked_share_ratio: float = 0.0
    device_mem_bytes: int = 0  #: of the device
    #: the user's own, of labels that history is told to keep
    labels: tuple[tuple[str, str], ...] = ()


class Outcome(enum.StrEnum):
    """How a run ended."""

    DONE = "done"
    FAILED = "failed"  #: by itself, with an exit status
    KILLED = "killed"  #: by a signal, or its tenant was removed under it
    OOM = "oom"  #: refused memory within its limit, and ended with an error
    LOST = "lost"  #: nobody saw its end: what it had needed by then is a lower bound


@dataclass(frozen=True, slots=True)
class Run:
    """A job that has ended, or was last seen."""

    job: Job
    number: int = 0  #: in the order of ending; given by history
    started_s: float = 0.0  #: wall clock
    ended_s: float = 0.0  #: wall clock; of one that is lost: last seen
    outcome: Outcome = Outcome.DONE
    exit_status: int | None = None
    #: {target: what it needed}: high-water of live GPU bytes, p95 of GPU time in a minute while
    #: busy, high-water of host memory, p95 of CPU, wall clock. What was not seen has no entry.
    used: dict[str, float] = field(default_factory=dict)
    #: {"gpu_mem_bytes.p50": value, ...}: quantiles beside them
    quantiles: dict[str, float] = field(default_factory=dict)
    mem_limit_bytes: int = 0  #: it ran under; 0: none
    share_ratio: float = 0.0  #: it had
    attempted_bytes: int = 0  #: what it held and asked for when it was refused; 0: never refused
    #: it grabs all it is given: what it took says nothing of what it needs
    elastic: bool = False
    #: (name, launches, seconds of GPU time) of its largest kernels, and of the others as one;
    #: this machine's own runs have them, what is exported has not: two runs are one without them
    kernels: tuple[tuple[str, int, float], ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Need:
    """What a job will need of one target."""

    target: str
    typical: float | None  #: half of such jobs need less; None: unknown
    bound: float | None  #: at `confidence`; of an unknown one the request; None: not even that
    confidence: float
    known: bool  #: learned from runs
    level: str  #: kind of the key that answered: signature, owner, user, ..., "request"
    runs: int  #: of that key
    reason: str  #: one line
