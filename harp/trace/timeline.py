# SPDX-License-Identifier: Apache-2.0
"""Tracks of slices, as both exports draw them: a track a thread, a track a stream. Pure.

Slices of a thread's track are nested or apart, those of a stream's apart: viewers draw nonsense
otherwise. What would cross goes to one more track of the same name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from harp.trace.entries import Entry, Recording, base_name
from harp.trace.records import Kind

__all__ = ["GATED", "Slice", "Track", "device_name", "timeline"]

GATED = "gated by HARP"
_CATEGORIES = {
    Kind.LAUNCH: "kernel",
    Kind.GRAPH_LAUNCH: "graph",
    Kind.COPY: "copy",
    Kind.FILL: "memset",
}


@dataclass(slots=True)
class Slice:
    """What happened in a span of time.

    Attributes:
        flow: number of the call that links a call's slice with the device's; None: no link.
        error: its CUresult, where that is one.
    """

    name: str
    start_ns: int
    end_ns: int
    category: str
    facts: dict[str, int | str] = field(default_factory=dict)
    flow: int | None = None
    error: int = 0


@dataclass(slots=True)
class Track:
    """Slices that are nested or apart, in order: by start, the longer first.

    Attributes:
        device: of a stream, not of a thread.
        key: thread or stream.
    """

    name: str
    device: bool
    key: int
    slices: list[Slice]


def device_name(recording: Recording) -> str:
    """What streams are under: a software GPU is labelled so."""
    return " ".join(("GPU", ", ".join(recording.devices))).rstrip()


def timeline(recording: Recording) -> list[Track]:
    """All tracks: threads by their first call, then streams."""
    hosts: dict[int, list[list[Slice]]] = {}
    streams: dict[int, list[list[Slice]]] = {}
    for call in recording.entries:
        hosts.setdefault(call.thread, []).append(_host(call))
        on_device = _device(call)
        if on_device is not None:
            streams.setdefault(call.stream, []).append([on_device])
    tracks: list[Track] = []
    for thread, families in hosts.items():
        tracks += _tracks(f"thread {thread}", families, device=False, key=thread)
    for stream, families in streams.items():
        name = f"stream {stream:#x}" if stream else "default stream"
        tracks += _tracks(name, families, device=True, key=stream)
    return tracks


def _host(call: Entry) -> list[Slice]:
    """A call on its thread, and how long the gate held it."""
    end_ns = max(call.end_ns, call.start_ns)
    facts: dict[str, int | str] = {"call": call.number, "result": call.result}
    if call.label:
        facts["what"] = call.label
    if call.size_bytes:
        facts["bytes"] = call.size_bytes
    if call.stream:
        facts["stream"] = f"{call.stream:#x}"
    facts |= {
        name: f"{value:#x}" if isinstance(value, int) and value >> 32 else value
        for name, value in call.args.items()
        if isinstance(value, int | str) and name not in facts and not isinstance(value, bool)
    }
    linked = call.number if call.device_span is not None else None
    made = Slice(base_name(call.name), call.start_ns, end_ns, "call", facts, linked, call.result)
    held_ns = min(call.start_ns + call.gated_ns, end_ns)
    # Later than the call, if by nothing: readers tie an arrow to the last slice that has begun.
    begin_ns = call.start_ns + 1
    return [made, Slice(GATED, begin_ns, held_ns, "gate")] if held_ns > begin_ns else [made]


def _device(call: Entry) -> Slice | None:
    """What the device did for a call."""
    span = call.device_span
    if span is None:
        return None
    facts: dict[str, int | str] = {"call": call.number, "device_ns": span[1] - span[0]}
    if call.size_bytes:
        facts["bytes"] = call.size_bytes
    if call.kind is Kind.LAUNCH:
        for axis in "XYZ":
            for part in ("gridDim", "blockDim"):
                value = call.args.get(part + axis)
                if isinstance(value, int):
                    facts[part + axis] = value
    return Slice(call.title, *span, _CATEGORIES.get(call.kind, "other"), facts, call.number)


def _tracks(name: str, families: Iterable[list[Slice]], *, device: bool, key: int) -> list[Track]:
    """One track, or as many as slices that cross need; a slice and what is in it stay together."""
    out: list[Track] = []
    stacks: list[list[Slice]] = []  # of each track, what is open, the innermost last
    for family in sorted(families, key=lambda f: (f[0].start_ns, -f[0].end_ns)):
        one = family[0]
        row = next((r for r, stack in enumerate(stacks) if _fits(one, stack, device)), len(out))
        if row == len(out):
            out.append(Track(name + (f" ({row + 1})" if row else ""), device, key, []))
            stacks.append([])
        out[row].slices += family
        stacks[row] += family
    return out


def _fits(one: Slice, stack: list[Slice], device: bool) -> bool:  # noqa: FBT001 - private
    """Whether a slice crosses nothing of a track, of which it is told what is still open."""
    if device and stack:
        _tidy(one, stack[-1].end_ns)
    while stack and stack[-1].end_ns <= one.start_ns:
        stack.pop()
    if not stack:
        return True
    return stack[-1].start_ns <= one.start_ns and one.end_ns <= stack[-1].end_ns and not device


def _tidy(one: Slice, before_ns: int) -> None:
    """A stream does one thing after the other, and when it began is known about.

    So what is too much is cut, if it is the lesser part; how long it took is in the facts.
    """
    if one.start_ns < before_ns <= (one.start_ns + one.end_ns) // 2:
        one.start_ns = before_ns
