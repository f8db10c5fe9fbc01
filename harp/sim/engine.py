# SPDX-License-Identifier: Apache-2.0
"""A modelled engine: contexts in round-robin slices, at a cost per change, with a ledger. Pure.

As the software GPU's and a GPU's compute engine without MPS (design.md §2): one context at a time;
a slice ends a running command only when another context has work; the change costs `switch_ns`, in
which nobody runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Command", "Engine"]


@dataclass(slots=True, eq=False)
class Command:
    """Launches that were handed over together and run one after the other."""

    context: int
    left_ns: int
    began: Callable[[int], None]  #: called with the time its first kernel began
    ended: Callable[[int], None]  #: called with the time its last kernel ended
    running: bool = False


class Engine:
    """One engine. `at(time, call)` is the world's calendar."""

    def __init__(
        self,
        slice_ns: int,
        switch_ns: int,
        at: Callable[[int, Callable[[int], None]], None],
        idle_changed: Callable[[bool, int], None],
    ) -> None:
        self._slice_ns = slice_ns
        self._switch_ns = switch_ns
        self._at = at
        self._idle_changed = idle_changed
        #: {context: its commands, oldest first}; only contexts that have some
        self._queues: dict[int, deque[Command]] = {}
        #: contexts that have commands, in their turn's order; the first one has the engine
        self._ring: deque[int] = deque()
        self._loaded = -1  #: the context that the engine holds now
        self._generation = 0  #: of the planned end of the piece that runs; older ones are void
        self._piece_ns = 0  #: when the running piece began; meaningless while idle or changing
        self._slice_end_ns = 0
        self._changing = False
        self.idle = True
        #: {context: ns it ran}
        self.busy_ns: dict[int, int] = {}
        self.total_busy_ns = 0
        self.switching_ns = 0
        self.switches = 0

    def submit(self, command: Command, now: int) -> None:
        """Queue a command behind those of its context."""
        queue = self._queues.get(command.context)
        if queue is not None:
            queue.append(command)
            return
        self._queues[command.context] = deque((command,))
        self._ring.append(command.context)
        if self.idle:
            self._take_over(now)
        elif len(self._ring) == 2 and not self._changing:
            # Who ran alone runs in slices from here on.
            self._stop(now)
            self._slice_end_ns = max(self._slice_end_ns, now)
            self._go(now)

    def kill(self, context: int, now: int) -> None:
        """The context is gone: what it queued is dropped, what runs ends here."""
        if context not in self._queues:
            return
        held = self._ring[0] == context
        if held and not self._changing:
            self._stop(now)
        del self._queues[context]
        self._ring.remove(context)
        if held and not self._changing:
            self._next(now)

    def settle(self, now: int) -> None:
        """Book what has run so far of the running piece."""
        if not self.idle and not self._changing:
            self._stop(now)
            self._go(now)

    def _next(self, now: int) -> None:
        if self._ring:
            self._take_over(now)
        else:
            self._generation += 1
            self.idle = True
            self._idle_changed(True, now)  # noqa: FBT003 - what it is now

    def _take_over(self, now: int) -> None:
        """Give the engine to the first of the ring."""
        if self.idle:
            self.idle = False
            self._idle_changed(False, now)  # noqa: FBT003 - what it is now
        if self._ring[0] == self._loaded or not self._switch_ns:
            self._loaded = self._ring[0]
            self._begin(now)
            return
        self.switches += 1
        self._changing = True
        self._loaded = self._ring[0]
        self._generation += 1
        generation = self._generation
        until = now + self._switch_ns

        def changed(then: int) -> None:
            if generation == self._generation:
                self._changing = False
                self.switching_ns += self._switch_ns
                # Whom it changed for may be dead by now.
                if self._ring and self._ring[0] == self._loaded:
                    self._begin(then)
                else:
                    self._next(then)

        self._at(until, changed)

    def _begin(self, now: int) -> None:
        self._slice_end_ns = now + self._slice_ns
        self._go(now)

    def _go(self, now: int) -> None:
        """Run the first command of the first context, to its end or the slice's."""
        command = self._queues[self._ring[0]][0]
        if not command.running:
            command.running = True
            command.began(now)
        self._piece_ns = now
        self._generation += 1
        generation = self._generation
        until = now + command.left_ns
        if len(self._ring) > 1:
            until = min(until, self._slice_end_ns)

        def over(then: int) -> None:
            if generation == self._generation:
                self._over(then)

        self._at(until, over)

    def _stop(self, now: int) -> None:
        """Book the running piece up to now."""
        command = self._queues[self._ring[0]][0]
        ran = now - self._piece_ns
        self._piece_ns = now
        command.left_ns -= ran
        self.busy_ns[command.context] = self.busy_ns.get(command.context, 0) + ran
        self.total_busy_ns += ran

    def _over(self, now: int) -> None:
        self._stop(now)
        context = self._ring[0]
        queue = self._queues[context]
        command = queue[0]
        if command.left_ns <= 0:
            queue.popleft()
            if not queue:
                # Its next launch may come in ended(): then it goes on without losing its place.
                queue.append(command)
                command.left_ns = 0
                command.ended(now)
                queue.popleft()
            else:
                command.ended(now)
            if not queue:
                del self._queues[context]
                self._ring.popleft()
                self._next(now)
                return
        if now >= self._slice_end_ns and len(self._ring) > 1:
            self._ring.rotate(-1)
            self._take_over(now)
        else:
            self._go(now)  # alone: a slice that is over ends when somebody comes
