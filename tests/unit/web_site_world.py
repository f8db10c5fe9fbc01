# SPDX-License-Identifier: Apache-2.0
"""A site of the page without a harpd behind it, and who asks it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from harp.api.v1 import control_pb2 as pb
from harp.errors import ArbiterError
from harp.estimator.track import Sums
from harp.metrics import EstimatorSeen
from harp.metrics.server import Server
from harp.web import Door, Feed, Site

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
