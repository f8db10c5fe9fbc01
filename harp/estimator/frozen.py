# SPDX-License-Identifier: Apache-2.0
"""Numbers and words as bytes, and back, to the last bit. Pure.

What is read is what was written; bytes that nobody wrote so are a ValueError.
"""

from __future__ import annotations

import json
import struct
import sys
from array import array
from collections.abc import Iterable
from typing import Any

__all__ = ["Reader", "Writer"]

_COUNT = struct.Struct("<q")
_HEAD = struct.Struct("<qqq")
_encode = json.JSONEncoder(separators=(",", ":")).encode
_REAL = struct.Struct("<d")
#: arrays are written as memory holds them
_SWAPPED = sys.byteorder == "big"


class Writer:
    """Bytes in the making."""

    __slots__ = ("_out",)

    def __init__(self) -> None:
        self._out = bytearray()

    def whole(self, value: int) -> None:
        """A number of 64 bits."""
        self._out += _COUNT.pack(value)

    def real(self, value: float) -> None:
        """A number."""
        self._out += _REAL.pack(value)

    def reals(self, values: Iterable[float]) -> None:
        """How many, and each."""
        found = array("d", values)
        if _SWAPPED:
            found.byteswap()
        self.whole(len(found))
        self._out += found.tobytes()

    def plain(self, value: Any) -> None:
        """What JSON knows; tuples come back as lists."""
        self.raw(_encode(value).encode())

    def raw(self, data: bytes) -> None:
        """Some bytes."""
        self._out += _COUNT.pack(len(data))
        self._out += data

    def row(self, first: int, second: int, values: array[float]) -> None:
        """Two numbers of 64 bits, how many values, and each."""
        self._out += _HEAD.pack(first, second, len(values))
        if _SWAPPED:
            values = array("d", values)
            values.byteswap()
        self._out += values.tobytes()

    def done(self) -> bytes:
        """All of it."""
        return bytes(self._out)


class Reader:
    """Bytes that a Writer made, in its order."""

    __slots__ = ("_at", "_bytes")

    def __init__(self, data: bytes) -> None:
        self._bytes = data
        self._at = 0

    def whole(self) -> int:
        """See Writer.whole()."""
        return int(_COUNT.unpack(self._take(_COUNT.size))[0])

    def real(self) -> float:
        """See Writer.real()."""
        return float(_REAL.unpack(self._take(_REAL.size))[0])

    def reals(self) -> array[float]:
        """See Writer.reals()."""
        found = array("d")
        found.frombytes(self._take(self.whole() * found.itemsize))
        if _SWAPPED:
            found.byteswap()
        return found

    def plain(self) -> Any:
        """See Writer.plain()."""
        return json.loads(self.raw())

    def raw(self) -> bytes:
        """See Writer.raw()."""
        return self._take(self.whole())

    def row(self) -> tuple[int, int, array[float]]:
        """See Writer.row()."""
        first, second, count = _HEAD.unpack(self._take(_HEAD.size))
        found = array("d")
        found.frombytes(self._take(count * found.itemsize))
        if _SWAPPED:
            found.byteswap()
        return first, second, found

    def end(self) -> None:
        """Nothing may follow.

        Raises:
            ValueError: something does.
        """
        if self._at != len(self._bytes):
            raise ValueError(f"{len(self._bytes) - self._at} bytes too many")

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if size < 0 or end > len(self._bytes):
            raise ValueError(f"{size} bytes wanted, {len(self._bytes) - self._at} are left")
        found = self._bytes[self._at : end]
        self._at = end
        return found
