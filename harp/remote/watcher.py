# SPDX-License-Identifier: Apache-2.0
"""What feeds a Pool: Watch on each listed node, and how far away the nodes are.

The round trip is that of a TCP connect (one exchange, no HARP in it): it orders nodes by distance,
whatever their load. A node that ends its stream, or falls silent, is called again; meanwhile its
age in the Pool keeps clients away from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import cast

import grpc
import grpc.aio

from harp.api.v1 import remote_pb2 as pb
from harp.api.v1 import remote_pb2_grpc
from harp.errors import ConfigError, HarpError, NodeUnreachable
from harp.remote.events import NodeState
from harp.remote.pool import LOST_S, Ask, Choice, NodeView, Pool, Slot
from harp.remote.trust import address, explain

__all__ = ["Watcher", "views"]

#: a node that lists more than this is not believed
_NODES_MAX = 4096
_DEVICES_MAX = 64
_RETRY_S = 0.2
_RETRY_MAX_S = 2.0
_MEASURE_S = 5.0
_CONNECT_S = 1.0
_CONNECTS = 3


class Watcher:
    """Keeps a Pool up to date while run() runs.

    Args:
        pool: written by this alone.
        endpoints: host:port of nodes or of a pool, at least one.
        connect: makes a channel to one.
        rng: for the pauses between attempts.
    """

    def __init__(
        self,
        pool: Pool,
        endpoints: Sequence[str],
        connect: Callable[[str], grpc.aio.Channel],
        rng: random.Random,
    ) -> None:
        self._pool = pool
        self._endpoints = tuple(dict.fromkeys(endpoints))
        self._connect = connect
        self._rng = rng
        #: {endpoint: why it says nothing}
        self._silent: dict[str, HarpError] = {}
        #: {endpoint: ids of the nodes that it named last}
        self._listed: dict[str, set[str]] = {}
        self._news = asyncio.Event()
        self._strangers = asyncio.Event()  #: a node has come whose distance is not known
        #: endpoints of nodes whose distance was measured, or could not be
        self._tried: set[str] = set()

    async def run(self) -> None:
        """Follow all of them until cancelled."""
        async with asyncio.TaskGroup() as group:
            for endpoint in self._endpoints:
                group.create_task(self._follow(endpoint))
            group.create_task(self._measure())

    async def choose(
        self,
        ask: Ask,
        rng: random.Random,
        without: AbstractSet[str] = frozenset(),
        timeout_s: float = 5.0,
    ) -> Choice:
        """The node to ask; waits for one that can be.

        Raises:
            NodeUnreachable: there was none in time; says why, node by node.
        """
        end_s = time.monotonic() + timeout_s
        while True:
            news = self._news
            try:
                return self._pool.choose(ask, time.monotonic(), rng, without)
            except NodeUnreachable as error:
                left_s = end_s - time.monotonic()
                if left_s <= 0:
                    raise self._why(error) from error
            with contextlib.suppress(TimeoutError):
                # Time alone can change the answer, too: one that refused is asked again.
                async with asyncio.timeout(min(left_s, LOST_S / 4)):
                    await news.wait()

    async def settle(self, timeout_s: float) -> None:
        """Wait until all of them have said something and are measured, or until the time is over.

        Who chooses earlier chooses the first one that answers.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._settled():
                    await self._news.wait()

    def _settled(self) -> bool:
        known = set(self._pool.endpoints().values())
        return known <= self._tried and set(self._endpoints) <= {*self._listed, *self._silent}

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _why(self, error: NodeUnreachable) -> NodeUnreachable:
        if not self._silent:
            return error
        parts = [error.message, *(e.message for e in self._silent.values())]
        return NodeUnreachable("; ".join(parts), next(iter(self._silent.values())).hint)

    async def _follow(self, endpoint: str) -> None:
        pause_s = _RETRY_S
        while True:
            async with self._connect(endpoint) as made:
                try:
                    async for reply in _replies(made):
                        self._heard(endpoint, reply)
                        self._silent.pop(endpoint, None)
                        pause_s = _RETRY_S
                    problem: HarpError = NodeUnreachable(f"{endpoint} ended its stream")
                except TimeoutError:
                    problem = NodeUnreachable(f"{endpoint} has said nothing for {LOST_S:g} s")
                except grpc.RpcError as error:
                    problem = explain(error, endpoint)
            self._silent[endpoint] = problem
            self._tell()
            await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, _RETRY_MAX_S)

    def _heard(self, endpoint: str, reply: pb.WatchReply) -> None:
        known = self._pool.endpoints()
        found = views(reply)
        listed = {v.node_id for v in found}
        for node_id in self._listed.get(endpoint, frozenset()) - listed:
            self._pool.forget(node_id)
        self._listed[endpoint] = listed
        self._pool.heard(found, time.monotonic())
        if any(known.get(v.node_id) != v.endpoint for v in found):
            self._strangers.set()
        self._tell()

    async def _measure(self) -> None:
        while True:
            self._strangers.clear()
            nodes = self._pool.endpoints()
            rtts_s = await asyncio.gather(*map(_connect_s, nodes.values()))
            for node_id, rtt_s in zip(nodes, rtts_s, strict=True):
                if rtt_s is not None:
                    self._pool.measured(node_id, rtt_s)
            self._tried = set(nodes.values())
            self._tell()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_MEASURE_S):
                    await self._strangers.wait()


def views(reply: pb.WatchReply) -> list[NodeView]:
    """A message's nodes; those whose state is not known are left out."""
    return [
        NodeView(
            node.node_id,
            node.endpoint,
            NodeState(node.state),
            tuple(_slots(node.devices[:_DEVICES_MAX])),
            node.table.hash,
            max(0.0, node.heard_s),
        )
        for node in reply.nodes[:_NODES_MAX]
        if node.state in (pb.NODE_STATE_READY, pb.NODE_STATE_DRAINING, pb.NODE_STATE_LOST)
    ]


def _slots(devices: Iterable[pb.NodeDevice]) -> Iterable[Slot]:
    # A node of an older version does not say its capacity: it is as fast as the slowest.
    return (Slot(d.free_bytes, d.free_ppm, d.capacity or 1.0) for d in devices)


async def _replies(made: grpc.aio.Channel) -> AsyncIterator[pb.WatchReply]:
    """What a node says; TimeoutError when it falls silent."""
    # What the stub is depends on the channel; its type does not know that.
    stub = cast("remote_pb2_grpc.RemoteAsyncStub", remote_pb2_grpc.RemoteStub(made))
    call = stub.Watch(pb.WatchRequest())
    try:
        while True:
            async with asyncio.timeout(LOST_S):
                reply = await call.read()
            if not isinstance(reply, pb.WatchReply):  # grpc.aio.EOF
                return
            yield reply
    finally:
        call.cancel()


async def _connect_s(endpoint: str) -> float | None:
    """How long a TCP connect takes, the best of a few; None if there is none."""
    try:
        host, port = address(endpoint)
    except ConfigError:
        return None
    best = None
    for _ in range(_CONNECTS):
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError):
            return best
        took_s = time.monotonic() - began_s
        best = took_s if best is None else min(best, took_s)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return best
