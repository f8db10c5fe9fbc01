# SPDX-License-Identifier: Apache-2.0
"""A node's remote service on loopback, with workers that are only counted."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio

from harp.api.v1 import remote_pb2 as pb
from harp.api.v1 import remote_pb2_grpc
from harp.model import Device, DeviceKind
from harp.remote import authority
from harp.remote.certificate import Kind
from harp.remote.events import Lease, Session
from harp.remote.floor import CIPHERS
from harp.remote.room import Room
from harp.remote.service import Node, RemoteService
from harp.remote.sessions import Worker
from harp.remote.trust import Callers, Identity, channel, listen, load

# As a node's process has it; tests run in one where grpcio may have been imported before.
os.environ.setdefault(*CIPHERS)
GIB = 1 << 30
UTC = dt.UTC
TABLE = pb.TableId(format=1, cuda=13000, hash=bytes(range(32)), version="0.1.0")


def now() -> dt.datetime:
    return dt.datetime.now(UTC)


def device(index: int = 0, memory_bytes: int = 8 * GIB) -> Device:
    return Device(
        index=index,
        uuid=f"GPU-{index:08x}-0000-0000-0000-000000000000",
        name="HARP Software GPU",
        kind=DeviceKind.SOFTWARE,
        memory_bytes=memory_bytes,
        overhead_bytes=0,
        overhead_source="default",
        driver_version="1",
    )


class CountedSessions:
    """Workers that only say what was asked of them."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self.running: set[str] = set()
        self.start_error: Exception | None = None
        self.end_error: Exception | None = None
        self.started = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    async def start(self, lease: Lease, session: Session) -> Worker:
        self.said.append(("start", session.session_id))
        self.started.set()
        assert session.session_id in lease.sessions
        await self.go.wait()
        if self.start_error:
            raise self.start_error
        self.running.add(session.session_id)
        return Worker(endpoint="node:7", bulk_streams=4)

    async def end(self, session: Session, reason: str) -> int:
        self.said.append(("end", session.session_id))
        assert reason
        if self.end_error:
            raise self.end_error
        self.running.remove(session.session_id)
        return GIB

    async def tell(self, session: Session, drain_s: float) -> None:
        assert session.session_id in self.running
        self.said.append((f"tell {drain_s:g}", session.session_id))


@dataclass
class World:
    service: RemoteService
    sessions: CountedSessions
    room: Room
    server: grpc.aio.Server
    port: int
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stub(
        self,
        identity: Identity | None = None,
        authority_pem: bytes = b"",
        *,
        host: str = "127.0.0.1",
        insecure: bool = False,
    ) -> remote_pb2_grpc.RemoteAsyncStub:
        made = channel(f"{host}:{self.port}", identity, authority_pem, insecure=insecure)
        self.channels.append(made)
        return remote_pb2_grpc.RemoteStub(made)  # type: ignore[return-value]


@contextlib.asynccontextmanager
async def serving(
    identity: Identity | None = None,
    callers: Callers = Callers.CERTIFICATE,
    *,
    administrators: frozenset[str] = frozenset(),
    devices: tuple[Device, ...] = (),
    node_id: str = "n1",
    port: int = 0,
) -> AsyncIterator[World]:
    """A node that listens on loopback; plaintext without an identity."""
    room = Room(devices or (device(),), dict)
    sessions = CountedSessions()
    server = grpc.aio.server()
    port = listen(server, f"127.0.0.1:{port}", identity, callers, insecure=identity is None)
    endpoint = "n1:7443" if node_id == "n1" else f"127.0.0.1:{port}"
    node = Node(node_id, endpoint, TABLE, administrators, insecure=identity is None)
    service = RemoteService(node, room, sessions)
    remote_pb2_grpc.add_RemoteServicer_to_server(service, server)
    await server.start()
    ticking = asyncio.create_task(service.serve())
    await asyncio.sleep(0)
    world = World(service, sessions, room, server, port)
    try:
        yield world
    finally:
        for made in world.channels:
            await made.close()
        await server.stop(None)
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
    assert sessions.running == set()


def pool(base: Path, when: dt.datetime | None = None, days: int = 365) -> Path:
    """An authority with node n1 and clients ann, bob and root."""
    when = when or now()
    authority.init(base, when)
    hosts = ["localhost", "127.0.0.1"]
    authority.issue(base, Kind.NODE, "n1", hosts=hosts, now=when, days=days)
    for name in ("ann", "bob", "root"):
        authority.issue(base, Kind.CLIENT, name, hosts=[], now=when, days=days)
    return base


def client(base: Path, name: str = "ann", when: dt.datetime | None = None) -> Identity:
    return load(base / f"client-{name}", Kind.CLIENT, when or now())


def node(base: Path, name: str = "n1", when: dt.datetime | None = None) -> Identity:
    return load(base / f"node-{name}", Kind.NODE, when or now())
