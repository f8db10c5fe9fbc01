# SPDX-License-Identifier: Apache-2.0
"""The remote API's servicer: who calls, and what becomes of leases and sessions (clockwork.py)."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TypeVar

import structlog

from harp.api.answer import Context, answer, refuse
from harp.api.v1 import remote_pb2 as pb
from harp.api.v1 import remote_pb2_grpc
from harp.errors import (
    ConfigError,
    DaemonError,
    HarpError,
    NodeDraining,
    NotOwner,
    Unauthenticated,
    UnknownLease,
)
from harp.model import Limits, TenantClass
from harp.remote.callers import caller, same_table
from harp.remote.clockwork import Clockwork
from harp.remote.events import (
    Attach,
    Caller,
    Detach,
    Drain,
    End,
    Ended,
    Event,
    GiveBack,
    Release,
    Renew,
    Take,
)
from harp.remote.leases import check, digest, holder
from harp.remote.replies import held_lease, leased, node_devices, node_state
from harp.remote.room import Room, Taken, Wish, limits, part
from harp.remote.sessions import Sessions

__all__ = ["HEARTBEAT_S", "Node", "RemoteService"]

_log = structlog.get_logger(__name__)
_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")

#: a watcher hears from the node at least so often
HEARTBEAT_S = 0.5
_NAME_CHARS = 64
#: leases that room is looked for at a time
_TAKES = 8


@dataclass(frozen=True, slots=True)
class Node:
    """What this node says of itself."""

    node_id: str
    endpoint: str  #: host:port of this service, as clients reach it
    table: pb.TableId
    administrators: AbstractSet[str] = frozenset()  #: names of certificates that may drain it
    insecure: bool = False  #: plaintext on loopback: whoever calls is LOOPBACK
    capacity: Callable[[str], float] = lambda _uuid: 1.0  #: of a device; 1: the slowest


class RemoteService(Clockwork, remote_pb2_grpc.RemoteServicer):
    """Remote, for one node. serve() must run while calls are answered."""

    def __init__(
        self,
        node: Node,
        room: Room,
        sessions: Sessions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(room, sessions, clock)
        self._node = node
        #: {owner: its leases that wait for room}
        self._pending: Counter[str] = Counter()
        self._taking = asyncio.Semaphore(_TAKES)

    async def Lease(self, request: pb.LeaseRequest, context: Context) -> pb.LeaseReply:  # noqa: N802
        """Take a share of this node's devices."""
        return await self._answer(self._lease, request, context)

    async def Renew(self, request: pb.RenewRequest, context: Context) -> pb.RenewReply:  # noqa: N802
        """Let a lease run on."""
        return await self._answer(self._renew, request, context)

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseReply:  # noqa: N802
        """Give a lease back."""
        return await self._answer(self._release, request, context)

    async def Attach(self, request: pb.AttachRequest, context: Context) -> pb.AttachReply:  # noqa: N802
        """Make a session under a lease."""
        return await self._answer(self._attach, request, context)

    async def Detach(self, request: pb.DetachRequest, context: Context) -> pb.DetachReply:  # noqa: N802
        """End a session."""
        return await self._answer(self._detach, request, context)

    async def Leases(self, request: pb.LeasesRequest, context: Context) -> pb.LeasesReply:  # noqa: N802
        """Say what is leased, as far as it is the caller's to know."""
        return await self._answer(self._leases, request, context)

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainReply:  # noqa: N802
        """Empty the node, or stop doing so."""
        return await self._answer(self._drain, request, context)

    async def Watch(  # noqa: N802
        self, request: pb.WatchRequest, context: Context
    ) -> AsyncIterator[pb.WatchReply]:
        """Say how the node is, now, at each change, and every HEARTBEAT_S."""
        try:
            self._caller(context)
            if request.pool not in ("", self._node.endpoint):
                raise ConfigError(
                    f"this node knows no pool at {request.pool!r}, only itself"
                    f" ({self._node.endpoint})",
                    "list the nodes, and watch each",
                )
        except HarpError as error:
            await refuse(context, error)
        while True:
            try:
                self._caller(context)  # a token's lease may be over by now
            except HarpError as error:
                await refuse(context, error)
            changed = self._changed
            yield pb.WatchReply(nodes=[self._itself()], version=self._version)
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await changed.wait()
            except TimeoutError:
                pass

    async def _answer(
        self,
        method: Callable[[_Request, Caller], Awaitable[_Reply]],
        request: _Request,
        context: Context,
    ) -> _Reply:
        return await answer(lambda: method(request, self._caller(context)), context)

    def _caller(self, context: Context) -> Caller:
        return caller(
            context.auth_context(),
            context.invocation_metadata() or (),
            lambda token: holder(self._state, token, self._clock()),
            insecure=self._node.insecure,
        )

    async def _lease(self, request: pb.LeaseRequest, caller: Caller) -> pb.LeaseReply:
        if caller.lease_id:
            raise Unauthenticated(
                f"a lease token stands for its own lease {caller.lease_id}; it takes no other",
                "take leases with a client certificate",
            )
        asked = limits(
            Limits(
                request.mem_limit_bytes,
                request.share_ppm,
                request.limit_ppm,
                _class(request.lease_class),
            )
        )
        asked = part(asked, request.mem_ppm, request.gpu, self._room.places)
        if len(request.name) > _NAME_CHARS or not request.name.isprintable():
            raise ConfigError(
                f"the name of {len(request.name)} characters is none for a tenant",
                f"at most {_NAME_CHARS} characters, all of them printable",
            )
        lease_id = secrets.token_hex(8)
        token = f"{lease_id}.{secrets.token_urlsafe(32)}"
        take = Take(
            lease_id,
            caller.owner,
            digest(token),
            request.name,
            request.ttl_s,
            request.max_sessions,
        )
        # Before anybody is asked for room; who waits for some counts as well.
        check(self._state, take, self._clock(), self._pending[caller.owner])
        wish = Wish(lease_id, caller.owner, request.name, request.gpu, asked)
        work = self._running().create_task(self._take(take, wish))
        self._pending[caller.owner] += 1
        work.add_done_callback(lambda _done: self._pending.subtract([caller.owner]))
        try:
            taken = await asyncio.shield(work)
        except asyncio.CancelledError:
            # Nobody was told of it, so nobody would give it back.
            if self._group is not None:
                self._group.create_task(self._undo(work, Release(caller, lease_id)))
            raise
        if isinstance(taken, HarpError):
            raise taken
        lease = self._state.leases.get(lease_id)
        if lease is None:
            raise UnknownLease(
                f"lease {lease_id!r} was over before it was told of", "take one with a longer ttl"
            )
        return pb.LeaseReply(
            lease_id=lease_id,
            token=token,
            ttl_s=lease.ttl_s,
            endpoint=self._node.endpoint,
            devices=leased(taken),
            table=self._node.table,
        )

    async def _take(self, take: Take, wish: Wish) -> Taken | HarpError:
        """Find room, then begin the lease: it runs from when there is something to have."""
        try:
            async with self._taking:
                taken = await self._room.take(wish)
        except HarpError as error:
            return error
        except Exception as error:  # noqa: BLE001 - one lease's fault must not end the others
            _log.exception("take_broken", lease=wish.lease_id)
            return DaemonError(f"no share was promised: {type(error).__name__}: {error}")
        try:
            self._later(self._step(take))
        except HarpError as error:  # the node drains since
            await self._seats.do([GiveBack(wish.lease_id)])
            return error
        _log.info("lease_taken", lease=wish.lease_id, owner=wish.owner, tenant=taken.tenant)
        return taken

    async def _undo(self, work: asyncio.Task[Taken | HarpError], release: Event) -> None:
        if not isinstance(await work, HarpError):
            with contextlib.suppress(HarpError):
                await self._do(self._step(release))

    async def _renew(self, request: pb.RenewRequest, caller: Caller) -> pb.RenewReply:
        self._later(self._step(Renew(caller, request.lease_id)))
        now_s = self._clock()
        return pb.RenewReply(
            ttl_s=max(0.0, self._state.leases[request.lease_id].expires_s - now_s),
            state=node_state(self._state),
            drain_s=self._state.drain_s(now_s),
        )

    async def _release(self, request: pb.ReleaseRequest, caller: Caller) -> pb.ReleaseReply:
        actions = self._step(Release(caller, request.lease_id))
        ended = [
            a for a in actions if isinstance(a, End) and a.session.lease_id == request.lease_id
        ]
        freed = await self._finish(actions)
        return pb.ReleaseReply(
            sessions=len(ended), freed_bytes=sum(freed[a.session.session_id] for a in ended)
        )

    async def _attach(self, request: pb.AttachRequest, caller: Caller) -> pb.AttachReply:
        same_table(self._node.table, request.table)
        session_id = secrets.token_hex(8)
        token = f"{session_id}.{secrets.token_urlsafe(32)}"
        actions = self._step(
            Attach(
                caller,
                request.lease_id,
                session_id,
                digest(token),
                "".join(c for c in request.program if c.isprintable())[:_NAME_CHARS],
                request.resume_s,
                token,
            )
        )
        try:
            await self._finish(actions)
            worker = await self._seats.worker(session_id)
        except asyncio.CancelledError:
            # Nobody was told of it, so nobody would detach it.
            with contextlib.suppress(NodeDraining):
                self.worker_ended(session_id)
            raise
        if isinstance(worker, HarpError):
            await self._finish(self._step(Ended(session_id)))
            raise worker
        found = next((s for s in self._state.sessions() if s.session_id == session_id), None)
        if found is None:
            raise UnknownLease(
                f"lease {request.lease_id!r} was over before its worker had started",
                "renew a lease before half of its ttl is over",
            )
        return pb.AttachReply(
            session_id=session_id,
            token=token,
            endpoint=worker.endpoint,
            table=self._node.table,
            resume_s=found.resume_s,
            bulk_streams=worker.bulk_streams,
        )

    async def _detach(self, request: pb.DetachRequest, caller: Caller) -> pb.DetachReply:
        freed = await self._finish(self._step(Detach(caller, request.session_id)))
        return pb.DetachReply(freed_bytes=freed.get(request.session_id, 0))

    async def _leases(self, _request: pb.LeasesRequest, caller: Caller) -> pb.LeasesReply:
        mine = [
            lease
            for lease in self._state.leases.values()
            if self._administers(caller)
            or (caller.owner == lease.owner and caller.lease_id in ("", lease.lease_id))
        ]
        held = await self._seats.held() if mine else {}
        now_s = self._clock()
        return pb.LeasesReply(
            state=node_state(self._state),
            leases=[
                held_lease(lease, self._room.taken(lease.lease_id), held, now_s)
                for lease in mine
                if lease.lease_id in self._state.leases
            ],
        )

    def _administers(self, caller: Caller) -> bool:
        return not caller.lease_id and caller.owner in self._node.administrators

    async def _drain(self, request: pb.DrainRequest, caller: Caller) -> pb.DrainReply:
        if not self._administers(caller):
            raise NotOwner(
                f"{caller.owner} is no administrator of this node",
                "drain with the certificate of one: `harp remote serve --admin NAME` says who is",
            )
        actions = self._step(Drain(request.deadline_s, request.stop))
        self._later(actions)
        _log.info("node_drains", stop=request.stop, deadline_s=request.deadline_s)
        return pb.DrainReply(
            state=node_state(self._state),
            leases=len(self._state.leases),
            sessions=sum(1 for _ in self._state.sessions()),
        )

    def _itself(self) -> pb.Node:
        sessions = sum(1 for _ in self._state.sessions())
        devices = node_devices(self._room.places, self._node.capacity)
        return pb.Node(
            node_id=self._node.node_id,
            endpoint=self._node.endpoint,
            state=node_state(self._state),
            devices=devices,
            sessions=sessions,
            table=self._node.table,
        )


def _class(value: pb.LeaseClass.ValueType) -> TenantClass:
    try:
        return TenantClass(value)
    except ValueError as error:
        raise ConfigError(
            f"lease class {value} is unknown here", "0 standard, 1 latency, 2 best effort"
        ) from error
