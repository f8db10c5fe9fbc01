# SPDX-License-Identifier: Apache-2.0
"""A process under libharp: its gate on one lane, as native/src/shim/gate keeps it. Pure.

It launches while its gate is open, the predicted end of its queue lies before the turn's end and
its window has room; one launch is always allowed. It hands over early after IDLE_NS without work
and says once per turn when what it queued will have ended (lease.h, HARP_USED_TIME a=1).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from harp.lease_wire import Lane, Op
from harp.sim.engine import Command, Engine
from harp.sim.program import Program

__all__ = ["Client", "Waits"]

#: no work for so long: the turn is handed over (native/src/shim/gate/gate.h HARP_IDLE_NS)
IDLE_NS = 200_000
#: how often use is reported while a turn lasts (native/src/shim/gate/gate.h HARP_REPORT_NS)
REPORT_NS = 100_000_000
#: launches of one piece end together; the bound of what one event pair brackets (HARP_BATCH_NS)
PIECE_NS = 1_000_000
#: launches that a driver takes before cuLaunchKernel blocks
DRIVER_QUEUE = 1024


class State(enum.Enum):
    """Of a gate."""

    CLOSED = 0
    QUANTUM = 1  #: until a time, or in company: bounded, and handed over when idle
    FREE = 2  #: until CLOSE, alone
    DRAINING = 3


@dataclass(slots=True)
class Waits:
    """How long work waited for an open gate."""

    count: int = 0
    total_ns: int = 0
    longest_ns: int = 0
    samples_ns: list[int] = field(default_factory=list)

    def add(self, ns: int) -> None:
        """Count one wait."""
        self.count += 1
        self.total_ns += ns
        self.longest_ns = max(self.longest_ns, ns)
        self.samples_ns.append(ns)


class Client:
    """One process on one lane of the device."""

    def __init__(
        self,
        context: int,
        lane: Lane,
        *,
        engine: Engine,
        waits: Waits,
        at: Callable[[int, Callable[[int], None]], None],
        tell: Callable[[Client, Op, dict[str, int], int], None],
        wanting: Callable[[Client, bool, int], None],
    ) -> None:
        self.context = context
        self.lane = lane
        self.number = 0  #: the arbiter's
        self.program: Program
        self._engine = engine
        self._waits = waits
        self._at = at
        self._tell = tell
        self._wanting = wanting
        self.dead = False
        self._state = State.CLOSED
        self._epoch = 0
        self._deadline_ns = 0
        self._window_ns = 0
        self._wanted_ns: int | None = None  #: since when work waits for the gate
        self._announced = False
        self._turn = 0  #: of this client; voids timers of older ones
        self._in_flight = 0  #: launches
        self._in_flight_ns = 0  #: the same, predicted
        self._head_ns: int | None = None  #: when what runs now began
        self._first_ns: int | None = None  #: first event of this turn
        self._last_ns = 0  #: last event
        self._reported_ns = 0
        self._launched = 0  #: launches in this turn
        self._unreported = 0  #: launches not reported
        self.launches = 0

    # what the arbiter says

    def opened(self, epoch: int, quantum_ns: int, window_ns: int, change: bool, now: int) -> None:  # noqa: FBT001 - a field of the message
        """OPEN_GATE."""
        if self.dead or (change and (self._state is State.CLOSED or epoch != self._epoch)):
            return
        if not change:
            self._first_ns = None
            self._reported_ns = 0
            self._launched = 0
        if self._wanted_ns is not None:
            self._waits.add(now - self._wanted_ns)
            self._wanted_ns = None
        self._wanting(self, False, now)  # noqa: FBT003 - what it now does
        self._epoch = epoch
        self._state = State.QUANTUM if quantum_ns or window_ns else State.FREE
        self._deadline_ns = now + quantum_ns if quantum_ns else 0
        self._window_ns = window_ns
        self._announced = False
        self._turn += 1
        turn = self._turn
        if quantum_ns:
            self._at(self._deadline_ns, lambda then: self._expire(turn, then))
        else:
            self._at(now + REPORT_NS, lambda then: self._report(turn, then))
        self.pump(now)
        self._watch_idle(now)

    def closed(self, epoch: int, now: int) -> None:
        """CLOSE_GATE."""
        if not self.dead and epoch == self._epoch and self._is_open():
            self._finish(now, announce=False)  # the arbiter knows

    # what the program does

    def pump(self, now: int) -> None:
        """Launch what the program wants and the gate allows."""
        while not self.dead and self.program.wanted:
            if not self._is_open():
                self._want(now)
                return
            ahead = self._ahead_ns(now)
            if self._deadline_ns and self._launched and now + ahead >= self._deadline_ns:
                self._finish(now)
                return
            window = self._window_ns or DRIVER_QUEUE * self.program.launch_ns
            room = window - self._in_flight_ns
            if self._in_flight and (room <= 0 or self._in_flight >= DRIVER_QUEUE):
                return
            room = min(room, PIECE_NS)
            if self._deadline_ns:
                room = min(room, self._deadline_ns - now - ahead)
            # The last launch may cross the bound, as it does in libharp.
            count = max(1, -(-room // self.program.launch_ns))
            self._launch(min(count, self.program.wanted, DRIVER_QUEUE - self._in_flight), now)

    def die(self, now: int) -> None:
        """SIGKILL."""
        self.dead = True
        self._wanting(self, False, now)  # noqa: FBT003 - what it now does
        self._engine.kill(self.context, now)

    def unmet_wait(self, now: int) -> None:
        """Count the wait that is not over when the run ends."""
        if self._wanted_ns is not None and not self.dead:
            self._waits.add(now - self._wanted_ns)

    def _is_open(self) -> bool:
        return self._state in (State.QUANTUM, State.FREE)

    def _ahead_ns(self, now: int) -> int:
        """Predicted time until the queue is empty."""
        ran = now - self._head_ns if self._head_ns is not None else 0
        return max(0, self._in_flight_ns - ran)

    def _launch(self, count: int, now: int) -> None:
        self.program.launched(count)
        predicted = count * self.program.launch_ns
        self._in_flight += count
        self._in_flight_ns += predicted
        self._launched += count
        self._unreported += count
        self.launches += count

        def began(then: int) -> None:
            self._head_ns = then
            if self._first_ns is None:
                self._first_ns = then

        def ended(then: int) -> None:
            self._in_flight -= count
            self._in_flight_ns -= predicted
            self._head_ns = None
            self._last_ns = then
            if not self.dead:
                self._ended(then)

        self._engine.submit(Command(self.context, self.program.length_ns(count), began, ended), now)

    def _ended(self, now: int) -> None:
        if not self._in_flight:
            self.program.drained(now)
        self.pump(now)
        if self._in_flight:
            return
        if self._state is State.DRAINING:
            self._yield(now)
        else:
            self._watch_idle(now)

    # turns

    def _want(self, now: int) -> None:
        if self._wanted_ns is not None:
            return
        self._wanted_ns = now
        self._wanting(self, True, now)  # noqa: FBT003 - what it now does
        if self._state is State.CLOSED:
            self._tell(self, Op.WANT_TIME, {}, now)

    def _expire(self, turn: int, now: int) -> None:
        if turn == self._turn and self._state is State.QUANTUM and not self.dead:
            self._finish(now)

    def _watch_idle(self, now: int) -> None:
        if self._state is not State.QUANTUM or self._in_flight:
            return
        turn, launched = self._turn, self._launched

        def look(then: int) -> None:
            same = (turn, launched) == (self._turn, self._launched) and not self.dead
            if same and self._state is State.QUANTUM and not self._in_flight:
                self._finish(then)

        self._at(now + IDLE_NS, look)

    def _finish(self, now: int, *, announce: bool = True) -> None:
        """Launch no more in this turn: drain, then yield."""
        self._state = State.DRAINING
        if self.program.wanted:
            self._want(now)
        if not self._in_flight:
            self._yield(now)
            return
        if announce and not self._announced:
            self._announced = True
            self._use(now, a=1, c=int(self.program.wanted > 0), window_ns=self._ahead_ns(now))

    def _yield(self, now: int) -> None:
        self._state = State.CLOSED
        more = self.program.wanted > 0
        used = self._used_ns()
        self._reported_ns += used
        if self._unreported:
            self._use_launches(now)
        self._tell(
            self,
            Op.YIELD_TIME,
            {
                "epoch": self._epoch,
                "a": int(more),
                "used_ns": used,
                "age_ns": now - self._last_ns if self._launched else 0,
            },
            now,
        )
        if more:
            # The wish travels in the yield.
            if self._wanted_ns is None:
                self._wanted_ns = now
            self._wanting(self, True, now)  # noqa: FBT003 - what it now does

    def _used_ns(self) -> int:
        """First to last event of this turn, less what was said already."""
        if self._first_ns is None or self._last_ns <= self._first_ns:
            return 0
        return max(0, self._last_ns - self._first_ns - self._reported_ns)

    def _report(self, turn: int, now: int) -> None:
        if turn != self._turn or self.dead or self._state is State.CLOSED:
            return
        self._use(now)
        self._at(now + REPORT_NS, lambda then: self._report(turn, then))

    def _use(self, now: int, **fields: int) -> None:
        used = self._used_ns()
        self._reported_ns += used
        launches, self._unreported = self._unreported, 0
        age = now - self._last_ns if used else 0
        self._tell(
            self,
            Op.USED_TIME,
            {
                "epoch": self._epoch,
                "used_ns": used,
                "age_ns": age,
                "launches": launches,
                **fields,
            },
            now,
        )

    def _use_launches(self, now: int) -> None:
        launches, self._unreported = self._unreported, 0
        self._tell(self, Op.USED_TIME, {"epoch": self._epoch, "launches": launches}, now)
