# SPDX-License-Identifier: Apache-2.0
"""`harp bench oversub`: from what was taken to figures and a verdict. Pure.

The bound is what a schedule could reach that knows all in advance. A job is `rounds` times host
time H and then a burst; two of them one after the other take `sequential_s`. Together they can
hide all of one's host times but the first under the other's bursts, at a swap for each burst that
changes hands; or go one after the other, at one swap:

    alternating = max(alone + burst + swap, sequential - (2 rounds - 1) (H - swap))
    bound       = sequential / min(alternating, sequential + swap)

A swap is one job's memory off the device and the other's onto it, one after the other.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from harp.bench.verdict import Target, Violation, as_json

__all__ = ["Control", "Job", "OversubOutcome", "Pair", "Side"]

BURSTY_SPEEDUP = 1.35
#: swaps are all that a pair that never rests may lose, and they may take so much
SWAP_RATIO = 0.10
STEADY_SPEEDUP = 1 - SWAP_RATIO
LEAST_HZ = 200.0  #: of the sampler
#: of the time engines were busy: a host that is later than that does not keep up with the device
#: that is modelled, and what swaps cost is the host's
OVERRUN_RATIO = 0.10


@dataclass(frozen=True, slots=True)
class Job:
    """What each of a pair does."""

    rounds: int
    host_s: float
    burst_s: float

    @property
    def name(self) -> str:
        """How it works."""
        return "bursty" if self.host_s else "steady"


@dataclass(frozen=True, slots=True)
class Side:
    """What one program said of one run, and what the engine's ledger says it copied."""

    result: int  #: of its allocations
    wrong: int  #: words that were not as they must be at the end
    begun_ns: int
    ended_ns: int
    made_ns: int  #: until all was allocated and filled
    longest_ns: int  #: of its bursts
    checked_ns: int  #: to read all back
    copy_ns: int = 0
    busy_ns: int = 0  #: of all engines
    overrun_ns: int = 0  #: by which the host was late with that

    @property
    def took_s(self) -> float:
        """From the start to the last word checked."""
        return (self.ended_ns - self.begun_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Pair:
    """Two programs: each alone, and both together."""

    device: str
    job: Job
    memory_bytes: int  #: of the device
    each_bytes: int
    alone: tuple[Side, Side]
    together: tuple[Side, Side]
    one_way_s: float  #: in which the device moves one program's memory, by its ledger
    swapping_s: float  #: of both, by HARP
    swaps: int
    peak_bytes: int  #: most that was on the device in any sample
    hz: float

    @property
    def name(self) -> str:
        """As in targets."""
        return f"{self.job.name}.{self.device}"

    @property
    def sequential_s(self) -> float:
        """One after the other."""
        return sum(side.took_s for side in self.alone)

    @property
    def wall_s(self) -> float:
        """Together, until the later one has ended."""
        begun_ns = min(side.begun_ns for side in self.together)
        return (max(side.ended_ns for side in self.together) - begun_ns) / 1e9

    @property
    def speedup(self) -> float:
        """Against sequential."""
        return self.sequential_s / max(1e-9, self.wall_s)

    @property
    def bound(self) -> float:
        """The most that any schedule could reach: see above."""
        swap_s, job, sequential_s = 2 * self.one_way_s, self.job, self.sequential_s
        hidden_s = (2 * job.rounds - 1) * (job.host_s - swap_s)
        longer_s = max(side.took_s for side in self.alone)
        alternating_s = max(longer_s + job.burst_s + swap_s, sequential_s - hidden_s)
        return sequential_s / max(1e-9, min(alternating_s, sequential_s + swap_s))

    @property
    def copied_s(self) -> float:
        """By the engine: copies beyond those of the programs alone."""
        copied = sum(t.copy_ns - a.copy_ns for t, a in zip(self.together, self.alone, strict=True))
        return max(0.0, copied / 1e9)

    @property
    def swap_ratio(self) -> float:
        """Part of the time in which memory moved, by HARP or by the engine, whichever is more."""
        return max(self.swapping_s, self.copied_s) / max(1e-9, self.wall_s)

    @property
    def overrun_ratio(self) -> float:
        """How late the host was, of the time engines were busy."""
        late_ns = sum(side.overrun_ns for side in self.together)
        return late_ns / max(1, sum(side.busy_ns for side in self.together))

    @property
    def longest_wait_s(self) -> float:
        """Of anything a program did on the device, beyond what that took alone."""
        here, alone = self.together, self.alone
        waits_ns = (
            max(side.made_ns for side in here) - min(side.made_ns for side in alone),
            max(side.longest_ns for side in here) - min(side.longest_ns for side in alone),
            max(side.checked_ns for side in here) - min(side.checked_ns for side in alone),
        )
        return max(0, *waits_ns) / 1e9

    @property
    def violations(self) -> list[Violation]:
        """What was lost, and what makes the rest unbelievable."""
        sides = (*self.alone, *self.together)
        over = max(0, self.peak_bytes - self.memory_bytes)
        checks = (
            ("refused", float(sum(side.result != 0 for side in sides)), 0.0),
            ("wrong_words", float(sum(side.wrong for side in sides)), 0.0),
            ("over_device_bytes", float(over), 0.0),
            ("never_swapped", float(self.swaps == 0), 0.0),
            ("overrun_ratio", self.overrun_ratio, OVERRUN_RATIO),
            ("sample_ms", 1e3 / max(1e-9, self.hz), 1e3 / LEAST_HZ),
        )
        return [Violation(self.name, *one) for one in checks if one[1] > one[2]]

    @property
    def targets(self) -> list[Target]:
        """What HARP is held to; times of a host, so no exit code hangs on them."""
        least = BURSTY_SPEEDUP if self.job.host_s else STEADY_SPEEDUP
        fast, little = self.speedup >= least, self.swap_ratio <= SWAP_RATIO
        return [
            Target(self.name, "speedup_vs_sequential", self.speedup, least, fast),
            Target(self.name, "swap_ratio", self.swap_ratio, SWAP_RATIO, little),
        ]

    def json(self) -> dict[str, object]:
        """As `--json` prints it."""
        return {
            "name": self.name,
            "speedup_vs_sequential": round(self.speedup, 4),
            "bound": round(self.bound, 4),
            "swap_ratio": round(self.swap_ratio, 4),
            "longest_wait_s": round(self.longest_wait_s, 3),
            "sequential_s": round(self.sequential_s, 3),
            "wall_s": round(self.wall_s, 3),
            "job": asdict(self.job),
            "each_bytes": self.each_bytes,
            "memory_bytes": self.memory_bytes,
            "peak_bytes": self.peak_bytes,
            "one_way_s": round(self.one_way_s, 4),
            "swapping_s": round(self.swapping_s, 4),
            "copied_s": round(self.copied_s, 4),
            "overrun_ratio": round(self.overrun_ratio, 4),
            "swaps": self.swaps,
            "samples_per_s": round(self.hz, 1),
        }


@dataclass(frozen=True, slots=True)
class Control:
    """What must be refused, or the rest says nothing."""

    refused: int  #: of the same two programs without HARP, those that got no memory
    found_wrong: int  #: words found in a program whose data were changed on the sly

    @property
    def fails(self) -> bool:
        """As it must."""
        return self.refused > 0 and self.found_wrong > 0


@dataclass
class OversubOutcome:
    """All of it."""

    pairs: list[Pair] = field(default_factory=list)
    control: Control | None = None

    @property
    def worst(self) -> Pair:
        """The least gain of those that can gain."""
        bursty = [pair for pair in self.pairs if pair.job.host_s]
        return min(bursty or self.pairs, key=lambda pair: pair.speedup)

    @property
    def violations(self) -> list[Violation]:
        """Of all pairs; none: good."""
        return [one for pair in self.pairs for one in pair.violations]

    @property
    def targets(self) -> list[Target]:
        """Of all pairs."""
        return [one for pair in self.pairs for one in pair.targets]

    @property
    def can_tell(self) -> bool:
        """The pair must not fit without HARP, and a changed word must be seen."""
        return self.control is not None and self.control.fails

    @property
    def ok(self) -> bool:
        """Whether nothing was lost, and the bench would have noticed; `targets` says how fast."""
        return bool(self.pairs) and self.can_tell and not self.violations

    def json(self, *, load_1min: float, label: str) -> dict[str, object]:
        """As `--json` prints it: the worst bursty pair's gain, the most of all pairs otherwise."""
        return {
            "bench": "oversub",
            "label": label,
            "software": True,
            "ok": self.ok,
            "can_tell": self.can_tell,
            "speedup_vs_sequential": round(self.worst.speedup, 4),
            "bound": round(self.worst.bound, 4),
            "swap_ratio": round(max(pair.swap_ratio for pair in self.pairs), 4),
            "longest_wait_s": round(max(pair.longest_wait_s for pair in self.pairs), 3),
            "pairs": [pair.json() for pair in self.pairs],
            "control": None if self.control is None else asdict(self.control),
            "violations": as_json(self.violations),
            "targets": as_json(self.targets),
            "load_1min": round(load_1min, 2),
        }
