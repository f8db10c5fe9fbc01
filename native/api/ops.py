# SPDX-License-Identifier: Apache-2.0
"""Numbers of ops: ops.lock, to which lines are only ever appended.

A number is said on the wire and in traces for good: it is never given to another op, and that of an
op that is gone stays taken. Numbers below FIRST are HARP's own (native/src/wire/frame.h).
"""

from __future__ import annotations

from pathlib import Path

from native.api.marshal import CALLS
from native.api.wire import Call

__all__ = ["FIRST", "LOCK", "append", "lines", "numbers", "parse"]

LOCK = Path(__file__).with_name("ops.lock")
FIRST = 64
LAST = 0xFFFF


def parse(text: str) -> dict[str, int]:
    """`name number` lines, in the order of their numbers.

    Raises:
        ValueError: a name or a number is there twice, or a line is out of order.
    """
    out: dict[str, int] = {}
    last = FIRST - 1
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        name, _, number = line.partition(" ")
        if name in out:
            raise ValueError(f"ops.lock: {name} has two numbers")
        if int(number) <= last or int(number) > LAST:
            raise ValueError(f"ops.lock: {name} {number} after {last}: numbers only ever grow")
        last = out[name] = int(number)
    return out


def append(known: dict[str, int], calls: tuple[Call, ...]) -> dict[str, int]:
    """The numbers with those of new ops after the last one."""
    out = dict(known)
    last = max(out.values(), default=FIRST - 1)
    for call in calls:
        if call.name not in out:
            last = out[call.name] = last + 1
    return out


def numbers() -> dict[str, int]:
    """Number of each op, also of ops that are gone."""
    known = parse(LOCK.read_text()) if LOCK.exists() else {}
    return append(known, CALLS)


def lines() -> str:
    """Body of ops.lock."""
    return "".join(f"{name} {number}\n" for name, number in numbers().items())
