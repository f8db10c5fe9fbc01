# SPDX-License-Identifier: Apache-2.0
"""The same: watching, waiting for room, draining, and a node's end."""

from __future__ import annotations

import asyncio
import contextlib

import grpc
import grpc.aio
import pytest
from remote_world import GIB, TABLE, World, on, refused, serving, until

from harp.api.v1 import remote_pb2 as pb
from harp.errors import (
    ConfigError,
    NodeDraining,
)
from harp.remote import service
from harp.remote.callers import LOOPBACK
from harp.remote.trust import explain


def test_watchers_hear_of_changes_and_that_the_node_is_there() -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        watch = stub.Watch(pb.WatchRequest())
        first = await watch.read()
        (itself,) = first.nodes
        assert (itself.node_id, itself.endpoint, itself.state) == (
            "n1",
            "n1:7443",
            pb.NODE_STATE_READY,
        )
        assert [(d.free_ppm, d.free_bytes) for d in itself.devices] == [(1_000_000, 8 * GIB)]
        again = await watch.read()  # nothing has changed: it is there all the same
        assert again == first
        lease = await stub.Lease(
            pb.LeaseRequest(share_ppm=300_000, mem_limit_bytes=GIB, ttl_s=60), timeout=10
        )
        seen = [await watch.read()]
        while seen[-1].nodes[0].devices[0].free_ppm == 1_000_000:
            seen.append(await watch.read())
        assert seen[-1].nodes[0].devices[0].free_ppm == 700_000
        assert seen[-1].nodes[0].devices[0].free_bytes == 7 * GIB
        assert seen[-1].version > first.version
        await stub.Attach(pb.AttachRequest(lease_id=lease.lease_id, table=TABLE), timeout=10)
        while seen[-1].nodes[0].sessions != 1:
            seen.append(await watch.read())
        await stub.Release(pb.ReleaseRequest(lease_id=lease.lease_id), timeout=10)
        while seen[-1].nodes[0].devices[0].free_ppm != 1_000_000:
            seen.append(await watch.read())
        versions = [reply.version for reply in seen]
        assert versions == sorted(versions)
        watch.cancel()

    on(ask)


def test_renewals_are_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "HEARTBEAT_S", 600.0)

    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        lease = await stub.Lease(pb.LeaseRequest(ttl_s=60), timeout=10)
        watch = stub.Watch(pb.WatchRequest())
        first = await watch.read()
        for _ in range(5):
            await stub.Renew(pb.RenewRequest(lease_id=lease.lease_id), timeout=10)
        await stub.Attach(pb.AttachRequest(lease_id=lease.lease_id, table=TABLE), timeout=10)
        second = await watch.read()
        assert (first.nodes[0].sessions, second.nodes[0].sessions) == (0, 1)
        watch.cancel()

    on(ask)


@pytest.mark.parametrize("sessions", [0, 1])
def test_watchers_hear_of_room_without_a_heartbeat(
    monkeypatch: pytest.MonkeyPatch, sessions: int
) -> None:
    monkeypatch.setattr(service, "HEARTBEAT_S", 600.0)

    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        watch = stub.Watch(pb.WatchRequest())
        lease = await stub.Lease(pb.LeaseRequest(share_ppm=300_000, ttl_s=60), timeout=10)
        for _ in range(sessions):
            await stub.Attach(pb.AttachRequest(lease_id=lease.lease_id, table=TABLE), timeout=10)
        seen = [await watch.read()]
        while seen[-1].nodes[0].devices[0].free_ppm != 700_000:
            seen.append(await watch.read())
        await stub.Release(pb.ReleaseRequest(lease_id=lease.lease_id), timeout=10)
        while seen[-1].nodes[0].devices[0].free_ppm != 1_000_000:
            seen.append(await watch.read())
        watch.cancel()
        # One version, one content.
        versions = [reply.version for reply in seen]
        assert versions == sorted(set(versions))

    on(ask)


def test_a_pool_that_is_not_there_is_no_silence() -> None:
    async def ask(world: World) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await world.stub(insecure=True).Watch(pb.WatchRequest(pool="p:1")).read()
        assert isinstance(explain(error.value, "n"), ConfigError)

    on(ask)


def test_draining_tells_refuses_and_ends() -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        lease = await stub.Lease(pb.LeaseRequest(ttl_s=60), timeout=10)
        attach = pb.AttachRequest(lease_id=lease.lease_id, table=TABLE)
        session = await stub.Attach(attach, timeout=10)
        reply = await stub.Drain(pb.DrainRequest(deadline_s=1), timeout=10)
        assert (reply.state, reply.leases, reply.sessions) == (pb.NODE_STATE_DRAINING, 1, 1)
        await until(lambda: ("tell 1", session.session_id) in world.sessions.said)
        for call in (stub.Lease(pb.LeaseRequest(), timeout=10), stub.Attach(attach, timeout=10)):
            error, code = await refused(call)
            assert isinstance(error, NodeDraining)
            assert code is grpc.StatusCode.UNAVAILABLE
        renewed = await stub.Renew(pb.RenewRequest(lease_id=lease.lease_id), timeout=10)
        assert renewed.state == pb.NODE_STATE_DRAINING
        assert (renewed.ttl_s, renewed.drain_s) == (1, 1)
        world.let_pass(1.01)
        await until(lambda: not world.sessions.running)
        reply = await stub.Drain(pb.DrainRequest(stop=True), timeout=10)
        assert (reply.state, reply.leases) == (pb.NODE_STATE_READY, 0)
        await stub.Lease(pb.LeaseRequest(ttl_s=60), timeout=10)

    on(ask, administrators=frozenset({LOOPBACK}))


def test_who_hangs_up_while_there_is_no_answer_yet_has_taken_nothing() -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        world.room.go.clear()
        call = stub.Lease(pb.LeaseRequest(ttl_s=60, share_ppm=900_000), timeout=10)
        await until(lambda: len(world.room.asked) == 1)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        # What was said before this on the same connection, the node has heard.
        await refused(stub.Renew(pb.RenewRequest(lease_id="none"), timeout=10))
        lease_id = world.room.asked[0].lease_id
        world.room.go.set()
        await until(lambda: lease_id in world.room.given_back)
        await stub.Lease(pb.LeaseRequest(ttl_s=60, share_ppm=900_000), timeout=10)

    on(ask)


def test_leases_that_wait_for_room_are_counted_and_few_look_for_it_at_a_time() -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        world.room.go.clear()
        request = pb.LeaseRequest(ttl_s=60)

        async def one() -> None:
            await stub.Lease(request, timeout=30)

        calls = [asyncio.create_task(one()) for _ in range(70)]
        await until(lambda: sum(call.done() for call in calls) == 6)
        assert len(world.room.asked) == 8
        error, code = await refused(stub.Lease(request, timeout=10))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "64 leases" in error.message
        world.room.go.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(it, grpc.aio.AioRpcError) for it in results) == 6
        (first, *_) = world.service._state.leases
        await stub.Release(pb.ReleaseRequest(lease_id=first), timeout=10)
        await stub.Lease(request, timeout=10)

    on(ask)


def test_who_watches_by_a_token_does_so_no_longer_than_its_lease() -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        lease = await stub.Lease(pb.LeaseRequest(ttl_s=60), timeout=10)
        bearer = (("authorization", f"Bearer {lease.token}"),)
        stream = stub.Watch(pb.WatchRequest(), timeout=30, metadata=bearer)
        replies = aiter(stream)
        await anext(replies)
        await stub.Release(pb.ReleaseRequest(lease_id=lease.lease_id), timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            async for _ in replies:
                pass
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED

    on(ask)


def test_a_lease_that_comes_after_the_drain_is_given_back() -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        world.room.go.clear()
        call = asyncio.create_task(refused(stub.Lease(pb.LeaseRequest(), timeout=10)))
        await until(lambda: len(world.room.asked) == 1)
        await stub.Drain(pb.DrainRequest(), timeout=10)
        world.room.go.set()
        assert isinstance((await call)[0], NodeDraining)
        assert world.room.given_back == [world.room.asked[0].lease_id]
        # From then on nobody is asked for room that nobody may have.
        error, _ = await refused(stub.Lease(pb.LeaseRequest(), timeout=10))
        assert isinstance(error, NodeDraining)
        assert len(world.room.asked) == 1

    on(ask, administrators=frozenset({LOOPBACK}))


def test_a_node_that_stops_ends_its_workers() -> None:
    async def main() -> None:
        async with serving() as world:
            stub = world.stub(insecure=True)
            lease = await stub.Lease(pb.LeaseRequest(ttl_s=60), timeout=10)
            for _ in range(3):
                await stub.Attach(
                    pb.AttachRequest(lease_id=lease.lease_id, table=TABLE), timeout=10
                )
            assert len(world.sessions.running) == 3
        assert [what for what, _ in world.sessions.said] == ["start"] * 3 + ["end"] * 3

    asyncio.run(main())
