# SPDX-License-Identifier: Apache-2.0
"""`harp bench memory`: from what was taken to figures and a verdict. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from harp.bench.figures import percentile
from harp.bench.verdict import Target, Violation, as_json

__all__ = ["Calls", "MemoryOutcome", "Race", "Start"]

LEAST_HZ = 200.0  #: of the sampler, or a race says nothing
ADDED_US_P50, ADDED_US_P99 = 0.8, 5.0
INIT_MS_1, INIT_MS_256, WALL_RATIO_32 = 0.5, 5.0, 1.4
#: what HARP adds to the wall time per process, with 256 together against 64
GROWTH = 1.5
MANY, FEWER, SOME = 256, 64, 32


@dataclass(frozen=True, slots=True)
class Calls:
    """cuMemAlloc + cuMemFree of 1 MiB beside so many blocks that live: medians over runs, us."""

    live: int
    rounds: int
    bare_us_p50: float
    bare_us_p99: float
    harp_us_p50: float
    harp_us_p99: float

    @property
    def added_us_p50(self) -> float:
        """Difference of the medians."""
        return self.harp_us_p50 - self.bare_us_p50

    @property
    def added_us_p99(self) -> float:
        """Difference of the 99th percentiles."""
        return self.harp_us_p99 - self.bare_us_p99


@dataclass(frozen=True, slots=True)
class Start:
    """Processes from main() to their first allocation, without HARP and with it."""

    processes: int
    at_once: int  #: on their way at a time; the others wait to be started
    bare_ms: tuple[float, ...]  #: of every process of every run
    harp_ms: tuple[float, ...]
    bare_wall_ms: float  #: until the last has it; median of the runs
    harp_wall_ms: float
    arbiter_us: float  #: of the arbiter's CPU for each; it has one thread: a serial term

    @property
    def name(self) -> str:
        """As in targets."""
        together = self.at_once >= self.processes
        return f"start.{self.processes}" + (".together" if together else f".{self.at_once}-at-once")

    @property
    def added_ms_p50(self) -> float:
        """Difference of the medians."""
        return statistics.median(self.harp_ms) - statistics.median(self.bare_ms)

    @property
    def added_ms_p99(self) -> float:
        """Difference of the 99th percentiles."""
        return percentile(self.harp_ms, 99) - percentile(self.bare_ms, 99)

    @property
    def wall_ratio(self) -> float:
        """HARP's / bare."""
        return self.harp_wall_ms / max(1e-9, self.bare_wall_ms)

    @property
    def added_wall_ms_each(self) -> float:
        """What HARP adds to the wall time, per process."""
        return (self.harp_wall_ms - self.bare_wall_ms) / self.processes


@dataclass(frozen=True, slots=True)
class Race:
    """Processes of one tenant that want twice its limit, judged by the engine's ledger."""

    processes: int
    limit_bytes: int
    peak_bytes: int
    allocated: int
    denied: int
    wrong_codes: int  #: answers that were neither success nor out of memory
    samples: int
    hz: float
    longest_gap_ms: float
    left_bytes: int = 0  #: in the ledger a second after all had ended

    @property
    def over_limit_bytes(self) -> int:
        """The most that was held beyond the limit in any sample."""
        return max(0, self.peak_bytes - self.limit_bytes)


@dataclass
class MemoryOutcome:
    """All of it."""

    device: str = ""
    calls: list[Calls] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    races: list[Race] = field(default_factory=list)
    control: Race | None = None  #: the same race without HARP, so that nobody keeps the limit

    @property
    def over_limit_bytes(self) -> int:
        """The worst race's."""
        return max(race.over_limit_bytes for race in self.races)

    @property
    def can_tell(self) -> bool:
        """Without HARP the sampler must see the limit passed."""
        return self.control is not None and self.control.over_limit_bytes > 0

    @property
    def violations(self) -> list[Violation]:
        """What must not be, on whatever host; none: good."""
        found = []
        for race in self.races:
            cell = f"race.{race.processes}"
            if race.over_limit_bytes > 0:
                found.append(Violation(cell, "over_limit_bytes", race.over_limit_bytes, 0))
            if race.wrong_codes > 0:
                found.append(Violation(cell, "wrong_codes", race.wrong_codes, 0))
            if race.left_bytes > 0:
                found.append(Violation(cell, "left_bytes", race.left_bytes, 0))
            if race.hz < LEAST_HZ:  # as a time between samples, which has an upper limit
                period_ms = 1e3 / max(1e-9, race.hz)
                found.append(Violation(cell, "sample_ms", period_ms, 1e3 / LEAST_HZ))
            if race.denied == 0 or race.peak_bytes < race.limit_bytes // 4:
                found.append(Violation(cell, "nobody_met_the_limit", 1, 0))
        return found

    @property
    def targets(self) -> list[Target]:
        """What HARP is held to; they decide no exit code, for they are times of a host."""
        found = []

        def most(cell: str, figure: str, value: float, limit: float) -> None:
            found.append(Target(cell, figure, value, limit, value <= limit))

        for calls in self.calls:
            cell = f"alloc.{calls.live}-live"
            most(cell, "added_us_p50", calls.added_us_p50, ADDED_US_P50)
            most(cell, "added_us_p99", calls.added_us_p99, ADDED_US_P99)
        one, many = self._start(1), self._start(MANY)
        most(one.name, "added_ms_p50", one.added_ms_p50, INIT_MS_1)
        some = self._start(SOME)
        most(some.name, "wall_ratio", some.wall_ratio, WALL_RATIO_32)
        most(many.name, "added_ms_p99", many.added_ms_p99, INIT_MS_256)
        most(f"start.{MANY}.together", "growth_from_64", self.growth, GROWTH)
        return found

    @property
    def growth(self) -> float:
        """Added wall time per process of 256 together / of 64 together."""
        fewer = self._start(FEWER, together=True).added_wall_ms_each
        many = self._start(MANY, together=True).added_wall_ms_each
        return max(0.0, many) / max(1e-3, fewer)

    @property
    def ok(self) -> bool:
        """Whether all limits were kept, and the bench would have noticed if not."""
        return bool(self.races) and self.can_tell and not self.violations

    def _start(self, processes: int, *, together: bool | None = None) -> Start:
        fit = [s for s in self.starts if s.processes == processes]
        if together is not None:
            fit = [s for s in fit if (s.at_once >= s.processes) is together]
        return fit[0]

    def json(self, *, load_1min: float, label: str) -> dict[str, object]:
        """As `--json` prints it."""
        return {
            "bench": "memory",
            "label": label,
            "software": True,
            "device": self.device,
            "ok": self.ok,
            "can_tell": self.can_tell,
            "alloc_added_us_p50": _round(max(c.added_us_p50 for c in self.calls)),
            "alloc_added_us_p99": _round(max(c.added_us_p99 for c in self.calls)),
            "init_ms_p99_1": _round(self._start(1).added_ms_p99),
            "init_ms_p99_256": _round(self._start(MANY).added_ms_p99),
            "over_limit_bytes": self.over_limit_bytes,
            "calls": [_calls(calls) for calls in self.calls],
            "starts": [_start(start) for start in self.starts],
            "growth_from_64": _round(self.growth),
            "races": [_race(race) for race in self.races],
            "control": None if self.control is None else _race(self.control),
            "violations": as_json(self.violations),
            "targets": as_json(self.targets),
            "load_1min": round(load_1min, 2),
        }


def _calls(calls: Calls) -> dict[str, object]:
    found: dict[str, object] = {name: _round(value) for name, value in asdict(calls).items()}
    added = {"added_us_p50": calls.added_us_p50, "added_us_p99": calls.added_us_p99}
    return found | {name: _round(value) for name, value in added.items()}


def _start(start: Start) -> dict[str, object]:
    def spread(values: Sequence[float]) -> list[float]:
        return [_round(percentile(values, percent)) for percent in (50, 90, 99)]

    return {
        "name": start.name,
        "processes": start.processes,
        "at_once": start.at_once,
        "n": len(start.harp_ms),
        "bare_ms_p50_p90_p99": spread(start.bare_ms),
        "harp_ms_p50_p90_p99": spread(start.harp_ms),
        "added_ms_p50": _round(start.added_ms_p50),
        "added_ms_p99": _round(start.added_ms_p99),
        "bare_wall_ms": _round(start.bare_wall_ms),
        "harp_wall_ms": _round(start.harp_wall_ms),
        "wall_ratio": _round(start.wall_ratio),
        "arbiter_us": _round(start.arbiter_us),
    }


def _race(race: Race) -> dict[str, object]:
    found: dict[str, object] = {name: _round(value) for name, value in asdict(race).items()}
    return found | {"over_limit_bytes": race.over_limit_bytes}


def _round(value: float) -> float:
    return round(value, 4)
