# SPDX-License-Identifier: Apache-2.0
"""A call as recorded beside the same call made again: what differs, what has been learnt. Pure.

Handles and addresses differ always and are held against what they stand for. Of some answers only
the kind can be the same: how much is free beside others, times, numbers that a driver draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harp.trace.entries import base_name
from harp.trace.mapping import Answer, World, answers
from harp.trace.records import Call, Kind
from harp.trace.report import MEMORY, Divergence, Made

__all__ = ["NOT_READY", "compared", "is_poll"]

NOT_READY = 600
_POLLS = ("cuStreamQuery", "cuEventQuery")
#: answers that may differ: {function: parameters}
_FREE = {
    "cuMemGetInfo": ("free",),
    "cuEventElapsedTime": ("pMilliseconds",),
    "cuStreamGetId": ("streamId",),
    "cuCtxGetId": ("ctxId",),
    "cuStreamGetCaptureInfo": ("id_out",),
}
#: what says how much memory an address that is answered has
_SIZES = ("bytesize", "size", "bytes", "Bytesize")
#: functions whose handle is none afterwards
_ENDS = ("Destroy", "Unload", "MemRelease")


def is_poll(symbol: str) -> bool:
    """Whether a function is asked again and again until the answer is yes."""
    return base_name(symbol) in _POLLS


def compared(
    call: Call,
    made: Made,
    was: Mapping[str, Any] | None,
    now: Mapping[str, Any] | None,
    world: World,
) -> Iterator[Divergence]:
    """What differs; `was`, `now`: decoded replies, where there are both."""
    name = call.symbol.name
    if call.result != made.result and not (
        is_poll(name) and {call.result, made.result} == {0, NOT_READY} and call.result
    ):
        yield Divergence(call.sequence, name, "result", str(call.result), str(made.result))
    if call.result != 0 or made.result != 0:
        return
    if made.made and call.made:
        _learn(call, made, world)
    if was is not None and now is not None:
        for answer in answers(call.symbol.op, dict(was), dict(now)):
            yield from _answer(call, answer, world)
    if call.symbol.kind is Kind.FREE:
        for value in (was or {}).values():
            if isinstance(value, int):
                world.memory.remove(value)
    if was is not None and any(word in name for word in _ENDS):
        gone = {v for v in was.values() if isinstance(v, int)}
        for kind, value in [key for key in world.handles if key[1] in gone]:
            del world.handles[kind, value]


def _learn(call: Call, made: Made, world: World) -> None:
    """A handle that the call made, or memory."""
    if made.made_kind == MEMORY:
        size = call.size
        if base_name(call.symbol.name) == "cuMemHostGetDevicePointer" and len(call.slots) > 1:
            size = world.memory.left(call.slots[1])  # as much as there is of the host's
        if world.memory.find(call.made) != made.made or size > world.memory.left(call.made):
            world.memory.add(call.made, size, made.made)
    elif made.made_kind:
        world.handles[made.made_kind, call.made] = made.made


def _answer(call: Call, answer: Answer, world: World) -> Iterator[Divergence]:
    """One output."""
    f, name = answer.field, call.symbol.name
    if f.new or f.item in ("WORDS", "NULL"):
        return
    if answer.path in _FREE.get(base_name(name), ()):
        return
    if f.item not in ("HANDLE", "DEVICE"):
        if answer.was != answer.now:
            yield _differs(call, answer.path, answer.was, answer.now)
        return
    pairs = zip(_list(answer.was), _list(answer.now), strict=False)
    if len(_list(answer.was)) != len(_list(answer.now)):
        yield _differs(call, answer.path, answer.was, answer.now)
    for one, other in pairs:
        if (one == 0) != (other == 0):
            yield _differs(call, answer.path, one, other)
        elif one == 0:
            continue
        elif f.item == "HANDLE":
            known = world.handles.setdefault((str(f.kind), one), other)
            if known != other:
                yield _differs(call, answer.path, f"{known:#x} here", f"{other:#x}")
        else:
            yield from _address(call, answer, one, other, world)


def _address(
    call: Call, answer: Answer, one: int, other: int, world: World
) -> Iterator[Divergence]:
    """An address that is answered: memory that is new, or that is known."""
    known = world.memory.find(one)
    if call.symbol.kind is Kind.ALLOC or known is None:
        world.memory.add(one, _size(call, answer.within), other)
    elif known != other:
        yield _differs(call, answer.path, f"{known:#x} here", f"{other:#x}")


def _size(call: Call, within: Mapping[str, Any]) -> int:
    """How much memory is answered."""
    pitch, rows = within.get("pPitch"), within.get("Height")
    if isinstance(pitch, int) and isinstance(rows, int):
        return pitch * rows
    return next((v for s in _SIZES if isinstance(v := within.get(s), int) and v), call.size)


def _differs(call: Call, path: str, was: Any, now: Any) -> Divergence:
    return Divergence(call.sequence, call.symbol.name, path, _words(was), _words(now))


def _list(value: Any) -> list[int]:
    return value if isinstance(value, list) else [value] if isinstance(value, int) else []


def _words(value: Any) -> str:
    """A value in at most a line."""
    if isinstance(value, bytes):
        return value[:24].hex(" ") + (" ..." if len(value) > 24 else "")
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
