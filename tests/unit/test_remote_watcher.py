# SPDX-License-Identifier: Apache-2.0
"""A pool that is fed by real nodes on loopback: found, chosen, left when they drain or die."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest
from remote_world import GIB, TABLE, World, client, node, pool, serving

from harp.api.v1 import remote_pb2 as pb
from harp.errors import NodeUnreachable
from harp.remote.callers import LOOPBACK
from harp.remote.events import NodeState
from harp.remote.pool import Ask, NodeView, Pool, Slot
from harp.remote.trust import channel
from harp.remote.watcher import Watcher, views

Connect = Callable[[str], grpc.aio.Channel]


def plain(endpoint: str) -> grpc.aio.Channel:
    return channel(endpoint, insecure=True)


@contextlib.asynccontextmanager
async def watching(
    endpoints: list[str], connect: Connect = plain
) -> AsyncIterator[tuple[Watcher, Pool]]:
    known = Pool()
    watcher = Watcher(known, endpoints, connect, random.Random(1))
    task = asyncio.create_task(watcher.run())
    try:
        yield watcher, known
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def on(ask: Callable[[World, World], Awaitable[None]]) -> None:
    async def main() -> None:
        admin = frozenset({LOOPBACK})
        async with (
            serving(administrators=admin, node_id="a") as a,
            serving(administrators=admin, node_id="b") as b,
        ):
            await asyncio.wait_for(ask(a, b), 60)

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.01)


@pytest.fixture
def as_near(monkeypatch: pytest.MonkeyPatch) -> None:
    """All nodes are as far away: one that a busy machine let wait would hardly be chosen."""

    async def connect_s(_endpoint: str) -> float:
        return 0.001

    monkeypatch.setattr("harp.remote.watcher._connect_s", connect_s)


@pytest.mark.usefixtures("as_near")
def test_a_node_that_drains_is_left_for_another() -> None:
    async def ask(a: World, b: World) -> None:
        ends = {"a": a.endpoint, "b": b.endpoint}
        async with watching(list(ends.values())) as (watcher, known):
            await until(lambda: set(known.endpoints()) == {"a", "b"})
            assert known.endpoints() == ends
            rng = random.Random(1)
            chosen = {(await watcher.choose(Ask(), rng)).node.node_id for _ in range(40)}
            assert chosen == {"a", "b"}
            await a.stub(insecure=True).Drain(pb.DrainRequest(), timeout=10)
            await until(lambda: known.moves("a", 0.0))
            chosen = {(await watcher.choose(Ask(), rng)).node.node_id for _ in range(40)}
            assert chosen == {"b"}
            await b.stub(insecure=True).Drain(pb.DrainRequest(), timeout=10)
            await until(lambda: known.moves("b", 0.0))
            with pytest.raises(NodeUnreachable, match="a: draining; b: draining"):
                await watcher.choose(Ask(), rng, timeout_s=0.1)
            waiting = asyncio.create_task(watcher.choose(Ask(), rng, timeout_s=30))
            await a.stub(insecure=True).Drain(pb.DrainRequest(stop=True), timeout=10)
            assert (await waiting).node.node_id == "a"

    on(ask)


def test_what_others_took_is_heard_of() -> None:
    async def ask(a: World, b: World) -> None:
        async with watching([a.endpoint, b.endpoint]) as (watcher, known):
            await until(lambda: set(known.endpoints()) == {"a", "b"})
            await a.stub(insecure=True).Lease(
                pb.LeaseRequest(share_ppm=900_000, ttl_s=60), timeout=10
            )
            await until(lambda: "a" not in known.weights(Ask(share_ppm=200_000), time.monotonic()))
            choice = await watcher.choose(Ask(share_ppm=200_000), random.Random(1))
            assert choice.node.node_id == "b"
            assert choice.node.table_hash == TABLE.hash
            assert choice.node.slots == (Slot(8 * GIB, 1_000_000, 1.0),)

    on(ask)


def test_news_wake_who_waits() -> None:
    async def main() -> None:
        watcher = Watcher(Pool(), ["p:1"], plain, random.Random(1))
        waiting = asyncio.create_task(watcher.choose(Ask(), random.Random(1), timeout_s=600))
        await asyncio.sleep(0)
        itself = pb.Node(node_id="a", state=pb.NODE_STATE_READY, devices=[pb.NodeDevice()])
        watcher._heard("p:1", pb.WatchReply(nodes=[itself]))
        for _ in range(5):  # turns of the loop: no time goes by
            await asyncio.sleep(0)
        assert waiting.done()
        assert (await waiting).node.node_id == "a"

    asyncio.run(main())


def test_distances_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    # At once, not with the next round: a newcomer's distance is not guessed for long.
    monkeypatch.setattr("harp.remote.watcher._MEASURE_S", 600.0)

    async def ask(a: World, b: World) -> None:
        async with watching([a.endpoint, b.endpoint]) as (_, known):
            await until(
                lambda: (
                    all(k.rtt_s is not None for k in known._nodes.values())
                    and len(known._nodes) == 2
                )
            )
            assert all(0 < known.rtt_s(n) < 1 for n in ("a", "b"))

    on(ask)


@pytest.mark.slow
def test_a_node_that_is_gone_is_left_and_found_again() -> None:
    async def main() -> None:
        async with serving(node_id="a") as a:
            port = a.port
            async with watching([a.endpoint]) as (watcher, known):
                await watcher.choose(Ask(), random.Random(1))
                await a.server.stop(None)
                await until(lambda: not known.weights(Ask(), time.monotonic()))
                await until(lambda: "nobody listens" in str(watcher._silent.get(a.endpoint)))
                with pytest.raises(NodeUnreachable, match="not heard of for") as gone:
                    await watcher.choose(Ask(), random.Random(1), timeout_s=0.1)
                assert (
                    f"127.0.0.1:{port} cannot be used: nobody listens there" in gone.value.message
                )
                async with serving(node_id="a", port=port):
                    await watcher.choose(Ask(), random.Random(1), timeout_s=30)

    asyncio.run(main())


@pytest.mark.usefixtures("as_near")
def test_who_settles_does_not_choose_the_first_one_that_answers() -> None:
    async def ask(a: World, b: World) -> None:
        async with watching([a.endpoint, b.endpoint, "127.0.0.1:1"]) as (watcher, known):
            began_s = time.monotonic()
            await watcher.settle(60)
            assert time.monotonic() - began_s < 30, "who refuses has said something, too"
            assert set(known.endpoints()) == {"a", "b"}
            rng = random.Random(1)
            chosen = {(await watcher.choose(Ask(), rng)).node.node_id for _ in range(40)}
            assert chosen == {"a", "b"}

    on(ask)


@pytest.mark.slow
def test_a_node_that_is_silent_says_nothing_for_ever() -> None:
    async def main() -> None:
        held: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
        endpoint = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, watching([endpoint]) as (watcher, _):
            await until(lambda: endpoint in watcher._silent)
            with pytest.raises(NodeUnreachable, match="has said nothing for 2 s"):
                await watcher.choose(Ask(), random.Random(1), timeout_s=0.1)
        for writer in held:
            writer.close()

    asyncio.run(main())


@pytest.mark.slow
def test_nobody_there_says_who_and_why(tmp_path: Path) -> None:
    base, other = pool(tmp_path / "p"), pool(tmp_path / "q")

    async def main() -> None:
        async with serving(node(base)) as world:
            async with watching(
                [world.endpoint], lambda endpoint: channel(endpoint, client(other))
            ) as (watcher, _):
                await until(lambda: world.endpoint in watcher._silent)
                with pytest.raises(NodeUnreachable, match="another authority") as refused:
                    await watcher.choose(Ask(), random.Random(1), timeout_s=0.1)
                assert "own pool made" in refused.value.hint
            async with watching(
                [world.endpoint], lambda endpoint: channel(endpoint, client(base))
            ) as (watcher, _):
                assert (await watcher.choose(Ask(), random.Random(1), timeout_s=30)).node

    asyncio.run(main())


def test_a_pool_that_no_longer_names_a_node_has_lost_it() -> None:
    known = Pool()

    async def main() -> None:
        watcher = Watcher(known, ["p:1"], plain, random.Random(1))
        nodes = [
            pb.Node(node_id=n, endpoint=f"{n}:1", state=pb.NODE_STATE_READY) for n in ("a", "b")
        ]
        watcher._heard("p:1", pb.WatchReply(nodes=nodes))
        assert set(known.endpoints()) == {"a", "b"}
        watcher._heard("q:1", pb.WatchReply(nodes=nodes[1:]))
        watcher._heard("p:1", pb.WatchReply(nodes=nodes[1:]))
        assert set(known.endpoints()) == {"b"}

    asyncio.run(main())


def test_messages_become_views() -> None:
    device = pb.NodeDevice(free_bytes=5, free_ppm=7, capacity=2.5)
    reply = pb.WatchReply(
        nodes=[
            pb.Node(
                node_id="a",
                endpoint="a:1",
                state=pb.NODE_STATE_LOST,
                devices=[device, pb.NodeDevice()],
                heard_s=3.5,
                table=TABLE,
            ),
            pb.Node(node_id="b", heard_s=-1, state=pb.NODE_STATE_READY),
            pb.Node(node_id="c", state=9),  # type: ignore[arg-type]
            pb.Node(node_id="d"),
        ]
    )
    slots = (Slot(5, 7, 2.5), Slot(0, 0, 1.0))
    assert views(reply) == [
        NodeView("a", "a:1", NodeState.LOST, slots, TABLE.hash, 3.5),
        NodeView("b", "", NodeState.READY, (), b"", 0.0),
    ]
    crowd = pb.WatchReply(
        nodes=[pb.Node(node_id=str(i), state=pb.NODE_STATE_READY) for i in range(5000)]
    )
    assert len(views(crowd)) == 4096
