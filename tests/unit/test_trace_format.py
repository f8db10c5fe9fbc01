# SPDX-License-Identifier: Apache-2.0
"""The trace format: what is written is read; what is cut off, torn or damaged never confuses."""

from __future__ import annotations

import io
import os
import re
import struct
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harp.errors import TraceError
from harp.trace import format as format_
from harp.trace.format import MAGIC, VERSION, Reader, Writer
from harp.trace.load import load, recording_of
from harp.trace.records import (
    Call,
    CallFlag,
    Data,
    DeviceTime,
    FileFlag,
    Header,
    Image,
    Kind,
    Name,
    Note,
    Record,
    Symbol,
    Way,
    Why,
)
from harp.trace.summary import summarize
from harp.wire import OPS, Transfer, encode_request
from harp.wire import SYMBOLS as SYMBOLS_OF_CUDA

SYMBOLS = (
    Symbol("cuInit", 232, Kind.OTHER, parameters=1),
    Symbol("cuLaunchKernel_ptsz", 242, Kind.LAUNCH, per_thread=True, parameters=11),
    Symbol("cuGetExportTable", 0, Kind.QUERY, parameters=2),
)
U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
BYTES = st.binary(max_size=300)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
RECORDS: st.SearchStrategy[Record] = st.one_of(
    st.builds(
        Call,
        sequence=U64,
        symbol=st.sampled_from(SYMBOLS),
        begin_ns=U64,
        end_ns=U64,
        result=U32,
        thread=U32,
        entered_ns=U64,
        stream=U64,
        size=U64,
        made=U64,
        transfers=U32,
        flags=st.integers(0, 63).map(CallFlag),
        request=BYTES,
        reply=BYTES,
    ),
    st.builds(DeviceTime, U64, U64, U64),
    st.builds(Data, U64, U32, st.sampled_from(list(Way)), U64, U64, BYTES),
    st.builds(Image, st.binary(min_size=32, max_size=32), U64, U64, BYTES),
    st.builds(Name, U64, U32, TEXTS),
    st.builds(Note, U64, TEXTS),
)
HEADER = Header(segments=2, segment_bytes=1024, symbols=SYMBOLS, pid=7, about={"tenant": "a"})


def _written(records: list[Record], header: Header = HEADER) -> bytes:
    file = io.BytesIO()
    writer = Writer(file, header)
    for record in records:
        writer.write(record)
    writer.close()
    return file.getvalue()


def _read(raw: bytes) -> tuple[list[Record], Reader]:
    reader = Reader(io.BytesIO(raw))
    return list(reader), reader


@given(st.lists(RECORDS, max_size=40))
@settings(max_examples=60)
def test_what_is_written_is_read(records: list[Record]) -> None:
    """All of it, or in a ring that is too small the last of it, with the rest counted."""
    got, reader = _read(_written(records))
    assert reader.problems == []
    assert reader.header.symbols == SYMBOLS
    assert reader.header.about == {"tenant": "a"}
    assert got == records[len(records) - len(got) :]
    assert reader.header.lost_records == len(records) - len(got)
    assert reader.header.calls == sum(isinstance(r, Call) for r in records)
    if reader.header.begun <= HEADER.segments:
        assert len(got) == len(records)


@pytest.mark.parametrize("count", [1, 39, 40, 41, 78, 79, 80, 81, 500])
def test_a_ring_keeps_the_last_and_counts_the_rest(count: int) -> None:
    """Segments go as a whole: at least all but one of them are there."""
    records: list[Record] = [Note(i, "x") for i in range(count)]
    got, reader = _read(_written(records))
    each = (HEADER.segment_bytes - 64) // 40
    assert got == records[count - len(got) :]
    assert reader.header.lost_records == count - len(got)
    assert min(count, each) <= len(got) <= 2 * each


@given(st.lists(RECORDS, max_size=40))
@settings(max_examples=30)
def test_the_first_are_kept_where_told(records: list[Record]) -> None:
    """KEEP_FIRST overwrites nothing, and counts what it drops."""
    header = Header(2, 1024, FileFlag.KEEP_FIRST, symbols=SYMBOLS)
    got, reader = _read(_written(records, header))
    assert len(got) + reader.header.dropped == len(records)
    assert reader.header.lost_records == 0
    assert got[:1] == records[:1]


@given(st.lists(RECORDS, min_size=1, max_size=8), st.data())
@settings(max_examples=60)
def test_a_torn_tail_costs_the_last_record_alone(
    records: list[Record], data: st.DataObject
) -> None:
    """A writer that is killed has written all of a record but its first word, or any part of it."""
    header = Header(1, 1 << 16, symbols=SYMBOLS)
    before, whole = _written(records[:-1], header), _written(records, header)
    first = int.from_bytes(whole[24:32], "little") + format_.SEGMENT.size
    start = len(before) - 8 if len(records) > 1 else first
    cut = data.draw(st.integers(0, len(whole) - start))
    torn = bytearray(whole[: start + cut])
    torn[start : start + 8] = bytes(min(8, max(cut, 0)))
    got, reader = _read(bytes(torn))
    assert got == records[:-1]
    assert reader.problems == []


@given(st.lists(RECORDS, max_size=12), st.data())
@settings(max_examples=150)
def test_damage_confuses_nobody(records: list[Record], data: st.DataObject) -> None:
    """Any bytes anywhere: what is read are records, or the file is refused as no trace."""
    raw = bytearray(_written(records))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    try:
        got, _ = _read(bytes(raw))
    except TraceError:
        return
    assert len(got) <= len(records)


_NUMBERS_OF_HEADER = [
    at
    for at, value in enumerate(format_.HEADER.unpack(bytes(format_.HEADER.size)))
    if isinstance(value, int)
]


def _with_numbers(raw: bytes, numbers: dict[int, int]) -> bytes:
    """The file, with numbers of its header replaced, cut to what there is room for."""
    fields = list(format_.HEADER.unpack_from(raw))
    for at, number in numbers.items():
        fields[at] = number
        try:
            format_.HEADER.pack(*fields)
        except struct.error:
            fields[at] = number & 0xFFFF_FFFF
    return format_.HEADER.pack(*fields) + raw[format_.HEADER.size :]


@given(
    st.dictionaries(
        st.sampled_from(_NUMBERS_OF_HEADER),
        st.sampled_from([n + d for n in (0, 2**31, 2**32, 2**63, 2**64) for d in (-1, 0, 1)])
        .filter(lambda n: 0 <= n < 2**64)
        .flatmap(lambda n: st.sampled_from([n, n >> 20])),
        min_size=1,
        max_size=3,
    )
)
@settings(max_examples=300, deadline=None)
def test_a_header_of_extremes_confuses_nobody(numbers: dict[int, int]) -> None:
    """Read as far as it makes sense, or refused; no other error."""
    raw = _with_numbers(_written([Note(1, "x")] * 3), numbers)
    try:
        got, reader = _read(raw)
        summarize(recording_of(reader.header, got))
    except TraceError:
        return
    assert len(got) <= 3


@pytest.mark.parametrize(
    "numbers", [{5: 2**63}, {5: 2**64 - 1}, {5: 2**63 - 2048}, {4: 2**32 - 1}, {8: 2**32 - 1}]
)
def test_a_header_that_nobody_writes_is_refused(numbers: dict[int, int]) -> None:
    """An offset that no file has, segments and symbols without end."""
    with pytest.raises(TraceError):
        Reader(io.BytesIO(_with_numbers(_written([]), numbers)))


def test_a_file_of_holes_is_refused_or_gone_through_at_once(tmp_path: Path) -> None:
    """Of small segments there can be billions in a file without a block."""
    path = tmp_path / "holes"
    for segments, each in ((2**32 - 1, 80), (format_.MOST_SEGMENTS, 4096)):
        path.write_bytes(_with_numbers(_written([]), {3: each, 4: segments}))
        os.truncate(path, 4096 * 2 + each * segments)
        begun = time.process_time()
        if segments > format_.MOST_SEGMENTS:
            with pytest.raises(TraceError, match="segments"):
                load(path)
        else:
            assert load(path).entries == ()
        assert time.process_time() - begun < 5


def test_segments_behind_holes_are_found(tmp_path: Path) -> None:
    """At any place: those before and between may never have been written."""
    path = tmp_path / "holes"
    header = Header(64, 4096, symbols=SYMBOLS)
    records: list[Record] = [Note(i, "x" * 1000) for i in range(3 * 64)]
    whole = _written(records, header)
    start = int.from_bytes(whole[24:32], "little")
    kept = (3, 4, 40, 63)
    with path.open("wb") as file:
        file.write(whole[:start])
        for place in kept:
            at = start + place * 4096
            file.seek(at)
            file.write(whole[at : at + 4096])
    with path.open("rb") as file:
        got = list(Reader(file))
    assert got == [r for place in kept for r in records[3 * place : 3 * place + 3]]


def test_a_deep_about_is_none() -> None:
    """The parser gives up, and says so with no ValueError."""
    raw = bytearray(_written([]))
    raw[512:4095] = b"[" * 3583
    assert Reader(io.BytesIO(bytes(raw))).header.about == {}


def test_what_is_loaded_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Host bytes that no summary reads are dropped as they come."""
    path = tmp_path / "data"
    header = Header(64, 1 << 16, symbols=SYMBOLS)
    path.write_bytes(_written([Data(i, 0, Way.SEND, 0, 1, b"x") for i in range(500)], header))
    alive: list[weakref.ref[Any]] = []
    most = 0

    class Piece(str):
        __slots__ = ("__weakref__",)

    def parsed(*_: object) -> Piece:
        nonlocal most
        piece = Piece("a piece")
        alive[:] = [ref for ref in alive if ref() is not None]
        alive.append(weakref.ref(piece))
        most = max(most, len(alive))
        return piece

    monkeypatch.setattr(format_, "_parsed", parsed)
    assert load(path).entries == ()
    assert 0 < most < 5


@given(st.binary(max_size=9000))
def test_what_is_no_trace_is_refused(raw: bytes) -> None:
    """With a hint."""
    with pytest.raises(TraceError, match="no trace"):
        Reader(io.BytesIO(raw))


def test_another_version_is_refused() -> None:
    """By number."""
    raw = bytearray(_written([]))
    raw[8:12] = (VERSION + 1).to_bytes(4, "little")
    with pytest.raises(TraceError, match=f"version {VERSION + 1}"):
        Reader(io.BytesIO(bytes(raw)))


def test_symbols_of_other_functions_are_a_problem() -> None:
    """A name that CUDA does not have, one of another op, and no name at all."""
    for odd in (Symbol("system"), Symbol("cuMemFree_v2", 232), Symbol("cuInit"), Symbol("")):
        _, reader = _read(_written([], Header(2, 1024, symbols=(*SYMBOLS, odd))))
        (problem,) = reader.problems
        assert problem.startswith("1 symbols are not of the function"), odd
        assert odd.name in problem
    newer = Symbol("cuOfTomorrow", 9999)
    header = Header(2, 1024, table_hash=bytes(32), symbols=(newer, Symbol("system", 1)))
    _, reader = _read(_written([], header))
    assert len(reader.problems) == 1
    assert "the first system" in reader.problems[0]


def test_ops_of_symbols_are_those_that_the_recorder_writes() -> None:
    """harp.wire.SYMBOLS and the table of libharp are the same."""
    native = Path(__file__).parents[2] / "native/generated"
    rows = re.findall(
        r"\{(?:HARP_OP_)?(\w+), HARP_TRACE_\w+, \d, \d+\}, /\* (\w+) \*/",
        (native / "shim_trace.c").read_text(),
    )
    numbers = {op.name: op.number for op in OPS.values()} | {"0": 0}
    assert {name: numbers[op] for op, name in rows} == SYMBOLS_OF_CUDA
    assert len(rows) > 600


def test_arguments_of_a_call_are_decoded_with_host_bytes_apart() -> None:
    """A body holds no host bytes, whatever their size: they are transfer 0 of the call."""
    number = next(number for number, op in OPS.items() if op.name == "cuMemcpyHtoD_v2")
    values = {"dstDevice": 1 << 40, "srcHost": Transfer(0), "ByteCount": 16}
    request = encode_request(number, values, apart=True)
    assert len(request) == 8 + 8 + 4 + 8
    call = Call(0, Symbol("cuMemcpyHtoD_v2", number), 1, 2, request=request, reply=bytes(4))
    got = call.arguments()
    assert got["ByteCount"] == 16
    assert got["srcHost"].id == 0
    with pytest.raises(TraceError, match="cuMemcpyHtoD_v2"):
        Call(0, call.symbol, 1, 2, request=b"\1").arguments()


def test_the_c_header_says_the_same() -> None:
    """Sizes, magics and numbers of native/src/trace/format.h."""
    text = (Path(__file__).parents[2] / "native/src/trace/format.h").read_text()
    sizes = dict(re.findall(r"sizeof\(struct harp_trace_(\w+)\) == (\d+)", text))
    record = format_.RECORD.size
    assert {name: int(size) for name, size in sizes.items()} == {
        "segment": format_.SEGMENT.size,
        "call": record + format_.CALL.size,
        "device": record + format_.DEVICE.size,
        "data": record + format_.DATA.size,
        "image": record + format_.IMAGE.size,
        "name": record + format_.NAME.size,
        "note": record + format_.NOTE.size,
    }
    assert f'HARP_TRACE_MAGIC         "{MAGIC.decode()}"' in text
    assert f"{format_.SEGMENT_MAGIC:#x}u" in text
    assert f"{format_.COMMIT:#x}u" in text
    assert re.findall(r"HARP_TRACE_(\w+)\s+(\d+)u", text)
    for name, value in re.findall(r"#define HARP_TRACE_(\w+)\s+(\d+)u\b", text):
        if name in CallFlag.__members__:
            assert CallFlag[name] == int(value)
    kinds = re.search(r"enum harp_trace_symbol_kind \{(.*?)\}", text, re.DOTALL)
    assert kinds
    assert re.findall(r"HARP_TRACE_(\w+)", kinds[1]) == [k.name for k in Kind]
    of_file = re.search(r"enum harp_trace_flag \{(.*?)\}", text, re.DOTALL)
    assert of_file
    flags = dict(re.findall(r"HARP_TRACE_(\w+) = (\d+)", of_file[1]))
    assert {f.name: f.value for f in FileFlag} == {n: int(v) for n, v in flags.items()}
    why = re.search(r"enum harp_trace_why \{(.*?)\}", text, re.DOTALL)
    assert why
    assert re.findall(r"HARP_TRACE_(\w+)", why[1]) == [w.name for w in Why]
