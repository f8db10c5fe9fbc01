# SPDX-License-Identifier: Apache-2.0
"""Leases and sessions as time goes by: what the core decides, and having it done.

Decisions are leases.step()'s, which is called without waiting in between. What it wants done is
finished even if the caller goes away meanwhile.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

from harp.errors import NodeDraining
from harp.metrics import RemoteSeen
from harp.remote.events import Action, Ended, Event, NodeState, Start, Tick
from harp.remote.leases import Leases, next_s, step
from harp.remote.room import Room
from harp.remote.seats import Seats
from harp.remote.sessions import Sessions

__all__ = ["Clockwork"]

#: a worker that did not end is ended again
_AGAIN_S = 1.0


class Clockwork:
    """What all calls of a node have under them. serve() must run while they are answered."""

    def __init__(self, room: Room, sessions: Sessions, clock: Callable[[], float]) -> None:
        self._room = room
        self._clock = clock
        self._state = Leases()
        self._seats = Seats(sessions, room)
        #: set and replaced at each change that watchers see, and how many there were
        self._changed = asyncio.Event()
        self._version = 1
        #: set when the next deadline has moved
        self._moved = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._closed = False
        self._begun = 0

    def seen(self) -> RemoteSeen:
        """How many are here, for metrics; of its certificate it knows nothing."""
        return RemoteSeen(
            leases=len(self._state.leases),
            sessions=sum(1 for _ in self._state.sessions()),
            begun=self._begun,
            draining=self._state.state is NodeState.DRAINING,
        )

    async def serve(self) -> None:
        """Let time pass until cancelled; then all leases are over, and their workers ended."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._end_again())
                while True:
                    self._moved.clear()
                    wait_s = next_s(self._state) - self._clock()
                    try:
                        async with asyncio.timeout(wait_s if math.isfinite(wait_s) else None):
                            await self._moved.wait()
                    except TimeoutError:
                        self._later(self._step(Tick()))
        finally:
            self._group = None
            self._closed = True
            left, self._state = self._state.leases, Leases()
            await self._seats.end_all("the node stops")
            await asyncio.gather(*(self._room.give_back(lease_id) for lease_id in left))

    async def _end_again(self) -> None:
        while True:
            await asyncio.sleep(_AGAIN_S)
            if await self._seats.again():
                self._notify()

    def worker_ended(self, session_id: str) -> None:
        """A worker ended by itself; from the loop's own thread."""
        self._later(self._step(Ended(session_id)))

    def room_changed(self) -> None:
        """There is more or less room than before, by what others did."""
        self._notify()

    def _step(self, event: Event) -> list[Action]:
        """Let the core decide; what begins, begins here, so that its end finds it."""
        group = self._running()
        version, deadline_s = self._state.version, next_s(self._state)
        actions = step(self._state, event, self._clock())
        for action in actions:
            if isinstance(action, Start):
                self._seats.begin(action, group)
                self._begun += 1
        if version != self._state.version:
            self._notify()
        if deadline_s != next_s(self._state):  # renewals alone are no news to watchers
            self._moved.set()
        return actions

    def _running(self) -> asyncio.TaskGroup:
        if self._closed or self._group is None:
            raise NodeDraining("this node's remote service starts or stops", "ask another node")
        return self._group

    def _notify(self) -> None:
        """Wake all watchers."""
        self._version += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _later(self, actions: Sequence[Action]) -> None:
        """Do it without waiting."""
        if actions and self._group is not None:
            self._group.create_task(self._do(actions))

    async def _finish(self, actions: Sequence[Action]) -> dict[str, int]:
        """Do it and wait; it is finished even if the caller is gone."""
        if not actions or self._group is None:
            return {}
        return await asyncio.shield(self._group.create_task(self._do(actions)))

    async def _do(self, actions: Sequence[Action]) -> dict[str, int]:
        freed = await self._seats.do(actions)
        self._notify()  # there may be room again
        return freed
