# SPDX-License-Identifier: Apache-2.0
"""Finding a lease: of the best of several nodes, of one, or the one that a token stands for."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TypeVar, cast

import grpc
import grpc.aio

from harp.api.v1 import remote_pb2 as pb
from harp.api.v1 import remote_pb2_grpc
from harp.errors import (
    DaemonUnreachable,
    HarpError,
    NodeDraining,
    NodeUnreachable,
    QuotaExceeded,
    TableMismatch,
)
from harp.remote.hold import Hold, held
from harp.remote.pool import Ask, Pool
from harp.remote.table import own_table
from harp.remote.trust import bearer, explain
from harp.remote.watcher import Watcher

__all__ = ["Held", "Taker", "Taking", "give_back", "said"]

_Reply = TypeVar("_Reply")

#: what all listed nodes get to say something before one is chosen
_SETTLE_S = 2.0
#: how long a node is looked for, of which one can be asked
_CHOOSE_S = 3.0
#: a stall of this host or of the network for some seconds shall cost nobody his work; and who dies
#: gives memory back at once, since his connections end
_TTL_S = 10.0
_LEASE_S = 10.0
#: what giving back may take when the command has ended
_GIVE_BACK_S = 2.0
#: what one node says does not hold for the next
_NEXT = (QuotaExceeded, NodeDraining, NodeUnreachable, DaemonUnreachable, TableMismatch)


@dataclass(frozen=True, slots=True)
class Taking:
    """A lease that was taken."""

    node_id: str
    endpoint: str  #: host:port, for all that follows
    lease: pb.LeaseReply


@dataclass(slots=True)
class Held:
    """The present lease, and how its node is reached."""

    taking: Taking
    hold: Hold
    channel: grpc.aio.Channel
    stub: remote_pb2_grpc.RemoteAsyncStub
    metadata: tuple[tuple[str, str], ...] = ()  #: of all calls
    given: bool = False  #: it is somebody else's
    #: {session_id: token, endpoint} on its way to be offered; the holder's
    made: dict[str, tuple[str, str]] = field(default_factory=dict)
    attaching: asyncio.Task[None] | None = None  #: a session on its way, the holder's too

    async def detach(self, session_id: str) -> None:
        """End a session; what the node does not hear of ends with the lease."""
        request = pb.DetachRequest(session_id=session_id)
        with contextlib.suppress(grpc.RpcError):
            await self.stub.Detach(request, timeout=_GIVE_BACK_S, metadata=self.metadata)


class Taker:
    """Asks nodes for a lease.

    Args:
        want: what is asked.
        nodes: host:port of nodes or of a pool, at least one.
        connect: makes a channel to one.
        token: of a lease that somebody else has taken; "": none.
        addresses: of nodes whose names stand for several each; None: a name is one node.
    """

    def __init__(
        self,
        want: pb.LeaseRequest,
        nodes: Sequence[str],
        connect: Callable[[str], grpc.aio.Channel],
        token: str = "",
        *,
        addresses: Callable[[Sequence[str]], Awaitable[Sequence[str]]] | None = None,
    ) -> None:
        self._want = pb.LeaseRequest()
        self._want.CopyFrom(want)
        self._want.ttl_s = want.ttl_s or _TTL_S
        self._nodes = nodes
        self._connect = connect
        self._token = token
        self._addresses = addresses
        self._table = own_table()
        self._rng = random.Random()  # noqa: S311 - draws nodes and pauses, no secrets

    @property
    def given(self) -> bool:
        """Whether it is one lease that is used, and no other can be taken."""
        return bool(self._token)

    async def check(self) -> None:
        """Refuse addresses that may not be used, before anything is asked.

        Raises:
            ConfigError: one of them.
        """
        for node in self._nodes:
            await self._connect(node).close()

    async def reconnected(
        self, held: Held
    ) -> tuple[grpc.aio.Channel, remote_pb2_grpc.RemoteAsyncStub]:
        """Another connection to a lease's node, as who we are by now; the lease is ours there, too.

        Raises:
            HarpError: what the node said, or why it could not be reached.
        """
        endpoint = held.taking.endpoint
        channel = self._connect(endpoint)
        try:
            stub = _stub(channel)
            request = pb.RenewRequest(lease_id=held.taking.lease.lease_id)
            await said(stub.Renew(request, timeout=_LEASE_S), endpoint)
        except BaseException:
            await channel.close()
            raise
        return channel, stub

    async def find(self, at: str = "", without: AbstractSet[str] = frozenset()) -> Held:
        """A lease.

        Args:
            at: of this node; "": of the best, or of the next one where that refuses.
            without: nodes that are not asked.

        Raises:
            NodeUnreachable: no node; why, node by node.
            HarpError: what one node said, where only that one was asked.
        """
        if self._token:
            return await self._given(at or self._nodes[0])
        return await (self._ask(at, at) if at else self._best(without))

    async def _given(self, endpoint: str) -> Held:
        """The lease that our token stands for."""
        channel, metadata = self._connect(endpoint), bearer(self._token)
        try:
            stub = _stub(channel)
            leases = stub.Leases(pb.LeasesRequest(), timeout=_LEASE_S, metadata=metadata)
            known = (await said(leases, endpoint)).leases
            asked_s, lease_id = time.monotonic(), self._token.partition(".")[0]
            request = pb.RenewRequest(lease_id=lease_id)
            renewal = stub.Renew(request, timeout=_LEASE_S, metadata=metadata)
            ttl_s = (await said(renewal, endpoint)).ttl_s
        except BaseException:
            await channel.close()
            raise
        devices = [d for lease in known if lease.lease_id == lease_id for d in lease.devices]
        lease = pb.LeaseReply(lease_id=lease_id, ttl_s=ttl_s, endpoint=endpoint, devices=devices)
        hold = held(ttl_s, asked_s, time.monotonic())
        taking = Taking(endpoint, endpoint, lease)
        return Held(taking, hold, channel, stub, metadata, given=True)

    async def _best(self, without: AbstractSet[str]) -> Held:
        """Nodes are watched while one is looked for, and no longer: there may be many of us."""
        pool, nodes = Pool(), self._nodes
        if self._addresses is not None:
            nodes = await self._addresses(nodes)
        watcher = Watcher(pool, nodes, self._connect, self._rng)
        watching = asyncio.create_task(watcher.run())
        try:
            return await self._best_of(pool, watcher, without)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _best_of(self, pool: Pool, watcher: Watcher, without: AbstractSet[str]) -> Held:
        ask = Ask(
            self._want.share_ppm,
            self._want.mem_limit_bytes,
            max(1, len(list(filter(None, self._want.gpu.split(","))))),
            self._table.hash,
        )
        await watcher.settle(_SETTLE_S)
        refusals: dict[str, HarpError] = {}
        while True:
            tried = without | refusals.keys()
            wait_s = 0.0 if refusals else _CHOOSE_S
            try:
                node = (await watcher.choose(ask, self._rng, tried, wait_s)).node
            except NodeUnreachable:
                if not refusals:
                    raise
                raise _none(refusals) from None
            try:
                return await self._ask(node.node_id, node.endpoint)
            except _NEXT as error:
                refusals[node.node_id] = error
                pool.refused(node.node_id, time.monotonic())

    async def _ask(self, node_id: str, endpoint: str) -> Held:
        """A lease of this node.

        Raises:
            TableMismatch: it describes CUDA calls differently.
            HarpError: what it said, or why it could not be reached.
        """
        channel = self._connect(endpoint)
        try:
            stub = _stub(channel)
            asked_s = time.monotonic()
            reply = await said(stub.Lease(self._want, timeout=_LEASE_S), endpoint)
            if reply.endpoint and reply.endpoint != endpoint:
                other = self._connect(reply.endpoint)
                await channel.close()
                channel, stub, endpoint = other, _stub(other), reply.endpoint
        except BaseException:
            await channel.close()
            raise
        hold = held(reply.ttl_s, asked_s, time.monotonic())
        found = Held(Taking(node_id, endpoint, reply), hold, channel, stub)
        if another := self._another_version(found.taking):
            await give_back(found)
            raise another
        return found

    def _another_version(self, taking: Taking) -> TableMismatch | None:
        own, other = self._table, taking.lease.table
        version = "".join(c for c in other.version[:32] if c.isprintable()) or "of unknown version"
        if (own.format, own.hash) == (other.format, other.hash):
            if not self._want.mem_ppm or all(d.mem_limit_bytes for d in taking.lease.devices):
                return None
            return TableMismatch(
                f"{taking.endpoint} is HARP {version}, which knows no parts of a GPU's memory: it"
                " would set no limit",
                "install this version of HARP there as well",
            )
        return TableMismatch(
            f"{taking.endpoint} is HARP {version} and this is HARP {own.version}: they describe"
            " CUDA calls differently",
            "install the same version of HARP on both sides",
        )


async def give_back(gone: Held) -> None:
    """End it, or its sessions alone. What the node does not hear of in time runs out by itself."""
    try:
        if gone.given and not gone.hold.over:
            if gone.attaching is not None:
                await asyncio.wait([gone.attaching], timeout=_GIVE_BACK_S)
            await asyncio.gather(*map(gone.detach, gone.hold.offered | gone.hold.running))
        elif not gone.hold.over:
            request = pb.ReleaseRequest(lease_id=gone.taking.lease.lease_id)
            with contextlib.suppress(grpc.RpcError):
                await gone.stub.Release(request, timeout=_GIVE_BACK_S)
    finally:
        await gone.channel.close()


def _stub(channel: grpc.aio.Channel) -> remote_pb2_grpc.RemoteAsyncStub:
    # What the stub is depends on the channel; its type does not know that.
    return cast("remote_pb2_grpc.RemoteAsyncStub", remote_pb2_grpc.RemoteStub(channel))


async def said(call: Awaitable[_Reply], endpoint: str) -> _Reply:
    """A node's answer.

    Raises:
        HarpError: its own, or why the two did not come together.
    """
    try:
        return await call
    except grpc.RpcError as error:
        raise explain(error, endpoint) from error


def _none(refusals: Mapping[str, HarpError]) -> HarpError:
    """What to say when all of them have refused."""
    if len(refusals) == 1:
        return next(iter(refusals.values()))
    reasons = "; ".join(f"{name}: {error.message}" for name, error in sorted(refusals.items()))
    return NodeUnreachable(f"no node took the lease: {reasons}", next(iter(refusals.values())).hint)
