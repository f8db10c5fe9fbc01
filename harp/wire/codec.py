# SPDX-License-Identifier: Apache-2.0
"""The body codec from Python: a mirror of native/src/wire, for traces and tests.

A call is a dict of its parameters; structs are dicts of their members, nested ones by their path
("allocFlags.usage"). What a pointer points to is in its place:

    None                NULL
    int                 one number, handle or address; of an output, in a request: its room
    bytes               several of one byte, or what a tag says
    list                several of anything else
    str                 a text
    Transfer            host bytes that the body only names

Decoding is bounded by the body: nothing is made that is not in it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harp.errors import WireError
from harp.wire._tables import MEANINGS, OPS, STRUCTS
from harp.wire.fields import IN, OUT, Field, Op

__all__ = [
    "INLINE_BYTES",
    "OPS",
    "Transfer",
    "decode_reply",
    "decode_request",
    "encode_reply",
    "encode_request",
]

INLINE_BYTES = 64 << 10

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Transfer:
    """Host bytes that go by themselves."""

    id: int


class _Reader:
    """Takes values from a body, whatever it is told to write."""

    reads = True

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    def raw(self, _data: bytes, size: int) -> bytes:
        """Bytes, and the zeroes after them."""
        end = self._at + size + -size % 4
        if end > len(self._body):
            raise WireError(f"the body ends at byte {len(self._body)}, and has more to say")
        data, pad = self._body[self._at : self._at + size], self._body[self._at + size : end]
        if any(pad):
            raise WireError(f"not zero between values, at byte {self._at + size}")
        self._at = end
        return data

    def end(self) -> None:
        """Nothing may be left over."""
        if self._at != len(self._body):
            raise WireError(f"{len(self._body) - self._at} bytes are left over")


class _Writer:
    """Appends values to a body, and gives them back."""

    reads = False

    def __init__(self) -> None:
        self.body = bytearray()

    def raw(self, data: bytes, size: int) -> bytes:
        """Bytes, and the zeroes after them."""
        if len(data) != size:
            raise WireError(f"{len(data)} bytes where {size} belong")
        self.body += data + bytes(-size % 4)
        return data


class _Walk:
    """One pass over the fields of an op, reading or writing."""

    def __init__(
        self, io: _Reader | _Writer, op: Op, way: int, asked: Values, *, apart: bool
    ) -> None:
        self.io, self.op, self.way, self.apart = io, op, way, apart
        self.asked = asked  # the request, in replies

    def word(self, value: int) -> int:
        return int.from_bytes(self.io.raw(struct.pack("<I", value), 4), "little")

    def long(self, value: int) -> int:
        return int.from_bytes(self.io.raw(struct.pack("<Q", value), 8), "little")

    def fields(self, fields: tuple[Field, ...], values: Values, outer: int, *, slots: bool) -> None:
        """All fields of a call or struct, in order."""
        for f in fields:
            way = f.dir & outer
            if f.hold in ("LENT", "LENT_AT"):
                if way & OUT:
                    self.lent(f, values)
            elif f.item == "NULL":
                values[f.name] = None
            elif f.item in ("SENT", "FETCHED"):
                self.host(f, values)
            elif f.hold == "POINTER" and slots:
                self.slot(f, values, way)
            elif f.hold == "POINTER":
                if way & self.way and not (self.way == OUT and outer & IN):
                    self.pointer(f, values, way)
            else:
                made = self.items(f, values.get(f.name), f.fixed, values, way)
                if made is not None:
                    values[f.name] = made

    def count(self, f: Field, values: Values) -> int:
        """Elements of a field."""
        if f.length == "BY":
            product = 1
            for name in f.by:
                product *= values[name]
            return max(product - f.less, 0)
        if f.length == "BY_POINTED":
            return values[f.by[0]] or 0
        if f.length == "BY_TAG":
            return int(self.meaning(f, values[f.tag]))
        return f.fixed

    def meaning(self, f: Field, number: int) -> int | str:
        found = MEANINGS[str(f.kind)].get(number)
        if found is None:
            raise WireError(f"{f.kind} {number} is not known")
        return found

    def items(self, f: Field, value: Any, count: int, values: Values, way: int) -> Any:
        """Elements of a field; None: they do not go this way."""
        one = f.length == "FIXED" and f.fixed == 1
        if f.item == "STRUCT":
            made = [{} for _ in range(count)] if value is None else [value] if one else value
            if self.io.reads and value is None and not way & self.way:
                return None
            for item in made:
                self.fields(STRUCTS[str(f.kind)], item, way, slots=False)
            return made[0] if one else made
        if f.item == "CASE":
            inner = values if f.cases else {} if value is None else value
            cases = f.cases or STRUCTS[str(f.kind)][0].cases
            if values[f.tag] not in cases:
                raise WireError(f"{f.name}: no case {values[f.tag]}")
            self.fields(cases[values[f.tag]], inner, way, slots=False)
            return None if f.cases else inner
        if not way & self.way:
            return None
        size = 8 if f.item != "SCALAR" else 1 if f.length == "BY_TAG" else int(f.kind)
        if not self.io.reads:
            numbers = [value] if one else value
            data = b"".join(int(n).to_bytes(size, "little") for n in numbers)
        else:
            data = b""
        data = self.io.raw(data, count * size)
        if one:
            return int.from_bytes(data, "little")
        if size == 1:
            return data
        return [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]

    def text(self, value: str | None, size: int) -> str:
        data = self.io.raw((value or "").encode("latin-1"), size)
        if 0 in data:
            raise WireError("a zero in a text")
        return data.decode("latin-1")

    def pointer(self, f: Field, values: Values, way: int) -> None:
        """NULL, or a count and what is there."""
        value = values.get(f.name)
        text = f.length == "TEXT"
        count = 0
        if self.io.reads or value is not None:
            count = (
                len(value) if text and value is not None else 0 if text else self.count(f, values)
            )
        word = self.word(0 if value is None else 1 + count)
        if word == 0:
            values[f.name] = None
            return
        if not text and word - 1 != count:
            raise WireError(f"{f.name} has {word - 1} elements where {count} belong")
        if f.new:
            values[f.name] = self.long(value or 0)
        elif f.item == "WORDS":
            values[f.name] = self.words(f, value, count, values)
        elif f.item == "ROOM" or not way & self.way:
            values[f.name] = count
        elif text:
            values[f.name] = self.text(value, word - 1)
        else:
            values[f.name] = self.items(f, value, count, values, way)

    def slot(self, f: Field, values: Values, way: int) -> None:
        """A parameter that points: requests say all, replies the outputs."""
        if self.way == IN:
            self.pointer(f, values, way)
            return
        if self.asked.get(f.name) is None or f.new:
            return
        room, value = self.count(f, self.asked), values.get(f.name)
        if not way & OUT:
            if f.item == "STRUCT":
                self.items(f, value, room, values, way)
            return
        if f.item == "WORDS":
            values[f.name] = self.words(f, value, room, values)
            return
        if f.item == "ROOM":
            if room:
                size = self.word(1 + len(value or "") if isinstance(value, str) else 0) - 1
                if not 0 <= size < room:
                    raise WireError(f"{f.name}: {size} characters where {room} have room")
                values[f.name] = self.text(value if isinstance(value, str) else None, size)
            return
        count = min(self.count(f, values), room) if f.length == "BY_POINTED" else room
        if self.word(1 + count) != 1 + count:
            raise WireError(f"{f.name} does not have the {count} elements that it has room for")
        old = value if way & IN or not self.io.reads else None
        values[f.name] = self.items(f, old, count, values, way)

    def words(self, f: Field, value: list[int] | None, count: int, values: Values) -> list[int]:
        """Values of options: all in requests, answers in replies."""
        options = values[f.tag]
        if count and options is None:
            raise WireError(f"{f.name}: values of no options")
        out = list(value) if value is not None else [0] * count
        for i in range(count):
            means = self.meaning(f, options[i])
            if means == "b":
                out[i] = 0  # the worker has a buffer of its own
            elif means == "o" or self.way == IN:
                out[i] = self.long(out[i])
        return out

    def host(self, f: Field, values: Values) -> None:
        """Bytes of the host."""
        value, count = values.get(f.name), self.count(f, values)
        sent, inline = f.item == "SENT", count <= INLINE_BYTES and not self.apart
        inline = inline and (sent or self.op.cls != "async")
        if self.way == OUT:
            if not sent and value is not None and inline:
                values[f.name] = self.io.raw(value if isinstance(value, bytes) else b"", count)
            return
        form = 0 if value is None else 2 if isinstance(value, Transfer) else 1
        form = self.word(form)
        if form == 0:
            values[f.name] = None
        elif form != (1 if inline else 2):
            raise WireError(f"{f.name}: form {form} of {count} bytes")
        elif form == 2:
            values[f.name] = Transfer(self.long(value.id if isinstance(value, Transfer) else 0))
        else:
            data = value if isinstance(value, bytes) else b""
            values[f.name] = self.io.raw(data, count) if sent else count

    def lent(self, f: Field, values: Values) -> None:
        """The driver's own memory: in requests, whether it is asked for."""
        value = values.get(f.name)
        if self.way == IN:
            if f.hold == "LENT_AT":
                word = self.word(0 if value is None else 1)
                if word > 1:
                    raise WireError(f"{f.name}: {word} is neither asked for nor not")
                values[f.name] = word or None
            return
        if f.hold == "LENT_AT" and self.asked.get(f.name) is None:
            return
        if self.io.reads:
            value = None
        count = self.count(f, values)
        if f.item == "FETCHED":
            form = self.word(0 if value is None else 2 if isinstance(value, Transfer) else 1)
            inline = count <= INLINE_BYTES and not self.apart
            if form not in (0, 1 if inline else 2):
                raise WireError(f"{f.name}: form {form} of {count} bytes")
            if form == 2:
                value = Transfer(self.long(value.id if isinstance(value, Transfer) else 0))
            elif form == 1:
                value = self.io.raw(value if isinstance(value, bytes) else b"", count)
            values[f.name] = value if form else None
            return
        text = f.length == "TEXT"
        size = len(value) if text and value is not None else count
        word = self.word(0 if value is None and not self.io.reads else 1 + size)
        if word == 0:
            values[f.name] = None
        elif text:
            values[f.name] = self.text(value, word - 1)
        elif word - 1 != count:
            raise WireError(f"{f.name} has {word - 1} elements where {count} belong")
        else:
            values[f.name] = self.items(f, value, count, values, OUT)


def _op(number: int) -> Op:
    if number not in OPS:
        raise WireError(f"no op has the number {number}")
    return OPS[number]


def _guarded(what: Callable[[], None]) -> None:
    """Values of the wrong shape are an error of the caller's like others."""
    try:
        what()
    except (TypeError, KeyError, OverflowError, struct.error) as error:
        raise WireError(f"not the values of this op: {error}") from error


def encode_request(number: int, values: Values, *, apart: bool = False) -> bytes:
    """The body of a call; `apart`: all host bytes are Transfers, as in traces. Raises WireError."""
    op, io = _op(number), _Writer()
    walk = _Walk(io, op, IN, {}, apart=apart)
    _guarded(lambda: walk.fields(op.fields, dict(values), IN | OUT, slots=True))
    return bytes(io.body)


def decode_request(number: int, body: bytes, *, apart: bool = False) -> Values:
    """The parameters of a call. Raises WireError."""
    op, io, values = _op(number), _Reader(body), Values()
    walk = _Walk(io, op, IN, {}, apart=apart)
    _guarded(lambda: walk.fields(op.fields, values, IN | OUT, slots=True))
    io.end()
    return values


def encode_reply(
    number: int, asked: Values, result: int, values: Values, *, apart: bool = False
) -> bytes:
    """The body of a reply; `asked`: the request, `values`: the same with what was answered."""
    op, io = _op(number), _Writer()
    walk = _Walk(io, op, OUT, asked, apart=apart)
    walk.word(result)
    if result == 0 or op.always:
        _guarded(lambda: walk.fields(op.fields, values, IN | OUT, slots=True))
    return bytes(io.body)


def decode_reply(
    number: int, asked: Values, body: bytes, *, apart: bool = False
) -> tuple[int, Values]:
    """Result of a call, and its parameters with what was answered. Raises WireError."""
    op, io = _op(number), _Reader(body)
    values = _copy(asked)
    walk = _Walk(io, op, OUT, asked, apart=apart)
    result = walk.word(0)
    if result == 0 or op.always:
        _guarded(lambda: walk.fields(op.fields, values, IN | OUT, slots=True))
    io.end()
    return result, values


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copy(item) for name, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value
