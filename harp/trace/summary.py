# SPDX-License-Identifier: Apache-2.0
"""What a trace says in a page: kernels, copies, gaps, and why the device was idle. Pure.

The device is idle where no measured work of this program was on it. Each such moment has one
reason, the first that holds:

    gated   HARP held a call of the program at its gate
    sync    a thread waited for the device in a call: work is queued or under way that is not
            measured, or another tenant has the device
    driver  a thread was in another call: it loads a module, allocates, launches
    host    no thread was in a call: the program computed, read files, slept

What the program did not have measured (calls without device times) counts as idle: `measured` says
how much that may be.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from harp.trace.entries import ON_DEVICE, Entry, Recording, base_name, waits
from harp.trace.records import Kind
from harp.trace.spans import Span, clip, inside_ns, length_ns, minus, union

__all__ = ["REASONS", "Copies", "Gap", "Kernel", "Summary", "summarize"]

REASONS = ("gated", "sync", "driver", "host")


@dataclass(frozen=True, slots=True)
class Kernel:
    """All launches of a kernel, or of graphs.

    Attributes:
        measured: launches whose device time is known; the times are those of these.
    """

    name: str
    launches: int
    measured: int
    device_ns: int
    longest_ns: int

    @property
    def mean_ns(self) -> float:
        """Of those that were measured."""
        return self.device_ns / self.measured if self.measured else 0.0


@dataclass(frozen=True, slots=True)
class Copies:
    """All copies of a direction, or all fills.

    Attributes:
        timed_bytes: of those whose time is known.
        time_ns: of these: the device's where it was measured, else a synchronous call's own.
    """

    what: str
    count: int
    size_bytes: int
    timed_bytes: int
    time_ns: int

    @property
    def rate_bytes_s(self) -> float:
        """Of those whose time is known."""
        return self.timed_bytes * 1e9 / self.time_ns if self.time_ns else 0.0


@dataclass(frozen=True, slots=True)
class Gap:
    """A span in which the device had nothing of this program's.

    Attributes:
        reason: the one that most of it has.
        before, after: numbers of the calls with whose work it begins and ends.
    """

    start_ns: int
    end_ns: int
    reason: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Summary:
    """A trace in figures; times in ns, counted from the first call.

    Attributes:
        idle_ns: device idle time by reason, all four.
        errors: (function, CUresult, how often), the most frequent first.
        measured, measurable: calls with device work, and those of them whose device time is known.
    """

    program: str
    pid: int
    calls: int
    threads: int
    lost: int
    unfinished: bool
    devices: tuple[str, ...]
    software: bool
    wall_ns: int
    busy_ns: int
    measured: int
    measurable: int
    kernels: tuple[Kernel, ...]
    copies: tuple[Copies, ...]
    gaps: tuple[Gap, ...]
    gap_count: int
    idle_ns: dict[str, int]
    errors: tuple[tuple[str, int, int], ...]

    def as_json(self) -> dict[str, Any]:
        """One object, derived figures included."""
        found = asdict(self)
        for one, kernel in zip(found["kernels"], self.kernels, strict=True):
            one["mean_ns"] = kernel.mean_ns
        for one, copies in zip(found["copies"], self.copies, strict=True):
            one["rate_bytes_s"] = copies.rate_bytes_s
        found["errors"] = [
            {"function": name, "result": result, "count": count}
            for name, result, count in self.errors
        ]
        return found


def summarize(recording: Recording, *, top: int = 10) -> Summary:
    """The summary; of kernels and gaps the `top` longest."""
    calls = recording.entries
    origin_ns = min((c.start_ns for c in calls), default=0)
    end_ns = max((max(c.end_ns, (c.device_span or (0, 0))[1]) for c in calls), default=0)
    works = [c for c in calls if c.kind in ON_DEVICE and c.result == 0 and not c.captured]
    busy = union(span for c in works if (span := c.device_span) is not None)
    whole: list[Span] = [(origin_ns, end_ns)] if end_ns > origin_ns else []
    idle = minus(whole, busy)
    why = _reasons(calls, idle)
    gaps = _gaps(works, idle, why)
    errors = Counter((base_name(c.name), c.result) for c in calls if c.result)
    return Summary(
        program=recording.program,
        pid=recording.pid,
        calls=len(calls),
        threads=len({c.thread for c in calls}),
        lost=recording.lost,
        unfinished=recording.unfinished,
        devices=recording.devices,
        software=recording.software,
        wall_ns=end_ns - origin_ns,
        busy_ns=length_ns(clip(busy, whole)),
        measured=sum(c.device_ns is not None for c in works),
        measurable=len(works),
        kernels=tuple(_kernels(works)[:top]),
        copies=tuple(_copies(works)),
        gaps=tuple(
            Gap(g.start_ns - origin_ns, g.end_ns - origin_ns, g.reason, g.before, g.after)
            for g in gaps[:top]
        ),
        gap_count=len(gaps),
        idle_ns={reason: length_ns(spans) for reason, spans in why.items()},
        errors=tuple((n, r, count) for (n, r), count in errors.most_common()),
    )


def _kernels(works: list[Entry]) -> list[Kernel]:
    """By name, the longest in all first; those that nobody measured by how often."""
    names: dict[str, list[Entry]] = {}
    for call in works:
        if call.kind in (Kind.LAUNCH, Kind.GRAPH_LAUNCH):
            names.setdefault(call.title, []).append(call)
    found = []
    for name, launches in names.items():
        times = [c.device_ns for c in launches if c.device_ns is not None]
        found.append(Kernel(name, len(launches), len(times), sum(times), max(times, default=0)))
    return sorted(found, key=lambda k: (-k.device_ns, -k.launches, k.name))


def _copies(works: list[Entry]) -> list[Copies]:
    """By direction, the most bytes first."""
    kinds: dict[str, list[Entry]] = {}
    for call in works:
        if call.kind is Kind.COPY:
            kinds.setdefault(call.label or "copy", []).append(call)
        elif call.kind is Kind.FILL:
            kinds.setdefault("memset", []).append(call)
    found = []
    for what, copies in kinds.items():
        timed = [(c, t) for c in copies if (t := _copy_ns(c)) is not None]
        found.append(
            Copies(
                what=what,
                count=len(copies),
                size_bytes=sum(c.size_bytes for c in copies),
                timed_bytes=sum(c.size_bytes for c, _ in timed),
                time_ns=sum(t for _, t in timed),
            )
        )
    return sorted(found, key=lambda c: (-c.size_bytes, c.what))


def _copy_ns(call: Entry) -> int | None:
    """How long a copy took: on the device, or by its caller's clock if that waited for it."""
    if call.device_ns is not None:
        return call.device_ns
    if call.kind is Kind.COPY and waits(call):
        return call.end_ns - call.start_ns - call.gated_ns
    return None


def _reasons(calls: tuple[Entry, ...], idle: list[Span]) -> dict[str, list[Span]]:
    """Idle moments by reason: each in the first that holds."""
    gated = union((c.start_ns, min(c.start_ns + c.gated_ns, c.end_ns)) for c in calls)
    inside = {
        "gated": gated,
        "sync": union((c.start_ns, c.end_ns) for c in calls if waits(c)),
        "driver": union((c.start_ns, c.end_ns) for c in calls),
    }
    out: dict[str, list[Span]] = {}
    left = idle
    for reason in REASONS:
        out[reason] = clip(left, inside[reason]) if reason in inside else left
        left = minus(left, out[reason])
    return out


def _gaps(works: list[Entry], idle: list[Span], why: dict[str, list[Span]]) -> list[Gap]:
    """Idle spans between measured work, the longest first."""
    begins: dict[int, int] = {}
    ends: dict[int, int] = {}
    for call in works:
        if call.device_span is not None:
            begins.setdefault(call.device_span[0], call.number)
            ends[call.device_span[1]] = call.number
    found = []
    for start_ns, end_ns in idle:
        if start_ns not in ends or end_ns not in begins:
            continue  # before the first work, or after the last
        shares = {r: inside_ns((start_ns, end_ns), spans) for r, spans in why.items()}
        reason = max(REASONS, key=lambda r: shares[r])
        found.append(Gap(start_ns, end_ns, reason, ends[start_ns], begins[end_ns]))
    return sorted(found, key=lambda g: (g.start_ns - g.end_ns, g.start_ns))
