# SPDX-License-Identifier: Apache-2.0
"""The server of pages: what it answers, and that nobody can hold it up."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import queue
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from remote_world import pool
from structlog.testing import capture_logs

from harp.errors import ConfigError
from harp.metrics import Page, Server, ServerThread, keep
from harp.metrics.server import PROBES, Request, Stream

Asked = Callable[[Server, str, int], Coroutine[Any, Any, None]]
LONG_S = 20.0
BIG = 64 << 20


async def _page(accept: str) -> Page:
    return Page(f"accepts {accept}\n".encode())


async def _big(_accept: str) -> Page:
    return Page(b"x" * BIG)


async def _broken(_accept: str) -> Page:
    raise ConfigError("this is why")


ROUTES = {"/metrics": _page, "/big": _big, "/broken": _broken}


def served(what: Asked, **options: Any) -> None:
    """Run `what` beside a server."""

    async def scenario() -> None:
        server = Server(ROUTES, **options)
        async with server.listening("127.0.0.1", 0) as (host, port):
            await what(server, host, port)

    asyncio.run(asyncio.wait_for(scenario(), LONG_S))


@contextlib.asynccontextmanager
async def client(host: str, port: int) -> AsyncIterator[tuple[asyncio.StreamReader, Any]]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ask(host: str, port: int, request: str) -> str:
    """The whole answer to a request."""
    async with client(host, port) as (reader, writer):
        writer.write(request.replace("\n", "\r\n").encode())
        return (await reader.read()).decode()


async def all_left(server: Server) -> None:
    await asyncio.gather(*server._visits)


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        ("GET /metrics HTTP/1.1\nHost: x\naccept: a/b\n\n", 200, "accepts a/b\n"),
        ("GET /metrics?x=1 HTTP/1.0\n\n", 200, "accepts \n"),
        ("GET / HTTP/1.1\n\n", 404, "there is /big /broken /metrics\n"),
        ("POST /metrics HTTP/1.1\n\n", 405, "Method Not Allowed\n"),
        ("hello\n\n", 400, "Bad Request\n"),
        ("GET /metrics\n\n", 400, "Bad Request\n"),
        ("GET /broken HTTP/1.1\n\n", 500, "this is why\n"),
    ],
    ids=["page", "query", "no-page", "post", "no-http", "http-0.9", "fault"],
)
def test_answers(request_: str, status: int, body: str) -> None:
    async def what(_server: Server, host: str, port: int) -> None:
        head, _, said = (await ask(host, port, request_)).partition("\r\n\r\n")
        assert (head.split(" ")[1], said) == (str(status), body)
        assert f"Content-Length: {len(body)}" in head
        assert "Connection: close" in head

    with capture_logs():
        served(what)


def test_head_is_the_answer_without_its_body() -> None:
    async def what(_server: Server, host: str, port: int) -> None:
        answer = await ask(host, port, "HEAD /metrics HTTP/1.1\n\n")
        assert answer.startswith("HTTP/1.1 200 OK\r\n")
        assert "Content-Length: 9\r\n" in answer
        assert answer.endswith("\r\n\r\n")

    served(what)


def test_a_client_that_says_nothing_is_cut_off() -> None:
    async def what(server: Server, host: str, port: int) -> None:
        async with client(host, port) as (reader, _):
            assert await reader.read() == b""
        await all_left(server)

    served(what, timeout_s=0.05)


def test_a_client_that_says_a_little_at_a_time_is_cut_off_as_well() -> None:
    async def what(_server: Server, host: str, port: int) -> None:
        async with client(host, port) as (reader, writer):
            writer.write(b"GET /metrics HTTP/1.1\r\n")
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(b"a")
                    with contextlib.suppress(TimeoutError):
                        assert await asyncio.wait_for(reader.read(1), 0.02) == b""
                        return

    served(what, timeout_s=0.2)


def test_a_client_that_does_not_read_is_cut_off() -> None:
    async def what(server: Server, host: str, port: int) -> None:
        with socket.create_connection((host, port)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(b"GET /big HTTP/1.1\r\n\r\n")
            # Others are served meanwhile.
            assert (await ask(host, port, "GET /metrics HTTP/1.1\n\n")).endswith("accepts \n")
            await all_left(server)

    served(what, timeout_s=0.3)


def test_a_head_without_end_is_not_read() -> None:
    async def what(server: Server, host: str, port: int) -> None:
        async with client(host, port) as (reader, writer):
            writer.write(b"GET /metrics HTTP/1.1\r\nx: " + b"a" * 100_000)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        await all_left(server)

    served(what, timeout_s=LONG_S)


def test_one_too_many_is_turned_away_until_another_leaves() -> None:
    async def what(server: Server, host: str, port: int) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(2):  # who ask for much and read none of it
                sock = stack.enter_context(socket.create_connection((host, port)))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.sendall(b"GET /big HTTP/1.1\r\n\r\n")
            while "200" in await ask(host, port, "GET /metrics HTTP/1.1\n\n"):
                pass  # they are not heard yet
            for _ in range(20):
                answer = await ask(host, port, "GET /metrics HTTP/1.1\n\n")
                assert answer.startswith("HTTP/1.1 503 ")
        await all_left(server)
        assert "200 OK" in await ask(host, port, "GET /metrics HTTP/1.1\n\n")

    served(what, clients=2, timeout_s=LONG_S)


@pytest.mark.parametrize("probe", sorted(PROBES))
def test_probes_have_places_of_their_own(probe: str) -> None:
    """Whoever holds all others: kubelet's question is answered."""
    forever = asyncio.Event()

    async def stuck(_accept: str) -> Page:
        await forever.wait()
        return Page(b"")

    async def scenario() -> None:
        routes = {**ROUTES, "/stuck": stuck, probe: _page}
        server = Server(routes, clients=4, timeout_s=LONG_S)
        async with contextlib.AsyncExitStack() as stack:
            host, port = await stack.enter_async_context(server.listening("127.0.0.1", 0))
            for path in ("/big", "/stuck", "/stuck", "/big"):
                sock = stack.enter_context(socket.create_connection((host, port)))
                sock.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
            while "503" not in await ask(host, port, "GET /metrics HTTP/1.1\n\n"):
                pass
            for _ in range(20):
                assert "200 OK" in await ask(host, port, f"GET {probe} HTTP/1.1\n\n")
                assert "200 OK" in await ask(host, port, f"GET {probe}?x HTTP/1.1\n\n")

    asyncio.run(asyncio.wait_for(scenario(), LONG_S))


@pytest.mark.parametrize("words", [b"", b"GET /metrics HTTP/1.1\r\n"], ids=["silent", "slow"])
def test_who_does_not_say_what_it_wants_takes_nobody_s_place(words: bytes) -> None:
    """The one that has been here longest goes, and nobody who speaks is turned away."""

    async def what(server: Server, host: str, port: int) -> None:
        async with contextlib.AsyncExitStack() as stack:
            readers = []
            for _ in range(40):
                reader, writer = await stack.enter_async_context(client(host, port))
                writer.write(words)
                readers.append(reader)
                assert "200 OK" in await ask(host, port, "GET /metrics HTTP/1.1\n\n")
            # The last one asked took one more place than there are.
            for reader in readers[:24]:
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            assert len(server._heads) == 15
            assert not any(reader.at_eof() for reader in readers[25:])

    served(what, heads=16, head_s=LONG_S, timeout_s=LONG_S)


def tls(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and its client's."""
    folder = pool(tmp_path / "p") / "node-n1"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    known = ssl.create_default_context(cafile=folder / "ca.crt")
    known.check_hostname = False
    return context, known


async def ask_tls(host: str, port: int, known: ssl.SSLContext) -> bytes:
    reader, writer = await asyncio.open_connection(host, port, ssl=known)
    try:
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        return await reader.read()
    finally:
        writer.transport.abort()


def test_who_does_not_begin_tls_takes_a_place_as_well(tmp_path: Path) -> None:
    """However many connect to a page of TLS and say nothing, few are held."""
    context, known = tls(tmp_path)

    async def what(server: Server, host: str, port: int) -> None:
        async with contextlib.AsyncExitStack() as stack:
            readers = []
            for _ in range(200):
                reader, _ = await stack.enter_async_context(client(host, port))
                readers.append(reader)
            assert b"200 OK" in await ask_tls(host, port, known)
            # The last one asked took one more place than there are.
            for reader in readers[: 200 - 63]:
                async with asyncio.timeout(LONG_S / 4):
                    assert await reader.read() == b""
            assert len(server._heads) == 63
            assert len(server._visits) <= 64  # the one that was answered may still be leaving
            assert not any(reader.at_eof() for reader in readers[-63:])

    served(what, tls=context, head_s=LONG_S, timeout_s=LONG_S)


def test_tls_is_begun_in_the_time_to_say_what_is_wanted(tmp_path: Path) -> None:
    context, _ = tls(tmp_path)

    async def what(server: Server, host: str, port: int) -> None:
        async with client(host, port) as (reader, _):
            assert await reader.read() == b""
        await all_left(server)

    served(what, tls=context, head_s=0.05, timeout_s=10 * LONG_S)


def test_who_is_turned_away_and_stays_takes_a_silent_one_s_place(tmp_path: Path) -> None:
    """It speaks, hears 503, and never answers the end of TLS."""
    context, known = tls(tmp_path)

    def turned_away(host: str, port: int) -> ssl.SSLSocket:
        sock = known.wrap_socket(socket.create_connection((host, port)))
        sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        return sock

    async def what(server: Server, host: str, port: int) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(12):
                stack.enter_context(await asyncio.to_thread(turned_away, host, port))
            assert 1 <= len(server._visits) <= 4

    served(what, tls=context, clients=0, heads=4, head_s=LONG_S, timeout_s=LONG_S)


def test_a_client_has_little_time_to_say_what_it_wants() -> None:
    async def what(server: Server, host: str, port: int) -> None:
        async with client(host, port) as (reader, writer):
            writer.write(b"GET /metrics HTTP/1.1\r\n")
            assert await reader.read() == b""
        await all_left(server)

    served(what, head_s=0.05, timeout_s=10 * LONG_S)


def test_the_end_of_the_server_waits_for_nobody() -> None:
    async def scenario() -> None:
        server = Server(ROUTES, timeout_s=LONG_S)
        async with server.listening("127.0.0.1", 0) as (host, port):
            reader, writer = await asyncio.open_connection(host, port)
            other = await ask(host, port, "GET / HTTP/1.1\n\n")  # ours was accepted before
            assert "404" in other
            assert len(server._visits) == 1
        assert await reader.read() == b""
        writer.close()

    asyncio.run(asyncio.wait_for(scenario(), LONG_S / 10))


class _Parts:
    """A stream of big parts, one after another."""

    def __init__(self, size: int, pause_s: float) -> None:
        self._part, self._pause_s = b"x" * size, pause_s
        self.begun = asyncio.Event()
        self.closed = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self.begun.set()
        await asyncio.sleep(self._pause_s)
        return self._part

    def close(self) -> None:
        self.closed += 1


def streamed(parts: _Parts, what: Asked, **options: Any) -> None:
    """Run `what` beside a server of a stream."""

    async def respond(_request: Request) -> Page | Stream:
        return Stream(parts, parts.close, "a/b")

    async def scenario() -> None:
        server = Server(respond, **options)
        async with server.listening("127.0.0.1", 0) as (host, port):
            await what(server, host, port)

    asyncio.run(asyncio.wait_for(scenario(), LONG_S))
    assert parts.closed == 1


def test_a_stream_lasts_for_longer_than_a_visit_and_takes_no_place() -> None:
    async def what(server: Server, host: str, port: int) -> None:
        async with client(host, port) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"200 OK" in head
            assert b"Content-Type: a/b" in head
            assert b"Content-Length" not in head
            assert await reader.readexactly(30) == b"x" * 30  # 0.6 s
            assert server._answered == {False: 0, True: 0}
        await all_left(server)

    streamed(_Parts(1, 0.02), what, timeout_s=0.2)


def test_a_client_that_does_not_take_a_part_is_cut_off() -> None:
    async def what(server: Server, host: str, port: int) -> None:
        with socket.create_connection((host, port)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            await parts.begun.wait()
            await all_left(server)

    parts = _Parts(BIG, 0)
    streamed(parts, what, timeout_s=0.2)


def test_a_stream_s_head_alone_ends_it() -> None:
    async def what(_server: Server, host: str, port: int) -> None:
        answer = await ask(host, port, "HEAD / HTTP/1.1\n\n")
        assert answer.startswith("HTTP/1.1 200 OK\r\n")
        assert answer.endswith("\r\n\r\n")

    streamed(_Parts(1, 0), what)


def test_who_answers_all_is_told_the_query_and_the_fields() -> None:
    found: list[Request] = []

    async def respond(request: Request) -> Page:
        found.append(request)
        return Page(b"", status=HTTPStatus.NO_CONTENT, fields=(("X-A", "1"),))

    async def scenario() -> None:
        server = Server(respond, fields=(("X-B", "2"),))
        async with server.listening("127.0.0.1", 0) as (host, port):
            words = "GET /a?b=c?d HTTP/1.1\nHost: x\nX-C: 1\nno field\nx-c:  2 \n\n"
            answer = await ask(host, port, words)
            assert answer.startswith("HTTP/1.1 204 No Content\r\n")
            assert "\r\nX-A: 1\r\nX-B: 2\r\n" in answer
            assert "\r\nX-B: 2\r\n" in await ask(host, port, "PUT / HTTP/1.1\n\n")

    asyncio.run(asyncio.wait_for(scenario(), LONG_S))
    assert found == [Request("/a", "b=c?d", {"host": "x", "x-c": "1,2"})]


class _Tried(Server):
    """Says when it tries to listen, and where it does."""

    def __init__(self) -> None:
        super().__init__(ROUTES)
        self.tries = asyncio.Semaphore(0)
        self.at: queue.Queue[int] = queue.Queue()

    @contextlib.asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[tuple[str, int]]:
        self.tries.release()
        async with super().listening(host, port) as found:
            self.at.put(found[1])
            yield found


def test_a_port_in_use_is_an_error_with_a_remedy_and_tried_again() -> None:
    async def scenario() -> None:
        holder = socket.create_server(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        server = _Tried()
        keeping = asyncio.create_task(keep(server, "127.0.0.1", port, "a.setting", retry_s=0.01))
        for _ in range(3):
            await server.tries.acquire()
        assert not keeping.done()
        (error,) = (entry for entry in logs if entry["log_level"] == "error")
        assert error["event"] == "metrics_not_served"
        assert f"another program has port {port}" in error["hint"]
        assert "a.setting" in error["hint"]
        holder.close()
        assert await asyncio.to_thread(server.at.get) == port
        assert "200 OK" in await ask("127.0.0.1", port, "GET /metrics HTTP/1.1\n\n")
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    with capture_logs() as logs:
        asyncio.run(asyncio.wait_for(scenario(), LONG_S))


def test_an_address_of_another_machine_is_an_error_with_a_remedy() -> None:
    async def scenario() -> None:
        server = _Tried()
        keeping = asyncio.create_task(keep(server, "192.0.2.1", 0, "a.setting", retry_s=0.01))
        for _ in range(2):
            await server.tries.acquire()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    with capture_logs() as logs:
        asyncio.run(asyncio.wait_for(scenario(), LONG_S))
    assert "give a.setting an address of this machine" in logs[0]["hint"]


def test_in_a_thread_it_serves_and_ends() -> None:
    server = _Tried()
    with capture_logs():
        pages = ServerThread(server, "127.0.0.1", 0, "a.setting")
        pages.start()
        port = server.at.get(timeout=LONG_S)
        silent = socket.create_connection(("127.0.0.1", port))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONG_S)
        connection.request("GET", "/metrics", headers={"Accept": "a/b"})
        assert connection.getresponse().read() == b"accepts a/b\n"
        connection.close()
        pages.stop()
    assert silent.recv(1) == b""
    silent.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_thread_that_is_stopped_at_once_ends() -> None:
    with capture_logs():
        pages = ServerThread(Server(ROUTES), "127.0.0.1", 0, "a.setting")
        pages.start()
        pages.stop()
