# SPDX-License-Identifier: Apache-2.0
"""Workers of sessions: each begins and ends once, and what it held is promised to others after."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from harp.errors import DaemonError, HarpError, UnknownLease
from harp.remote.events import Action, End, GiveBack, Session, Start, Tell
from harp.remote.room import Room
from harp.remote.sessions import Sessions, Worker

__all__ = ["Seats"]

_log = structlog.get_logger(__name__)
#: a worker must be ready, or gone, within this time
_START_S = 10.0
_END_S = 10.0


@dataclass(slots=True)
class _Seat:
    """A session's worker, or what became of its start."""

    session: Session
    start: asyncio.Task[Worker | HarpError]
    lock: asyncio.Lock  #: one call at a time


class Seats:
    """Does what leases.step() wants done."""

    def __init__(self, sessions: Sessions, room: Room) -> None:
        self._sessions = sessions
        self._room = room
        #: {session_id: its worker}, from its start until it has ended
        self._seats: dict[str, _Seat] = {}
        #: {session_id: it} of those whose worker may be there, though it was ended
        self._failed: dict[str, Session] = {}
        #: lease_ids of room that is given back once their workers have ended
        self._kept: set[str] = set()

    def begin(self, action: Start, group: asyncio.TaskGroup) -> None:
        """Start a worker; `group` owns the start."""
        session = action.session
        start = group.create_task(self._start(action))
        self._seats[session.session_id] = _Seat(session, start, asyncio.Lock())

    async def worker(self, session_id: str) -> Worker | HarpError:
        """What became of a start; waits for it."""
        seat = self._seats.get(session_id)
        if seat is None:
            return UnknownLease(
                "the lease was over before its worker had started", "take a new one"
            )
        return await asyncio.shield(seat.start)

    async def do(self, actions: Sequence[Action]) -> dict[str, int]:
        """End, tell, then give back.

        Returns:
            {session_id: bytes freed} of those that ended.
        """
        ends = [a for a in actions if isinstance(a, End)]
        tells = [self._tell(a) for a in actions if isinstance(a, Tell)]
        freed = await asyncio.gather(*(self._end(a.session, a.reason) for a in ends))
        await asyncio.gather(*tells)
        failed = {session.lease_id for session in self._failed.values()}
        for action in actions:
            if not isinstance(action, GiveBack):
                continue
            if action.lease_id in failed:
                # Its memory may still be there: who is promised it now would meet a full device.
                _log.error("room_kept", lease=action.lease_id, reason="a worker did not end")
                self._kept.add(action.lease_id)
            else:
                await self._room.give_back(action.lease_id)
        return {a.session.session_id: it or 0 for a, it in zip(ends, freed, strict=True)}

    async def again(self) -> bool:
        """End what did not end, and give back what was kept for it; whether that was any."""
        left = tuple(self._failed.values())
        await asyncio.gather(*(self._end(session, "it did not end before") for session in left))
        failed = {session.lease_id for session in self._failed.values()}
        free = self._kept - failed
        for lease_id in free:
            self._kept.discard(lease_id)
            _log.info("room_free", lease=lease_id)
            await self._room.give_back(lease_id)
        return bool(free)

    async def end_all(self, reason: str) -> None:
        """End every worker that is there."""
        left = [seat.session for seat in self._seats.values()]
        await asyncio.gather(*(self._end(session, reason) for session in left))

    async def held(self) -> Mapping[str, int]:
        """{session_id: device memory} of workers that hold some."""
        return await self._sessions.held()

    async def _start(self, action: Start) -> Worker | HarpError:
        try:
            async with asyncio.timeout(_START_S):
                return await self._sessions.start(action.lease, action.session, action.token)
        except HarpError as error:
            return error
        except TimeoutError:
            return DaemonError(f"the worker was not ready within {_START_S:g} s", "try again")
        except Exception as error:  # noqa: BLE001 - one session's fault must not end the others
            _log.exception("start_broken", session=action.session.session_id)
            return DaemonError(f"the worker did not start: {type(error).__name__}: {error}")

    async def _end(self, session: Session, reason: str) -> int | None:
        """End a worker; returns the bytes freed, None if it is not sure that it ended."""
        seat = self._seats.get(session.session_id)
        if seat is None:
            return 0
        async with seat.lock:
            if session.session_id not in self._seats:
                return 0
            freed: int | None = 0
            if await _ran(seat):
                freed = await self._end_worker(session, reason)
            if freed is None:
                self._failed[session.session_id] = session
                return None
            self._failed.pop(session.session_id, None)
            del self._seats[session.session_id]
        _log.info("session_ended", session=session.session_id, reason=reason, freed_bytes=freed)
        return freed

    async def _end_worker(self, session: Session, reason: str) -> int | None:
        try:
            async with asyncio.timeout(_END_S):
                return await self._sessions.end(session, reason)
        except Exception:  # noqa: BLE001 - as above
            _log.exception("end_broken", session=session.session_id)
            return None

    async def _tell(self, action: Tell) -> None:
        seat = self._seats.get(action.session.session_id)
        if seat is None:
            return
        async with seat.lock:
            if action.session.session_id not in self._seats or not await _ran(seat):
                return
            try:
                async with asyncio.timeout(_END_S):
                    await self._sessions.tell(action.session, action.drain_s)
            except Exception:  # noqa: BLE001 - as above
                _log.exception("tell_broken", session=action.session.session_id)


async def _ran(seat: _Seat) -> bool:
    """Whether the start has brought about a worker; one that failed or was cancelled has not."""
    await asyncio.wait([seat.start])
    return not seat.start.cancelled() and isinstance(seat.start.result(), Worker)
