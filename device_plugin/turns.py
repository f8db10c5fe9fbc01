# SPDX-License-Identifier: Apache-2.0
"""One at a time is at a grant, be it a start, an edit or the sweep; others are not held up."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

__all__ = ["Turns"]


@dataclass(slots=True)
class _Turn:
    lock: threading.Lock = field(default_factory=threading.Lock)
    waiting: int = 0


class Turns:
    """A lock for each grant that somebody is at. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: {grant id: who is at it}
        self._turns: dict[str, _Turn] = {}

    @contextlib.contextmanager
    def at(self, key: str) -> Iterator[None]:
        """Wait until nobody else is at that grant, and be the one who is."""
        with self._lock:
            turn = self._turns.setdefault(key, _Turn())
            turn.waiting += 1
        try:
            with turn.lock:
                yield
        finally:
            with self._lock:
                turn.waiting -= 1
                if not turn.waiting:
                    del self._turns[key]

    @contextlib.contextmanager
    def all(self, keys: Collection[str]) -> Iterator[None]:
        """As at(), of several grants. Nobody who is at one may ask: all go in one order."""
        with contextlib.ExitStack() as stack:
            for key in sorted(keys):
                stack.enter_context(self.at(key))
            yield
