# SPDX-License-Identifier: Apache-2.0
"""From a trace's records to entries: device times, names and arguments where they belong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harp.errors import TraceError
from harp.trace.entries import Entry, Recording, base_name
from harp.trace.format import Reader
from harp.trace.records import (
    Call,
    CallFlag,
    DeviceTime,
    Header,
    Kind,
    Name,
    Record,
    Why,
)
from harp.wire import OPS

__all__ = ["load", "recording_of"]

#: members that name memory, and what CUmemorytype says it is
_PLACES = {1: "H", 2: "D", 3: "A", 4: "?"}
#: of the streams' own numbers: the legacy and the per-thread default
_LEGACY, _PER_THREAD = 1, 2


def load(path: Path, *, arguments: bool = True) -> Recording:
    """Read a trace file; without `arguments`, most of the work, for who needs none.

    Raises:
        TraceError: it is none, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            reader = Reader(file)
            return recording_of(
                reader.header, reader, problems=reader.problems, arguments=arguments
            )
    except OSError as error:
        raise TraceError(
            f"{path}: {error.strerror}", "a trace is made by harp run --trace FILE -- CMD"
        ) from error


def recording_of(
    header: Header,
    records: Iterable[Record],
    *,
    problems: Iterable[str] = (),
    arguments: bool = True,
) -> Recording:
    """Entries of all calls among the records; `problems` is looked at after these."""
    calls: list[Call] = []
    times: dict[int, DeviceTime] = {}
    names: dict[int, str] = {}  # a handle that is used again: the last name
    labels: dict[int, str] = {}
    for record in records:
        match record:
            case Call():
                calls.append(record)
                if record.symbol.kind is Kind.LAUNCH:
                    kernel = _kernel(header, record, names)
                    if kernel:
                        labels[record.sequence] = kernel
            case DeviceTime():
                times[record.sequence] = record
            case Name():
                names[record.handle] = record.name
            case _:
                pass
    calls.sort(key=lambda call: (call.begin_ns, call.sequence))
    puzzles = list(problems)
    entries = []
    for call in calls:
        wanted = arguments or (call.symbol.kind is Kind.COPY and not _said(call.symbol.name))
        args = _args(header, call, puzzles) if wanted else {}
        entries.append(_entry(call, args, times.get(call.sequence), labels.get(call.sequence, "")))
    devices = header.about.get("devices")
    known = [d for d in devices if isinstance(d, dict)] if isinstance(devices, list) else []
    return Recording(
        entries=tuple(entries),
        program=header.program,
        pid=header.pid,
        lost=header.dropped + header.lost_records,
        unfinished=header.why is Why.RUNNING and not header.ended_ns,
        problems=tuple(puzzles),
        devices=tuple(str(d.get("name", "")) for d in known),
        software=any(d.get("software") is True for d in known),
    )


def _args(header: Header, call: Call, puzzles: list[str]) -> dict[str, Any]:
    """Parameters, where this HARP can read them."""
    if not header.decodable and CallFlag.RAW not in call.flags:
        return {}
    try:
        return call.arguments()
    except TraceError as error:
        puzzles.append(error.message)
        return {}


def _kernel(header: Header, call: Call, names: Mapping[int, str]) -> str:
    """The name of what a launch launches, as of then."""
    if call.slots:
        return names.get(call.slots[0], "")
    op = OPS.get(call.symbol.op) if header.decodable else None
    if op is None or not op.fields or op.fields[0].kind != "CUfunction":
        return ""
    return names.get(int.from_bytes(call.request[:8], "little"), "")  # the first field of a body


def _entry(call: Call, args: dict[str, Any], time: DeviceTime | None, label: str) -> Entry:
    stream = call.stream
    if CallFlag.PER_THREAD in call.flags and stream in (0, _PER_THREAD):
        # Every thread has one of its own: its number tells them apart, and is no handle.
        stream = call.thread << 16 | _PER_THREAD
    elif stream == _LEGACY:
        stream = 0
    begin_ns = time.begin_ns if time is not None else 0
    return Entry(
        number=call.sequence,
        name=call.symbol.name,
        kind=call.symbol.kind,
        thread=call.thread,
        start_ns=call.begin_ns,
        end_ns=max(call.end_ns, call.begin_ns),
        result=call.result,
        args=args,
        stream=stream,
        size_bytes=call.size,
        gated_ns=call.gated_ns,
        device_start_ns=begin_ns or None,
        device_ns=None if time is None else time.duration_ns,
        label=label or (direction(call.symbol.name, args) if call.symbol.kind is Kind.COPY else ""),
        captured=CallFlag.CAPTURED in call.flags,
    )


def direction(symbol: str, args: Mapping[str, Any]) -> str:
    """Where a copy goes: HtoD, DtoH, ...; of those that say it by a struct, what that says."""
    said = _said(symbol)
    if said:
        return said
    struct = next((v for v in args.values() if isinstance(v, dict) and "srcMemoryType" in v), None)
    if struct is not None:
        kinds = [_PLACES.get(struct.get(f"{end}MemoryType", 0), "?") for end in ("src", "dst")]
        return "to".join(kinds)
    return "any"


def _said(symbol: str) -> str:
    """The direction, if the function's name says it."""
    name = base_name(symbol)
    for word in ("HtoD", "DtoH", "DtoD", "HtoA", "AtoH", "DtoA", "AtoD", "AtoA"):
        if word in name:
            return word
    return "peer" if "Peer" in name else ""
