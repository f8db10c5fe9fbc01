# SPDX-License-Identifier: Apache-2.0
"""A trace's bytes: a reader that goes through a file of any size, and a writer.

    with open(path, "rb") as file:
        trace = Reader(file)
        trace.header, trace.header.symbols
        for record in trace:        # in the order of the file: calls by when they ended
            ...
        trace.problems              # what did not make sense, in words

The reader believes nothing: a file that is cut off, still written or damaged gives the records that
are whole. Only what has no header at all is refused.
"""

from __future__ import annotations

import errno
import json
import os
import re
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

from harp.errors import TraceError
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
    with_symbols,
)
from harp.wire import SYMBOLS

__all__ = ["MAGIC", "VERSION", "Reader", "Writer"]

MAGIC = b"HARPTRC1"
VERSION = 1
HEADER_BYTES = 4096
SEGMENT_MAGIC = 0x31474553
COMMIT = 0x43525052
MOST_SEGMENT_BYTES = 64 << 20
MOST_SEGMENTS = 1 << 22  # 4 TiB of libharp's
MOST_SYMBOLS = 1 << 16  # records have so many numbers
_MOST_OFFSET = (1 << 63) - 1
#: of format.h's structs, in their order
HEADER = struct.Struct("<8s4IQ4I32s2I2Q2IQ2I6Q2I72x256s3584s")
SYMBOL = struct.Struct("<HBBHH")
SEGMENT = struct.Struct("<2I3Q32x")
RECORD = struct.Struct("<QIHH")
CALL = struct.Struct("<4Q2I2H3I3Q")
DEVICE = struct.Struct("<3Q")
DATA = struct.Struct("<Q2I2Q2I")
IMAGE = struct.Struct("<32s2Q2I")
NAME = struct.Struct("<Q2I")
NOTE = struct.Struct("<Q2I")
_CALL, _DEVICE, _DATA, _IMAGE, _NAME, _NOTE = range(1, 7)
_PER_THREAD = 1
_NAME_OF_FUNCTION = re.compile(r"cu\w{1,250}", re.ASCII)


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode(errors="replace")


def _about(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(_text(raw) or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _header(raw: bytes) -> tuple[Header, int, int, int, int]:
    """The header, then offset, size and number of symbols, and where segments are."""
    if len(raw) < HEADER_BYTES or raw[:8] != MAGIC:
        raise TraceError(
            "this is no trace of HARP", "make one: harp run --trace FILE -- CMD, harp trace start"
        )
    v = HEADER.unpack(raw[: HEADER.size])
    if v[1] != VERSION:
        raise TraceError(
            f"a trace of version {v[1]}, and this HARP reads {VERSION}", "read it with its own HARP"
        )
    segment_bytes, segments, data_offset = v[3], v[4], v[5]
    if (
        not SEGMENT.size + RECORD.size <= segment_bytes <= MOST_SEGMENT_BYTES
        or not 0 < segments <= MOST_SEGMENTS
        or not HEADER_BYTES <= data_offset <= _MOST_OFFSET - segments * segment_bytes
    ):
        raise TraceError(
            f"a trace with {segments} segments of {segment_bytes} bytes, from {data_offset} on",
            "no HARP writes that: it is damaged, or made by hand",
        )
    if v[8] > MOST_SYMBOLS:
        raise TraceError(f"a trace with {v[8]} symbols, of which records can name {MOST_SYMBOLS}")
    header = Header(
        segments=segments,
        segment_bytes=segment_bytes,
        flags=FileFlag(v[9] & sum(FileFlag)),
        table_hash=v[10],
        wire_format=v[11],
        cuda=v[12],
        realtime_ns=v[13],
        monotonic_ns=v[14],
        pid=v[15],
        parent=v[16],
        data_bytes=v[17],
        driver=v[18],
        begun=v[20],
        calls=v[21],
        dropped=v[22],
        lost_records=v[23],
        inner_calls=v[24],
        ended_ns=v[25],
        why=Why(v[26]) if v[26] in set(Why) else Why.RUNNING,
        program=_text(v[28]),
        about=_about(v[29]),
    )
    return header, v[6], v[7], v[8], data_offset


def _symbols(raw: bytes, count: int) -> tuple[Symbol, ...]:
    symbols: list[Symbol] = []
    at = 0
    for _ in range(count):
        if at + SYMBOL.size > len(raw):
            raise TraceError(f"its table of symbols ends after {len(symbols)} of {count}")
        op, kind, flags, length, parameters = SYMBOL.unpack_from(raw, at)
        at += SYMBOL.size
        name = raw[at : at + length].decode(errors="replace")
        at += length
        known = Kind(kind) if kind in set(Kind) else Kind.OTHER
        symbols.append(Symbol(name, op, known, bool(flags & _PER_THREAD), parameters))
    return tuple(symbols)


def _strange(header: Header) -> Iterator[str]:
    """Symbols that no recorder of ours has written, in a line."""
    found = [
        s.name
        for s in header.symbols
        if not _NAME_OF_FUNCTION.fullmatch(s.name)
        or (header.decodable and SYMBOLS.get(s.name) != s.op)
    ]
    if found:
        yield f"{len(found)} symbols are not of the function that they name, the first {found[0]}"


def _behind_hole(file: BinaryIO, at: int) -> int:
    """Where a file has anything, from there on: one of holes has any size, and no bytes."""
    try:
        fd = file.fileno()
        was = os.lseek(fd, 0, os.SEEK_CUR)  # the file object counts on it
    except OSError:
        return at
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
        return _MOST_OFFSET if error.errno == errno.ENXIO else at
    finally:
        os.lseek(fd, was, os.SEEK_SET)


class Reader:
    """Goes through a trace once; `problems` says what did not make sense."""

    def __init__(self, file: BinaryIO) -> None:
        """Reads header and symbols. Raises TraceError where there is no trace."""
        self._file = file
        file.seek(0)
        header, at, size, count, self._data = _header(file.read(HEADER_BYTES))
        file.seek(at)
        self.header = with_symbols(header, _symbols(file.read(min(size, 1 << 24)), count))
        self.problems: list[str] = list(_strange(self.header))

    def __iter__(self) -> Iterator[Record]:
        """Records, oldest segment first, in the order in which they were written."""
        places = []
        place = -1
        while (place := place + 1) < self.header.segments:
            self._file.seek(self._data + place * self.header.segment_bytes)
            raw = self._file.read(SEGMENT.size)
            if len(raw) < SEGMENT.size:
                break  # the file grows with its segments
            magic, _, number, _, _ = SEGMENT.unpack(raw)
            if magic == SEGMENT_MAGIC and number % self.header.segments == place:
                places.append((number, place))
            elif any(raw):
                self.problems.append(f"segment at place {place} has no header that makes sense")
            else:
                beyond = self._data + (place + 1) * self.header.segment_bytes
                found = _behind_hole(self._file, beyond) - self._data
                place = max(found // self.header.segment_bytes - 1, place)
        for number, place in sorted(places):
            yield from self._segment(number, place)

    def _segment(self, number: int, place: int) -> Iterator[Record]:
        start = self._data + place * self.header.segment_bytes
        self._file.seek(start)
        raw = self._file.read(self.header.segment_bytes)
        if SEGMENT.unpack_from(raw)[2] != number:
            self.problems.append(f"segment {number} was overwritten while it was read")
            return
        at, nth = SEGMENT.size, 0
        while at + RECORD.size <= len(raw):
            commit, size, kind, flags = RECORD.unpack_from(raw, at)
            nth += 1
            if commit != COMMIT << 32 | nth:
                if commit:
                    self.problems.append(f"segment {number}: record {nth} is no record")
                return
            if size < RECORD.size or size % 8 or at + size > len(raw):
                self.problems.append(f"segment {number}: record {nth} says {size} bytes")
                return
            record = self._record(kind, flags, raw[at + RECORD.size : at + size])
            if record is not None:
                yield record
            else:
                self.problems.append(f"segment {number}: record {nth} of kind {kind} is damaged")
            at += size

    def _record(self, kind: int, flags: int, body: bytes) -> Record | None:
        try:
            return _parsed(kind, flags, body, self.header.symbols)
        except (struct.error, ValueError, IndexError):
            return None


def _tail(body: bytes, at: int, size: int) -> bytes:
    if at + size > len(body):
        raise ValueError("more bytes than there are")
    return body[at : at + size]


def _parsed(kind: int, flags: int, body: bytes, symbols: tuple[Symbol, ...]) -> Record | None:
    if kind == _CALL:
        v = CALL.unpack_from(body)
        return Call(
            sequence=v[0],
            begin_ns=v[1],
            end_ns=v[2],
            entered_ns=v[3],
            thread=v[4],
            result=v[5],
            symbol=symbols[v[6]],
            transfers=v[10],
            stream=v[11],
            size=v[12],
            made=v[13],
            flags=CallFlag(flags & sum(CallFlag)),
            request=_tail(body, CALL.size, v[8]),
            reply=_tail(body, CALL.size + v[8], v[9]),
        )
    if kind == _DEVICE:
        return DeviceTime(*DEVICE.unpack_from(body))
    if kind == _DATA:
        sequence, transfer, way, offset, total, size, _ = DATA.unpack_from(body)
        return Data(sequence, transfer, Way(way), offset, total, _tail(body, DATA.size, size))
    if kind == _IMAGE:
        sha256, offset, total, size, _ = IMAGE.unpack_from(body)
        return Image(sha256, offset, total, _tail(body, IMAGE.size, size))
    if kind == _NAME:
        handle, handle_kind, size = NAME.unpack_from(body)
        return Name(handle, handle_kind, _tail(body, NAME.size, size).decode(errors="replace"))
    if kind == _NOTE:
        at_ns, size, _ = NOTE.unpack_from(body)
        return Note(at_ns, _tail(body, NOTE.size, size).decode(errors="replace"))
    return None


def _packed(record: Record, numbers: dict[Symbol, int]) -> tuple[int, int, bytes]:
    """Kind, flags and body."""
    match record:
        case Call():
            fixed = CALL.pack(
                record.sequence,
                record.begin_ns,
                record.end_ns,
                record.entered_ns,
                record.thread,
                record.result,
                numbers[record.symbol],
                0,
                len(record.request),
                len(record.reply),
                record.transfers,
                record.stream,
                record.size,
                record.made,
            )
            return _CALL, int(record.flags), fixed + record.request + record.reply
        case DeviceTime():
            body = DEVICE.pack(record.sequence, record.begin_ns, record.duration_ns)
            return _DEVICE, 0, body
        case Data():
            parts = (record.sequence, record.transfer, int(record.way), record.offset, record.total)
            return _DATA, 0, DATA.pack(*parts, len(record.data), 0) + record.data
        case Image():
            place = (record.sha256, record.offset, record.total, len(record.data), 0)
            return _IMAGE, 0, IMAGE.pack(*place) + record.data
        case Name():
            name = record.name.encode()
            return _NAME, 0, NAME.pack(record.handle, record.handle_kind, len(name)) + name
        case Note():
            text = record.text.encode()
            return _NOTE, 0, NOTE.pack(record.at_ns, len(text), 0) + text


class Writer:
    """Writes a trace as libharp does: segments in a ring, a record's first word last."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        """Writes header and symbols; counters of the header are kept from here on."""
        self._file, self.header = file, header
        self._numbers = {symbol: i for i, symbol in enumerate(header.symbols)}
        table = b"".join(
            SYMBOL.pack(s.op, s.kind, int(s.per_thread), len(s.name.encode()), s.parameters)
            + s.name.encode()
            for s in header.symbols
        )
        self._table_bytes = len(table)
        self._data = (HEADER_BYTES + len(table) + 4095) // 4096 * 4096
        self._begun = self._calls = self._dropped = self._lost = 0
        self._in_segment = [0] * header.segments
        self._at = header.segment_bytes  # full: the first record begins a segment
        self._nth = self._records = 0
        file.seek(0)
        file.write(self._head() + table)

    def _head(self) -> bytes:
        h = self.header
        about = json.dumps(h.about).encode()[:3583]
        return HEADER.pack(
            MAGIC, VERSION, HEADER_BYTES, h.segment_bytes, h.segments, self._data,
            HEADER_BYTES, self._table_bytes, len(h.symbols), int(h.flags), h.table_hash,
            h.wire_format, h.cuda, h.realtime_ns, h.monotonic_ns, h.pid, h.parent, h.data_bytes,
            h.driver, 0, self._begun, self._calls, self._dropped, self._lost, h.inner_calls,
            h.ended_ns, int(h.why), 0, h.program.encode()[:255], about,
        )  # fmt: skip

    def write(self, record: Record) -> None:
        """Append a record. Raises TraceError if no segment has room for it."""
        kind, flags, body = _packed(record, self._numbers)
        body += bytes(-len(body) % 8)
        size = RECORD.size + len(body)
        if size > self.header.segment_bytes - SEGMENT.size:
            raise TraceError(f"a record of {size} bytes in segments of {self.header.segment_bytes}")
        if self._at + size > self.header.segment_bytes and not self._turn():
            self._dropped += 1
            return
        start = self._data + (self._begun - 1) % self.header.segments * self.header.segment_bytes
        self._nth += 1
        self._records += 1
        self._calls += kind == _CALL
        whole = RECORD.pack(COMMIT << 32 | self._nth, size, kind, flags) + body
        after = bytes(min(8, self.header.segment_bytes - self._at - size))
        self._file.seek(start + self._at)
        self._file.write(whole + after)
        self._at += size

    def _turn(self) -> bool:
        """Begin a segment, over the oldest one if it must be."""
        place = self._begun % self.header.segments
        if self._begun >= self.header.segments and FileFlag.KEEP_FIRST in self.header.flags:
            return False
        if self._begun:
            self._in_segment[(self._begun - 1) % self.header.segments] = self._nth
        self._lost += self._in_segment[place]
        self._file.seek(self._data + place * self.header.segment_bytes)
        self._file.write(SEGMENT.pack(SEGMENT_MAGIC, 0, self._begun, 0, self._records) + bytes(8))
        self._begun += 1
        self._at, self._nth = SEGMENT.size, 0
        return True

    def close(self) -> None:
        """Write the counters; the file stays open."""
        self._file.seek(0)
        self._file.write(self._head())
