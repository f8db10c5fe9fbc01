# SPDX-License-Identifier: Apache-2.0
"""Exports: slices that viewers can draw, Chrome's JSON, Perfetto's protobuf by its own schema."""

from __future__ import annotations

import builtins
import io
import json
from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace
from test_trace_summary import read
from trace_made import RECORDS

from harp.errors import ConfigError
from harp.trace.entries import Entry, Recording
from harp.trace.export_chrome import chrome
from harp.trace.export_perfetto import perfetto
from harp.trace.records import Kind
from harp.trace.summary import summarize
from harp.trace.timeline import GATED, Track, timeline

US = 1000

ENTRIES = st.lists(
    st.builds(
        lambda kind, thread, start, took, gated, stream, begin, work: Entry(
            number=0,
            name="cuAny",
            kind=kind,
            thread=thread,
            start_ns=start,
            end_ns=start + took,
            gated_ns=gated,
            stream=stream,
            device_start_ns=begin,
            device_ns=None if begin is None else work,
        ),
        kind=st.sampled_from(list(Kind)),
        thread=st.integers(1, 3),
        start=st.integers(1, 200),
        took=st.integers(0, 50),
        gated=st.integers(0, 60),
        stream=st.sampled_from([0, 0x10, 0x20]),
        begin=st.none() | st.integers(1, 250),
        work=st.integers(0, 40),
    ),
    max_size=30,
).map(
    lambda entries: Recording(
        tuple(
            replace(e, number=i) for i, e in enumerate(sorted(entries, key=lambda e: e.start_ns))
        ),
        program="any",
        pid=77,
    )
)


def _drawable(track: Track) -> None:
    """By start, nested or apart."""
    open_ends: list[int] = []
    last = None
    for one in track.slices:
        assert one.start_ns <= one.end_ns
        assert last is None or last <= one.start_ns
        last = one.start_ns
        while open_ends and open_ends[-1] <= one.start_ns:
            open_ends.pop()
        assert not open_ends or one.end_ns <= open_ends[-1], (track.name, one)
        assert not (open_ends and track.device), "a stream does one thing at a time"
        open_ends.append(one.end_ns)


@given(ENTRIES)
def test_slices_are_nested_or_apart_and_none_is_lost(recording: Recording) -> None:
    tracks = timeline(recording)
    for track in tracks:
        _drawable(track)
    assert len({t.name for t in tracks}) == len(tracks)
    hosts = Counter(
        s.facts["call"] for t in tracks if not t.device for s in t.slices if s.category == "call"
    )
    assert hosts == Counter(e.number for e in recording.entries)
    devices = Counter(s.facts["call"] for t in tracks if t.device for s in t.slices)
    assert devices == Counter(e.number for e in recording.entries if e.device_span)
    for track in tracks:
        for before, one in zip(track.slices, track.slices[1:], strict=False):
            if one.name == GATED:  # it is in its own call
                # and begins later: a reader ties an arrow to the last slice that has begun
                assert (before.category, before.start_ns) == ("call", one.start_ns - 1)


@given(ENTRIES)
def test_a_stream_keeps_when_work_ended(recording: Recording) -> None:
    spans = {e.number: e.device_span for e in recording.entries if e.device_span}
    for track in timeline(recording):
        for one in track.slices if track.device else ():
            start_ns, end_ns = spans[int(one.facts["call"])]
            assert one.facts["device_ns"] == end_ns - start_ns
            assert one.end_ns == end_ns
            assert start_ns <= one.start_ns <= (start_ns + end_ns) // 2


def _chrome(recording: Recording) -> dict[str, Any]:
    found: dict[str, Any] = json.loads("".join(chrome(recording)))
    return found


@settings(max_examples=50)
@given(ENTRIES)
def test_chrome_has_every_slice_where_it_was(recording: Recording) -> None:
    events = _chrome(recording)["traceEvents"]
    origin_ns = min((s.start_ns for t in timeline(recording) for s in t.slices), default=0)
    ours = Counter(
        (s.name, s.start_ns - origin_ns, s.end_ns - s.start_ns)
        for t in timeline(recording)
        for s in t.slices
    )
    theirs = Counter(
        (e["name"], round(e["ts"] * 1e3), round(e["dur"] * 1e3)) for e in events if e["ph"] == "X"
    )
    assert ours == theirs
    starts = Counter(e["id"] for e in events if e["ph"] == "s")
    assert starts == Counter(e["id"] for e in events if e["ph"] == "f")
    assert set(starts.values()) <= {1}


def test_chrome_of_the_made_trace() -> None:
    found = _chrome(read(RECORDS))
    assert found["otherData"] == {
        "program": "train",
        "pid": 4711,
        "calls": 12,
        "lost": 0,
        "unfinished": False,
        "devices": ["Soft 9"],
        "software": True,
    }
    names = [e["args"]["name"] for e in found["traceEvents"] if e["name"] == "thread_name"]
    assert names == ["thread 4711", "default stream", "stream 0xabc0"]
    (gemm, _) = [e for e in found["traceEvents"] if e["ph"] == "X" and e["name"] == "gemm"]
    assert (gemm["ts"], gemm["dur"], gemm["cat"]) == (200.0, 100.0, "kernel")
    assert gemm["args"] == {
        "call": 4,
        "device_ns": 100_000,
        "gridDimX": 64,
        "blockDimX": 256,
        "gridDimY": 1,
        "blockDimY": 1,
        "gridDimZ": 1,
        "blockDimZ": 1,
    }
    failed = [e for e in found["traceEvents"] if e.get("args", {}).get("result")]
    assert [(e["name"], e["args"]["result"]) for e in failed] == [
        ("cuMemAlloc", 2),
        ("cuLaunchKernel", 400),
    ]


def _perfetto(recording: Recording) -> Trace:
    file = io.BytesIO()
    perfetto(recording, file)
    trace = Trace()
    trace.ParseFromString(file.getvalue())
    return trace


def _slices(trace: Trace) -> list[tuple[int, str, int, int]]:
    """(track, name, start, duration): begins and ends matched as viewers do."""
    open_slices: dict[int, list[tuple[str, int]]] = defaultdict(list)
    found = []
    last = 0
    for packet in trace.packet:
        assert packet.trusted_packet_sequence_id
        if not packet.HasField("track_event"):
            continue
        event = packet.track_event
        assert packet.timestamp >= last
        last = packet.timestamp
        if event.type == event.TYPE_SLICE_BEGIN:
            open_slices[event.track_uuid].append((event.name, packet.timestamp))
        else:
            assert event.type == event.TYPE_SLICE_END
            name, start = open_slices[event.track_uuid].pop()
            found.append((event.track_uuid, name, start, packet.timestamp - start))
    assert not any(open_slices.values())
    return found


@settings(max_examples=50, deadline=None)
@given(ENTRIES)
def test_perfetto_has_every_slice_where_it_was(recording: Recording) -> None:
    trace = _perfetto(recording)
    theirs = _slices(trace)
    ours = Counter(
        (s.name, s.start_ns, s.end_ns - s.start_ns) for t in timeline(recording) for s in t.slices
    )
    assert Counter(slice_[1:] for slice_ in theirs) == ours
    told = [p.track_descriptor.uuid for p in trace.packet if p.HasField("track_descriptor")]
    assert len(set(told)) == len(told)
    threads = [
        p.track_descriptor.thread.tid for p in trace.packet if p.track_descriptor.HasField("thread")
    ]
    assert sorted(threads) == sorted({e.thread for e in recording.entries})
    assert {slice_[0] for slice_ in theirs} <= set(told)
    known = {
        p.track_descriptor.parent_uuid
        for p in trace.packet
        if p.track_descriptor.HasField("parent_uuid")
    }
    assert known <= set(told)


def test_perfetto_of_the_made_trace() -> None:
    trace = _perfetto(read(RECORDS))
    tracks = [p.track_descriptor for p in trace.packet if p.HasField("track_descriptor")]
    (process,) = [t.process for t in tracks if t.HasField("process")]
    assert (process.pid, process.process_name) == (4711, "train")
    (thread,) = [t.thread for t in tracks if t.HasField("thread")]
    assert (thread.pid, thread.tid) == (4711, 4711)
    names = {t.name: t for t in tracks if t.name}
    assert set(names) == {"GPU Soft 9", "default stream", "stream 0xabc0"}
    assert names["default stream"].parent_uuid == names["GPU Soft 9"].uuid
    events = [p.track_event for p in trace.packet if p.HasField("track_event")]
    flows = defaultdict(list)
    for event in events:
        for flow in event.flow_ids:
            flows[flow].append(event.name)
    assert flows[4 + 1] == ["cuLaunchKernel", "gemm"]
    assert {len(names) for names in flows.values()} == {2}
    (gemm, _) = [e for e in events if e.name == "gemm"]
    notes = {n.name: n.uint_value for n in gemm.debug_annotations}
    assert (notes["device_ns"], notes["gridDimX"]) == (100_000, 64)
    failed = [e.name for e in events if "error" in e.categories]
    assert failed == ["cuMemAlloc", "cuLaunchKernel"]


def test_numbers_at_their_extremes_are_drawn_somewhere() -> None:
    """A file says any: protobuf has less room for some."""
    u32, u64 = (1 << 32) - 1, (1 << 64) - 1
    entries = tuple(
        Entry(
            number=u64,
            name="cuAny",
            kind=Kind.LAUNCH,
            thread=thread,
            start_ns=start_ns,
            end_ns=u64,
            result=u32,
            args={"gridDimX": -u64, "size": u64 * 2, "low": -(1 << 64)},
            stream=u64,
            size_bytes=u64,
            gated_ns=u64,
            device_start_ns=start_ns,
            device_ns=u64,
        )
        for thread in (1 << 31, u32, 0)
        for start_ns in (1, u64)
    )
    odd = Recording(entries, program="p", pid=u32, devices=("half a pair: \ud800",))
    trace = _perfetto(odd)
    assert {p.timestamp for p in trace.packet} == {0, 1, 2, u64}
    assert json.loads("".join(chrome(odd)))["otherData"]["calls"] == 6
    assert summarize(odd).calls == 6


def test_without_the_package_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *more: Any) -> Any:
        if name.startswith("perfetto"):
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError) as caught:
        perfetto(Recording(()), io.BytesIO())
    assert "pip install" in caught.value.hint
    assert "--to chrome" in caught.value.hint
