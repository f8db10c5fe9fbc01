# SPDX-License-Identifier: Apache-2.0
"""What keys have shown, of all targets. Pure, but for what it is told to look up.

keys = Keys()               # all of it in memory
keys = Keys(file)           # what was not asked for lately is in a file (learned.py)
keys.get(key)               # a State; None: nothing was seen of it
keys.touch(key)             # the same, to be changed: it is written at the next save
keys.of("duration_s", by_device=True)   # the Pasts of an Estimator
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable
from functools import lru_cache
from typing import Protocol

from harp.estimator.estimate import Key
from harp.estimator.frozen import Reader, Writer
from harp.estimator.guard import Box, Trouble
from harp.estimator.past import Past
from harp.estimator.rules import JOB_RULES

__all__ = ["File", "Keys", "State", "TargetKeys"]

#: of a state's memory beside its pasts: itself, its key, its places in dicts
_HELD_BYTES = 700


class State:
    """One key's."""

    __slots__ = ("box", "pasts", "seen_s", "trouble")

    def __init__(self) -> None:
        self.seen_s: float | None = None  #: when a run of it last ended; None: none has
        self.trouble: Trouble | None = None
        self.box: Box | None = None
        #: {(target, name of the device if that matters, else ""): its past}
        self.pasts: dict[tuple[str, str], Past] = {}

    @property
    def held_bytes(self) -> int:
        """What it takes of memory, about."""
        return _HELD_BYTES + sum(past.held_bytes for past in self.pasts.values())

    def packed(self) -> bytes:
        """All of it but `seen_s`."""
        out = Writer()
        trouble = None if self.trouble is None else self.trouble.plain()
        box = None if self.box is None else self.box.plain()
        out.plain([trouble, box])
        out.raw(_names(tuple(self.pasts)))
        for past in self.pasts.values():
            past.write(out)
        return out.done()

    @staticmethod
    def of(data: bytes, seen_s: float | None) -> State:
        """The one that packed() packed.

        Raises:
            ValueError, TypeError, KeyError: it packed something else.
        """
        state, reader = State(), Reader(data)
        state.seen_s = seen_s
        trouble, box = reader.plain()
        state.trouble = None if trouble is None else Trouble.of(trouble)
        state.box = None if box is None else Box.of(box)
        for target, device in _named(reader.raw()):
            past = state.pasts[target, device] = JOB_RULES[target].past()
            past.read(reader)
        reader.end()
        return state


@lru_cache(256)  # keys have few kinds of pasts
def _names(pasts: tuple[tuple[str, str], ...]) -> bytes:
    return json.dumps(pasts).encode()


@lru_cache(256)
def _named(data: bytes) -> list[tuple[str, str]]:
    return [(target, device) for target, device in json.loads(data)]


class File(Protocol):
    """Where states are that memory does not hold."""

    def load(self, key: Key) -> State | None:
        """One of them."""
        ...

    def older(self, than_s: float) -> Iterable[Key]:
        """Keys last seen before that."""
        ...

    def __len__(self) -> int:
        """How many there are."""
        ...


class Keys:
    """All keys.

    Args:
        file: None: all are in memory.
        most_bytes: that memory holds beyond what is to be saved, if there is a file.
    """

    def __init__(self, file: File | None = None, *, most_bytes: int = 32 << 20) -> None:
        self._file = file
        self._most_bytes = most_bytes
        #: asked for longest ago first, if there is a file
        self._held: OrderedDict[Key, State] = OrderedDict()
        self._count = len(file) if file is not None else 0
        #: to be saved, and to be dropped from the file
        self.changed: dict[Key, None] = {}
        self.gone: dict[Key, None] = {}

    def __len__(self) -> int:
        """How many something was seen of."""
        return self._count

    def __contains__(self, key: Key) -> bool:
        """Something was seen of it."""
        return self.get(key) is not None

    def get(self, key: Key) -> State | None:
        """What a key has shown; None: nothing."""
        state = self._held.get(key)
        if self._file is None:
            return state
        if state is not None:
            self._held.move_to_end(key)
        elif key not in self.gone:
            state = self._file.load(key)
            if state is not None:
                self._held[key] = state
        return state

    def touch(self, key: Key) -> State:
        """The same, about to be changed."""
        state = self.get(key)
        if state is None:
            state = self._held[key] = State()
            self._count += 1
            self.gone.pop(key, None)
        if self._file is not None:
            self.changed[key] = None
        return state

    def prune(self, before_s: float, now_s: float) -> int:
        """Drop those not seen since `before_s`; how many.

        Args:
            before_s: wall clock.
            now_s: those seen later were seen now: a clock was ahead for a while.
        """
        # The file's are not looked at for that: what is not held was not asked for since.
        for key, state in self._held.items():
            if state.seen_s is not None and state.seen_s > now_s:
                self.touch_held(key).seen_s = now_s
        old = {
            key
            for key, state in self._held.items()
            if state.seen_s is not None and state.seen_s < before_s
        }
        if self._file is not None:
            old |= {key for key in self._file.older(before_s) if key not in self._held}
            old -= self.gone.keys()
        for key in sorted(old):
            self._held.pop(key, None)
            self.changed.pop(key, None)
            if self._file is not None:
                self.gone[key] = None
        self._count -= len(old)
        return len(old)

    def touch_held(self, key: Key) -> State:
        """One that is in memory, about to be changed where it stands among those asked for."""
        if self._file is not None:
            self.changed[key] = None
        return self._held[key]

    def take(self) -> tuple[list[tuple[Key, State]], list[Key]]:
        """What is to be saved and dropped since the last call; see saved() and untake()."""
        changed = [(key, self._held[key]) for key in self.changed]
        gone = [*self.gone]
        self.changed = {}
        return changed, gone

    def saved(self, gone: Iterable[Key]) -> None:
        """The file has what take() gave: memory need hold no more than its part."""
        for key in gone:
            if key not in self._held:
                self.gone.pop(key, None)
        sizes = {key: state.held_bytes for key, state in self._held.items()}
        over = sum(sizes.values()) - self._most_bytes
        for key, size in sizes.items():
            if over <= 0:
                break
            if key not in self.changed:
                del self._held[key]
                over -= size

    def not_saved(self, changed: Iterable[tuple[Key, State]]) -> None:
        """The file has it not: it is to be saved yet."""
        for key, state in changed:
            if self._held.get(key) is state:
                self.changed[key] = None

    def of(self, target: str, *, by_device: bool) -> TargetKeys:
        """One target's part.

        Args:
            target: which.
            by_device: its keys have the name of a device behind them.
        """
        return TargetKeys(self, target, by_device=by_device)


class TargetKeys:
    """What keys have shown of one target: the pasts of an Estimator."""

    def __init__(self, keys: Keys, target: str, *, by_device: bool) -> None:
        self._keys = keys
        self._target = target
        self._by_device = by_device

    def get(self, key: Key) -> Past | None:
        """A key's; None: nothing was seen of it."""
        whole, device = self._parts(key)
        state = self._keys.get(whole)
        return None if state is None else state.pasts.get((self._target, device))

    def __setitem__(self, key: Key, past: Past) -> None:
        """A key's first."""
        whole, device = self._parts(key)
        self._keys.touch(whole).pasts[self._target, device] = past

    def _parts(self, key: Key) -> tuple[Key, str]:
        return (key[:-1], str(key[-1])) if self._by_device else (key, "")
