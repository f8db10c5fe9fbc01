# SPDX-License-Identifier: Apache-2.0
"""harpd's connection to the arbiter, over its admin socket."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

from harp.errors import ArbiterError
from harp.lease_wire import (
    HAND_PAGES,
    HAND_SOCKETS,
    MSG_BYTES,
    OLDEST,
    PAGES_SINCE,
    TOGETHER,
    TOGETHER_SINCE,
    VERSION,
    Msg,
    Op,
    version_of,
)

__all__ = ["AdminClient", "ArbiterRefused"]

_SNAPSHOT = frozenset(op for op in Op if op.name.startswith("SNAP_"))
#: questions that an arbiter of version 1 does not know
_SINCE_2 = frozenset({Op.EXPECT, Op.SUSPEND, Op.RESUME})
_FD = struct.Struct("i")
#: room for two descriptors: more are closed by the kernel
_ANCILLARY_BYTES = socket.CMSG_LEN(2 * _FD.size)
#: datagrams taken before other tasks get their turn
_AT_ONCE = 64


class AdminClient:
    """harpd's connection to the arbiter. One event loop, any number of tasks."""

    def __init__(self, sock: socket.socket, timeout_s: float) -> None:
        self._sock = sock
        self._timeout_s = timeout_s
        self._seq = 0
        #: {seq: future of the OK}; emptied when the connection ends
        self._waiting: dict[int, asyncio.Future[Msg]] = {}
        #: SNAP_* messages of the one snapshot under way, and {tenant_id: its listening socket},
        #: {tenant_id: its page}
        self._snapshot: list[Msg] = []
        self._sockets: dict[int, int] = {}
        self._pages: dict[int, int] = {}
        self._snapshot_lock = asyncio.Lock()
        self._send_lock = asyncio.Lock()
        #: called with each EVENT_*; must not block
        self.on_event: Callable[[Msg], None] = lambda _message: None
        #: set when the connection is gone
        self.lost = asyncio.Event()
        #: of the protocol, agreed on in connect()
        self.version = OLDEST
        #: of pump(), while it runs
        self._ended: asyncio.Future[None] | None = None

    @classmethod
    async def connect(cls, path: Path, timeout_s: float) -> AdminClient:
        """Connect to an arbiter's admin socket; the caller runs `pump()`.

        Raises:
            ArbiterError: nobody listens there, or not to us.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        sock.setblocking(False)  # noqa: FBT003 - socket's own signature
        loop = asyncio.get_running_loop()
        client = cls(sock, timeout_s)
        # Says what we speak, and asks for nothing: the answer's version is the one to go on with.
        hello = Msg(op=Op.SUBSCRIBE, c=VERSION if VERSION > OLDEST else 0)
        try:
            async with asyncio.timeout(timeout_s):
                await loop.sock_connect(sock, str(path))
                await loop.sock_sendall(sock, hello.pack(OLDEST))
                answer = await loop.sock_recv(sock, MSG_BYTES)
            client.version = version_of(answer)
        except (OSError, TimeoutError, ArbiterError) as error:
            sock.close()
            raise ArbiterError(f"no arbiter answers on {path}: {error}") from error
        return client

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
        self._ended = loop.create_future()
        loop.add_reader(self._sock, self._read)
        try:
            await self._ended
        except OSError:
            return
        finally:
            self.close()

    def _read(self) -> None:
        """Take what is there.

        Called by the loop itself: a task that waits for each message costs harpd twice as much,
        and there are three for each program that starts.
        """
        try:
            for _ in range(_AT_ONCE):
                try:
                    datagram, passed, _, _ = self._sock.recvmsg(
                        TOGETHER * MSG_BYTES, _ANCILLARY_BYTES
                    )
                except BlockingIOError:
                    return
                fds = _descriptors(passed) if passed else ()
                for fd in fds:  # Python 3.11 passes no flags on to recvmsg
                    os.set_inheritable(fd, False)  # noqa: FBT003 - os's own signature
                if not datagram:
                    self._end(None)
                    return
                for at in range(0, len(datagram), MSG_BYTES):
                    self._take(Msg.unpack(datagram[at : at + MSG_BYTES]), fds)
        except Exception as error:  # noqa: BLE001 - pump() raises it
            self._end(error)

    def _end(self, error: Exception | None) -> None:
        """Read no more; let pump() return, or raise."""
        if self._ended is None:
            return
        self._ended.get_loop().remove_reader(self._sock)
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)

    def close(self) -> None:
        """End the connection. Safe to call again."""
        self._end(None)
        self._ended = None
        self.lost.set()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ArbiterError("the arbiter ended while it was asked"))
        self._waiting.clear()
        self._drop_sockets()
        self._sock.close()

    async def request(self, message: Msg, fds: Sequence[int] = ()) -> Msg:
        """Ask and await the answer.

        Raises:
            ArbiterError: refused (its errno and text are in the message), gone, too slow, or too
                old to know the question.
        """
        self.check(message.op)
        seq = self._seq = self._seq + 1 & 0xFFFFFFFF or 1
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._waiting[seq] = future
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._send(message._replace(seq=seq).pack(self.version), fds)
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

    def check(self, op: int) -> None:
        """See that the arbiter knows a question.

        Raises:
            ArbiterError: it is too old.
        """
        if op in _SINCE_2 and self.version < 2:
            raise ArbiterError(
                f"the arbiter speaks lease protocol {self.version}, which has no {Op(op).name}",
                "harp daemon --upgrade",
            )

    async def snapshot(self) -> list[Msg]:
        """All SNAP_* messages of one consistent picture."""
        async with self._snapshot_lock:
            self._snapshot = []
            await self.request(Msg(op=Op.SNAPSHOT, b=int(self.version >= TOGETHER_SINCE)))
            return self._snapshot

    async def sockets(self) -> tuple[dict[int, int], dict[int, int]]:
        """{tenant_id: a descriptor of its listening socket}, {tenant_id: the same of its page}.

        The caller owns them. No sockets from an arbiter of version 1, no pages from one of 2.
        """
        if self.version < 2:
            return {}, {}
        async with self._snapshot_lock:
            self._snapshot = []
            what = HAND_SOCKETS | (HAND_PAGES if self.version >= PAGES_SINCE else 0)
            await self.request(Msg(op=Op.SNAPSHOT, a=what))
            found = self._sockets, self._pages
            self._sockets, self._pages = {}, {}
            return found

    async def hand_over(self) -> list[Msg]:
        """End the arbiter; the SNAP_* messages of the moment after which it granted nothing.

        One of version 1 may have granted something after it.
        """
        if self.version < 2:
            rows = await self.snapshot()
            await self.request(Msg(op=Op.SHUTDOWN))
            return rows
        async with self._snapshot_lock:
            self._snapshot = []
            await self.request(Msg(op=Op.SHUTDOWN, a=1))
            return self._snapshot

    def _drop_sockets(self) -> None:
        for kept in (self._sockets, self._pages):
            for fd in kept.values():
                os.close(fd)
            kept.clear()

    def _take(self, message: Msg, fds: Sequence[int]) -> None:
        if fds:
            self._keep(message, fds)
        if message.op in (Op.OK, Op.ERR):
            future = self._waiting.get(message.seq)
            if future is not None and not future.done():
                future.set_result(message)
        elif message.op in _SNAPSHOT:
            self._snapshot.append(message)
        else:
            self.on_event(message)

    def _keep(self, message: Msg, fds: Sequence[int]) -> None:
        """Own what came along, in the order of the bits that say it."""
        said = message.b if message.op == Op.SNAP_TENANT else 0
        kept = [into for bit, into in ((1, self._sockets), (2, self._pages)) if said & bit]
        for into, fd in zip(kept, fds, strict=False):  # not all, where we have no room for more
            old = into.pop(message.tenant, None)
            if old is not None:
                os.close(old)
            into[message.tenant] = fd
        for fd in fds[len(kept) :]:
            os.close(fd)

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


def _descriptors(passed: Sequence[tuple[int, int, bytes]]) -> tuple[int, ...]:
    """Those that came with a message: two at most, as the arbiter sends them."""
    return tuple(
        fd
        for level, kind, data in passed
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        for (fd,) in _FD.iter_unpack(data[: len(data) - len(data) % _FD.size])
    )


class ArbiterRefused(ArbiterError):  # noqa: N818 - as its tree
    """The arbiter answered ERR."""

    def __init__(self, answer: Msg) -> None:
        super().__init__(answer.text or os.strerror(answer.a))
        self.answer = answer
