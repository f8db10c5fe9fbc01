# SPDX-License-Identifier: Apache-2.0
"""A trace as Chrome's JSON: for chrome://tracing, Perfetto's UI and others. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from harp.trace.entries import Recording
from harp.trace.timeline import Slice, Track, device_name, timeline

__all__ = ["chrome"]

#: the format knows processes and threads: ours are the program's threads and the device's streams
_HOST, _DEVICE = 1, 2


def chrome(recording: Recording) -> Iterator[str]:
    """The file, piece by piece: one event a line. Times in µs from the first call."""
    tracks = timeline(recording)
    origin_ns = min((s.start_ns for t in tracks for s in t.slices), default=0)
    yield '{"displayTimeUnit":"ns","otherData":'
    yield json.dumps(
        {
            "program": recording.program,
            "pid": recording.pid,
            "calls": len(recording.entries),
            "lost": recording.lost,
            "unfinished": recording.unfinished,
            "devices": recording.devices,
            "software": recording.software,
        }
    )
    yield ',"traceEvents":[\n'
    for number, event in enumerate(_events(recording, tracks, origin_ns)):
        yield (",\n" if number else "") + json.dumps(event, separators=(",", ":"))
    yield "\n]}\n"


def _events(recording: Recording, tracks: list[Track], origin_ns: int) -> Iterator[dict[str, Any]]:
    program = recording.program or "program"
    for process, name in ((_HOST, f"{program} {recording.pid}"), (_DEVICE, device_name(recording))):
        yield _fact(process, 0, "process_name", name=name)
        yield _fact(process, 0, "process_sort_index", sort_index=process)
    for row, track in enumerate(tracks, start=1):
        process = _DEVICE if track.device else _HOST
        yield _fact(process, row, "thread_name", name=track.name)
        yield _fact(process, row, "thread_sort_index", sort_index=row)
        for one in track.slices:
            where = {"pid": process, "tid": row, "ts": (one.start_ns - origin_ns) / 1e3}
            yield _slice(one, where)
            if one.flow is not None:
                # An arrow from the call to what the device did for it.
                arrow = {"name": "makes", "cat": "flow", "id": one.flow, **where}
                yield arrow | ({"ph": "f", "bp": "e"} if track.device else {"ph": "s"})


def _slice(one: Slice, where: dict[str, Any]) -> dict[str, Any]:
    event = {
        "ph": "X",
        "name": one.name,
        "cat": one.category,
        "dur": (one.end_ns - one.start_ns) / 1e3,
        "args": one.facts,
        **where,
    }
    return event | ({"cname": "terrible"} if one.error else {})


def _fact(process: int, row: int, what: str, **args: str | int) -> dict[str, Any]:
    return {"ph": "M", "pid": process, "tid": row, "name": what, "args": args}
