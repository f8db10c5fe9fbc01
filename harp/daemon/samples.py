# SPDX-License-Identifier: Apache-2.0
"""Samples of devices and tenants for those who watch: one look for all of them.

What else wants to know how things go on (history, a page) can join as a watcher of its own; what it
is given is a message, and no process's figures are in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from harp.api.v1 import control_pb2 as pb
from harp.daemon.answers import CLASSES, Answers, uncovered
from harp.daemon.book import Book
from harp.daemon.fanout import (
    End,
    Event,
    Fanout,
    Given,
    Join,
    Late,
    Leave,
    Look,
    Looked,
    Ready,
    Send,
    Stop,
    Tick,
    next_ns,
    step,
)
from harp.daemon.harpd import Harpd
from harp.daemon.picture import Picture
from harp.errors import ArbiterError
from harp.model import ClientState, Tenant
from harp.procs import user_name

__all__ = ["Sampler", "Seat", "Watching"]

_log = structlog.get_logger(__name__)


class Sampler:
    """Makes samples of one harpd."""

    def __init__(self, book: Book, harpd: Harpd) -> None:
        self._book = book
        self._harpd = harpd
        self._answers = Answers(book, harpd)
        #: {uid: login name}; names of those who have tenants now
        self._names: dict[int, str] = {}

    async def sample(self) -> pb.Sample:
        """What holds now; of an arbiter that does not answer, what was known last."""
        problem = ""
        try:
            picture = await self._book.look()
        except ArbiterError as error:
            picture, problem = self._book.picture, error.message
        live = (c for c in picture.clients.values() if c.state is ClientState.LIVE)
        processes = Counter(client.tenant_id for client in live)
        overheads = _overheads(picture)
        promises = self._book.promises(picture)
        tenants = self._book.tenants.values()
        uids = {tenant.uid for tenant in tenants}
        self._names = {uid: self._names.get(uid) or user_name(uid) for uid in uids}
        return pb.Sample(
            now_s=time.time(),
            at_ns=time.monotonic_ns(),
            problem=problem,
            devices=[
                self._answers.promised(device, picture, promises[uuid])
                for uuid, device in self._book.devices.items()
            ],
            tenants=[self._tenant(t, picture, processes[t.tenant_id], overheads) for t in tenants],
            uncovered=[uncovered(one) for one in self._harpd.evaders.uncovered.values()],
        )

    def _tenant(
        self, tenant: Tenant, picture: Picture, processes: int, overheads: Counter[tuple[int, str]]
    ) -> pb.TenantSample:
        limits, number = tenant.limits, tenant.tenant_id
        return pb.TenantSample(
            tenant_id=number,
            name=tenant.name,
            uid=tenant.uid,
            user=self._names[tenant.uid],
            mem_limit_bytes=limits.mem_bytes,
            share_ppm=limits.share_ppm,
            limit_ppm=limits.limit_ppm,
            tenant_class=CLASSES[limits.tenant_class],
            created_s=tenant.created_s,
            processes=processes,
            host_limit_bytes=limits.host_bytes,
            host_leased_bytes=self._answers.host_leased(tenant, picture),
            suspended=tenant.suspended,
            window_s=min(self._harpd.used_ratio(number, uuid)[1] for uuid in tenant.device_uuids),
            uses=[
                self._answers.use(tenant, uuid, picture, overheads[number, uuid])
                for uuid in tenant.device_uuids
            ],
        )


def _overheads(picture: Picture) -> Counter[tuple[int, str]]:
    """{(tenant_id, uuid): contexts and code of its processes there}."""
    found: Counter[tuple[int, str]] = Counter()
    for (client_id, uuid), hold in picture.holds.items():
        if client_id in picture.clients:
            found[picture.clients[client_id].tenant_id, uuid] += hold.overhead_bytes
    return found


class Seat:
    """A watcher's: an iterator of replies, each made when the one before was taken."""

    def __init__(self, watching: Watching, number: int) -> None:
        self._watching = watching
        self._number = number
        #: never holds more than one: it is asked for
        self._given: asyncio.Queue[pb.WatchSamplesReply | None] = asyncio.Queue()

    def give(self, reply: pb.WatchSamplesReply | None) -> None:
        """What it waits for; None: no more comes."""
        self._given.put_nowait(reply)

    def leave(self) -> None:
        """Watch no more; also what has ended may."""
        self._watching.step(Leave(self._number))

    def __aiter__(self) -> AsyncIterator[pb.WatchSamplesReply]:
        return self

    async def __anext__(self) -> pb.WatchSamplesReply:
        self._watching.step(Ready(self._number))
        reply = await self._given.get()
        if reply is None:
            raise StopAsyncIteration
        return reply


class Watching:
    """Those who watch one harpd."""

    def __init__(
        self,
        look: Callable[[], Awaitable[pb.Sample]],
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._look = look
        self._clock_ns = clock_ns
        self._state = Fanout()
        self._numbers = itertools.count(1)
        #: {number of a watcher: its seat}
        self._seats: dict[int, Seat] = {}
        #: somebody came or went
        self._changed = asyncio.Event()

    def join(self, uid: int, interval_ms: int) -> Seat:
        """Watch from now on. Whoever got a seat must leave it.

        Raises:
            ConfigError: an interval that is out of range.
            QuotaExceeded: too many watch.
            DaemonUnreachable: harpd ends.
        """
        number = next(self._numbers)
        self.step(Join(number, uid, interval_ms))
        self._seats[number] = seat = Seat(self, number)
        return seat

    async def keep(self) -> None:
        """Look while somebody watches. When it is cancelled all streams end."""
        try:
            while True:
                self._changed.clear()
                at_ns = next_ns(self._state)
                if at_ns is None:
                    await self._changed.wait()
                elif (wait_ns := at_ns - self._clock_ns()) > 0:
                    # Until Python 3.12 wait_for() takes no notice of a cancel in its last turn.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait_ns / 1e9):
                            await self._changed.wait()
                elif self.step(Tick()):
                    self.step(Looked(pb.WatchSamplesReply(sample=await self._sample())))
                    await asyncio.sleep(0)  # who was given one writes it meanwhile
                    self.step(Given())
        finally:
            self.step(Stop())

    def step(self, event: Event) -> bool:
        """Let one thing happen; whether a look is asked for.

        Raises:
            HarpError: see join().
        """
        now_ns = self._clock_ns()
        self._state, actions = step(self._state, event, now_ns)
        if isinstance(event, Ready) and actions:  # it writes what it is given before the next turn
            asyncio.get_running_loop().call_soon(lambda: self.step(Late(now_ns)))
        if isinstance(event, Join | Leave):
            self._changed.set()
        if isinstance(event, Leave):
            self._seats.pop(event.watcher, None)
        for action in actions:
            match action:
                case Send(number, pb.WatchSamplesReply() as reply, dropped):
                    if dropped:  # others have the same message
                        reply = pb.WatchSamplesReply(sample=reply.sample, dropped=dropped)
                    self._seats[number].give(reply)
                case End(number):
                    self._seats[number].give(None)
                case _:
                    pass
        return Look() in actions

    async def _sample(self) -> pb.Sample:
        try:
            return await self._look()
        except Exception as error:  # noqa: BLE001 - who watches is told, and harpd goes on
            _log.exception("sample_broken")
            return pb.Sample(
                now_s=time.time(),
                at_ns=time.monotonic_ns(),
                problem=f"harpd failed: {type(error).__name__}: {error}",
            )
