# SPDX-License-Identifier: Apache-2.0
"""A read-only HTTP server for a few pages, on an event loop.

(1) Nobody is waited for without end: a client has `head_s` to say what it wants and `timeout_s` for
    all, then it is cut off. No thread waits for any of them.
(2) Who has not said yet what it wants has no place. Should there be very many of those, the one
    that has been here longest goes for each that comes: who speaks at once is heard.
(3) No more than `clients` are answered at once; others hear 503. Probes have places of their own:
    whoever holds the others does not make kubelet believe that we are ill.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

import structlog

from harp.errors import HarpError

__all__ = ["PROBES", "Page", "Route", "Server", "ServerThread", "keep"]

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


@dataclass(frozen=True, slots=True)
class Page:
    """An answer."""

    body: bytes
    content_type: str = _TEXT
    status: HTTPStatus = HTTPStatus.OK


#: (HTTP's Accept) -> the page
Route = Callable[[str], Awaitable[Page]]


class Server:
    """Pages by path.

    Args:
        routes: {path: what makes its page}.
        clients: most that are answered at once, and as many probes.
        heads: most of whom we do not know yet what they want.
        head_s: for a client to say that.
        timeout_s: for a client's whole visit.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        *,
        clients: int = _CLIENTS,
        heads: int = _HEADS,
        head_s: float = _HEAD_S,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self._routes = routes
        self._clients = clients
        self._most_heads = heads
        self._head_s = head_s
        self._timeout_s = timeout_s
        #: one for each client that is here
        self._visits: set[asyncio.Task[None]] = set()
        #: of these, who has not said yet what it wants, oldest first
        self._heads: dict[asyncio.StreamWriter, None] = {}
        #: {is a probe: how many are being answered}
        self._answered = {False: 0, True: 0}

    @contextlib.asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[tuple[str, int]]:
        """Serve meanwhile; yields where.

        Raises:
            OSError: the address cannot be had.
        """
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
                request = await self._read(reader, writer)
                probe = _path(request) in PROBES
                if self._answered[probe] >= self._clients:
                    await _send(writer, _FULL)
                    return
                self._answered[probe] += 1
                try:
                    await _send(writer, await self._reply(request))
                finally:
                    self._answered[probe] -= 1
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # it is gone, too slow, or no HTTP client
        finally:
            writer.transport.abort()
            self._visits.discard(task)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """What a client wants; takes its place among those who have not said it."""
        if len(self._heads) >= self._most_heads:
            oldest = next(iter(self._heads))
            del self._heads[oldest]
            oldest.transport.abort()  # its visit ends by that
        self._heads[writer] = None
        try:
            async with asyncio.timeout(self._head_s):
                return await reader.readuntil(b"\r\n\r\n")
        finally:
            self._heads.pop(writer, None)

    async def _reply(self, request: bytes) -> bytes:
        first, *lines = request.decode("latin-1").split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _answer(_status(HTTPStatus.BAD_REQUEST), head=False)
        head = words[0] == "HEAD"
        if words[0] not in ("GET", "HEAD"):
            return _answer(_status(HTTPStatus.METHOD_NOT_ALLOWED), head=False)
        route = self._routes.get(_path(request))
        if route is None:
            there = " ".join(sorted(self._routes))
            return _answer(Page(f"there is {there}\n".encode(), _TEXT, HTTPStatus.NOT_FOUND), head)
        fields = (line.partition(":") for line in lines)
        accept = ",".join(v.strip() for n, _, v in fields if n.strip().lower() == "accept")
        try:
            return _answer(await route(accept), head)
        except Exception as error:  # noqa: BLE001 - the client hears of it, the server goes on
            reason = error.message if isinstance(error, HarpError) else type(error).__name__
            _log.exception("page_failed", path=words[1])
            failed = Page(f"{reason}\n".encode(), _TEXT, HTTPStatus.INTERNAL_SERVER_ERROR)
            return _answer(failed, head)


def _path(request: bytes) -> str:
    """What a request names, without its query; "" where it is no request."""
    words = request.partition(b"\r\n")[0].decode("latin-1").split(" ")
    return words[1].partition("?")[0] if len(words) == 3 else ""


async def _send(writer: asyncio.StreamWriter, answer: bytes) -> None:
    writer.write(answer)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


def _status(status: HTTPStatus) -> Page:
    return Page(f"{status.phrase}\n".encode(), _TEXT, status)


def _answer(page: Page, head: bool) -> bytes:  # noqa: FBT001 - one word of a private helper
    lines = (
        f"HTTP/1.1 {page.status.value} {page.status.phrase}",
        f"Content-Type: {page.content_type}",
        f"Content-Length: {len(page.body)}",
        "Connection: close",
        "\r\n",
    )
    return "\r\n".join(lines).encode() + (b"" if head else page.body)


_FULL = _answer(_status(HTTPStatus.SERVICE_UNAVAILABLE), head=False)


async def keep(
    server: Server, host: str, port: int, setting: str, *, retry_s: float = _RETRY_S
) -> None:
    """Serve for ever. An address that cannot be had is an error in the log, and tried again.

    Args:
        server: what to serve.
        host: address or name.
        port: 0: any.
        setting: what the reader changes to have another address.
        retry_s: pause between two tries.
    """
    said = ""
    while True:
        try:
            async with server.listening(host, port) as (at, bound):
                _log.info("metrics_served", host=at, port=bound)
                await asyncio.get_running_loop().create_future()
        except OSError as error:
            if str(error) != said:
                said = str(error)
                remedy = _remedy(error, port, setting)
                _log.error("metrics_not_served", host=host, port=port, reason=said, hint=remedy)
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
