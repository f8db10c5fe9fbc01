# SPDX-License-Identifier: Apache-2.0
"""The client's end of a ring, and a worker at the other: native/src/wire/SESSION.md from Python."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import itertools
import mmap
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import harp
from harp.wire import OPS, Transfer, decode_reply, decode_request, encode_request
from harp.wire._tables import TABLE_HASH
from harp.wire.codec import INLINE_BYTES

RING, BULK, PAGE = 1 << 20, 16 << 20, 4096
REPLY, WANTED, PER_THREAD, REVERSE, BULK_FLAG, END = (1 << i for i in range(6))
PACK, SKIP = 1, 0xFFFFFFFF
_END_S = 30
MAGIC = 0x676E697270726168
HEADER = struct.Struct("<IIIIQQ")
NUMBERS = {op.name: number for number, op in OPS.items()}
#: in a direction's 256 bytes of the header page
_TAIL, _HEAD, _DATA, _READER, _ROOM, _WRITER = 0, 64, 128, 132, 192, 196
_libc = ctypes.CDLL(None, use_errno=True)


def _futex_wake(address: int, bits: int) -> None:
    _libc.syscall(202, ctypes.c_void_p(address), 10, 1 << 30, None, None, ctypes.c_uint32(bits))


def _futex_wait(address: int, value: int, ns: int) -> None:
    moment = (ctypes.c_int64 * 2)(0, ns)
    _libc.syscall(202, ctypes.c_void_p(address), 0, ctypes.c_uint32(value), moment, None, 0)


class WorkerGoneError(Exception):
    """The worker has closed its end."""


def table_text(digest: str = TABLE_HASH, version: str = harp.__version__) -> str:
    return f"1 13000 {digest} {version}"


class Record:
    """One record."""

    def __init__(self, header: bytes, body: bytes) -> None:
        _, self.op, self.flags, self.lane, self.seq, self.ack = HEADER.unpack(header)
        self.body = body

    @property
    def name(self) -> str:
        return OPS[self.op].name if self.op in OPS else f"op {self.op}"


class Ring:
    """A session: dial, put, take."""

    def __init__(self, sock: socket.socket, *, table: str = "", timeout_s: float = 30) -> None:
        self.sock, self.timeout_s = sock, timeout_s
        fd = os.memfd_create("ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        size = PAGE + 2 * RING + BULK
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, 1033, 7)  # F_ADD_SEALS: SEAL, SHRINK, GROW
        self.map = mmap.mmap(fd, size)
        hello = struct.pack(
            "<QIIQQQ128s", MAGIC, 1, 0, RING, RING, BULK, (table or table_text()).encode()
        )
        socket.send_fds(sock, [hello], [fd])
        os.close(fd)
        sock.settimeout(timeout_s)
        answer = sock.recv(256, socket.MSG_WAITALL)
        if len(answer) < 256:
            raise WorkerGoneError
        magic, error, text = struct.unpack("<QI244s", answer)
        assert magic == MAGIC
        if error:
            raise ConnectionRefusedError(text.rstrip(b"\0").decode())
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self.tail = self.head = self.seq = 0
        self.got: list[Record] = []
        self.round_trips = 0

    def _word(self, at: int, kind: type[Any]) -> Any:
        return kind.from_address(self._base + at)

    def close(self) -> None:
        self.sock.close()

    # --- putting -------------------------------------------------------------------------------

    def put(self, op: int, body: bytes, *, flags: int = 0, lane: int = 1, ack: int = 0) -> int:
        """Append a record, and wake the worker if it sleeps. Answers its seq."""
        need = 32 + len(body) + -len(body) % 8
        end = time.monotonic() + self.timeout_s
        while True:
            to_end = RING - self.tail % RING
            skip = to_end if to_end < need else 0
            if RING - (self.tail - self._word(_HEAD, ctypes.c_uint64).value) >= skip + need:
                break
            if self.pump() is None:  # what is heard may put, too
                self.look()
            assert time.monotonic() < end, "no room"
        if skip >= 32:
            at = PAGE + self.tail % RING
            self.map[at : at + 32] = HEADER.pack(skip - 32, SKIP, 0, 0, 0, 0)
        self.tail += skip
        seq = 0
        if not flags & BULK_FLAG:
            self.seq += 1
            seq = self.seq
        at = PAGE + self.tail % RING
        record = HEADER.pack(len(body), op, flags, lane, seq, ack) + body
        self.map[at : at + len(record)] = record
        self.tail += need
        self._word(_TAIL, ctypes.c_uint64).value = self.tail
        self.wake()
        return seq

    def wake(self) -> None:
        bits = self._word(_READER, ctypes.c_uint32)
        if bits.value:
            who, bits.value = bits.value, 0
            data = self._word(_DATA, ctypes.c_uint32)
            data.value = (data.value + 1) % (1 << 32)
            _futex_wake(self._base + _DATA, who)

    # --- taking --------------------------------------------------------------------------------

    def _take(self) -> Record | None:
        """The next record, if there is one."""
        base = PAGE + RING
        tail = self._word(256 + _TAIL, ctypes.c_uint64).value
        while self.head != tail:
            at = self.head % RING
            if RING - at < 32:
                self.head += RING - at
                continue
            header = bytes(self.map[base + at : base + at + 32])
            size, op = struct.unpack_from("<II", header)
            self.head += 32 + size + -size % 8
            if op == SKIP:
                continue
            body = bytes(self.map[base + at + 32 : base + at + 32 + size])
            self._word(256 + _HEAD, ctypes.c_uint64).value = self.head
            if self._word(256 + _WRITER, ctypes.c_uint32).value:
                self._word(256 + _WRITER, ctypes.c_uint32).value = 0
                self._word(256 + _ROOM, ctypes.c_uint32).value += 1
                _futex_wake(self._base + 256 + _ROOM, 1)
            return Record(header, body)
        return None

    def pump(self) -> Record | None:
        """Take a record: what it is has to be looked for in `got`. None: after a moment, none."""
        record = self._take()
        if record is None:
            self._word(256 + _READER, ctypes.c_uint32).value = 1
            value = self._word(256 + _DATA, ctypes.c_uint32).value
            record = self._take()
            if record is None:
                _futex_wait(self._base + 256 + _DATA, value, 5_000_000)
                record = self._take()
            self._word(256 + _READER, ctypes.c_uint32).value = 0
        if record is not None:
            self.heard(record)
        return record

    def heard(self, record: Record) -> None:
        self.got.append(record)

    def until(self, what: Any, timeout_s: float = 0) -> Record:
        """The first record for which `what` holds, of those to come and those that came."""
        end = time.monotonic() + (timeout_s or self.timeout_s)
        seen = 0
        while True:
            for record in self.got[seen:]:
                if what(record):
                    self.got.remove(record)
                    return record
            seen = len(self.got)
            if self.pump() is None:
                self.look()
                assert time.monotonic() < end, (
                    f"no such record; there are {[r.name for r in self.got]}"
                )

    def look(self) -> None:
        """Raises if the worker is gone."""
        self.sock.setblocking(False)
        try:
            if self.sock.recv(1, socket.MSG_PEEK) == b"":
                raise WorkerGoneError
        except BlockingIOError:
            pass
        except ConnectionResetError as error:
            raise WorkerGoneError from error
        finally:
            self.sock.settimeout(self.timeout_s)


class Client(Ring):
    """Calls by name."""

    def __init__(self, sock: socket.socket, *, table: str = "") -> None:
        super().__init__(sock, table=table)
        self._ids = itertools.count(3)  # 1 and 2 are streams
        self._room = itertools.count()
        #: what a ticket stands for: called with the values of harpHostCall
        self.functions: dict[int, Any] = {}
        self.current = 0

    def new(self) -> int:
        """An id."""
        return next(self._ids)

    def send(self, name: str, /, *, lane: int = 1, how: int = 0, **values: Any) -> int:
        """A call that nobody waits for, unless `how` has WANTED."""
        return self.put(NUMBERS[name], encode_request(NUMBERS[name], values), flags=how, lane=lane)

    def reply(self, seq: int, name: str, values: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        record = self.until(lambda r: r.flags & REPLY and r.ack == seq)
        assert record.name == name
        if len(record.body) == 4:
            return int.from_bytes(record.body, "little"), dict(values)
        return decode_reply(record.op, dict(values), record.body)

    def ask(
        self, name: str, /, *, lane: int = 1, how: int = 0, **values: Any
    ) -> tuple[int, dict[str, Any]]:
        """A call and its reply: result, and parameters with what was answered."""
        self.round_trips += 1
        seq = self.send(name, lane=lane, how=how | WANTED, **values)
        return self.reply(seq, name, values)

    def must(self, name: str, /, **values: Any) -> dict[str, Any]:
        result, answer = self.ask(name, **values)
        assert result == 0, f"{name}: {result}"
        return answer

    def heard(self, record: Record) -> None:
        """Functions of ours are run as soon as they are asked for."""
        if record.name == "harpHostCall" and record.flags & WANTED:
            asked = decode_request(record.op, record.body)
            self.functions[asked["ticket"]](asked)
            self.put(record.op, bytes(4), flags=REVERSE | REPLY, lane=0, ack=record.seq)
            return
        super().heard(record)

    # --- host bytes ----------------------------------------------------------------------------

    def region(self, size: int) -> int:
        """Offset of a fourth of the bulk area, one after the other."""
        assert size <= BULK // 4
        return next(self._room) % 4 * (BULK // 4)

    def announce(self, size: int, data: bytes = b"", *, lane: int = 1) -> tuple[Transfer, int]:
        """A transfer of one region: to the worker if there is data."""
        offset, transfer = self.region(size), Transfer(self.new())
        at = PAGE + 2 * RING + offset
        self.map[at : at + len(data)] = data
        body = struct.pack("<QQ", offset, size)
        self.put(0, body, flags=BULK_FLAG | END, lane=lane, ack=transfer.id)
        return transfer, offset

    def parts(self, data: bytes, size: int) -> Transfer:
        """A transfer of several regions, each taken in before the next one is announced."""
        if len(data) <= size:
            return self.announce(len(data), data)[0]
        transfer = Transfer(self.new())
        for at in range(0, len(data), size):
            part, offset = data[at : at + size], self.region(size)
            place = PAGE + 2 * RING + offset
            self.map[place : place + len(part)] = part
            body = struct.pack("<QQ", offset, len(part))
            end = END if at + size >= len(data) else 0
            self.put(0, body, flags=BULK_FLAG | end, ack=transfer.id)
            self.until(lambda r, b=body: r.ack == transfer.id and r.body == b)
        return transfer

    def done(self, transfer: Transfer) -> None:
        """Until the worker has said that it is done with it."""
        self.until(lambda r: r.flags & BULK_FLAG and r.flags & END and r.ack == transfer.id)

    def bulk(self, offset: int, size: int) -> bytes:
        at = PAGE + 2 * RING + offset
        return bytes(self.map[at : at + size])

    # --- a program's first steps ---------------------------------------------------------------

    def context(self, *, lane: int = 1) -> int:
        """A context, current in the lane."""
        self.must("harpSession", devices=1, driver_version=1, loading_mode=1, lane=lane)
        answer = self.must("cuDevicePrimaryCtxRetain", pctx=1, dev=0, lane=lane)
        self.current = int(answer["pctx"])
        self.send("cuCtxSetCurrent", ctx=self.current, lane=lane)
        return self.current

    def image(self, data: bytes) -> dict[str, Any]:
        """An image, put if it is not there."""
        image = {"sha256": hashlib.sha256(data).digest(), "bytes": len(data)}
        if not self.must("harpImageFind", image=image, found=1)["found"]:
            large = len(data) > INLINE_BYTES
            sent = self.parts(data, 128 << 10) if large else data
            self.must("harpImagePut", image=image, data=sent, bytes=len(data))
        return image

    def function(self, ptx: bytes, name: str) -> int:
        """A function of a module."""
        module, function = self.new(), self.new()
        self.must("cuModuleLoadData", module=module, image=self.image(ptx))
        self.send("cuModuleGetFunction", hfunc=function, hmod=module, name=name)
        return function

    def launch(
        self,
        function: int,
        params: bytes,
        *,
        blocks: int,
        threads: int,
        stream: int = 0,
        lane: int = 1,
    ) -> int:
        return self.send(
            "cuLaunchKernel",
            f=function,
            gridDimX=blocks,
            gridDimY=1,
            gridDimZ=1,
            blockDimX=threads,
            blockDimY=1,
            blockDimZ=1,
            sharedMemBytes=0,
            hStream=stream,
            kernelParams={"bytes": len(params), "data": params},
            extra=None,
            lane=lane,
        )


class Worker:
    """A harp-worker for one client."""

    def __init__(
        self,
        native: Path,
        driver: Path,
        env: Mapping[str, str],
        pair: tuple[socket.socket, socket.socket] | None = None,
        *,
        options: Sequence[str | Path] = (),
        through: Sequence[str | Path] = (),
    ) -> None:
        self.sock, theirs = pair or socket.socketpair()
        command = [native / "harp-worker", "--socket", str(theirs.fileno()), "--driver", driver]
        self.process = subprocess.Popen(
            [*through, *command, *options],
            env=dict(env),
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        self.client: Client | None = None

    def dial(self, table: str = "") -> Client:
        self.client = Client(self.sock, table=table)
        return self.client

    def ended(self) -> int:
        """Its status, once it has ended; it may wipe memory for 1.5 s before that."""
        try:
            return self.process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            tasks = sorted(Path(f"/proc/{self.process.pid}/task").iterdir())
            where = [
                f"{(t / 'comm').read_text().strip()} {(t / 'wchan').read_text()}" for t in tasks
            ]
            raise AssertionError(f"harp-worker has not ended after {_END_S} s: {where}") from None

    def words(self) -> str:
        """What it said at its end."""
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.sock.close()
        try:
            status = self.process.wait(timeout=_END_S)
            if isinstance(error, WorkerGoneError):
                error.add_note(f"harp-worker ended with {status}: {self.words()}")
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            raise
        finally:
            if self.process.stderr is not None:
                self.process.stderr.close()
