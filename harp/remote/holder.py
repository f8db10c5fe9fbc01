# SPDX-License-Identifier: Apache-2.0
"""Who holds a lease for the programs of one command: asks, renews, offers sessions, gives back.

Decisions are hold.step()'s. All of it runs in one event loop; what a reply means is judged by the
hold it was asked for, which may not be the present one any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TypeVar, cast

import grpc
import grpc.aio

from harp.api.v1 import remote_pb2 as pb
from harp.api.v1 import remote_pb2_grpc
from harp.errors import (
    ConfigError,
    DaemonUnreachable,
    HarpError,
    NodeDraining,
    NodeUnreachable,
    QuotaExceeded,
    TableMismatch,
    UnknownLease,
)
from harp.remote.hold import (
    Action,
    Admit,
    Attach,
    Attached,
    Deny,
    Detach,
    Detached,
    Ended,
    Event,
    Hold,
    Lose,
    Move,
    NotAttached,
    NotRenewed,
    Offer,
    Renew,
    Renewed,
    Say,
    Taken,
    Tick,
    held,
    next_s,
    step,
)
from harp.remote.offers import Offers, check
from harp.remote.pool import Ask, Pool
from harp.remote.table import own_table
from harp.remote.trust import bearer, explain
from harp.remote.watcher import Watcher

__all__ = ["RELEASE_S", "Holder", "Taking"]

_Reply = TypeVar("_Reply")

#: what all listed nodes get to say something before one is chosen
_SETTLE_S = 2.0
#: a stall of this host or of the network for some seconds shall cost nobody his work; and who dies
#: gives memory back at once, since his connections end
_TTL_S = 10.0
#: how long a node is looked for, of which one can be asked
_CHOOSE_S = 5.0
_LEASE_S = 10.0
#: the node opens its driver meanwhile
_ATTACH_S = 30.0
#: what giving back may take when the command has ended
RELEASE_S = 2.0
#: a node that drains keeps what runs: so often another one is looked for
_MOVE_AGAIN_S = 5.0
_LINE_BYTES = 512
#: what one node says does not hold for the next
_NEXT = (QuotaExceeded, NodeDraining, NodeUnreachable, DaemonUnreachable, TableMismatch)


@dataclass(frozen=True, slots=True)
class Taking:
    """A lease that was taken."""

    node_id: str
    endpoint: str  #: host:port, for all that follows
    lease: pb.LeaseReply


@dataclass(slots=True)
class _Held:
    """The present lease, and how its node is reached."""

    taking: Taking
    hold: Hold
    channel: grpc.aio.Channel
    stub: remote_pb2_grpc.RemoteAsyncStub
    made: dict[str, tuple[str, str]]  #: {session_id: token, endpoint} on its way to be offered
    given: bool = False  #: it is somebody else's


class Holder:
    """The lease of one command.

    Args:
        want: what is asked of a node.
        nodes: host:port of nodes or of a pool, at least one.
        connect: makes a channel to one.
        offers: where programs' sessions are put.
        program: what it is, to be shown at the node.
        say: tells the user a sentence.
        token: of a lease that somebody else has taken; it is used and renewed, and not given back.
    """

    def __init__(
        self,
        want: pb.LeaseRequest,
        nodes: Sequence[str],
        connect: Callable[[str], grpc.aio.Channel],
        *,
        offers: Offers,
        program: str,
        say: Callable[[str], None],
        token: str = "",
    ) -> None:
        self._want = want
        self._want.ttl_s = _TTL_S
        self._nodes = nodes
        self._connect = connect
        self._offers = offers
        self._program = program
        self._say = say
        self._token = token
        self._metadata = bearer(token) if token else ()
        self._table = own_table()
        self._rng = random.Random()  # noqa: S311 - draws nodes and pauses, no secrets
        self._held: _Held | None = None
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._moved = asyncio.Event()  #: the next deadline is another one
        self._taking = asyncio.Lock()
        self._moving = False
        self._move_s = 0.0  #: not before

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """What lease there is is kept while the block runs; then it is given back.

        Raises:
            ConfigError: an address that may not be used.
            HarpError: what the block raises.
        """
        for node in self._nodes:
            await self._connect(node).close()
        refusal = None
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._later(self._keep_time())
                try:
                    yield
                except HarpError as error:  # the group would wrap it
                    refusal = error
                finally:
                    self._group = None  # nothing new is begun
                    for task in self._tasks:
                        task.cancel()
        finally:
            await self.release()
        if refusal is not None:
            raise refusal

    async def take(self, at: str = "") -> Taking:
        """Take a lease on the node that is best, or that does not refuse; or on the one named.

        Raises:
            ConfigError: there is one already.
            NodeUnreachable: no node; why, node by node.
            HarpError: what one node said, where only that one was asked.
        """
        async with self._taking:
            old = self._held
            if old is not None and not old.hold.over:
                raise ConfigError(
                    f"the command has a lease on {old.taking.node_id} already", "detach it first"
                )
            fresh = await self._found(at)
            if old is not None:
                await _give_back(old)
            self._begin(fresh)
            return fresh.taking

    async def drop(self, why: str) -> bool:
        """Give the lease back, and tell programs why there is none; False: there was none."""
        async with self._taking:
            self._offers.deny(why)
            return await self.release()

    async def release(self) -> bool:
        """Give the lease back; what the node does not hear of in time runs out by itself."""
        gone, self._held = self._held, None
        if gone is None:
            return False
        self._offers.end_all()
        if gone.given and not gone.hold.over:
            await asyncio.gather(
                *(self._detach(gone, s, RELEASE_S) for s in gone.hold.offered | gone.hold.running)
            )
        await _give_back(gone)
        return not gone.hold.over

    async def hear(self, reader: asyncio.StreamReader) -> None:
        """Follow what harp-link says of its sessions, until it ends."""
        while line := await reader.readline():
            word, _, session_id = line[:_LINE_BYTES].decode(errors="replace").strip().partition(" ")
            if self._held is None:
                continue
            if word == "taken":
                self._step(self._held, Taken(session_id))
            elif word == "ended":
                self._step(self._held, Ended(session_id))

    async def _keep_time(self) -> None:
        while True:
            self._moved.clear()
            wait_s = math.inf
            if self._held is not None:
                wait_s = next_s(self._held.hold) - time.monotonic()
            try:
                async with asyncio.timeout(wait_s if math.isfinite(wait_s) else None):
                    await self._moved.wait()
            except TimeoutError:
                if self._held is not None:
                    self._step(self._held, Tick())

    # --- taking ---

    async def _found(self, at: str) -> _Held:
        if self._token:
            return await self._given(at or self._nodes[0])
        return await (self._ask(at, at) if at else self._lease(frozenset()))

    async def _given(self, endpoint: str) -> _Held:
        """The lease that our token stands for."""
        channel = self._connect(endpoint)
        try:
            stub = _stub(channel)
            leases = stub.Leases(pb.LeasesRequest(), timeout=_LEASE_S, metadata=self._metadata)
            known = (await _said(leases, endpoint)).leases
            asked_s, lease_id = time.monotonic(), self._token.partition(".")[0]
            request = pb.RenewRequest(lease_id=lease_id)
            renewal = stub.Renew(request, timeout=_LEASE_S, metadata=self._metadata)
            ttl_s = (await _said(renewal, endpoint)).ttl_s
        except BaseException:
            await channel.close()
            raise
        devices = [d for lease in known if lease.lease_id == lease_id for d in lease.devices]
        lease = pb.LeaseReply(lease_id=lease_id, ttl_s=ttl_s, endpoint=endpoint, devices=devices)
        hold = held(ttl_s, asked_s, time.monotonic())
        return _Held(Taking(endpoint, endpoint, lease), hold, channel, stub, {}, given=True)

    async def _lease(self, without: AbstractSet[str]) -> _Held:
        """Nodes are watched while one is looked for, and no longer: there may be many of us."""
        pool = Pool()
        watcher = Watcher(pool, self._nodes, self._connect, self._rng)
        watching = asyncio.create_task(watcher.run())
        try:
            return await self._lease_of(pool, watcher, without)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _lease_of(self, pool: Pool, watcher: Watcher, without: AbstractSet[str]) -> _Held:
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

    def _begin(self, fresh: _Held) -> None:
        self._held = fresh
        self._offers.admit()
        self._step(fresh, Tick())

    async def _ask(self, node_id: str, endpoint: str) -> _Held:
        """A lease of this node.

        Raises:
            TableMismatch: it describes CUDA calls differently.
            HarpError: what it said, or why it could not be reached.
        """
        channel = self._connect(endpoint)
        try:
            stub = _stub(channel)
            asked_s = time.monotonic()
            reply = await _said(stub.Lease(self._want, timeout=_LEASE_S), endpoint)
            if reply.endpoint and reply.endpoint != endpoint:
                other = self._connect(reply.endpoint)
                await channel.close()
                channel, stub, endpoint = other, _stub(other), reply.endpoint
        except BaseException:
            await channel.close()
            raise
        hold = held(reply.ttl_s, asked_s, time.monotonic())
        found = _Held(Taking(node_id, endpoint, reply), hold, channel, stub, {})
        if other_table := self._other_table(found.taking):
            await _give_back(found)
            raise other_table
        return found

    def _other_table(self, taking: Taking) -> TableMismatch | None:
        own, other = self._table, taking.lease.table
        if (own.format, own.hash) == (other.format, other.hash):
            return None
        version = "".join(c for c in other.version[:32] if c.isprintable()) or "of unknown version"
        return TableMismatch(
            f"{taking.endpoint} is HARP {version} and this is HARP {own.version}: they describe"
            " CUDA calls differently",
            "install the same version of HARP on both sides",
        )

    async def _move(self, without: AbstractSet[str]) -> None:
        """Another lease for programs to come; none of them has a session of the present one."""
        old = self._held
        assert old is not None  # its core has asked for this
        try:
            fresh = await self._lease(without)
        except HarpError as error:
            if self._held is old and old.hold.over:
                self._offers.deny(f"{error.message}; remedy: {error.hint}")
            self._move_s = time.monotonic() + _MOVE_AGAIN_S
            return
        finally:
            self._moving = False
        kept = self._held is not old or (
            not old.hold.over
            and (old.hold.running or not all(map(self._offers.withdraw, old.hold.offered)))
        )
        if kept:  # a program was faster, or it was attached or detached meanwhile
            await _give_back(fresh)
            return
        self._begin(fresh)
        self._say(
            f"harp: the lease is now one of {fresh.taking.node_id} at {fresh.taking.endpoint}"
        )
        await _give_back(old)

    # --- what the core wants done ---

    def _step(self, on: _Held, event: Event) -> None:
        if on is not self._held:
            return  # of a lease that was given back
        before_s = next_s(on.hold)
        for action in step(on.hold, event, time.monotonic()):
            self._do(on, action)
        if next_s(on.hold) != before_s:
            self._moved.set()

    def _do(self, on: _Held, action: Action) -> None:
        match action:
            case Renew():
                self._later(self._renew(on, action.timeout_s))
            case Attach():
                self._later(self._attach(on))
            case Detach():
                self._later(self._detach(on, action.session_id))
            case Offer():
                self._offers.offer(action.session_id, *on.made.pop(action.session_id))
            case Deny():
                self._offers.deny(action.why)
            case Admit():
                self._offers.admit()
            case Say():
                self._say(f"harp: {on.taking.node_id}: {action.text}")
            case Lose():
                self._lose(on, action)
            case Move():
                self._look_elsewhere(frozenset({on.taking.node_id}))

    def _lose(self, on: _Held, lost: Lose) -> None:
        self._offers.end_all()
        what = "; the programs that used it get errors from CUDA" if lost.sessions else ""
        self._say(f"harp: the lease on {on.taking.node_id} is lost: {lost.why}{what}")
        if on.given:
            self._offers.deny(f"the lease is over: {lost.why}; remedy: the token of another one")
        self._move_s = 0.0
        self._look_elsewhere(frozenset())

    def _look_elsewhere(self, without: AbstractSet[str]) -> None:
        if not self._token and not self._moving and time.monotonic() >= self._move_s:
            self._moving = True
            self._later(self._move(without))

    def _later(self, work: Coroutine[None, None, None]) -> None:
        if self._group is None:
            work.close()  # everything is being given back
        else:
            self._tasks.add(task := self._group.create_task(work))
            task.add_done_callback(self._tasks.discard)

    async def _renew(self, on: _Held, timeout_s: float) -> None:
        asked_s = time.monotonic()
        request = pb.RenewRequest(lease_id=on.taking.lease.lease_id)
        try:
            call = on.stub.Renew(request, timeout=timeout_s, metadata=self._metadata)
            reply = await _said(call, on.taking.endpoint)
        except HarpError as error:
            self._step(on, NotRenewed(error.message, final=isinstance(error, UnknownLease)))
            return
        draining = reply.state == pb.NODE_STATE_DRAINING
        self._step(on, Renewed(reply.ttl_s, asked_s, draining, reply.drain_s))

    async def _attach(self, on: _Held) -> None:
        request = pb.AttachRequest(
            lease_id=on.taking.lease.lease_id, table=self._table, program=self._program
        )
        try:
            call = on.stub.Attach(request, timeout=_ATTACH_S, metadata=self._metadata)
            reply = await _said(call, on.taking.endpoint)
            endpoint = reply.endpoint or on.taking.endpoint
            check(reply.session_id, reply.token, endpoint)
        except HarpError as error:
            hint = f"; remedy: {error.hint}" if error.hint else ""
            self._step(on, NotAttached(f"{error.message}{hint}"))
            return
        on.made[reply.session_id] = reply.token, endpoint
        self._step(on, Attached(reply.session_id))

    async def _detach(self, on: _Held, session_id: str, timeout_s: float = _LEASE_S) -> None:
        request = pb.DetachRequest(session_id=session_id)
        # What the node does not hear of ends with the lease.
        with contextlib.suppress(grpc.RpcError):
            await on.stub.Detach(request, timeout=timeout_s, metadata=self._metadata)
        self._step(on, Detached())


async def _give_back(gone: _Held) -> None:
    """What the node does not hear of in time runs out by itself."""
    try:
        if not gone.hold.over and not gone.given:
            request = pb.ReleaseRequest(lease_id=gone.taking.lease.lease_id)
            with contextlib.suppress(grpc.RpcError):
                await gone.stub.Release(request, timeout=RELEASE_S)
    finally:
        await gone.channel.close()


def _stub(channel: grpc.aio.Channel) -> remote_pb2_grpc.RemoteAsyncStub:
    # What the stub is depends on the channel; its type does not know that.
    return cast("remote_pb2_grpc.RemoteAsyncStub", remote_pb2_grpc.RemoteStub(channel))


async def _said(call: Awaitable[_Reply], endpoint: str) -> _Reply:
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
    reasons = "; ".join(f"{name}: {error.message}" for name, error in refusals.items())
    return NodeUnreachable(f"no node took the lease: {reasons}", next(iter(refusals.values())).hint)
