# SPDX-License-Identifier: Apache-2.0
"""Who holds a lease for the programs of one command: asks, renews, offers sessions, gives back.

Decisions are hold.step()'s. All of it runs in one event loop; what a reply means is judged by the
hold it was asked for, which may not be the present one any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from collections.abc import Set as AbstractSet

from harp.api.v1 import remote_pb2 as pb
from harp.errors import ConfigError, HarpError, UnknownLease
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
    Lose,
    Move,
    NotAttached,
    NotOffered,
    NotRenewed,
    Offer,
    Renew,
    Renewed,
    Say,
    Taken,
    Tick,
    next_s,
    step,
)
from harp.remote.offers import Offers, check
from harp.remote.table import own_table
from harp.remote.taking import Held, Taker, Taking, give_back, said
from harp.remote.traffic import WORD, Traffic

__all__ = ["Holder"]

#: the node opens its driver meanwhile
_ATTACH_S = 30.0
#: so long after a search that found nothing another one is looked for, and after more of them
_MOVE_AGAIN_S = 5.0
_MOVE_AGAIN_MAX_S = 60.0
#: for a node that is asked out of turn; one that does not answer may yet have it
_LOOK_S = 3.0
_LINE_BYTES = 512


class Holder:
    """The lease of one command.

    Args:
        taker: finds leases.
        offers: where programs' sessions are put.
        program: what it is, to be shown at the node.
        say: tells the user a sentence.
        name: of the run, for `harp remote attach`.
    """

    def __init__(
        self, taker: Taker, offers: Offers, program: str, say: Callable[[str], None], name: str
    ) -> None:
        self._taker = taker
        self._offers = offers
        self._program = program
        self._say = say
        self._name = name
        self._table = own_table()
        self.traffic = Traffic()  #: what harp-link says of it, where it was asked to
        self._held: Held | None = None
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._moved = asyncio.Event()  #: the next deadline is another one
        self._taking = asyncio.Lock()
        self._moving = False
        self._move_s = 0.0  #: not before
        self._pause_s = _MOVE_AGAIN_S
        self._refused = ""  #: why a renewed certificate is not used, as the user was told
        self._fault = ""  #: why programs cannot be told anything, as the user was told

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """What lease there is is kept while the block runs; then it is given back.

        Raises:
            ConfigError: an address that may not be used.
            HarpError: what the block raises.
        """
        await self._taker.check()
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
                    await self._end()
        finally:
            await self.release()
        if refusal is not None:
            raise refusal

    async def _end(self) -> None:
        """Nothing new is begun, and what is on its way ends.

        A session that is being made under somebody else's lease is seen to its end before: the node
        may have made it already, and with the call it would be told of to nobody, nor be detached.
        """
        self._group = None
        making = self._held.attaching if self._held is not None and self._held.given else None
        for task in self._tasks - {making}:
            task.cancel()
        try:
            await self.release()
        finally:
            for task in self._tasks:
                task.cancel()

    @property
    def present(self) -> tuple[Taking, int] | None:
        """The lease there is, and how many programs have a session of it; None: there is none."""
        held = self._held
        if held is None or held.hold.over:
            return None
        return held.taking, len(held.hold.running)

    async def look(self) -> bool:
        """Whether the node still knows the lease: asked now, not when it is to be renewed."""
        held = self._held
        return held is not None and not held.hold.over and await self._renewed(held, _LOOK_S)

    async def reconnect(self) -> bool:
        """Go on as who we are by now: a connection shows the certificate that it began with.

        Returns:
            False: the node does not answer so. The connection of before is used; try again.
        """
        on = self._held
        if on is None or on.hold.over or on.given:
            return True
        try:
            channel, stub = await self._taker.reconnected(on)
        except HarpError as error:
            if error.message != self._refused:
                self._refused = error.message
                self._say(f"harp: the renewed certificate is not used yet: {error.message}")
            return False
        self._refused = ""
        if on is not self._held:  # given back meanwhile
            await channel.close()
            return True
        old, on.channel, on.stub = on.channel, channel, stub
        await old.close(_ATTACH_S)  # what is on its way there comes to its end
        return True

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
            fresh = await self._taker.find(at)
            self._begin(fresh)  # before we wait again: who is cancelled gives it back
            if old is not None:
                await give_back(old)
            return fresh.taking

    async def drop(self, why: str) -> bool:
        """Give the lease back, and tell programs why there is none; False: there was none."""
        async with self._taking:
            self._deny(why)
            return await self.release()

    async def release(self) -> bool:
        """Give the lease back; what the node does not hear of in time runs out by itself."""
        gone, self._held = self._held, None
        if gone is None:
            return False
        self._tell(self._offers.end_all)
        await give_back(gone)
        return not gone.hold.over

    async def hear(self, reader: asyncio.StreamReader) -> None:
        """Follow what harp-link says of its sessions, until it ends; then nobody says more."""
        said_of = set[str]()
        try:
            while line := await reader.readline():
                word, _, rest = line[:_LINE_BYTES].decode(errors="replace").strip().partition(" ")
                if word == WORD and self.traffic.heard(rest):
                    said_of.add(rest.split()[0])
                elif word == "ended":
                    self.traffic.ended(rest)
                    said_of.discard(rest)
                if self._held is not None and word == "taken":
                    self._step(self._held, Taken(rest))
                elif self._held is not None and word == "ended":
                    self._step(self._held, Ended(rest))
        finally:
            for session_id in said_of:
                self.traffic.ended(session_id)

    async def _keep_time(self) -> None:
        while True:
            self._moved.clear()
            wait_s = self._next_s() - time.monotonic()
            try:
                async with asyncio.timeout(wait_s if math.isfinite(wait_s) else None):
                    await self._moved.wait()
            except TimeoutError:
                if self._held is not None:
                    self._step(self._held, Tick())
                    if self._held.hold.over:
                        self._look_elsewhere(frozenset())

    def _next_s(self) -> float:
        held = self._held
        if held is None or (held.hold.over and (self._taker.given or self._moving)):
            return math.inf
        return self._move_s if held.hold.over else next_s(held.hold)

    # --- taking ---

    def _begin(self, fresh: Held) -> None:
        self._held = fresh
        self._pause_s = _MOVE_AGAIN_S
        self._tell(self._offers.admit)
        self._step(fresh, Tick())

    async def _move(self, without: AbstractSet[str]) -> None:
        """Another lease for programs to come; none of them has a session of the present one."""
        old = self._held
        assert old is not None  # its core has asked for this
        try:
            fresh = await self._taker.find(without=without)
        except HarpError as error:
            if self._held is old and old.hold.over:
                self._deny(
                    f"the lease is lost, another one is looked for; remedy: wait, or harp remote"
                    f" attach {self._name}; so far: {error.message}"
                )
            self._move_s = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _MOVE_AGAIN_MAX_S)
            return
        finally:
            self._moving = False
            self._moved.set()
        kept = self._held is not old or (
            not old.hold.over
            and (old.hold.running or not all(map(self._withdrawn, old.hold.offered)))
        )
        if kept:  # a program was faster, or it was attached or detached meanwhile
            await give_back(fresh)
            return
        self._begin(fresh)
        self._say(
            f"harp: the lease is now one of {fresh.taking.node_id} at {fresh.taking.endpoint}"
        )
        await give_back(old)

    # --- what the core wants done ---

    def _step(self, on: Held, event: Event) -> None:
        if on is not self._held:
            return  # of a lease that was given back
        before_s = next_s(on.hold)
        for action in step(on.hold, event, time.monotonic()):
            self._do(on, action)
        if next_s(on.hold) != before_s:
            self._moved.set()

    def _do(self, on: Held, action: Action) -> None:
        match action:
            case Renew():
                self._later(self._renew(on, action.timeout_s))
            case Attach():
                on.attaching = self._later(self._attach(on))
            case Detach():
                self._later(self._detach(on, action.session_id))
            case Offer():
                self._offer(on, action.session_id)
            case Deny():
                self._deny(action.why)
            case Admit():
                self._tell(self._offers.admit)
            case Say():
                self._say(f"harp: {on.taking.node_id}: {action.text}")
            case Lose():
                self._lose(on, action)
            case Move():
                self._look_elsewhere(frozenset({on.taking.node_id}))

    def _offer(self, on: Held, session_id: str) -> None:
        words = on.made.pop(session_id)
        if fault := self._tell(lambda: self._offers.offer(session_id, *words)):
            self._step(on, NotOffered(session_id, fault))
        else:
            self._fault = ""

    def _withdrawn(self, session_id: str) -> bool:
        found: list[bool] = []
        self._tell(lambda: found.append(self._offers.withdraw(session_id)))
        return found == [True]

    def _deny(self, why: str) -> None:
        self._tell(lambda: self._offers.deny(why))

    def _tell(self, what: Callable[[], None]) -> str:
        """Write for programs; what stands in the way of that, which must not end the command."""
        try:
            what()
        except HarpError as error:
            if error.message != self._fault:
                self._say(f"harp: {error.message}; {error.hint}")
            self._fault = error.message
            return error.message
        return ""

    def _lose(self, on: Held, lost: Lose) -> None:
        self._tell(self._offers.end_all)
        what = "; the programs that used it get errors from CUDA" if lost.sessions else ""
        self._say(f"harp: the lease on {on.taking.node_id} is lost: {lost.why}{what}")
        if on.given:
            self._deny(f"the lease is over: {lost.why}; remedy: the token of another one")
        self._move_s, self._pause_s = 0.0, _MOVE_AGAIN_S
        self._look_elsewhere(frozenset())

    def _look_elsewhere(self, without: AbstractSet[str]) -> None:
        if not self._taker.given and not self._moving and time.monotonic() >= self._move_s:
            self._moving = True
            self._later(self._move(without))

    def _later(self, work: Coroutine[None, None, None]) -> asyncio.Task[None] | None:
        if self._group is None:
            work.close()  # everything is being given back
            return None
        self._tasks.add(task := self._group.create_task(work))
        task.add_done_callback(self._tasks.discard)
        return task

    async def _renew(self, on: Held, timeout_s: float) -> None:
        await self._renewed(on, timeout_s)

    async def _renewed(self, on: Held, timeout_s: float) -> bool:
        asked_s = time.monotonic()
        request = pb.RenewRequest(lease_id=on.taking.lease.lease_id)
        try:
            call = on.stub.Renew(request, timeout=timeout_s, metadata=on.metadata)
            reply = await said(call, on.taking.endpoint)
        except HarpError as error:
            self._step(on, NotRenewed(error.message, final=isinstance(error, UnknownLease)))
            return False
        draining = reply.state == pb.NODE_STATE_DRAINING
        self._step(on, Renewed(reply.ttl_s, asked_s, draining, reply.drain_s))
        return True

    async def _attach(self, on: Held) -> None:
        request = pb.AttachRequest(
            lease_id=on.taking.lease.lease_id, table=self._table, program=self._program
        )
        try:
            call = on.stub.Attach(request, timeout=_ATTACH_S, metadata=on.metadata)
            reply = await said(call, on.taking.endpoint)
            endpoint = reply.endpoint or on.taking.endpoint
            check(reply.session_id, reply.token, endpoint)
        except HarpError as error:
            hint = f"; remedy: {error.hint}" if error.hint else ""
            self._step(on, NotAttached(f"{error.message}{hint}"))
            return
        if on.given and on is not self._held:
            await on.detach(reply.session_id)  # given back meanwhile, and the lease goes on
            return
        on.made[reply.session_id] = reply.token, endpoint
        self._step(on, Attached(reply.session_id))

    async def _detach(self, on: Held, session_id: str) -> None:
        await on.detach(session_id)
        self._step(on, Detached())
