# SPDX-License-Identifier: Apache-2.0
"""`harp bench remote`: from what was taken to figures and a verdict. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from harp.bench.figures import percentile
from harp.bench.verdict import Target, Violation, as_json

__all__ = ["Compared", "Counted", "RemoteOutcome", "Step", "mismatches"]

RTT_RATIO, RTT_TLS_RATIO, SHM_RATIO = 1.6, 2.1, 0.5
BULK_RATIO, BULK_TLS_RATIO = 0.90, 0.85
ASYNC_US, INIT_MS, BACK_S, STEP_RATIO = 2.0, 10.0, 3.0, 1.3
LAUNCHES_RT, SECOND_MODULE_BYTES = 1, 0
STEP_DELAY_MS = 0.2  #: the one that is judged
#: a process that loads no module of its own sends as much more or less, of headers and numbers
MODULE_SLACK_BYTES = 4096
#: of the raw connection's own medians: beyond that the host was busy with something else
RAW_SPREAD = 2.0
LAUNCHES = 1000


@dataclass(frozen=True, slots=True)
class Counted:
    """What a program says it has asked for, or the driver that it has been asked for."""

    syncs: int
    launches: int
    copied_bytes: int
    sum: int  #: native/bench/counting.h; of 2^64


def mismatches(asked: Counted, applied: Counted) -> list[str]:
    """Where the two differ, a sentence each."""
    return [
        f"{name}: the program asked for {getattr(asked, name)}, the driver was asked for"
        f" {getattr(applied, name)}"
        for name in ("syncs", "launches", "copied_bytes", "sum")
        if getattr(asked, name) != getattr(applied, name)
    ]


@dataclass(frozen=True, slots=True)
class Compared:
    """The same thing through HARP and through a raw connection, in turn; ns of each round."""

    name: str
    raw: tuple[tuple[int, ...], ...]  #: a run each, in the order in which they were taken
    harp: tuple[tuple[int, ...], ...]

    def ratios(self, percent: float = 50) -> list[float]:
        """HARP's / the raw one's, of each pair of runs that followed one another."""
        return [
            percentile(ours, percent) / percentile(raw, percent)
            for raw, ours in zip(self.raw, self.harp, strict=True)
        ]

    def ratio(self, percent: float = 50) -> float:
        """The median pair's."""
        return statistics.median(self.ratios(percent))

    def us(self, side: str, percent: float = 50) -> float:
        """Of `raw` or `harp`, the runs' median."""
        runs: tuple[tuple[int, ...], ...] = getattr(self, side)
        return statistics.median(percentile(run, percent) for run in runs) / 1e3

    @property
    def raw_spread(self) -> float:
        """The slowest raw run / the fastest."""
        medians = [percentile(run, 50) for run in self.raw]
        return max(medians) / min(medians)

    def json(self) -> dict[str, object]:
        """Absolute values, ratios with their spread."""
        return {
            "name": self.name,
            "runs": len(self.raw),
            "n": len(self.raw[0]),
            "raw_us_p50_p99": [_round(self.us("raw", percent)) for percent in (50, 99)],
            "harp_us_p50_p99": [_round(self.us("harp", percent)) for percent in (50, 99)],
            "ratio_p50": _round(self.ratio()),
            "ratio_p50_least_most": [_round(f(self.ratios())) for f in (min, max)],
            "ratio_p99": _round(self.ratio(99)),
            "raw_spread": _round(self.raw_spread),
        }


@dataclass(frozen=True, slots=True)
class Step:
    """A training's step on a GPU in this host, and on one behind a network."""

    program: str  #: tinygrad, or the C program of the same shape
    delay_ms: float  #: each way
    local_ms: tuple[float, ...]
    remote_ms: tuple[float, ...]
    rtt_us: float  #: of a call that waits, on that network

    @property
    def ratio(self) -> float:
        """Of the medians."""
        return statistics.median(self.remote_ms) / statistics.median(self.local_ms)

    def json(self) -> dict[str, object]:
        """Medians and what they are of."""
        return {
            "program": self.program,
            "delay_ms": self.delay_ms,
            "n": len(self.remote_ms),
            "local_ms": _round(statistics.median(self.local_ms)),
            "remote_ms": _round(statistics.median(self.remote_ms)),
            "ratio": _round(self.ratio),
            "rtt_us": _round(self.rtt_us),
        }


@dataclass
class RemoteOutcome:
    """All of it."""

    compared: list[Compared] = field(default_factory=list)
    async_us: list[float] = field(default_factory=list)  #: of a launch; a batch of 1000 each
    trips: list[int] = field(default_factory=list)  #: of such a batch and one synchronisation
    strict_trips: int = 0  #: the same where every call is to be waited for
    frame_bytes: tuple[int, int] = (0, 0)  #: of a call that waits: there and back, on the wire
    init_ms: list[float] = field(default_factory=list)  #: main() to the first allocation, TLS
    init_plain_ms: list[float] = field(default_factory=list)
    init_local_ms: list[float] = field(default_factory=list)  #: the same GPU, in this host
    first_module_bytes: int = 0  #: sent for a module's sake by the first process that loads it
    second_module_bytes: int = 0
    module_bytes: int = 0  #: how large it is
    back_s: list[float] = field(default_factory=list)  #: from SIGKILL to the device's having it
    steps: list[Step] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)  #: and why

    def of(self, name: str) -> Compared:
        """One comparison."""
        return next(one for one in self.compared if one.name == name)

    @property
    def figures(self) -> dict[str, float]:
        """By the names of the issue."""
        rtt = self.of("rtt")
        found = {
            "rtt_ratio": rtt.ratio(),
            "rtt_tls_ratio": self.of("rtt_tls").ratio(),
            "rtt_p99_ratio": rtt.ratio(99),
            "shm_ratio": self.of("shm").ratio(),
            "async_us": statistics.median(self.async_us),
            "launches_1000_rt": float(max(self.trips)),
            "bulk_ratio": 1 / self.of("bulk").ratio(),
            "bulk_tls_ratio": 1 / self.of("bulk_tls").ratio(),
            "init_ms": statistics.median(self.init_ms),
            "second_module_bytes": float(self.second_module_bytes),
            "back_s": max(self.back_s),
        }
        found |= {f"step_ratio_{step.delay_ms:g}ms": step.ratio for step in self.steps}
        return found

    @property
    def targets(self) -> list[Target]:
        """What is to be seen, met or missed."""
        step = f"step_ratio_{STEP_DELAY_MS:g}ms"
        limits = {
            "rtt_ratio": RTT_RATIO,
            "rtt_tls_ratio": RTT_TLS_RATIO,
            "shm_ratio": SHM_RATIO,
            "async_us": ASYNC_US,
            "launches_1000_rt": LAUNCHES_RT,
            "init_ms": INIT_MS,
            "back_s": BACK_S,
            step: STEP_RATIO,
        }
        at_least = {"bulk_ratio": BULK_RATIO, "bulk_tls_ratio": BULK_TLS_RATIO}
        figures, found = self.figures, []
        for name, limit in limits.items():
            if name in figures:
                value = figures[name]
                found.append(Target("remote", name, value, limit, value <= limit))
        for name, limit in at_least.items():
            found.append(Target("remote", name, figures[name], limit, figures[name] >= limit))
        again = figures["second_module_bytes"]
        met = again <= SECOND_MODULE_BYTES + MODULE_SLACK_BYTES
        found.append(Target("remote", "second_module_bytes", again, SECOND_MODULE_BYTES, met))
        return found

    @property
    def violations(self) -> list[Violation]:
        """What has nothing of HARP's was not the same all the time: the host was busy."""
        found = [(one.name, "raw_spread", one.raw_spread) for one in self.compared]
        local = [statistics.median(step.local_ms) for step in self.steps]
        if local:
            found.append(("steps", "local_spread", max(local) / min(local)))
        return [Violation(*one, RAW_SPREAD) for one in found if one[2] > RAW_SPREAD]

    @property
    def can_tell(self) -> bool:
        """Where every call waits the counter must say so, and a first upload must be seen."""
        return (
            self.strict_trips > LAUNCHES
            and self.first_module_bytes >= self.module_bytes - MODULE_SLACK_BYTES
        )

    @property
    def ok(self) -> bool:
        """Whether the figures can be believed; `targets` says whether they are good."""
        return self.can_tell and not self.violations

    def json(self, *, load_1min: float, label: str) -> dict[str, object]:
        """As `--json` prints it."""
        return {
            "bench": "remote",
            "label": label,
            "software": True,
            "ok": self.ok,
            "can_tell": self.can_tell,
            **{name: _round(value) for name, value in self.figures.items()},
            "call": "cuCtxSynchronize, on a driver that does nothing",
            "frame_bytes": list(self.frame_bytes),
            "compared": [one.json() for one in self.compared],
            "async_us_least_most": [_round(f(self.async_us)) for f in (min, max)],
            "strict_trips": self.strict_trips,
            "init_ms_p50_p99": _spread(self.init_ms),
            "init_plain_ms_p50_p99": _spread(self.init_plain_ms),
            "init_local_ms_p50_p99": _spread(self.init_local_ms),
            "module_bytes": self.module_bytes,
            "first_module_bytes": self.first_module_bytes,
            "steps": [step.json() for step in self.steps],
            "not_run": self.not_run,
            "violations": as_json(self.violations),
            "targets": as_json(self.targets),
            "load_1min": round(load_1min, 2),
        }


def _spread(values: Sequence[float]) -> list[float]:
    return [_round(percentile(values, percent)) for percent in (50, 99)]


def _round(value: float) -> float:
    return round(value, 4)
