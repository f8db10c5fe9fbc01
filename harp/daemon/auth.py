# SPDX-License-Identifier: Apache-2.0
"""Who calls: tokens bound to uids, and listening sockets handed in.

gRPC does not tell a server who is at the other end of a unix socket. So a caller first connects to
<run>/auth.sock, where the kernel does (SO_PEERCRED), and gets a random token that stands for its
uid. Sockets cannot travel through gRPC either: the same connection takes a tenant's listening
socket (SCM_RIGHTS) and answers a ticket, to be named in CreateTenant.

One datagram of JSON each way:
    {"op": "token"}                 -> {"token": "..."}
    {"op": "deposit"} + one socket  -> {"ticket": "..."}
    anything else                   -> {"error": "..."}
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import struct
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import structlog

from harp.errors import Unauthenticated

__all__ = ["Auth", "Caller", "Deposit"]

_log = structlog.get_logger(__name__)
_DATAGRAM_BYTES = 4096
_CONNECTION_S = 5.0
_CONNECTIONS_MAX = 128
_ACCEPT_RETRY_S = 0.1
_TOKENS_MAX = 4096
_DEPOSITS_PER_UID = 64


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end, as the kernel says."""

    pid: int
    uid: int


@dataclass(frozen=True, slots=True)
class Deposit:
    """A listening socket that waits for its CreateTenant."""

    caller: Caller
    fd: int


class Auth:
    """Tokens and tickets of one harpd; all of them die with it."""

    def __init__(self, path: Path, deposit_s: float) -> None:
        self._path = path
        self._deposit_s = deposit_s
        #: {token: uid}, oldest first
        self._tokens: OrderedDict[str, int] = OrderedDict()
        #: {ticket: deposit}; each is dropped after deposit_s
        self._deposits: dict[str, Deposit] = {}
        self._sock: socket.socket | None = None
        #: connections that may be open at once
        self._room = asyncio.Semaphore(_CONNECTIONS_MAX)

    def listen(self) -> None:
        """Open the socket to everybody."""
        self._path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        sock.bind(str(self._path))
        self._path.chmod(0o666)
        sock.listen(64)
        sock.setblocking(False)  # noqa: FBT003 - socket's own signature
        self._sock = sock

    async def serve(self) -> None:
        """Answer until cancelled."""
        assert self._sock is not None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._room.acquire()
                    try:
                        connection, _ = await loop.sock_accept(self._sock)
                    except OSError as error:  # out of descriptors, or the peer was faster
                        self._room.release()
                        _log.warning("accept_failed", reason=str(error))
                        await asyncio.sleep(_ACCEPT_RETRY_S)
                        continue
                    task = group.create_task(self._answer(connection))
                    task.add_done_callback(lambda _task: self._room.release())
        finally:
            self._sock.close()
            self._path.unlink(missing_ok=True)
            for ticket in list(self._deposits):
                self._drop(ticket)

    def uid_of(self, token: str) -> int:
        """The uid a token stands for.

        Raises:
            Unauthenticated: it stands for none.
        """
        uid = self._tokens.get(token)
        if uid is None:
            raise Unauthenticated(
                "unknown token: harpd was restarted, or the call came without one",
                "use harp.client, which fetches a new one",
            )
        return uid

    def redeem(self, ticket: str) -> Deposit | None:
        """Take a deposited socket; the caller owns its descriptor from now on."""
        return self._deposits.pop(ticket, None)

    async def _answer(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with connection:
            connection.setblocking(False)  # noqa: FBT003 - socket's own signature
            try:
                async with asyncio.timeout(_CONNECTION_S):
                    caller = _peer(connection)
                    while await _readable(connection):
                        data, fds = _receive(connection)
                        if not data:
                            return
                        answer = self._take(caller, data, fds)
                        await loop.sock_sendall(connection, json.dumps(answer).encode())
            except (OSError, TimeoutError):
                return

    def _take(self, caller: Caller, data: bytes, fds: list[int]) -> dict[str, str]:
        """Answer one datagram. Every descriptor is kept or closed."""
        try:
            question = json.loads(data)
            operation = question.get("op") if isinstance(question, dict) else None
        except ValueError:
            operation = None
        if operation == "token" and not fds:
            return {"token": self._new_token(caller)}
        if operation == "deposit" and len(fds) == 1:
            if problem := self._deposit_problem(caller, fds[0]):
                os.close(fds[0])
                return {"error": problem}
            ticket = secrets.token_urlsafe(24)
            self._deposits[ticket] = Deposit(caller, fds[0])
            asyncio.get_running_loop().call_later(self._deposit_s, self._drop, ticket)
            return {"ticket": ticket}
        for fd in fds:
            os.close(fd)
        return {"error": f"unknown operation {operation!r} with {len(fds)} descriptors"}

    def _new_token(self, caller: Caller) -> str:
        token = secrets.token_urlsafe(24)
        self._tokens[token] = caller.uid
        while len(self._tokens) > _TOKENS_MAX:
            self._tokens.popitem(last=False)
        return token

    def _deposit_problem(self, caller: Caller, fd: int) -> str:
        if sum(d.caller.uid == caller.uid for d in self._deposits.values()) >= _DEPOSITS_PER_UID:
            return f"uid {caller.uid} has {_DEPOSITS_PER_UID} sockets waiting already"
        try:
            sock = socket.socket(fileno=fd)
        except OSError as error:
            return f"the descriptor is no socket: {error}"
        try:
            listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if sock.family != socket.AF_UNIX or not listening:
                return "the descriptor is no listening unix socket"
            if sock.type != socket.SOCK_SEQPACKET:
                return "the socket is no SOCK_SEQPACKET one"
        finally:
            sock.detach()  # the descriptor stays the caller's
        return ""

    def _drop(self, ticket: str) -> None:
        deposit = self._deposits.pop(ticket, None)
        if deposit is not None:
            os.close(deposit.fd)


def _peer(connection: socket.socket) -> Caller:
    size = struct.calcsize("3i")
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, _ = struct.unpack("3i", raw)
    return Caller(pid, uid)


async def _readable(connection: socket.socket) -> bool:
    """Wait until there is something to receive; asyncio has no recvmsg."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[bool] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(True)

    loop.add_reader(connection, wake)
    try:
        return await ready
    finally:
        with contextlib.suppress(ValueError, OSError):
            loop.remove_reader(connection)


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    data, fds, _, _ = socket.recv_fds(
        connection, _DATAGRAM_BYTES, 4, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
    )
    return data, fds
