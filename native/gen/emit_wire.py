# SPDX-License-Identifier: Apache-2.0
"""The wire: numbers of ops, and the tables that the body codec walks (native/src/wire/table.h)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import cache

from native.api import cuda, ops, session
from native.api.marshal import CALLS, STRUCTS, program_of
from native.api.wire import (
    ATTRIBUTE_BYTES,
    HANDLES,
    OPTION_VALUES,
    Call,
    Field,
    Item,
    Length,
    Own,
    Program,
)
from native.gen.output import Target

__all__ = ["FORMAT", "TARGETS", "describe", "table_hash"]

#: Version of the encoding itself: what native/src/wire does with the tables.
FORMAT = 1

_NAMES = {c.name for c in CALLS}

#: What numbers mean, by the enum they are of: {policy: {number: bytes, or a letter}}.
_POLICIES: dict[str, dict[int, int] | dict[int, str]] = {**ATTRIBUTE_BYTES, **OPTION_VALUES}


def _text(field: Field) -> str:
    """A field in words, for the hash and for a reader of a difference."""
    parts = [field.name, field.item.name, field.hold.name, str(field.dir), field.own.name]
    parts += [str(field.type), field.length.name, str(field.fixed), "*".join(field.by)]
    parts += [str(field.less), field.tag]
    cases = "".join(f"{{{tag}:{' '.join(map(_text, fields))}}}" for tag, fields in field.cases)
    return ",".join(parts) + cases


def describe() -> str:
    """All that both ends of a wire must agree on, as text."""
    numbers = ops.numbers()
    lines = [f"format {FORMAT}"]
    lines += [f"handle {i} {name}" for i, name in enumerate(HANDLES, 1)]
    lines += [f"policy {name} {sorted(v.items())}" for name, v in _POLICIES.items()]
    lines += [f"struct {n} {' '.join(map(_text, program_of(n).fields))}" for n in STRUCTS]
    lines += [
        f"op {numbers[c.name]} {c.name} {c.cls.value} {c.always} {c.resident} {c.reverse} "
        f"{' '.join(map(_text, c.program.fields))}"
        for c in sorted(CALLS, key=lambda c: numbers[c.name])
    ]
    return "\n".join(lines) + "\n"


@cache
def table_hash() -> bytes:
    """What two sides compare before the first call."""
    return hashlib.sha256(describe().encode()).digest()


class _Tables:
    """The C rows, as they are made."""

    def __init__(self) -> None:
        self.fields: list[str] = []
        self.programs: list[str] = []
        self.cases: list[str] = []
        self.lists: list[str] = []
        self.structs: dict[str, int] = {}  # program, or case list of a union
        for name in STRUCTS:
            self._struct(name)

    def _struct(self, name: str) -> None:
        program = program_of(name)
        first = program.fields[0]
        if len(program.fields) == 1 and first.item is Item.CASE and not first.tag:
            self.structs[name] = self._case_list(name, name, first)
            return
        self.structs[name] = self._program(name, name, program)

    def _program(self, ctype: str, label: str, program: Program, call: Call | None = None) -> int:
        rows = [self._field(ctype, f, call) for f in program.fields]
        start = len(self.fields)
        self.fields += [f"/* {label} */ {row}" if i == 0 else row for i, row in enumerate(rows)]
        size = "0, 1" if call else f"sizeof({ctype}), _Alignof({ctype})"
        check = f"harp_wire_check_{ctype}" if program.check else "NULL"
        name = label if call else ctype
        self.programs.append(f'{{"{name}", {start}, {len(rows)}, {size}, {check}}},')
        return len(self.programs) - 1

    def _case_list(self, ctype: str, label: str, field: Field) -> int:
        rows = []
        for tag, fields in field.cases:
            number = self._program(ctype, f"{label} {tag}", Program(ctype, fields))
            rows.append(f"{{{tag}, {number}}},")
        self.lists.append(f"{{{len(self.cases)}, {len(rows)}}},")
        self.cases += rows
        return len(self.lists) - 1

    def _field(self, ctype: str, f: Field, call: Call | None) -> str:
        kind: str | int = f.type
        if f.item is Item.HANDLE:
            kind = f"HARP_HANDLE_{f.type}"
        elif f.item is Item.WORDS or f.length is Length.BY_TAG:
            kind = list(_POLICIES).index(str(f.type)) + 1
        elif f.item is Item.CASE and f.cases:
            kind = self._case_list(ctype, f"{ctype}.{f.name}", f)
        elif f.item in (Item.STRUCT, Item.CASE):
            kind = self.structs[str(f.type)]
        at = "0" if f.item is Item.CASE and f.cases else _place(ctype, f.name, call)
        parts = [
            f"HARP_WIRE_{f.item.name}",
            f"HARP_WIRE_{f.hold.name}",
            str(f.dir),
            f".at = {at}",
            f".type = {kind}",
            f".fixed = {f.fixed}",
        ]
        if f.length is not Length.FIXED:
            parts.append(f".length = HARP_WIRE_{f.length.name}")
        if f.own is not Own.USE:
            parts.append(f".own = HARP_WIRE_{f.own.name}")
        if f.less:
            parts.append(f".less = {f.less}")
        if f.tag:
            parts.append(f".tag = {_ref(ctype, f.tag, call)}")
        if f.by:
            pointed = f.length is Length.BY_POINTED
            refs = ", ".join(_ref(ctype, by, call, pointed=pointed) for by in f.by)
            parts.append(f".by = {{{refs}}}")
        return "{" + ", ".join(parts) + "},"


def _place(ctype: str, name: str, call: Call | None) -> str:
    if call is None:
        return f"offsetof({ctype}, {name})"
    return str(8 * [p.name for p in call.symbol.params].index(name))


def _ref(ctype: str, name: str, call: Call | None, *, pointed: bool = False) -> str:
    """Where a number is, and how wide: by its C type."""
    if call is None:
        return f"{{offsetof({ctype}, {name}), sizeof((({ctype} *)0)->{name})}}"
    declared = next(p.type for p in call.symbol.params if p.name == name)
    width = declared[:-1].strip() if pointed else declared
    return f"{{{_place(ctype, name, call)}, sizeof({width})}}"


def ops_h() -> str:
    """Numbers, kinds of handles, and the tables' declarations."""
    numbers = ops.numbers()
    op_lines = "\n".join(f"HARP_OP_{name} = {number}," for name, number in numbers.items())
    kinds = "\n".join(f"HARP_HANDLE_{name} = {i}," for i, name in enumerate(HANDLES, 1))
    structs = "\n".join(
        f'{t.name} {{ {t.body} }};\n_Static_assert(sizeof({t.name}) == {t.size}, "{t.name}");'
        for t in session.TYPES
    )
    digest = ", ".join(f"0x{byte:02x}" for byte in table_hash())
    return f"""
/* Numbers are those of native/api/ops.lock: for good. */
#ifndef HARP_WIRE_OPS_H
#define HARP_WIRE_OPS_H

#include <stddef.h>
#include <stdint.h>

#include "generated/cuda_abi.h"

#define HARP_WIRE_FORMAT {FORMAT}
#define HARP_WIRE_CUDA {cuda.VERSION}
/* What both ends must have the same of: ops, their numbers and how they are marshalled. */
#define HARP_WIRE_TABLE_HASH {{ {digest} }}

enum harp_handle {{
{kinds}
HARP_HANDLES
}};

enum harp_op {{
{op_lines}
HARP_OPS
}};

/* What HARP's own ops, and slots that a client prepares, point to: native/api/session.py. */
#define HARP_WIRE_ATTRIBUTES {session.ATTRIBUTES}
{structs}

#endif
"""


def _meanings() -> Iterator[str]:
    for policy, table in enumerate(_POLICIES.values(), 1):
        for number, means in sorted(table.items()):
            yield f"{{{policy}, {means if isinstance(means, int) else repr(means)}, {number}}},"


_PREPARED = ("struct harp_wire_packed", "struct harp_wire_image")


def _prepares(fields: Iterable[Field]) -> bool:
    """Whether structs of these hold what the client puts there in place of the program's own."""
    for f in fields:
        if str(f.type) in _PREPARED or str(f.type).startswith("CUDA_HOST_NODE_PARAMS"):
            return True
        held = isinstance(f.type, str) and f.item in (Item.STRUCT, Item.CASE)
        inner = program_of(str(f.type)).fields if held else ()
        if _prepares(inner) or any(_prepares(case) for _, case in f.cases):
            return True
    return False


def _op_row(call: Call, program: int) -> str:
    flags = [
        name
        for name, holds in (
            ("HARP_WIRE_ALWAYS", call.always),
            ("HARP_WIRE_RESIDENT", call.resident),
            ("HARP_WIRE_PREPARED", bool(call.prepared) or _prepares(call.program.fields)),
            ("HARP_WIRE_REVERSE", call.reverse),
        )
        if holds
    ]
    return (
        f'[HARP_OP_{call.name}] = {{"{call.name}", {program}, {len(call.symbol.params)}, '
        f"HARP_WIRE_{call.cls.name}, {' | '.join(flags) or '0'}}},"
    )


def ops_c() -> str:
    """The tables."""
    tables = _Tables()
    rows = [_op_row(c, tables._program(c.name, c.name, c.program, c)) for c in CALLS]  # noqa: SLF001
    return f"""
#include "generated/wire_ops.h"

#include <stddef.h>

#include "generated/cuda_abi.h"
#include "src/wire/codec.h"
#include "src/wire/table.h"

/* One row a line. */
/* clang-format off */
const struct harp_wire_field harp_wire_fields[] = {{
{chr(10).join(tables.fields)}
}};

const struct harp_wire_program harp_wire_programs[] = {{
{chr(10).join(tables.programs)}
}};

const struct harp_wire_case harp_wire_case_rows[] = {{
{chr(10).join(tables.cases)}
}};

const struct harp_wire_cases harp_wire_case_lists[] = {{
{chr(10).join(tables.lists)}
}};

const struct harp_wire_meaning harp_wire_meanings[] = {{
{chr(10).join(_meanings())}
}};
const unsigned harp_wire_meaning_count = sizeof harp_wire_meanings / sizeof *harp_wire_meanings;

const struct harp_wire_op harp_wire_ops[HARP_OPS] = {{
{chr(10).join(rows)}
}};
/* clang-format on */
"""


def _argument(ctype: str, slot: int) -> str:
    """A slot as C passes it."""
    if ctype == "float":
        return f"number(args[{slot}])"
    pointer = ctype.endswith("*") or _is_handle(ctype)
    return f"({ctype})(uintptr_t)args[{slot}]" if pointer else f"({ctype})args[{slot}]"


def _is_handle(ctype: str) -> bool:
    """Whether a type is a pointer in C, though it does not look like one."""
    return any(t.name == ctype and t.kind in ("handle", "callback") for t in cuda.TYPES)


def invoke_c() -> str:
    """What the worker does with a decoded call."""
    rows = []
    for call in CALLS:
        if call.name.startswith("harp"):
            continue
        types = ", ".join(p.type for p in call.symbol.params) or "void"
        given = ", ".join(_argument(p.type, i) for i, p in enumerate(call.symbol.params))
        rows.append(f"case HARP_OP_{call.name}:\nreturn ((CUresult(*)({types}))fn)({given});")
    return f"""
#include "src/wire/invoke.h"

#include <string.h>

#include "generated/cuda_abi.h"
#include "generated/wire_ops.h"

static float number(uint64_t slot)
{{
    float value;
    memcpy(&value, &slot, sizeof value);
    return value;
}}

uint32_t harp_wire_invoke(unsigned op, void (*fn)(void), const uint64_t *args)
{{
    switch (op) {{
    {chr(10).join(rows)}
    default:
    return CUDA_ERROR_NOT_SUPPORTED;
    }}
}}
"""


def _python(field: Field) -> str:
    """A field as harp/wire/codec.py has it: the arguments of its Field."""
    parts = [repr(field.name), repr(field.item.name), repr(field.hold.name), str(field.dir)]
    named = {
        "kind": (field.type, 0),
        "new": (field.own is Own.NEW, False),
        "length": (field.length.name, "FIXED"),
        "fixed": (field.fixed, 1),
        "by": (field.by, ()),
        "less": (field.less, 0),
        "tag": (field.tag, ""),
    }
    parts += [f"{name}={value!r}" for name, (value, plain) in named.items() if value != plain]
    if field.cases:
        cases = "".join(f"{tag}: {_python_list(fields)}, " for tag, fields in field.cases)
        parts.append(f"cases={{{cases}}}")
    return f"F({', '.join(parts)})"


def _python_list(fields: tuple[Field, ...]) -> str:
    return "(" + "".join(f"{_python(f)}, " for f in fields) + ")"


def tables_py() -> str:
    """The tables for harp/wire/codec.py."""
    numbers = ops.numbers()
    structs = "\n".join(f"    {n!r}: {_python_list(program_of(n).fields)}," for n in STRUCTS)
    rows = "\n".join(
        f"    {numbers[c.name]}: Op({numbers[c.name]}, {c.name!r}, {c.cls.value!r}, {c.always}, "
        f"{_python_list(c.program.fields)}),"
        for c in sorted(CALLS, key=lambda c: numbers[c.name])
    )
    meanings = "\n".join(f"    {name!r}: {table!r}," for name, table in _POLICIES.items())
    of = {
        s.name: s.plain if s.plain in _NAMES else s.name for f in cuda.FUNCTIONS for s in f.symbols
    }
    symbols = "\n".join(
        f"    {name!r}: {numbers[of[name]] if of[name] in _NAMES else 0}," for name in sorted(of)
    )
    return f'''"""Ops, the structs that they hold, and the driver's symbols."""

from __future__ import annotations

from harp.wire.fields import Field as F
from harp.wire.fields import Op

FORMAT = {FORMAT}
CUDA = {cuda.VERSION}
TABLE_HASH = "{table_hash().hex()}"

MEANINGS: dict[str, dict[int, int] | dict[int, str]] = {{
{meanings}
}}

STRUCTS: dict[str, tuple[F, ...]] = {{
{structs}
}}

OPS: dict[int, Op] = {{
{rows}
}}

#: all functions that the driver exports, and the op that each is; 0: of no wire
SYMBOLS: dict[str, int] = {{
{symbols}
}}
'''


_ME = "native/gen/emit_wire.py"
TARGETS: tuple[Target, ...] = (
    Target("api/ops.lock", ops.lines, _ME),
    Target("generated/wire_ops.h", ops_h, _ME),
    Target("generated/wire_ops.c", ops_c, _ME),
    Target("generated/wire_invoke.c", invoke_c, _ME),
    Target("../harp/wire/_tables.py", tables_py, _ME),
)
