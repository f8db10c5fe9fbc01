# SPDX-License-Identifier: Apache-2.0
"""What stood for something when it was recorded, and what stands for it now. Pure.

A call's values are walked by the wire's tables: handles are looked up, device addresses are moved
by the allocation that they lie in, and so is each word of a kernel's parameters that is an address
of one (an integer that looks like one is moved as well: nobody knows parameters' types). Answers
are walked the same way: what is new is bound, what is known must be what it stands for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from harp.trace.report import NOT_MADE
from harp.wire import OPS
from harp.wire._tables import STRUCTS
from harp.wire.fields import IN, OUT, Field

__all__ = ["Answer", "Ranges", "Unknown", "World", "answers", "requested"]

Values = dict[str, Any]
_PACKED, _IMAGE = "struct harp_wire_packed", "struct harp_wire_image"
#: handles that stand for themselves: no stream, and the two default ones
_ITSELF = {"CUstream": (0, 1, 2)}
_WORD = 8


class Unknown(Exception):  # noqa: N818 - no error of HARP's: a call cannot be made
    """A call names what this replay does not have; the text says what."""


class Ranges:
    """Memory: where it was, and where it is."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._rows: list[tuple[int, int]] = []  # end, where it is now; of each start

    def add(self, was: int, size: int, now: int) -> None:
        """Memory that there is from here on; what it overlaps has gone."""
        end = was + max(size, 1)
        first = bisect_right(self._starts, was)
        if first and self._rows[first - 1][0] > was:
            first -= 1
        last = first
        while last < len(self._starts) and self._starts[last] < end:
            last += 1
        self._starts[first:last] = [was]
        self._rows[first:last] = [(end, now)]

    def remove(self, was: int) -> None:
        """The memory that began there has gone."""
        at = bisect_right(self._starts, was) - 1
        if at >= 0 and self._starts[at] == was:
            del self._starts[at], self._rows[at]

    def find(self, was: int) -> int | None:
        """Where an address is now; its end counts as its own, if nothing begins there."""
        at = bisect_right(self._starts, was) - 1
        if at < 0 or was > self._rows[at][0]:
            return None
        return self._rows[at][1] + was - self._starts[at]

    def left(self, was: int) -> int:
        """Bytes from an address to the end of its memory."""
        at = bisect_right(self._starts, was) - 1
        return max(self._rows[at][0] - was, 0) if at >= 0 else 0


@dataclass(slots=True)
class World:
    """All that stands for something.

    Attributes:
        handles: {(kind, as recorded): as of now}.
        images: hashes of images that there are.
        kept: what must live as long as this does, by where it was.
    """

    handles: dict[tuple[str, int], int] = field(default_factory=dict)
    memory: Ranges = field(default_factory=Ranges)
    images: frozenset[bytes] = frozenset()
    kept: dict[int, Any] = field(default_factory=dict)

    def handle(self, kind: str, value: int) -> int:
        """What a handle is now. Raises Unknown."""
        if value == 0 or value in _ITSELF.get(kind, ()):
            return value
        found = self.handles.get((kind, value))
        if found is None and kind == "CUfunction":  # drivers take one for the other
            found = self.handles.get(("CUkernel", value))
        if found is None and kind == "CUkernel":
            found = self.handles.get(("CUfunction", value))
        if found is None:
            raise Unknown(f"a {kind} {NOT_MADE}")
        return found

    def address(self, value: int) -> int:
        """Where an address is now: none of the recorded process is for a driver. Raises Unknown."""
        found = self.memory.find(value) if value else 0
        if found is None:
            raise Unknown(f"memory {NOT_MADE}")
        return found

    def words(self, data: bytes) -> bytes:
        """Kernel parameters, addresses in them moved."""
        out = bytearray(data)
        for at in range(0, len(data) - _WORD + 1, _WORD):
            word = int.from_bytes(data[at : at + _WORD], "little")
            found = self.memory.find(word) if word else None
            if found is not None:
                out[at : at + _WORD] = found.to_bytes(_WORD, "little")
        return bytes(out)


@dataclass(frozen=True, slots=True)
class Answer:
    """One output: what kind of value it is, as recorded, and as of now."""

    path: str
    field: Field
    was: Any
    now: Any
    within: Mapping[str, Any]  # the recorded values around it


def requested(op: int, values: Values, world: World) -> Values:
    """A request with what things are now. Raises Unknown."""
    return _moved(OPS[op].fields, values, IN | OUT, world)


def _moved(fields: tuple[Field, ...], values: Values, outer: int, world: World) -> Values:
    out = dict(values)
    for f in fields:
        value, way = values.get(f.name), f.dir & outer
        if f.item == "CASE":
            cases = f.cases or STRUCTS[str(f.kind)][0].cases
            inner = values if f.cases else value
            chosen = cases.get(values.get(f.tag, -1))
            if chosen is not None and isinstance(inner, dict):
                moved = _moved(chosen, inner, way, world)
                if f.cases:
                    out |= {g.name: moved[g.name] for g in chosen if g.name in moved}
                else:
                    out[f.name] = moved
            continue
        if value is None or f.hold in ("LENT", "LENT_AT"):
            continue
        if f.new:
            out[f.name] = 0
        elif f.item == "STRUCT":
            out[f.name] = _structs(f, value, way, world)
        elif f.item == "HANDLE" and way & IN:
            out[f.name] = _each(value, partial(world.handle, str(f.kind)))
        elif f.item == "DEVICE" and way & IN:
            out[f.name] = _each(value, world.address)
    return out


def _structs(f: Field, value: Any, way: int, world: World) -> Any:
    """One struct, several, or (an output in a request) how many there is room for."""
    if isinstance(value, list):
        return [_structs(f, one, way, world) for one in value]
    if not isinstance(value, dict):
        return value
    if f.kind == _PACKED:
        data = value.get("data")
        return {**value, "data": world.words(data)} if isinstance(data, bytes) else value
    if f.kind == _IMAGE:
        if bytes(value["sha256"]) not in world.images:
            raise Unknown("an image (PTX or cubin) that is not in the trace")
        return value
    return _moved(STRUCTS[str(f.kind)], value, way, world)


def _each(value: Any, what: Callable[[int], int]) -> Any:
    return [what(v) for v in value] if isinstance(value, list) else what(value)


def answers(op: int, was: Values, now: Values) -> Iterator[Answer]:
    """Outputs of a call: decoded replies, as recorded and as of now."""
    yield from _answers(OPS[op].fields, (was, now), IN | OUT, "")


def _answers(
    fields: tuple[Field, ...], both: tuple[Values, Values], outer: int, path: str
) -> Iterator[Answer]:
    was, now = both
    for f in fields:
        one, other, way = was.get(f.name), now.get(f.name), f.dir & outer
        if not way & OUT:
            continue
        if f.item == "CASE":
            cases = f.cases or STRUCTS[str(f.kind)][0].cases
            chosen = cases.get(was.get(f.tag, -1), ())
            yield from _inner(chosen, both if f.cases else (one, other), way, path)
        elif f.item == "STRUCT" and isinstance(one, list) and isinstance(other, list):
            for i, pair in enumerate(zip(one, other, strict=False)):
                yield from _inner(STRUCTS[str(f.kind)], pair, way, f"{path}{f.name}[{i}].")
        elif f.item == "STRUCT" and isinstance(one, dict) and isinstance(other, dict):
            yield from _inner(STRUCTS[str(f.kind)], (one, other), way, f"{path}{f.name}.")
        elif f.item != "FETCHED" and (f.hold != "VALUE" or way == OUT or one != other):
            yield Answer(path + f.name, f, one, other, was)


def _inner(
    fields: tuple[Field, ...], pair: tuple[Any, Any], way: int, path: str
) -> Iterator[Answer]:
    one, other = pair
    if isinstance(one, dict) and isinstance(other, dict):
        yield from _answers(fields, (one, other), way, path)
