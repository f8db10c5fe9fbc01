# SPDX-License-Identifier: Apache-2.0
"""The page and its API: what is answered, to whom, and who is turned away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from remote_world import pool
from structlog.testing import capture_logs

from harp.api.v1 import control_pb2 as pb
from harp.errors import ArbiterError
from harp.estimator.track import Sums
from harp.metrics import EstimatorSeen
from harp.metrics.server import Server
from harp.remote.tenants import tenant_name
from harp.web import Door, Feed, Site
from harp.web.samples import Bounds
from harp.web.site import FIELDS
from harp.web.state import is_lease

LONG_S = 20.0
LOOPBACK = Door("127.0.0.1", 0, loopback=True)
TOKEN = "a-token-of-this-test-alone"
GUARDED = Door("127.0.0.1", 0, loopback=False, token=TOKEN)
HOST = "Host: localhost\n"
API = ("/api/v1/state", "/api/v1/samples", "/api/v1/events")
NASTY = "</script><img src=x onerror=alert(1)>\u2028\n\n"


class World:
    """A feed whose harpd is none, and a clock that is moved by hand."""

    def __init__(self, **options: Any) -> None:
        self.now_s = 0.0
        self.used_s = 0.0
        self.gone = False
        self.names = ["train"]
        self.looks = 0
        self.share_ppm = 300_000
        self.seen = EstimatorSeen("observe", {}, {"gpu_mem_bytes": (Sums(9, 9), Sums(4, 3))})
        self.broken = False
        self.feed = Feed(
            self._look,
            self._estimates,
            {"version": "1.2", "node": "n1"},
            clock=lambda: self.now_s,
            **options,
        )

    async def _look(self) -> pb.GetStateReply:
        self.looks += 1
        if self.gone:
            raise ArbiterError("it is being restarted")
        use = pb.DeviceUse(uuid="GPU-a", used_ns=round(self.used_s * 1e9), charged_bytes=5)
        return pb.GetStateReply(
            devices=[pb.Device(uuid="GPU-a", index=3, kind=pb.DEVICE_KIND_SOFTWARE, name="tiny")],
            tenants=[
                pb.Tenant(
                    tenant_id=at,
                    name=name,
                    user="ann",
                    share_ppm=self.share_ppm,
                    window_s=1,
                    uses=[use],
                    clients=[pb.Client(pid=7, program="python")],
                )
                for at, name in enumerate(self.names, 1)
            ],
            uncovered=[pb.Uncovered(pid=9, name="evil", user="bob", device_uuid="GPU-a")],
            now_s=1_700_000_000 + self.now_s,
        )

    def _estimates(self) -> EstimatorSeen:
        if self.broken:
            raise ZeroDivisionError
        return self.seen

    async def tick(self, used_s: float = 0.25) -> None:
        self.now_s += 1
        self.used_s += used_s
        await self.feed.tick()


Asked = Callable[[World, Server, int], Awaitable[None]]


def served(what: Asked, door: Door = LOOPBACK, **options: Any) -> None:
    """Run `what` beside a site."""

    async def scenario() -> None:
        world = World(**options)
        server = Site(world.feed, door).server()
        async with server.listening("127.0.0.1", 0) as (_, port):
            await what(world, server, port)

    asyncio.run(asyncio.wait_for(scenario(), LONG_S))


async def ask(port: int, request: str, tls: ssl.SSLContext | None = None) -> tuple[int, str, bytes]:
    """Status, head and body of an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    try:
        writer.write(request.replace("\n", "\r\n").encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.transport.abort()
    return int(head.split(b" ")[1]), head.decode(), body


async def get(port: int, path: str, fields: str = HOST) -> tuple[int, str, bytes]:
    return await ask(port, f"GET {path} HTTP/1.1\n{fields}\n")


@contextlib.asynccontextmanager
async def stream(port: int, query: str = "", fields: str = HOST) -> AsyncIterator[Any]:
    """The stream's events, one by one: (name, data, id)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    writer.write(f"GET /api/v1/events{query} HTTP/1.1\n{fields}\n".replace("\n", "\r\n").encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"200 OK" in head, head
    assert b"text/event-stream" in head
    assert await reader.readuntil(b"\n\n") == b"retry: 2000\n\n"

    async def event() -> tuple[str, Any, str | None]:
        lines = (await reader.readuntil(b"\n\n")).decode().strip().split("\n")
        told = dict(line.split(": ", 1) for line in lines)
        return told["event"], json.loads(told["data"]), told.get("id")

    try:
        yield event
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/favicon.ico", *API[:2], "/none"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_every_answer_has_the_fields_that_keep_other_sites_out(path: str, method: str) -> None:
    async def what(_world: World, _server: Server, port: int) -> None:
        status, head, body = await ask(port, f"{method} {path} HTTP/1.1\n{HOST}\n")
        assert status == {"/none": 404, "/favicon.ico": 204}.get(path, 200)
        for name, value in FIELDS:
            assert f"\r\n{name}: {value}" in head
        assert "default-src 'self'" in head
        assert "Access-Control-" not in head
        assert "unsafe-" not in head
        assert (body == b"") == (method == "HEAD" or status == 204)

    served(what)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_can_be_changed(method: str) -> None:
    async def what(_world: World, _server: Server, port: int) -> None:
        for path in ("/", *API):
            status, head, _ = await ask(port, f"{method} {path} HTTP/1.1\n{HOST}\n")
            assert status == 405
            assert "Content-Security-Policy" in head

    served(what)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:9403", 200),
        ("127.0.0.1:9403", 200),
        ("127.9.9.9", 200),
        ("[::1]:9403", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("10.0.0.1", 421),
        ("0.0.0.0", 421),
        ("localhost, evil.example", 421),
        ("evil.example\nHost: localhost", 421),
        ("localhost@evil.example", 421),
        ("localhost:evil", 421),
        ("", 421),
    ],
)
def test_on_loopback_no_other_name_reads_it(host: str, status: int) -> None:
    """A name of somebody else's that stands for 127.0.0.1 is his page, in the user's browser."""

    async def what(_world: World, _server: Server, port: int) -> None:
        for path in ("/", *API[:2]):
            assert (await get(port, path, f"Host: {host}\n"))[0] == status
        if status != 200:
            found, _, body = await get(port, API[2], f"Host: {host}\n")
            assert found == status
            assert b"localhost" in body

    served(what)


def test_without_a_name_it_is_refused_as_well() -> None:
    async def what(_world: World, _server: Server, port: int) -> None:
        assert (await get(port, "/", ""))[0] == 421

    served(what)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (f"Authorization: Bearer {TOKEN}\n", 200),
        (f"authorization:bearer  {TOKEN} \n", 200),
        ("", 401),
        (f"Authorization: {TOKEN}\n", 401),
        (f"Authorization: Basic {TOKEN}\n", 401),
        (f"Authorization: Bearer {TOKEN}x\n", 401),
        (f"Authorization: Bearer {TOKEN[:-1]}\n", 401),
        ("Authorization: Bearer\n", 401),
        ("Authorization: Bearer \u00e9\n", 401),
        (f"Authorization: Bearer {TOKEN}\nAuthorization: Bearer {TOKEN}\n", 401),
        (f"X-Authorization: Bearer {TOKEN}\n", 401),
    ],
)
def test_where_there_is_a_token_the_api_is_for_who_has_it(words: str, status: int) -> None:
    async def what(world: World, _server: Server, port: int) -> None:
        await world.tick()
        for path in API[:2]:
            found, head, body = await get(port, path, f"Host: gpu1.example\n{words}")
            assert found == status
            assert (b"tiny" in body or b"samples" in body) == (status == 200)
            assert ("WWW-Authenticate: Bearer" in head) == (status == 401)
        assert (await get(port, "/api/v1/none", words))[0] == (404 if status == 200 else 401)
        assert (await get(port, f"{API[0]}?token={TOKEN}", ""))[0] == 401
        if status == 401:
            assert (await get(port, API[2], words))[0] == 401
        assert (await get(port, "/page.js", ""))[0] == 200

    served(what, GUARDED)


def test_over_tls_it_is_the_same(tmp_path: Path) -> None:
    folder = pool(tmp_path / "p") / "node-n1"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    door = Door("127.0.0.1", 0, loopback=False, token=TOKEN, tls=context)
    client = ssl.create_default_context(cafile=folder / "ca.crt")
    client.check_hostname = False

    async def what(world: World, _server: Server, port: int) -> None:
        await world.tick()
        fields = f"Host: gpu1\nAuthorization: Bearer {TOKEN}\n"
        status, _, body = await ask(port, f"GET {API[0]} HTTP/1.1\n{fields}\n", client)
        assert (status, json.loads(body)["node"]) == (200, "n1")
        plain = await asyncio.open_connection("127.0.0.1", port)
        plain[1].write(b"GET / HTTP/1.1\r\n\r\n")
        assert b"HTTP" not in await plain[0].read()
        plain[1].close()

    served(what, door)


def test_the_state_is_what_ps_tells_and_no_more() -> None:
    async def what(world: World, _server: Server, port: int) -> None:
        early = json.loads((await get(port, API[0]))[2])
        assert (early["arbiter_up"], early["devices"], early["sample"]) == (False, [], 0)
        await world.tick()
        world.share_ppm = 0
        (unasked,) = json.loads(world.feed.state())["tenants"]
        assert unasked["share_ratio"] == 0.3  # as it was at the last look
        await world.tick()
        (unasked,) = json.loads(world.feed.state())["tenants"]
        assert unasked["share_ratio"] is None
        world.share_ppm = 300_000
        await world.tick()
        state = json.loads((await get(port, API[0]))[2])
        assert set(state) == {
            *("version", "node", "epoch", "period_s", "arbiter_up", "sample", "now_s"),
            *("devices", "tenants", "uncovered", "estimates"),
        }
        (device,), (tenant,), (other,) = state["devices"], state["tenants"], state["uncovered"]
        assert (device["gpu"], device["kind"]) == (3, "software")
        assert (tenant["name"], tenant["user"], tenant["share_ratio"]) == ("train", "ann", 0.3)
        assert (tenant["limit_ratio"], tenant["mem_limit_bytes"]) == (None, None)
        assert tenant["processes"] == [{"pid": 7, "program": "python", "draining": False}]
        assert tenant["uses"][0]["gpu"] == 3
        assert (other["pid"], other["gpu"], other["tenant"]) == (9, 3, None)
        (target,) = state["estimates"]["targets"]
        assert (target["judged"], target["coverage_ratio"]) == (4, 0.75)

    served(what)


def test_samples_are_those_after_a_number() -> None:
    async def what(world: World, _server: Server, port: int) -> None:
        for _ in range(4):
            await world.tick()
        told = json.loads((await get(port, f"{API[1]}?since=2"))[2])
        assert [s["n"] for s in told["samples"]] == [3, 4]
        assert told["samples"][0]["points"] == [[1, 3, 0.25, 5, 0]]
        assert told["samples"][0]["used_bytes"] == {"3": 0}
        assert told["series"]["1"]["name"] == "train"
        assert told["spans"] == [[1, 3, 1_700_000_001, 1_700_000_004, 0.75]]
        assert len(json.loads((await get(port, API[1]))[2])["samples"]) == 4
        world.names.append("other")
        await world.tick()
        told = json.loads((await get(port, f"{API[1]}?since=5"))[2])
        assert (told["samples"], set(told["series"])) == ([], {"1", "2"})
        assert told["spans"] == [[1, 3, 1_700_000_001, 1_700_000_005, 1.0]]
        for wrong in ("x", "-1", "", "1.5", "9" * 16, "%31%00"):
            for path in API:
                status, _, body = await get(port, f"{path}?since={wrong}")
                assert (status, b"since=NUMBER" in body) == (400, True), (path, wrong)

    served(what)


def test_texts_are_those_of_the_samples_that_are_kept() -> None:
    async def what(world: World, _server: Server, port: int) -> None:
        for _ in range(5):
            await world.tick()
        told = json.loads((await get(port, API[1]))[2])
        assert [s["n"] for s in told["samples"]] == [3, 4, 5]
        assert sorted(world.feed._samples) == [3, 4, 5]
        assert world.feed.state() is world.feed.state()

    served(what, bounds=Bounds(samples=3))


def test_the_stream_tells_what_was_missed_and_then_each_second() -> None:
    async def what(world: World, _server: Server, port: int) -> None:
        for _ in range(3):
            await world.tick()
        async with stream(port, "?since=1") as event:
            name, state, _ = await event()
            assert (name, state["sample"]) == ("state", 3)
            for number in (2, 3):
                name, sample, told = await event()
                assert (name, sample["n"], told) == ("sample", number, str(number))
            await world.tick(0.5)
            assert (await event())[0] == "state"
            name, sample, _ = await event()
            assert (sample["n"], sample["points"]) == (4, [[1, 3, 0.5, 5, 0]])
            assert sample["spans"] == [[1, 3, 1_700_000_001, 1_700_000_004, 1.0]]
        async with stream(port, "", f"{HOST}Last-Event-ID: 3\n") as event:
            assert (await event())[0] == "state"
            assert (await event())[1]["n"] == 4
        assert world.looks == 4

    served(what)


def test_an_arbiter_that_does_not_answer_is_said_and_the_last_answer_shown() -> None:
    async def what(world: World, _server: Server, port: int) -> None:
        await world.tick()
        async with stream(port, "?since=1") as event:
            assert (await event())[1]["arbiter_up"] is True
            world.gone = True
            for _ in range(2):
                await world.tick()
                name, state, _ = await event()
                assert (name, state["arbiter_up"], state["sample"]) == ("state", False, 1)
                assert state["tenants"][0]["name"] == "train"
            world.gone = False
            await world.tick()
            assert (await event())[1]["arbiter_up"] is True
            assert (await event())[1]["span_s"] == 3
        assert [e["event"] for e in logs] == ["web_look_failed"]

    with capture_logs() as logs:
        served(what)


def test_an_odd_picture_does_not_end_the_looks() -> None:
    async def what(world: World, _server: Server, port: int) -> None:
        await world.tick()
        world.names = cast_names = [3]  # type: ignore[list-item]
        await world.tick()
        assert json.loads((await get(port, API[0]))[2])["arbiter_up"] is False
        cast_names[:] = ["train"]  # type: ignore[list-item]
        await world.tick()
        assert json.loads((await get(port, API[0]))[2])["arbiter_up"] is True

    with capture_logs():
        served(what)


def test_estimates_that_break_end_neither_the_looks_nor_the_stream() -> None:
    async def what(world: World, _server: Server, port: int) -> None:
        await world.tick()
        async with stream(port, "?since=1") as event:
            assert (await event())[0] == "state"
            world.broken = True
            for _ in range(2):
                await world.tick()
                assert (await get(port, API[2]))[0] == 500
            assert len(world.feed._readers) == 1  # who was not answered has no place
            world.broken = False
            await world.tick()
            assert (await event())[1]["sample"] == 4
            assert (await event())[1]["n"] == 4
        assert [s["n"] for s in json.loads((await get(port, API[1]))[2])["samples"]] == [1, 2, 3, 4]

    with capture_logs() as logs:
        served(what)
    assert [log["event"] for log in logs if log["log_level"] == "error"] == [
        "web_state_broken", "page_failed", "web_state_broken", "page_failed",
    ]  # fmt: skip


def test_a_sample_that_cannot_be_told_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(*_: object) -> Any:
        raise ZeroDivisionError

    async def what(world: World, _server: Server, port: int) -> None:
        await world.tick()
        with monkeypatch.context() as patch:
            patch.setattr("harp.web.feed.sample_json", odd)
            await world.tick()
            assert json.loads((await get(port, API[0]))[2])["arbiter_up"] is False
        await world.tick()
        assert [s["n"] for s in json.loads((await get(port, API[1]))[2])["samples"]] == [1, 2]

    with capture_logs():
        served(what)


def test_no_more_than_so_many_read_and_one_that_leaves_makes_room() -> None:
    async def what(world: World, _server: Server, port: int) -> None:
        async with stream(port), contextlib.AsyncExitStack() as others:
            await others.enter_async_context(stream(port))
            status, head, _ = await get(port, API[2])
            assert (status, "Retry-After: 10" in head) == (503, True)
            assert (await get(port, API[0]))[0] == 200
            await others.aclose()
            while len(world.feed._readers) == 2:  # it is noticed when it is told something
                await world.tick()
                await asyncio.sleep(0.001)
            async with stream(port) as event:
                assert (await event())[0] == "state"

    served(what, readers=2)


def test_a_head_of_the_stream_takes_no_reader_s_place() -> None:
    async def what(world: World, _server: Server, port: int) -> None:
        for _ in range(3):
            status, head, body = await ask(port, f"HEAD {API[2]} HTTP/1.1\n{HOST}\n")
            assert (status, body) == (200, b"")
            assert "text/event-stream" in head
            assert "Content-Length" not in head
        assert not world.feed._readers

    served(what, readers=1)


def test_a_reader_that_does_not_read_is_dropped_and_holds_nobody_up() -> None:
    async def what(world: World, _server: Server, port: int) -> None:
        world.names = [f"tenant-{n}-{'x' * 200}" for n in range(200)]
        async with stream(port) as quick:
            await quick()
            slow = socket.create_connection(("127.0.0.1", port))
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while len(world.feed._readers) < 2:
                await world.tick()
                await quick()
                await quick()
            told = 0
            while len(world.feed._readers) == 2:
                await world.tick()
                assert (await quick())[0] == "state"  # who reads is told each
                assert (await quick())[0] == "sample"
                told += 1
            assert told < 100
            slow.close()
        assert [e["event"] for e in logs] == ["web_reader_dropped"]

    with capture_logs() as logs:
        served(what, backlog=4)


def test_the_end_of_the_server_ends_its_streams() -> None:
    async def scenario() -> None:
        world = World()
        server = Site(world.feed, LOOPBACK).server()
        async with server.listening("127.0.0.1", 0) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"retry: 2000\n\n")
            assert len(world.feed._readers) == 1
        assert (await reader.read()).startswith(b"event: state")
        assert not world.feed._readers
        writer.close()

    asyncio.run(asyncio.wait_for(scenario(), LONG_S))


def test_a_name_ends_no_event_and_is_no_markup() -> None:
    async def what(world: World, _server: Server, port: int) -> None:
        world.names = [NASTY]
        await world.tick()
        async with stream(port) as event:
            _, state, _ = await event()
            assert state["tenants"][0]["name"] == NASTY
        status, head, body = await get(port, API[0])
        assert (status, "application/json" in head) == (200, True)
        assert json.loads(body)["tenants"][0]["name"] == NASTY

    served(what)


def test_a_look_is_taken_each_period() -> None:
    async def scenario() -> None:
        world = World(period_s=0.01)
        assert world.feed.read(0)
        keeping = asyncio.create_task(world.feed.keep())
        while world.looks < 5:
            await asyncio.sleep(0.001)
            world.now_s += 0.01
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    asyncio.run(asyncio.wait_for(scenario(), LONG_S))


@pytest.mark.parametrize("how", ["read", "state", "samples"])
def test_while_nobody_reads_looks_are_few_and_who_comes_is_not_kept_waiting(how: str) -> None:
    async def scenario() -> None:
        world = World(period_s=0.01, idle_s=LONG_S)
        keeping = asyncio.create_task(world.feed.keep())
        await asyncio.sleep(0.2)
        assert world.looks == 1
        arguments = () if how == "state" else (0,)
        came = getattr(world.feed, how)(*arguments)
        while world.looks < 5:  # noqa: ASYNC110 - a count, no event
            await asyncio.sleep(0.001)
        if how == "read":
            came.close()
        else:
            world.now_s += LONG_S  # it has not asked again
        await asyncio.sleep(0.1)  # the look that was begun is done
        looks = world.looks
        await asyncio.sleep(0.2)
        assert world.looks == looks
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    asyncio.run(asyncio.wait_for(scenario(), LONG_S))


@pytest.mark.parametrize("asked", ["train", "", "a-b.c", "Ünï"])
def test_leases_of_other_hosts_are_known_by_their_name(asked: str) -> None:
    assert is_lease(tenant_name(asked, "0123456789abcdef"))
    assert not is_lease(asked)
    assert not is_lease("remote-control")


STATIC = Path(__file__).resolve().parents[2] / "harp" / "web" / "static"


def test_the_files_make_no_markup_of_texts_and_name_nothing_elsewhere() -> None:
    assert sorted(p.name for p in STATIC.iterdir()) == ["index.html", "page.css", "page.js"]
    for path in STATIC.iterdir():
        text = path.read_text()
        for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("):
            assert word not in text, (path, word)
        assert not re.findall(r"https?:|//[a-z]+\.|@import|url\(", text), path
    page = (STATIC / "index.html").read_text()
    # What the policy forbids would be an error in the browser: code and style within the page.
    assert re.findall(r"<script(?! src=\"page.js\" defer></script>)", page) == []
    assert re.findall(r"<style|\sstyle=|\son[a-z]+=", page) == []
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    script = (STATIC / "page.js").read_text()
    assert set(re.findall(r'\$\("([^"]+)"\)', script)) <= set(ids)
    for name in re.findall(r'(?:for|aria-labelledby)="([^"]+)"|href="#([^"]+)"', page):
        assert set(filter(None, name)) <= set(ids)
