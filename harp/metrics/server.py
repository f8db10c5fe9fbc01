# SPDX-License-Identifier: Apache-2.0
"""A read-only HTTP server for a few pages, on an event loop.

(1) Nobody is waited for without end: a client has `head_s` to say what it wants and `timeout_s` for
    all, then it is cut off. No thread waits for any of them.
(2) Who has not said yet what it wants has no place, nor who hears 503. Should there be very many of
    those, the one that has been here longest goes for each that comes: who speaks at once is heard.
    The handshake of TLS is part of what a client has to say.
(3) No more than `clients` are answered at once; others hear 503. Probes have places of their own:
    whoever holds the others does not make kubelet believe that we are ill.
(4) A stream has no place: who makes it says how many there may be. Its client takes each part in
    `timeout_s`, or is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

import structlog

from harp.errors import HarpError

__all__ = [
    "PROBES",
    "Page",
    "Request",
    "Responder",
    "Route",
    "Server",
    "ServerThread",
    "Stream",
    "keep",
]

_log = structlog.get_logger(__name__)
_HEAD_BYTES = 8192
_CLIENTS = 8
_TIMEOUT_S = 10.0
_HEADS = 64
_HEAD_S = 2.0
#: small pages that wait for nobody
PROBES = frozenset({"/healthz", "/livez"})
#: between two tries to have a port that another program has
_RETRY_S = 30.0
_TEXT = "text/plain; charset=utf-8"


#: names and values of HTTP
Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Request:
    """What a client wants, of a GET or HEAD."""

    path: str  #: without its query
    query: str
    fields: Mapping[str, str]  #: {name in lower case: value}; of several of a name "one,other"


@dataclass(frozen=True, slots=True)
class Page:
    """An answer."""

    body: bytes
    content_type: str = _TEXT
    status: HTTPStatus = HTTPStatus.OK
    fields: Fields = ()


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer in parts, without an end of its own."""

    parts: AsyncIterator[bytes]
    close: Callable[[], None]  #: called in the end, also if no part was taken
    content_type: str = _TEXT


#: (HTTP's Accept) -> the page
Route = Callable[[str], Awaitable[Page]]
Responder = Callable[[Request], Awaitable[Page | Stream]]


class Server:
    """Pages by path.

    Args:
        routes: {path: what makes its page}; or what answers all requests.
        clients: most that are answered at once, and as many probes.
        heads: most of whom we do not know yet what they want.
        head_s: for a client to say that.
        timeout_s: for a client's whole visit; of a stream, for each part.
        tls: speak TLS with it.
        fields: of HTTP, in every answer.
    """

    def __init__(
        self,
        routes: Mapping[str, Route] | Responder,
        *,
        clients: int = _CLIENTS,
        heads: int = _HEADS,
        head_s: float = _HEAD_S,
        timeout_s: float = _TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
        fields: Fields = (),
    ) -> None:
        self._respond = routes if callable(routes) else _by_path(routes)
        self._tls = tls
        self._fields = fields
        self._clients = clients
        self._most_heads = heads
        self._head_s = head_s
        self._timeout_s = timeout_s
        #: one for each client that is here
        self._visits: set[asyncio.Task[None]] = set()
        #: of these, who has not said yet what it wants or hears 503, oldest first
        self._heads: dict[asyncio.Task[None], None] = {}
        #: {is a probe: how many are being answered}
        self._answered = {False: 0, True: 0}

    @contextlib.asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[tuple[str, int]]:
        """Serve meanwhile; yields where.

        Raises:
            OSError: the address cannot be had.
        """
        # Without `ssl`: clients would be seen, and counted, after their handshakes.
        server = await asyncio.start_server(self._visit, host, port, limit=_HEAD_BYTES)
        try:
            name = server.sockets[0].getsockname()
            yield name[0], name[1]
        finally:
            server.close()
            for task in self._visits:
                task.cancel()
            await asyncio.gather(*self._visits, return_exceptions=True)
            await server.wait_closed()

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._visits.add(task)
        try:
            async with asyncio.timeout(self._timeout_s):
                self._come(task)
                request = await self._read(reader, writer)
                probe = _path(request) in PROBES
                if self._answered[probe] >= self._clients:
                    await self._send(writer, self._bytes(_FULL, head=False))
                    return
                del self._heads[task]
                self._answered[probe] += 1
                try:
                    head = request.startswith(b"HEAD ")
                    reply = await self._reply(request)
                    if isinstance(reply, Page):
                        await self._send(writer, self._bytes(reply, head=head))
                        return
                    if head:
                        reply.close()
                        await self._send(writer, self._head(HTTPStatus.OK, reply.content_type, ()))
                        return
                finally:
                    self._answered[probe] -= 1
            await self._pour(writer, reply)
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # it is gone, too slow, or no HTTP client
        except asyncio.CancelledError:
            pass  # it is in others' way, or the server ends; Python 3.11 would log it as an error
        finally:
            self._heads.pop(task, None)
            writer.transport.abort()
            self._visits.discard(task)

    def _come(self, task: asyncio.Task[None]) -> None:
        """Take a place among those who have not said what they want."""
        if len(self._heads) >= self._most_heads:
            oldest = next(iter(self._heads))
            del self._heads[oldest]
            oldest.cancel()
        self._heads[task] = None

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """What a client wants."""
        async with asyncio.timeout(self._head_s):
            if self._tls is not None:
                # Nothing is awaited before: what had been read by then would be lost to TLS.
                await writer.start_tls(self._tls)
            return await reader.readuntil(b"\r\n\r\n")

    async def _reply(self, request: bytes) -> Page | Stream:
        first, *lines = request.decode("latin-1").split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _status(HTTPStatus.BAD_REQUEST)
        if words[0] not in ("GET", "HEAD"):
            return _status(HTTPStatus.METHOD_NOT_ALLOWED)
        path, _, query = words[1].partition("?")
        fields: dict[str, str] = {}
        for name, colon, value in (line.partition(":") for line in lines):
            if colon:
                key = name.strip().lower()
                fields[key] = ",".join(filter(None, (fields.get(key), value.strip())))
        try:
            return await self._respond(Request(path, query, fields))
        except Exception as error:  # noqa: BLE001 - the client hears of it, the server goes on
            reason = error.message if isinstance(error, HarpError) else type(error).__name__
            _log.exception("page_failed", path=words[1])
            return Page(f"{reason}\n".encode(), _TEXT, HTTPStatus.INTERNAL_SERVER_ERROR)

    async def _pour(self, writer: asyncio.StreamWriter, stream: Stream) -> None:
        try:
            await self._take(writer, self._head(HTTPStatus.OK, stream.content_type, ()))
            async for part in stream.parts:
                await self._take(writer, part)
        finally:
            stream.close()

    async def _take(self, writer: asyncio.StreamWriter, part: bytes) -> None:
        """Write a part; done when little of it waits for the client."""
        writer.write(part)
        async with asyncio.timeout(self._timeout_s):
            await writer.drain()

    async def _send(self, writer: asyncio.StreamWriter, answer: bytes) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()
        # TLS waits for the client's word that it has heard the end.
        async with asyncio.timeout(None if self._tls is None else self._head_s):
            await writer.wait_closed()

    def _bytes(self, page: Page, *, head: bool) -> bytes:
        more = (("Content-Length", str(len(page.body))), *page.fields)
        return self._head(page.status, page.content_type, more) + (b"" if head else page.body)

    def _head(self, status: HTTPStatus, content_type: str, more: Fields) -> bytes:
        fields = (
            ("Content-Type", content_type),
            *more,
            *self._fields,
            ("Connection", "close"),
        )
        lines = [f"{name}: {value}" for name, value in fields]
        return "\r\n".join([f"HTTP/1.1 {status.value} {status.phrase}", *lines, "\r\n"]).encode()


def _by_path(routes: Mapping[str, Route]) -> Responder:
    async def respond(request: Request) -> Page:
        route = routes.get(request.path)
        if route is None:
            there = " ".join(sorted(routes))
            return Page(f"there is {there}\n".encode(), _TEXT, HTTPStatus.NOT_FOUND)
        return await route(request.fields.get("accept", ""))

    return respond


def _path(request: bytes) -> str:
    """What a request names, without its query; "" where it is no request."""
    words = request.partition(b"\r\n")[0].decode("latin-1").split(" ")
    return words[1].partition("?")[0] if len(words) == 3 else ""


def _status(status: HTTPStatus) -> Page:
    return Page(f"{status.phrase}\n".encode(), _TEXT, status)


_FULL = _status(HTTPStatus.SERVICE_UNAVAILABLE)


async def keep(
    server: Server,
    host: str,
    port: int,
    setting: str,
    *,
    retry_s: float = _RETRY_S,
    events: tuple[str, str] = ("metrics_served", "metrics_not_served"),
) -> None:
    """Serve for ever. An address that cannot be had is an error in the log, and tried again.

    Args:
        server: what to serve.
        host: address or name.
        port: 0: any.
        setting: what the reader changes to have another address.
        retry_s: pause between two tries.
        events: what the log calls it when it is served, and when not.
    """
    served, not_served = events
    said = ""
    while True:
        try:
            async with server.listening(host, port) as (at, bound):
                _log.info(served, host=at, port=bound)
                await asyncio.get_running_loop().create_future()
        except OSError as error:
            if str(error) != said:
                said = str(error)
                remedy = _remedy(error, port, setting)
                _log.error(not_served, host=host, port=port, reason=said, hint=remedy)
            await asyncio.sleep(retry_s)


def _remedy(error: OSError, port: int, setting: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"another program has port {port} (`ss -ltnp` names it): end it, or give {setting}"
            " another port; tried again from time to time, all else goes on"
        )
    return f"give {setting} an address of this machine and a port that this user may have"


class ServerThread:
    """keep() in a thread of its own, for a process without an event loop."""

    def __init__(self, server: Server, host: str, port: int, setting: str) -> None:
        self._arguments = (server, host, port, setting)
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """End, with its clients."""
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._work())

    async def _work(self) -> None:
        serving = asyncio.create_task(keep(*self._arguments))
        await self._ended.wait()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
