# SPDX-License-Identifier: Apache-2.0
"""A trace in figures: a made one against what a person counts; any one against laws."""

from __future__ import annotations

import io
import random
from dataclasses import replace
from time import monotonic

from hypothesis import given, settings
from hypothesis import strategies as st
from trace_made import HEADER, RECORDS, call, device, launch, written

from harp.trace.entries import Entry, Recording, base_name
from harp.trace.format import Reader
from harp.trace.load import direction, recording_of
from harp.trace.records import CallFlag, Header, Kind, Name, Record
from harp.trace.spans import clip, inside_ns, length_ns, minus, union
from harp.trace.summary import REASONS, Kernel, summarize
from harp.wire import Transfer

US = 1000


def read(records: tuple[Record, ...] | list[Record], header: Header = HEADER) -> Recording:
    reader = Reader(io.BytesIO(written(records, header)))
    return recording_of(reader.header, list(reader), problems=reader.problems)


def test_the_made_trace_says_what_a_person_counts() -> None:
    found = summarize(read(RECORDS))
    assert (found.program, found.pid, found.calls, found.threads) == ("train", 4711, 12, 1)
    assert (found.wall_ns, found.busy_ns) == (1105 * US, 350 * US)
    # one of the five launches, and the copy back, have no device time; the launch that failed
    # is no work
    assert (found.measured, found.measurable) == (5, 7)
    assert found.kernels == (
        Kernel("gemm", 2, 2, 200 * US, 100 * US),
        Kernel("relu", 3, 2, 120 * US, 100 * US),
    )
    assert found.kernels[1].mean_ns == 60 * US
    down, up = found.copies
    assert (down.what, down.count, down.size_bytes, down.time_ns) == ("DtoH", 1, 10**6, 100 * US)
    assert (up.what, up.count, up.size_bytes, up.time_ns) == ("HtoD", 1, 300_000, 30 * US)
    assert down.rate_bytes_s == up.rate_bytes_s == 10e9
    gaps = [(g.start_ns, g.end_ns, g.reason, g.before, g.after) for g in found.gaps]
    assert gaps == [
        (530 * US, 900 * US, "host", 6, 8),
        (300 * US, 400 * US, "gated", 4, 5),
        (160 * US, 200 * US, "driver", 3, 4),
        (500 * US, 510 * US, "sync", 5, 6),
    ]
    idle = {"gated": 75, "sync": 139, "driver": 111, "host": 430}
    assert found.idle_ns == {reason: us * US for reason, us in idle.items()}
    assert found.errors == (("cuMemAlloc", 2, 1), ("cuLaunchKernel", 400, 1))
    assert not found.unfinished
    assert (found.devices, found.software) == (("Soft 9",), True)
    lazily = io.BytesIO(written(RECORDS))
    reader = Reader(lazily)
    assert summarize(recording_of(reader.header, list(reader), arguments=False)) == found


def test_it_says_the_longest_ones_only_and_how_many_there_are() -> None:
    found = summarize(read(RECORDS), top=1)
    assert [k.name for k in found.kernels] == ["gemm"]
    assert [g.reason for g in found.gaps] == ["host"]
    assert found.gap_count == 4


def test_nothing_measured_is_nothing_claimed() -> None:
    found = summarize(read([call(0, "cuInit", 0, 10, {"Flags": 0}), launch(1, 20, 30, 0xF00)]))
    assert (found.busy_ns, found.measured, found.measurable) == (0, 0, 1)
    assert found.kernels == (Kernel("cuLaunchKernel", 1, 0, 0, 0),)
    assert found.kernels[0].mean_ns == 0
    assert found.gaps == ()


def test_a_rate_is_of_the_copies_whose_time_is_known() -> None:
    up = {"dstDevice": 1, "ByteCount": 1000, "hStream": 0, "srcHost": Transfer(0)}
    records = [
        call(0, "cuMemcpyHtoDAsync_v2", 0, 90, up, size=1000),
        call(1, "cuMemcpyHtoDAsync_v2", 100, 190, up, size=1000),
        device(1, 200, 10),
    ]
    (copies,) = summarize(read(records)).copies
    assert (copies.count, copies.size_bytes, copies.timed_bytes) == (2, 2000, 1000)
    assert copies.rate_bytes_s == 1e8


def test_what_went_into_a_graph_is_no_work_of_the_device() -> None:
    up = {"dstDevice": 1, "ByteCount": 1000, "hStream": 0x500, "srcHost": Transfer(0)}
    into = CallFlag.CAPTURED
    records = [
        call(0, "cuMemcpyHtoDAsync_v2", 0, 90, up, size=1000, flags=into, stream=0x500),
        launch(1, 100, 190, 0xF00, flags=into, stream=0x500),
        call(2, "cuMemsetD8_v2", 200, 210, {"dstDevice": 1, "uc": 0, "N": 4}, size=4, flags=into),
    ]
    found = summarize(read(records))
    assert (found.calls, found.measurable, found.kernels, found.copies) == (3, 0, (), ())
    run = summarize(read([*records, launch(3, 300, 310, 0xF00, stream=0x500), device(3, 310, 5)]))
    assert (run.measured, run.measurable, run.busy_ns) == (1, 1, 5 * US)
    assert [(k.launches, k.measured) for k in run.kernels] == [(1, 1)]


def test_who_asks_again_and_again_waits_and_who_starts_a_copy_does_not() -> None:
    up = {"dstDevice": 1, "ByteCount": 4, "hStream": 0, "srcHost": Transfer(0)}
    records = [
        call(0, "cuEventQuery", 0, 10, {"hEvent": 1}, result=600),
        call(1, "cuMemcpyHtoDAsync_v2", 10, 14, up, size=4),
        call(2, "cuMemGetInfo_v2", 14, 15, {"free": 1, "total": 1}),
    ]
    idle = {"gated": 0, "sync": 10 * US, "driver": 5 * US, "host": 0}
    assert summarize(read(records)).idle_ns == idle


def test_default_streams_are_the_contexts_or_the_threads() -> None:
    own = CallFlag.PER_THREAD
    records = [
        launch(0, 0, 1, 0xF00, stream=1),
        launch(1, 1, 2, 0xF00, stream=0),
        launch(2, 2, 3, 0xF00, stream=0, flags=own, thread=7),
        launch(3, 3, 4, 0xF00, stream=0, flags=own, thread=8),
        launch(4, 4, 5, 0xF00, stream=0x500, flags=own, thread=8),
    ]
    streams = [e.stream for e in read(records).entries]
    assert streams[:2] == [0, 0]
    assert len(set(streams)) == 4
    assert streams[4] == 0x500


def test_an_empty_trace_is_one() -> None:
    found = summarize(read([]))
    assert (found.calls, found.wall_ns, found.idle_ns) == (0, 0, dict.fromkeys(REASONS, 0))


def test_a_handle_used_again_has_the_name_it_had_then() -> None:
    records = [
        *(Name(0xF00, 4, "first"), launch(0, 0, 1, 0xF00)),
        *(Name(0xF00, 4, "second"), launch(1, 2, 3, 0xF00)),
    ]
    assert [e.label for e in read(records).entries] == ["first", "second"]


def test_arguments_of_another_harps_tables_are_left_alone() -> None:

    found = read(RECORDS, replace(HEADER, table_hash=bytes(32)))
    assert all(e.args == {} for e in found.entries if e.number not in (10, 11))
    assert found.entries[4].name == "cuLaunchKernel"
    assert found.problems == ()


def test_names_and_directions() -> None:
    assert base_name("cuMemcpyHtoDAsync_v2_ptsz") == "cuMemcpyHtoDAsync"
    assert base_name("cuLaunchKernel") == "cuLaunchKernel"
    assert direction("cuMemcpyDtoHAsync_v2", {}) == "DtoH"
    assert direction("cuMemcpyPeer", {}) == "peer"
    assert direction("cuMemcpy2D_v2", {"pCopy": {"srcMemoryType": 1, "dstMemoryType": 2}}) == "HtoD"
    assert direction("cuMemcpy3D_v2", {}) == direction("cuMemcpy", {}) == "any"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 2**32))
def test_a_damaged_file_never_confuses_it(noise: bytes, seed: int) -> None:
    raw = bytearray(written(RECORDS))
    rng = random.Random(seed)
    for byte in noise:
        raw[rng.randrange(8192, len(raw))] = byte
    reader = Reader(io.BytesIO(bytes(raw[: rng.randrange(8192, len(raw) + 1)])))
    found = summarize(recording_of(reader.header, list(reader)))
    assert sum(found.idle_ns.values()) + found.busy_ns == found.wall_ns
    assert found.measured <= found.measurable <= found.calls


SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12)


def _moments(spans: list[tuple[int, int]]) -> set[int]:
    return {t for start, end in spans for t in range(start, end)}


@given(SPANS, SPANS)
def test_sets_of_moments(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    one, other = union(left), union(right)
    assert _moments(one) == _moments(left)
    assert length_ns(one) == len(_moments(left))
    assert _moments(minus(one, other)) == _moments(left) - _moments(right)
    assert _moments(clip(one, other)) == _moments(left) & _moments(right)
    assert minus(one, other) == union(minus(one, other))
    for span in left:
        assert inside_ns(span, other) == len(_moments([span]) & _moments(right))


ENTRIES = st.lists(
    st.builds(
        lambda number, kind, start, took, gated, begin, work: Entry(
            number=number,
            name="cuAny",
            kind=kind,
            thread=1,
            start_ns=start,
            end_ns=start + took,
            gated_ns=gated,
            device_start_ns=begin,
            device_ns=None if begin is None else work,
        ),
        number=st.integers(0, 99),
        kind=st.sampled_from(list(Kind)),
        start=st.integers(1, 500),
        took=st.integers(0, 90),
        gated=st.integers(0, 120),
        begin=st.none() | st.integers(0, 600),
        work=st.integers(0, 60),
    ),
    max_size=25,
)


@given(ENTRIES)
def test_each_moment_is_busy_or_idle_for_one_reason(entries: list[Entry]) -> None:
    found = summarize(Recording(tuple(sorted(entries, key=lambda e: e.start_ns))), top=99)
    assert set(found.idle_ns) == set(REASONS)
    assert sum(found.idle_ns.values()) + found.busy_ns == found.wall_ns
    ends = [(g.start_ns, g.end_ns) for g in found.gaps]
    assert length_ns(union(ends)) == sum(e - s for s, e in ends) <= sum(found.idle_ns.values())


def test_a_large_trace_takes_seconds_at_most() -> None:
    records: list[Record] = []
    for i in range(20_000):
        records += [launch(i, 10 * i, 10 * i + 5, 0xF00, gated_us=i % 3), device(i, 10 * i + 2, 4)]
    recording = read(records, replace(HEADER, segments=16))
    begin_s = monotonic()
    found = summarize(recording)
    assert monotonic() - begin_s < 30
    assert (found.calls, found.gap_count) == (20_000, 19_999)
