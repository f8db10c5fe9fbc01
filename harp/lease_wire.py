# SPDX-License-Identifier: Apache-2.0
"""The lease protocol from Python: a mirror of native/include/harp/lease.h and an admin client.

One datagram on a SOCK_SEQPACKET socket is one `Msg`. tests/unit compares sizes, offsets and numbers
with the header.
"""

from __future__ import annotations

import asyncio
import enum
import os
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from harp.errors import ArbiterError

__all__ = [
    "ALIASES",
    "ALL_DEVICES",
    "GRANT_NO_GANG",
    "GRANULE_BYTES",
    "MSG_BYTES",
    "TIME_LANES",
    "AdminClient",
    "ArbiterRefused",
    "Deny",
    "Gate",
    "Kind",
    "Lane",
    "MemClass",
    "Msg",
    "Op",
]

VERSION = 1
MSG_BYTES = 256
NAME_BYTES = 64
#: time lanes of a device: compute, copy
TIME_LANES = 2
GRANULE_BYTES = 2 << 20
ALL_DEVICES = 0xFFFFFFFF

_LAYOUT = struct.Struct("=HH5IiI4I16Q16s64s")


class Op(enum.IntEnum):
    """What a message says (enum harp_op)."""

    HELLO = 1
    LEASE_MEM = 2
    RETURN_MEM = 3
    MEM_INFO = 4
    ADOPT_MEM = 5
    WANT_TIME = 6
    YIELD_TIME = 7
    USED_TIME = 8
    RECALLED = 9
    WELCOME = 32
    DEVICE = 33
    MEM_GRANT = 34
    MEM_DENY = 35
    MEM_STATE = 36
    RECALL_MEM = 37
    OPEN_GATE = 38
    CLOSE_GATE = 39
    ADD_DEVICE = 64
    ADD_TENANT = 65
    SET_TENANT = 66
    DEL_TENANT = 67
    DRAINED = 68
    SET_OVERHEAD = 69
    SNAPSHOT = 70
    SUBSCRIBE = 71
    SHUTDOWN = 72
    SUSPEND = 73
    RESUME = 74
    OK = 96
    ERR = 97
    SNAP_DEVICE = 98
    SNAP_TENANT = 99
    SNAP_USE = 100
    SNAP_CLIENT = 101
    SNAP_LEASE = 102
    EVENT_CLIENT = 103
    EVENT_DENY = 104


class Kind(enum.IntEnum):
    """What a client drives (enum harp_kind)."""

    CUDA = 1
    NULL = 2


class MemClass(enum.IntEnum):
    """What memory is charged to (enum harp_mem_class)."""

    DEVICE = 0
    OVERHEAD = 1


class Lane(enum.IntEnum):
    """An account of time on a device (enum harp_lane)."""

    COMPUTE = 0
    COPY = 1


class Deny(enum.IntEnum):
    """Why memory was refused (enum harp_deny)."""

    LIMIT = 1
    CAPACITY = 2
    UNKNOWN = 3
    DRAINING = 4
    BUSY = 5


class Gate(enum.IntEnum):
    """A client's gate on a device, as the arbiter believes it (enum harp_gate)."""

    CLOSED = 0
    OPEN = 1
    CLOSING = 2
    OVERDUE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Msg:
    """struct harp_msg, in the order of the wire; what each field means is said per op there."""

    op: int
    seq: int = 0
    dev: int = 0
    cls: int = 0
    tenant: int = 0
    client: int = 0
    pid: int = 0
    uid: int = 0
    a: int = 0
    b: int = 0
    c: int = 0
    d: int = 0
    amount_bytes: int = 0  #: `bytes` in C
    limit_bytes: int = 0
    leased_bytes: int = 0
    peak_bytes: int = 0
    free_bytes: int = 0
    capacity_bytes: int = 0
    overhead_bytes: int = 0
    slack_bytes: int = 0
    epoch: int = 0
    used_ns: int = 0
    copy_ns: int = 0
    wait_ns: int = 0
    quantum_ns: int = 0
    window_ns: int = 0
    launches: int = 0
    denials: int = 0
    uuid: bytes = b""
    text: str = ""

    @property
    def age_ns(self) -> int:
        """How long before the message its work ended (the place of `wait_ns`)."""
        return self.wait_ns

    @property
    def estimated_ns(self) -> int:
        """What of `used_ns` was not measured (the place of `quantum_ns`)."""
        return self.quantum_ns

    def pack(self) -> bytes:
        """As a datagram. A text longer than its field is cut at a character."""
        numbers = [getattr(self, name) for name in _NUMBERS]
        text = self.text.encode()[: NAME_BYTES - 1].decode(errors="ignore").encode()
        return _LAYOUT.pack(VERSION, *numbers, self.uuid, text)

    @classmethod
    def unpack(cls, datagram: bytes) -> Msg:
        """Read a datagram.

        Raises:
            ArbiterError: another length or version.
        """
        if len(datagram) != MSG_BYTES:
            raise ArbiterError(f"the arbiter sent {len(datagram)} bytes instead of {MSG_BYTES}")
        version, *numbers, uuid, text = _LAYOUT.unpack(datagram)
        if version != VERSION:
            raise ArbiterError(
                f"the arbiter speaks lease protocol {version}, harpd speaks {VERSION}",
                "end the tenants, then `harp daemon --stop --all` and start again",
            )
        values = dict(zip(_NUMBERS, numbers, strict=True))
        return cls(**values, uuid=uuid, text=text.split(b"\0", 1)[0].decode(errors="replace"))


_NUMBERS = tuple(f.name for f in fields(Msg) if f.name not in ("uuid", "text"))

_SNAPSHOT = frozenset({Op.SNAP_DEVICE, Op.SNAP_TENANT, Op.SNAP_USE, Op.SNAP_CLIENT, Op.SNAP_LEASE})


#: names of the header's that share a place with another: the mirror has them as properties
ALIASES = {"age_ns": "wait_ns", "estimated_ns": "quantum_ns"}
GRANT_NO_GANG = 1


class AdminClient:
    """harpd's connection to the arbiter. One event loop, any number of tasks."""

    def __init__(self, sock: socket.socket, timeout_s: float) -> None:
        self._sock = sock
        self._timeout_s = timeout_s
        self._seq = 0
        #: {seq: future of the OK}; emptied when the connection ends
        self._waiting: dict[int, asyncio.Future[Msg]] = {}
        #: SNAP_* messages of the one snapshot under way
        self._snapshot: list[Msg] = []
        self._snapshot_lock = asyncio.Lock()
        self._send_lock = asyncio.Lock()
        #: called with each EVENT_*; must not block
        self.on_event: Callable[[Msg], None] = lambda _message: None
        #: set when the connection is gone
        self.lost = asyncio.Event()

    @classmethod
    async def connect(cls, path: Path, timeout_s: float) -> AdminClient:
        """Connect to an arbiter's admin socket; the caller runs `pump()`.

        Raises:
            ArbiterError: nobody listens there, or not to us.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        sock.setblocking(False)  # noqa: FBT003 - socket's own signature
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.get_running_loop().sock_connect(sock, str(path))
        except (OSError, TimeoutError) as error:
            sock.close()
            raise ArbiterError(f"no arbiter answers on {path}: {error}") from error
        return cls(sock, timeout_s)

    def peer_pid(self) -> int:
        """The arbiter's pid, as the kernel says."""
        size = struct.calcsize("3i")
        pid, _, _ = struct.unpack(
            "3i", self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        )
        return int(pid)

    async def pump(self) -> None:
        """Read until the connection ends; then `lost` is set and every waiter has its error."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                datagram = await loop.sock_recv(self._sock, MSG_BYTES)
                if not datagram:
                    return
                self._take(Msg.unpack(datagram))
        except OSError:
            return
        finally:
            self.close()

    def close(self) -> None:
        """End the connection. Safe to call again."""
        self.lost.set()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ArbiterError("the arbiter ended while it was asked"))
        self._waiting.clear()
        self._sock.close()

    async def request(self, message: Msg, fds: Sequence[int] = ()) -> Msg:
        """Ask and await the answer.

        Raises:
            ArbiterError: refused (its errno and text are in the message), gone, or too slow.
        """
        seq = self._seq = self._seq + 1 & 0xFFFFFFFF or 1
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._waiting[seq] = future
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._send(replace(message, seq=seq).pack(), fds)
                answer = await future
        except TimeoutError as error:
            name = Op(message.op).name
            raise ArbiterError(f"no answer to {name} within {self._timeout_s:g} s") from error
        except OSError as error:
            raise ArbiterError(f"the arbiter is gone: {error}") from error
        finally:
            self._waiting.pop(seq, None)
        if answer.op == Op.ERR:
            raise ArbiterRefused(answer)
        return answer

    async def snapshot(self) -> list[Msg]:
        """All SNAP_* messages of one consistent picture."""
        async with self._snapshot_lock:
            self._snapshot = []
            await self.request(Msg(op=Op.SNAPSHOT))
            return self._snapshot

    def _take(self, message: Msg) -> None:
        if message.op in (Op.OK, Op.ERR):
            future = self._waiting.get(message.seq)
            if future is not None and not future.done():
                future.set_result(message)
        elif message.op in _SNAPSHOT:
            self._snapshot.append(message)
        else:
            self.on_event(message)

    async def _send(self, datagram: bytes, fds: Sequence[int]) -> None:
        async with self._send_lock:
            while True:
                if self.lost.is_set():
                    raise ArbiterError("the arbiter is gone")
                try:
                    socket.send_fds(self._sock, [datagram], list(fds))
                except BlockingIOError:
                    # Its queue is full of our own questions: rare, and bounded by the timeout.
                    await asyncio.sleep(0.002)
                else:
                    return


class ArbiterRefused(ArbiterError):  # noqa: N818 - as its tree
    """The arbiter answered ERR."""

    def __init__(self, answer: Msg) -> None:
        super().__init__(answer.text or os.strerror(answer.a))
        self.answer = answer
