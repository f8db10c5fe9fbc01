# SPDX-License-Identifier: Apache-2.0
"""How each call goes over a wire: derived from its C prototype, and from what its row adds.

A row's `remote` begins with its class:

    async    queued; success is answered at once, a failure is latched and told later
    sync     a round trip
    cached   the client answers from what it knows (snapshot, metadata, counters), else as sync
    local:   never on the wire; the client does it, as the rest of the text says
    refused: never on the wire; the caller gets the row's `fail`, the rest of the text says why

after which the first three may have flags, and a decision `name=...` for each parameter whose type
does not say everything:

    always      outputs are carried also when the call answers an error
    resident    structs may name no memory of the host: they are used after the call has returned
    reverse     said by the worker (session.py)
    in out inout             direction of what a pointer points to
    [n] [n-1] [*n] [a*b] [4] how many elements: by parameters, by what one points to, always so many
    (tag)                    what a union, or a void *, holds is said by this parameter or member
    new ref del              a handle that the client mints, the server answers, the call ends
    send[n] fetch[n]         n bytes of the host, to and from the device
    text[n]                  room for n characters
    lent[n]                  the driver's own memory: n elements, or a text
    device                   a void * that is a device address
    hint                     a device address where the session need have nothing yet
    packed image ticket      prepared by the client: see native/src/wire/README.md
    words(options)[n]        values of options, by OPTION_VALUES
    null none                must be NULL; is not carried

A struct's `wire` says the same of its members, where [n] alone is enough, and beside that

    a=b                      of the union a, the member b
    a=case(tag,0:b,1:c+d)    which members are there, by the tag; a is a union or any new name
    a=tag(b)                 the member b says what the tagged union a holds
    tagged(0:b,1:-)          of a union type: which members, by a tag that its user has
    check                    harp_wire_check_<type> judges it (native/src/wire/check.c)

Derived: scalars, handles and structs by value are inputs; `const char *` is a text; `const T *` one
input and `T *` one output; X with a parameter numX has that many elements. Handles that are
answered must say new or ref, and no other pointer is guessed: what is left over is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum

from native.api import cuda
from native.api.model import Function, Symbol

__all__ = [
    "ATTRIBUTE_BYTES",
    "HANDLES",
    "IN",
    "INTEGER_HANDLES",
    "OPTION_VALUES",
    "OUT",
    "Call",
    "Cls",
    "Field",
    "Hold",
    "Item",
    "Length",
    "Own",
    "Program",
    "UndecidedError",
    "remote_class",
    "why_not",
]


class UndecidedError(ValueError):
    """A pointer whose direction, length or kind neither its type nor its row says."""


class Cls(Enum):
    """Remote class of a function."""

    ASYNC = "async"
    SYNC = "sync"
    CACHED = "cached"
    LOCAL = "local"
    REFUSED = "refused"


class Item(IntEnum):
    """What one element is."""

    SCALAR = 0  # `type` bytes, as they lie in memory
    HANDLE = 1  # an id of kind `type`
    DEVICE = 2  # a device address
    STRUCT = 3  # program `type`
    CASE = 4  # one of the programs of case list `type`, by the tag
    SENT = 5  # bytes of the client's host memory, for the call
    FETCHED = 6  # bytes for the client's host memory, by the call
    ROOM = 7  # room for characters, ended by NUL
    WORDS = 8  # values of options, policy `type`
    NULL = 9  # a pointer that must be NULL


class Hold(IntEnum):
    """Where the elements are."""

    VALUE = 0  # in place
    POINTER = 1  # where the field points
    LENT = 2  # where the callee lets the field point
    LENT_AT = 3  # where the callee lets point what the field points to


class Length(IntEnum):
    """How many elements."""

    FIXED = 0  # `fixed`
    BY = 1  # product of fields, less `less`
    BY_POINTED = 2  # what a field points to
    BY_TAG = 3  # bytes, by the tag and ATTRIBUTE_BYTES[type]
    TEXT = 4  # up to NUL


class Own(IntEnum):
    """What the call does to a handle."""

    USE = 0
    NEW = 1
    DEL = 2


IN, OUT = 1, 2

#: Bytes behind a void * by the enum that says what is there. What is not listed is refused.
ATTRIBUTE_BYTES: dict[str, dict[int, int]] = {
    "CUmemPool_attribute": {1: 4, 2: 4, 3: 4, 4: 8, 5: 8, 6: 8, 7: 8, 8: 8},
    "CUgraphMem_attribute": {0: 8, 1: 8, 2: 8, 3: 8},
    "CUpointer_attribute": {6: 4},  # SYNC_MEMOPS, the only one that can be set
}

#: What the value of an option is. v: a number; o: a number, and the driver's answer; b: a buffer of
#: the client's that the worker has one of its own for. Others name memory of the client: refused.
OPTION_VALUES: dict[str, dict[int, str]] = {
    "CUjit_option": {
        **dict.fromkeys((0, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16), "v"),
        **dict.fromkeys((20, 21, 22, 23, 24, 29, 30, 31, 32, 33, 34), "v"),
        **dict.fromkeys((1, 2, 4, 6), "o"),
        **dict.fromkeys((3, 5), "b"),
    },
    "CUlibraryOption": {1: "v"},
}

#: Handles that are integers in C, beside those that are pointers.
INTEGER_HANDLES = ("CUmemGenericAllocationHandle",)
#: Handles of functions that are not remoted.
_NO_HANDLES = {
    "CUgraphicsResource",
    "CUexternalMemory",
    "CUexternalSemaphore",
    "CUasyncCallbackHandle",
    "CUlogsCallbackHandle",
    "CUeglStreamConnection",
    "CUdevResourceDesc",
    "CUgraphDeviceNode",
}

#: Kinds of handles in the order of their numbers, from 1: only ever appended to.
HANDLES: tuple[str, ...] = (
    *(t.name for t in cuda.TYPES if t.kind == "handle" and t.name not in _NO_HANDLES),
    *INTEGER_HANDLES,
)


@dataclass(frozen=True, slots=True)
class Field:
    """One parameter or member, as the codec sees it."""

    name: str
    item: Item
    hold: Hold = Hold.VALUE
    dir: int = IN | OUT
    own: Own = Own.USE
    type: str | int = 0  # by item: bytes of a scalar, kind, struct, case list, policy
    length: Length = Length.FIXED
    fixed: int = 1
    by: tuple[str, ...] = ()
    less: int = 0
    tag: str = ""
    cases: tuple[tuple[int, tuple[Field, ...]], ...] = ()

    def __lt__(self, other: Field) -> bool:
        return self._rank < other._rank

    @property
    def _rank(self) -> int:
        """What others depend on comes first: values, single pointers, then all that is counted."""
        if self.item is Item.CASE or self.tag:
            return 3
        if self.length is not Length.FIXED:
            return 2
        return 0 if self.hold is Hold.VALUE else 1


@dataclass(frozen=True, slots=True)
class Program:
    """A struct, or the parameters of a call."""

    name: str  # C type; of a call: its symbol
    fields: tuple[Field, ...]
    check: bool = False  # harp_wire_check_<name> judges it


@dataclass(frozen=True, slots=True)
class Call:
    """One op: a symbol that goes over the wire."""

    symbol: Symbol
    cls: Cls
    program: Program
    always: bool = False
    resident: bool = False
    reverse: bool = False
    prepared: frozenset[str] = field(
        default_factory=frozenset
    )  # parameters that are not the program's own

    @property
    def name(self) -> str:
        """The exported symbol."""
        return self.symbol.name


def remote_class(row: Function) -> Cls:
    """Class of a row.

    Raises:
        UndecidedError: it has none.
    """
    word = row.remote.partition(" ")[0].rstrip(":")
    if word not in Cls._value2member_map_:
        raise UndecidedError(
            f'{row.name} has no remote class; remedy: remote="..." (wire.py) in its row'
        )
    cls = Cls(word)
    if cls in (Cls.LOCAL, Cls.REFUSED) and len(row.remote.partition(": ")[2]) < 15:
        raise UndecidedError(f"{row.name} is {word} and says no reason; remedy: {word}: why")
    return cls


def why_not(row: Function, symbol: Symbol) -> str:
    """Why a symbol is not on the wire; empty: it is."""
    if remote_class(row) in (Cls.LOCAL, Cls.REFUSED):
        return row.remote.partition(": ")[2]
    newer = [s for s in row.symbols if not s.plain and s.since == 3020]
    if newer and 0 < symbol.since < 3020:
        return "the 32-bit interface before CUDA 3.2: its device addresses have 32 bits"
    return ""
