# SPDX-License-Identifier: Apache-2.0
"""Times in which an engine stood idle although somebody's launches waited for a gate. Pure."""

from __future__ import annotations

__all__ = ["Gaps"]


class Gaps:
    """Keeps one engine's."""

    def __init__(self, now: int) -> None:
        self._idle = True
        #: contexts whose launches wait
        self._wanting: set[int] = set()
        self._since_ns: int | None = None
        self._idle_since_ns = now
        self.idle_ns = 0
        self.samples_ns: list[int] = []

    def idle(self, idle: bool, now: int) -> None:  # noqa: FBT001 - a callback's operand
        """The engine came to rest, or to work."""
        if idle:
            self._idle_since_ns = now
        elif self._idle:
            self.idle_ns += now - self._idle_since_ns
        self._idle = idle
        self._look(now)

    def wanting(self, context: int, wants: bool, now: int) -> None:  # noqa: FBT001 - the same
        """A context's launches wait for a gate, or do no more."""
        if wants:
            self._wanting.add(context)
        else:
            self._wanting.discard(context)
        self._look(now)

    def close(self, now: int) -> None:
        """The run is over."""
        if self._idle:
            self.idle(False, now)  # noqa: FBT003 - what is booked
        self._wanting.clear()
        self._look(now)

    def _look(self, now: int) -> None:
        gap = self._idle and bool(self._wanting)
        if gap and self._since_ns is None:
            self._since_ns = now
        elif not gap and self._since_ns is not None:
            if now > self._since_ns:
                self.samples_ns.append(now - self._since_ns)
            self._since_ns = None
