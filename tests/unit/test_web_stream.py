# SPDX-License-Identifier: Apache-2.0
"""What the page's stream and looks tell, and what they cost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any

import pytest
from structlog.testing import capture_logs
from web_site_world import (
    API,
    HOST,
    LONG_S,
    LOOPBACK,
    NASTY,
    World,
    ask,
    get,
    served,
    stream,
)

from harp.metrics.server import Server
from harp.web import Site
from harp.web.samples import Bounds


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
