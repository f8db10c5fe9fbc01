# SPDX-License-Identifier: Apache-2.0
"""A recorded call as summary and exports see it: one object of several records. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harp.trace.records import Kind

__all__ = ["ON_DEVICE", "Entry", "Recording", "base_name", "waits"]

#: what the device works at
ON_DEVICE = (Kind.LAUNCH, Kind.GRAPH_LAUNCH, Kind.COPY, Kind.FILL)


@dataclass(frozen=True, slots=True)
class Entry:
    """One call of the driver API.

    Attributes:
        number: its sequence in the trace, by which everything names it.
        name: the driver's symbol.
        thread: who called.
        start_ns, end_ns: host clock, of one origin in a trace.
        result: CUresult.
        args: parameters by name, outputs with what was answered; empty where nobody knows.
        stream: handle of the stream, 0 for the default one or none.
        size_bytes: what is copied, set or allocated.
        gated_ns: how long HARP's gate held it, from its start on.
        device_start_ns: about when the device began, on the same clock; None: not measured.
        device_ns: how long it took; None: not measured.
        label: a kernel's name, or a copy's direction; empty: the function's name says all.
        captured: it went into a graph: the device did nothing for it.
    """

    number: int
    name: str
    kind: Kind
    thread: int
    start_ns: int
    end_ns: int
    result: int = 0
    args: dict[str, Any] = field(default_factory=dict)
    stream: int = 0
    size_bytes: int = 0
    gated_ns: int = 0
    device_start_ns: int | None = None
    device_ns: int | None = None
    label: str = ""
    captured: bool = False

    @property
    def device_span(self) -> tuple[int, int] | None:
        """When the device was at it."""
        if self.device_start_ns is None or self.device_ns is None:
            return None
        return self.device_start_ns, self.device_start_ns + self.device_ns

    @property
    def title(self) -> str:
        """What it is called in a list of device work."""
        return self.label or base_name(self.name)


@dataclass(frozen=True, slots=True)
class Recording:
    """A whole trace.

    Attributes:
        entries: in the order in which they began.
        program: what ran, for titles.
        pid: whose calls these are.
        lost: records that were overwritten, or not written.
        unfinished: the program was killed, or still runs.
        problems: what of the file did not make sense, in words.
        devices: their names, as who started the trace knew them; empty: nobody said.
        software: one of them is none of silicon: no figure here is a GPU's.
    """

    entries: tuple[Entry, ...]
    program: str = ""
    pid: int = 0
    lost: int = 0
    unfinished: bool = False
    problems: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    software: bool = False


def base_name(symbol: str) -> str:
    """A symbol without version and per-thread suffix: cuMemcpyHtoDAsync_v2_ptsz is one function."""
    for suffix in ("_ptsz", "_ptds"):
        symbol = symbol.removesuffix(suffix)
    stem, _, version = symbol.rpartition("_v")
    return stem if stem and version.isdigit() else symbol


def waits(entry: Entry) -> bool:
    """Whether the host waits for the device in it: synchronous copies do, too."""
    name = base_name(entry.name)
    if entry.kind is Kind.SYNC or name in ("cuStreamQuery", "cuEventQuery"):
        return True  # who asks again and again waits, too
    return entry.kind is Kind.COPY and not name.endswith("Async")
