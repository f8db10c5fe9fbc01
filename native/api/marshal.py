# SPDX-License-Identifier: Apache-2.0
"""From rows to ops: what a type says is derived, what it does not say a row has to (wire.py).

Nothing is guessed: a pointer, a union or a callback that is left over is an UndecidedError, and so
nothing is generated, nor built, while there is one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache

from native.api import cuda, session
from native.api.members import Member, members
from native.api.model import Function, Param, Symbol, Type
from native.api.wire import (
    ATTRIBUTE_BYTES,
    HANDLES,
    IN,
    INTEGER_HANDLES,
    OUT,
    Call,
    Cls,
    Field,
    Hold,
    Item,
    Length,
    Own,
    Program,
    UndecidedError,
    remote_class,
    why_not,
)

__all__ = ["CALLS", "STRUCTS", "call_of", "calls_of", "program_of"]

_TYPES = {t.name: t for t in (*cuda.TYPES, *session.TYPES)}

_SCALARS = {
    "char": 1,
    "unsigned char": 1,
    "unsigned short": 2,
    "int": 4,
    "unsigned": 4,
    "unsigned int": 4,
    "float": 4,
    "uint32_t": 4,
    "long long": 8,
    "unsigned long long": 8,
    "size_t": 8,
    "uint64_t": 8,
}

#: Structs of our own in slots that the client prepares (session.py).
_PREPARED = {"packed": "struct harp_wire_packed", "image": "struct harp_wire_image"}


@dataclass(frozen=True, slots=True)
class _Decision:
    """`in(attr)[n]`, parsed."""

    word: str
    tag: str = ""
    length: str = ""


_COLUMN = re.compile(r"(\w[\w.]*)=(\S+)|(\w+)(?:\(([^)]*)\))?")
_DECISION = re.compile(r"([\w.]*)(?:\(([^)]*)\))?(?:\[([^\]]*)\])?")


def _columns(text: str) -> tuple[list[str], dict[str, _Decision]]:
    """Flags and decisions."""
    flags, decisions = [], {}
    joined = re.sub(r",\s+", ",", text)
    for word in joined.split():
        name, is_decision, rest = word.partition("=")
        if not is_decision:
            flags.append(word)
            continue
        match = _DECISION.fullmatch(rest)
        if match is None:
            raise UndecidedError(f"not a decision: {word}")
        decisions[name] = _Decision(match[1], match[2] or "", match[3] or "")
    return flags, decisions


def _base(name: str) -> str:
    """Through aliases, down to a type that says what it is."""
    while name in _TYPES and _TYPES[name].kind == "alias" and name not in INTEGER_HANDLES:
        if name == "CUdeviceptr":
            break
        name = _TYPES[name].body
    return name


def _value(name: str, ctype: str) -> Field:
    """A field that holds one value of a type that is no pointer."""
    base = _base(ctype)
    if base in HANDLES:
        return Field(name, Item.HANDLE, type=base)
    if base == "CUdeviceptr":
        return Field(name, Item.DEVICE)
    if base in _SCALARS:
        return Field(name, Item.SCALAR, type=_SCALARS[base])
    found = _TYPES.get(base)
    if found is None or found.kind in ("callback", "handle"):
        raise UndecidedError(f"{name}: {ctype} is undecided")
    if found.kind == "enum":
        return Field(name, Item.SCALAR, type=4)
    if found.kind == "union" and found.wire.split("(")[0].strip() == "tagged":
        return Field(name, Item.CASE, type=base)
    return Field(name, Item.STRUCT, type=base)


def _length(made: Field, text: str, names: dict[str, str]) -> Field:
    """[n], [n-1], [*n], [a*b], [4]."""
    if text.isdigit():
        return replace(made, length=Length.FIXED, fixed=int(text))
    if text.startswith("*"):
        text = text[1:]
        made = replace(made, length=Length.BY_POINTED, by=(text,))
    else:
        text, _, less = text.partition("-")
        made = replace(made, length=Length.BY, by=tuple(text.split("*")), less=int(less or 0))
    for part in made.by:
        if part not in names:
            raise UndecidedError(f"{made.name}: its length names {part}, which is not there")
    return made


def _worded(
    name: str, target: str, said: _Decision, names: dict[str, str], *, member: bool
) -> Field | None:
    """A pointer whose decision says what it is, whatever its type; None: it does not."""
    match said.word:
        case "null":
            return Field(name, Item.NULL)
        case "device":
            return Field(name, Item.DEVICE)
        case "ticket":
            return Field(name, Item.SCALAR, type=8)
        case "packed" | "image":
            way = IN | OUT if member else IN
            return Field(name, Item.STRUCT, Hold.POINTER, way, type=_PREPARED[said.word])
        case "send":
            return _length(Field(name, Item.SENT, Hold.POINTER, IN), said.length, names)
        case "fetch":
            return _length(Field(name, Item.FETCHED, Hold.POINTER, OUT), said.length, names)
        case "text":
            return _length(Field(name, Item.ROOM, Hold.POINTER, OUT), said.length, names)
        case "words":
            made = Field(
                name, Item.WORDS, Hold.POINTER, tag=said.tag, type=_pointee(names[said.tag])
            )
            return _length(made, said.length, names)
        case "lent" | "lent.fetch":
            return _lent(name, target, said, names, member=member)
    return None


def _pointer(
    name: str, ctype: str, said: _Decision | None, names: dict[str, str], *, member: bool
) -> Field:
    """A field that points: by its decision, else by its type."""
    const, target = ctype.startswith("const "), ctype.removeprefix("const ")[:-1].strip()
    made = _worded(name, target, said, names, member=member) if said else None
    if made is not None:
        return made
    if said is None and member:
        raise UndecidedError(f"{name}: {ctype} is undecided; remedy: [n] in its struct's wire")
    word, tag, length = (said.word, said.tag, said.length) if said else ("", "", "")
    if target == "char" and const and said is None:
        return Field(name, Item.SCALAR, Hold.POINTER, IN, type=1, length=Length.TEXT)
    if target == "void" and tag:
        made = Field(name, Item.SCALAR, Hold.POINTER, type=1, length=Length.BY_TAG, tag=tag)
        return replace(made, dir=_way(word), type=_base_enum(names[tag]))
    if target == "void" and length:
        return _length(Field(name, Item.SCALAR, Hold.POINTER, _way(word), type=1), length, names)
    if (target in ("void", "char") and not length) or target.endswith("*"):
        raise UndecidedError(f"{name}: {ctype} is undecided")
    made = replace(_value(name, target), hold=Hold.POINTER)
    if made.item is Item.CASE:
        if not tag:
            raise UndecidedError(f"{name}: what {target} holds is undecided")
        made = replace(made, tag=tag)
    counted = "num" + name[:1].upper() + name[1:]
    if not length and not names.get(counted, "*").endswith("*"):
        length = counted
    if made.item is Item.HANDLE and word in ("new", "ref"):
        made = replace(made, dir=OUT, own=Own.NEW if word == "new" else Own.USE)
    elif word or member:
        made = replace(made, dir=_way(word))
    elif const or length:
        made = replace(made, dir=IN)
    elif made.item is Item.HANDLE:
        raise UndecidedError(f"{name}: {ctype} is undecided; remedy: new, ref or in")
    else:
        made = replace(made, dir=OUT)
    return _length(made, length, names) if length else made


def _lent(name: str, target: str, said: _Decision, names: dict[str, str], *, member: bool) -> Field:
    """The driver's own memory, which the caller only reads."""
    hold = Hold.LENT if member else Hold.LENT_AT
    inner = target if member else target.removesuffix("*").removeprefix("const ").strip()
    if said.word == "lent.fetch":
        return _length(Field(name, Item.FETCHED, hold, OUT), said.length, names)
    if inner == "char":
        return Field(name, Item.SCALAR, hold, OUT, type=1, length=Length.TEXT)
    return _length(replace(_value(name, inner), hold=hold, dir=OUT), said.length, names)


def _pointee(ctype: str) -> str:
    return ctype.removeprefix("const ").rstrip("* ")


def _base_enum(ctype: str) -> str:
    if ctype not in ATTRIBUTE_BYTES:
        raise UndecidedError(
            f"bytes of the values of {ctype} are undecided; remedy: ATTRIBUTE_BYTES"
        )
    return ctype


def _way(word: str) -> int:
    ways = {"in": IN, "out": OUT, "inout": IN | OUT, "": IN | OUT}
    if word not in ways:
        raise UndecidedError(f"no such decision: {word}")
    return ways[word]


def _cases(
    text: str, fields: dict[str, Field], name: str
) -> tuple[tuple[int, tuple[Field, ...]], ...]:
    """`0:a,1:b+c,2:-`: which members are there, by the tag."""
    out = []
    for part in text.split(","):
        number, _, chosen = part.partition(":")
        wanted = [] if chosen == "-" else chosen.split("+")
        found = []
        for want in wanted:
            hits = [f for key, f in fields.items() if key == want or key.startswith(f"{want}.")]
            if not hits:
                raise UndecidedError(f"{name}: case {number} names {want}, which is not there")
            found += hits
        out.append((int(number), tuple(sorted(found))))
    return tuple(out)


def _member(owner: str, m: Member, said: _Decision | None, names: dict[str, str]) -> Field | None:
    if said is not None and said.word == "none":
        return None
    if m.type.endswith("*"):
        return _pointer(m.name, m.type, said, names, member=True)
    base = _TYPES.get(_base(m.type))
    if said is not None and said.word == "ticket":
        return Field(m.name, Item.SCALAR, type=8)
    if base is not None and base.kind == "callback":
        raise UndecidedError(f"{owner}.{m.name}: {m.type} is undecided; remedy: ticket")
    made = _value(m.name, m.type)
    if made.item is Item.CASE:
        if said is None or said.word != "tag":
            raise UndecidedError(f"{owner}.{m.name}: what {m.type} holds is undecided")
        return replace(made, tag=said.tag)
    if m.count:
        made = replace(made, fixed=m.count)
    if said is not None:
        made = replace(made, dir=_way(said.word))
    return made


@dataclass(frozen=True, slots=True)
class _Layout:
    """Members of a type, and what its row says of them."""

    name: str
    flat: dict[str, Member]  # all that hold a value
    unions: dict[str, tuple[str, ...]]  # union -> the members that share its bytes
    said: dict[str, _Decision]

    @property
    def groups(self) -> dict[str, _Decision]:
        """Unions, or groups of members, of which a tag says what is there."""
        return {n: d for n, d in self.said.items() if d.word == "case"}

    @property
    def picked(self) -> dict[str, str]:
        """Unions of which one member is always carried."""
        return {n: d.word for n, d in self.said.items() if n in self.unions and d.word != "case"}

    def carried(self, name: str, listed: frozenset[str]) -> bool:
        """Whether a member goes over the wire; `listed`: the names in cases."""
        in_case = any(name == want or name.startswith(f"{want}.") for want in listed)
        union = next((u for u, shared in self.unions.items() if name in shared), None)
        if union in self.picked:
            return self.picked[union] == name
        if union is None or in_case:
            return True
        if union not in self.groups:
            raise UndecidedError(
                f"{self.name}.{union}: a union, and nothing says which member counts"
            )
        return False


def _layout(item: Type, said: dict[str, _Decision]) -> _Layout:
    flat: dict[str, Member] = {}
    unions: dict[str, tuple[str, ...]] = {}
    for m in members(item.body):
        if m.choices:
            unions[m.name or "union"] = tuple(c.name for c in m.choices)
        flat |= {c.name: c for c in m.choices or (m,)}
    layout = _Layout(item.name, flat, unions, said)
    unknown = set(said) - set(flat) - set(layout.groups) - set(layout.picked)
    if unknown:
        raise UndecidedError(f"{item.name}: no such member: {', '.join(sorted(unknown))}")
    return layout


def _listed(cases: str) -> frozenset[str]:
    """Names in `0:a,1:b+c,2:-`."""
    return frozenset(
        name
        for part in cases.split(",")
        for name in part.partition(":")[2].split("+")
        if name not in ("", "-")
    )


@cache
def program_of(name: str) -> Program:
    """The program of a struct or union type.

    Raises:
        UndecidedError: one of its members is undecided.
    """
    item = _TYPES[name]
    if item.kind == "union" and not item.wire:
        raise UndecidedError(f"{name}: a union, and nothing says which member counts")
    tagged = re.fullmatch(r"\s*tagged\(([^)]*)\)\s*", item.wire)
    flags, said = ([], {}) if tagged else _columns(item.wire)
    layout = _layout(item, said)
    names = {n: m.type for n, m in layout.flat.items()}
    outer = re.sub(r"\s", "", tagged[1]) if tagged else ""
    listed = _listed(outer).union(*(_listed(d.tag) for d in layout.groups.values()))
    fields: dict[str, Field] = {}
    for n, m in layout.flat.items():
        if outer and not any(n == want or n.startswith(f"{want}.") for want in listed):
            continue
        if layout.carried(n, listed):
            made = _member(name, m, said.get(n), names)
            if made is not None:
                fields[n] = made
    if outer:
        return Program(name, (Field(name, Item.CASE, cases=_cases(outer, fields, name)),))
    groups = []
    for group, d in layout.groups.items():
        tag, _, cases = d.tag.partition(",")
        groups.append(Field(group, Item.CASE, tag=tag, cases=_cases(cases, fields, name)))
    held = {f.name for g in groups for _, case in g.cases for f in case}
    plain = sorted(f for f in fields.values() if f.name not in held)
    return Program(name, (*plain, *groups), check="check" in flags)


#: Parameters that look like a number of elements.
_COUNT = re.compile(r"num(?!MipmapLevels)[A-Z]\w*|count|len|numbytes")


def _param(p: Param, said: _Decision | None, names: dict[str, str]) -> Field | None:
    if said is not None and said.word == "none":
        return None
    base = _TYPES.get(_base(p.type))
    if base is not None and base.kind == "callback":
        if said is None or said.word != "ticket":
            raise UndecidedError(f"{p.name}: {p.type} is undecided; remedy: ticket")
        return Field(p.name, Item.SCALAR, dir=IN, type=8)
    if p.type.endswith("*"):
        made = _pointer(p.name, p.type, said, names, member=False)
        return replace(made, dir=IN) if made.hold is Hold.VALUE else made
    made = replace(_value(p.name, p.type), dir=IN)
    if said is None:
        return made
    if said.word == "hint" and made.item is Item.DEVICE:
        return Field(p.name, Item.SCALAR, dir=IN, type=8)
    if said.word != "del" or made.item is not Item.HANDLE:
        raise UndecidedError(f"{p.name}: {p.type} cannot be {said.word}")
    return replace(made, own=Own.DEL)


def _said_already(p: Param, made: Field | None, names: dict[str, str]) -> bool:
    """Whether a decision says what the type says."""
    try:
        return _param(p, None, names) == made
    except UndecidedError:
        return False


def _uncounted(symbol: Symbol, fields: list[Field]) -> list[str]:
    """Counts that no length names, beside inputs that were taken for one element."""
    used = {name for f in fields for name in (*f.by, f.tag)}
    single = any(f.hold is Hold.POINTER and f.dir & IN and f.length is Length.FIXED for f in fields)
    return [
        p.name
        for p in symbol.params
        if single and _COUNT.fullmatch(p.name) and p.type[-1] != "*" and p.name not in used
    ]


def call_of(row: Function, symbol: Symbol) -> Call:
    """The op of a symbol.

    Raises:
        UndecidedError: a parameter, or a member of what it points to, is undecided; or a decision
            says what the type says already.
    """
    flags, said = _columns(row.remote.partition(" ")[2])
    if set(flags) - {"always", "resident", "reverse"}:
        raise UndecidedError(f"{row.name}: no such flag: {' '.join(flags)}")
    names = {p.name: p.type for p in symbol.params}
    fields = []
    for p in symbol.params:
        try:
            made = _param(p, said.get(p.name), names)
        except UndecidedError as error:
            raise UndecidedError(f"{symbol.name}: {error}") from None
        if p.name in said and _said_already(p, made, names):
            raise UndecidedError(
                f"{symbol.name}: {p.name}={said[p.name].word} is what its type says"
            )
        if made is not None:
            fields.append(made)
    loose = _uncounted(symbol, fields)
    if loose:
        raise UndecidedError(f"{symbol.name}: nothing says what {', '.join(loose)} counts")
    prepared = {n for n, d in said.items() if d.word in (*_PREPARED, "ticket") and n in names}
    return Call(
        symbol,
        remote_class(row),
        Program(symbol.name, tuple(sorted(fields))),
        always="always" in flags,
        resident="resident" in flags,
        reverse="reverse" in flags,
        prepared=frozenset(prepared),
    )


def calls_of(row: Function) -> tuple[Call, ...]:
    """The ops of a row: one for each symbol that is on the wire; per-thread twins share theirs."""
    if remote_class(row) in (Cls.LOCAL, Cls.REFUSED):
        return ()
    _, said = _columns(row.remote.partition(" ")[2])
    unknown = set(said) - {p.name for s in row.symbols for p in s.params}
    if unknown:
        raise UndecidedError(f"{row.name}: no such parameter: {', '.join(sorted(unknown))}")
    return tuple(call_of(row, s) for s in row.symbols if not s.plain and not why_not(row, s))


def _structs(calls: tuple[Call, ...]) -> tuple[str, ...]:
    """Types that ops hold, what is held before what holds it."""
    out: dict[str, None] = {}

    def visit(made: Field) -> None:
        for _, case in made.cases:
            for inner in case:
                visit(inner)
        if made.item in (Item.STRUCT, Item.CASE) and isinstance(made.type, str):
            for inner in program_of(made.type).fields:
                visit(inner)
            out[made.type] = None

    for call in calls:
        for made in call.program.fields:
            visit(made)
    return tuple(out)


#: Every op: calls of the driver API in the order of their names, then what sessions say beside.
CALLS: tuple[Call, ...] = tuple(
    call for row in (*cuda.FUNCTIONS, *session.ROWS) for call in calls_of(row)
)

#: Every struct and union of theirs, what is held before what holds it.
STRUCTS: tuple[str, ...] = _structs(CALLS)
