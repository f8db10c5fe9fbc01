# SPDX-License-Identifier: Apache-2.0
"""A node's remote service on loopback, with workers that are only counted."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
import pytest

from harp import grants
from harp.api.v1 import remote_pb2 as pb
from harp.api.v1 import remote_pb2_grpc
from harp.errors import HarpError
from harp.grants import Promise
from harp.model import Device, DeviceKind, Limits
from harp.remote import authority
from harp.remote.certificate import Kind
from harp.remote.events import Lease, Session
from harp.remote.floor import CIPHERS
from harp.remote.leases import digest
from harp.remote.room import Place, Taken, Wish
from harp.remote.service import Node, RemoteService
from harp.remote.sessions import Worker
from harp.remote.trust import Callers, Identity, channel, explain, listen, load

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

    async def start(self, lease: Lease, session: Session, token: str) -> Worker:
        assert digest(token) == session.token_hash
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

    async def held(self) -> dict[str, int]:
        return dict.fromkeys(self.running, GIB)


class Clock:
    """Stands still: a machine that is held up ends no lease."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class OwnRoom:
    """Promises that nobody else has a part in; admission is that of a node's own tenants."""

    def __init__(self, devices: tuple[Device, ...]) -> None:
        self.devices = devices
        self._held: dict[str, tuple[tuple[Device, ...], Limits]] = {}
        self.go = asyncio.Event()
        self.go.set()
        self.asked: list[Wish] = []
        self.given_back: list[str] = []

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple(map(self._place, self.devices))

    def _place(self, device: Device) -> Place:
        on = self.promises(device.uuid)
        return Place(
            uuid=device.uuid,
            name=device.name,
            software=True,
            memory_bytes=device.memory_bytes,
            free_bytes=grants.memory_left(device, on, 1.0),
            free_ppm=1_000_000 - grants.promised_ppm(on),
        )

    async def take(self, wish: Wish) -> Taken:
        self.asked.append(wish)
        await self.go.wait()
        promise = Promise(wish.limits)
        held = {d.uuid: self.promises(d.uuid) for d in self.devices}
        if wish.gpu:
            chosen = grants.select(self.devices, wish.gpu)
            for one in chosen:
                grants.admit(one, held[one.uuid], promise, 1.0)
        else:
            chosen = (grants.choose(self.devices, held, promise, 1.0),)
        self._held[wish.lease_id] = (chosen, wish.limits)
        found = self.taken(wish.lease_id)
        assert found
        return found

    async def give_back(self, lease_id: str) -> None:
        self._held.pop(lease_id, None)
        self.given_back.append(lease_id)

    def taken(self, lease_id: str) -> Taken | None:
        if lease_id not in self._held:
            return None
        devices, limits = self._held[lease_id]
        return Taken(f"t-{lease_id}", tuple(map(self._place, devices)), limits)

    def promises(self, uuid: str) -> tuple[Promise, ...]:
        return tuple(
            Promise(limits)
            for devices, limits in self._held.values()
            if any(d.uuid == uuid for d in devices)
        )


@dataclass
class World:
    service: RemoteService
    sessions: CountedSessions
    room: OwnRoom
    server: grpc.aio.Server
    port: int
    clock: Clock
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def let_pass(self, s: float) -> None:
        """Let the node's clock go on; it sees what is over."""
        self.clock.now_s += s
        self.service._moved.set()

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
    now: Callable[[], Identity] | None = None,
) -> AsyncIterator[World]:
    """A node that listens on loopback; plaintext without an identity."""
    room = OwnRoom(devices or (device(),))
    sessions = CountedSessions()
    server = grpc.aio.server()
    insecure = identity is None
    port = listen(server, f"127.0.0.1:{port}", identity, callers, now=now, insecure=insecure)
    endpoint = "n1:7443" if node_id == "n1" else f"127.0.0.1:{port}"
    node = Node(node_id, endpoint, TABLE, administrators, insecure=identity is None)
    clock = Clock()
    service = RemoteService(node, room, sessions, clock)
    remote_pb2_grpc.add_RemoteServicer_to_server(service, server)
    await server.start()
    ticking = asyncio.create_task(service.serve())
    await asyncio.sleep(0)
    world = World(service, sessions, room, server, port, clock)
    try:
        yield world
    finally:
        for made in world.channels:
            await made.close()
        await server.stop(None)
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
    assert sessions.running == set()
    if not sessions.end_error:
        assert not any(room.promises(d.uuid) for d in room.devices)


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


def on(ask: Callable[[World], Awaitable[None]], **more: object) -> None:
    """Run a conversation with a node in plaintext."""

    async def main() -> None:
        async with serving(**more) as world:  # type: ignore[arg-type]
            await asyncio.wait_for(ask(world), 60)

    asyncio.run(main())


async def refused(call: Awaitable[object]) -> tuple[HarpError, grpc.StatusCode]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return explain(error.value, "n1:7443"), error.value.code()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.01)
