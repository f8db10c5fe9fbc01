# SPDX-License-Identifier: Apache-2.0
"""What a trace is made of: header, symbols, one class a record; native/src/trace/format.h."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum, IntFlag
from typing import Any

from harp.errors import TraceError, WireError
from harp.wire import (
    CUDA,
    FORMAT,
    OPS,
    TABLE_HASH,
    decode_reply,
    decode_request,
)

__all__ = [
    "Call",
    "CallFlag",
    "Data",
    "DeviceTime",
    "FileFlag",
    "Header",
    "Image",
    "Kind",
    "Name",
    "Note",
    "Record",
    "Symbol",
    "Way",
    "Why",
]


class FileFlag(IntFlag):
    """What a whole file is."""

    DATA = 1  # host bytes and images are kept
    DEVICE = 2  # calls are measured on the device
    REMOTE = 4  # the GPU is elsewhere
    LIVE = 8  # began in the middle: handles may be older
    KEEP_FIRST = 16  # nothing is overwritten


class Why(IntEnum):
    """Why a file ended."""

    RUNNING = 0  # it did not: still written, or its process has ended
    TOLD = 1
    DISK_FULL = 2
    FULL = 3
    EXITED = 4  # the program ended; calls of its end may follow


class Kind(IntEnum):
    """What a call does."""

    OTHER = 0
    LAUNCH = 1
    GRAPH_LAUNCH = 2
    COPY = 3
    FILL = 4
    ALLOC = 5
    FREE = 6
    SYNC = 7
    CONTEXT = 8
    QUERY = 9


class CallFlag(IntFlag):
    """What a call's record is."""

    PER_THREAD = 1  # NULL streams are the thread's own
    RAW = 2  # the request is the bare slots
    NO_REPLY = 4  # its outputs could not be said
    TIMED = 8  # a DeviceTime follows, unless the trace ends before
    CAPTURED = 16  # into a graph
    CUT = 32  # not all host bytes are kept


NO_FILE_FLAG, NO_CALL_FLAG = FileFlag(0), CallFlag(0)


class Way(IntEnum):
    """Which way host bytes went."""

    SEND = 0
    FETCH = 1
    LEND = 2


@dataclass(frozen=True, slots=True)
class Symbol:
    """A function of the driver, as this file numbers it."""

    name: str
    op: int = 0  # of the wire; 0: none
    kind: Kind = Kind.OTHER
    per_thread: bool = False
    parameters: int = 0


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself; counters are as of when it was read."""

    segments: int
    segment_bytes: int = 1 << 20
    flags: FileFlag = NO_FILE_FLAG
    table_hash: bytes = bytes.fromhex(TABLE_HASH)
    wire_format: int = FORMAT
    cuda: int = CUDA
    realtime_ns: int = 0
    monotonic_ns: int = 0
    pid: int = 0
    parent: int = 0
    data_bytes: int = 0
    driver: int = 0
    begun: int = 0
    calls: int = 0
    dropped: int = 0
    lost_records: int = 0
    inner_calls: int = 0
    ended_ns: int = 0
    why: Why = Why.RUNNING
    program: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    symbols: tuple[Symbol, ...] = ()

    @property
    def decodable(self) -> bool:
        """Whether this HARP's tables are those that bodies were made with."""
        return self.wire_format == FORMAT and self.table_hash.hex() == TABLE_HASH

    def realtime_of(self, monotonic_ns: int) -> int:
        """A moment of the trace in ns since 1970."""
        return monotonic_ns - self.monotonic_ns + self.realtime_ns


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the driver that has ended."""

    sequence: int
    symbol: Symbol
    begin_ns: int
    end_ns: int
    result: int = 0
    thread: int = 0
    entered_ns: int = 0  # when the driver was entered, behind gates; 0: not known
    stream: int = 0
    size: int = 0  # bytes that it moves, fills or allocates
    made: int = 0
    transfers: int = 0
    flags: CallFlag = NO_CALL_FLAG
    request: bytes = b""
    reply: bytes = b""

    @property
    def gated_ns(self) -> int:
        """How long the call waited for its turn."""
        return max(self.entered_ns - self.begin_ns, 0) if self.entered_ns else 0

    @property
    def slots(self) -> tuple[int, ...]:
        """Bare parameters of a RAW call."""
        if CallFlag.RAW not in self.flags:
            return ()
        body = self.request
        return tuple(int.from_bytes(body[i : i + 8], "little") for i in range(0, len(body) - 7, 8))

    def arguments(self) -> dict[str, Any]:
        """Parameters by name, outputs with what was answered. Raises TraceError.

        Only of files whose header is `decodable`; of a RAW call: `arg0`, `arg1`, ...
        """
        if CallFlag.RAW in self.flags:
            return {f"arg{i}": slot for i, slot in enumerate(self.slots)}
        if self.symbol.op not in OPS:
            raise TraceError(f"{self.symbol.name}: no op has the number {self.symbol.op}")
        try:
            asked = decode_request(self.symbol.op, self.request, apart=True)
            if CallFlag.NO_REPLY in self.flags or not self.reply:
                return asked
            return decode_reply(self.symbol.op, asked, self.reply, apart=True)[1]
        except WireError as error:
            raise TraceError(f"call {self.sequence}, {self.symbol.name}: {error}") from error


@dataclass(frozen=True, slots=True)
class DeviceTime:
    """How long the device was at a call."""

    sequence: int
    begin_ns: int  # on the host's clock, about; 0: not known
    duration_ns: int


@dataclass(frozen=True, slots=True)
class Data:
    """A piece of a call's host bytes."""

    sequence: int
    transfer: int
    way: Way
    offset: int
    total: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Image:
    """An image's hash, or a piece of it."""

    sha256: bytes
    offset: int
    total: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Name:
    """What a handle is called."""

    handle: int
    handle_kind: int
    name: str


@dataclass(frozen=True, slots=True)
class Note:
    """A line of text of the recorder's."""

    at_ns: int
    text: str


Record = Call | DeviceTime | Data | Image | Name | Note


def with_symbols(header: Header, symbols: tuple[Symbol, ...]) -> Header:
    """The same header, with symbols."""
    return replace(header, symbols=symbols)
