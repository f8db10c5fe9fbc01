# SPDX-License-Identifier: Apache-2.0
"""The wrappers that a trace puts before each exported function, and what a trace says of a symbol.

traced_<symbol> begins a record with the call's slots, stream and bytes, goes on to where the entry
led before, and ends the record. Nothing leads to it while no trace is on.
"""

from __future__ import annotations

from native.api import cuda, ops
from native.api.marshal import CALLS
from native.api.model import Cls, Function, Gate, Param, Symbol
from native.gen.emit_remote import slot_of
from native.gen.emit_shim import stream_of, symbol_pairs
from native.gen.output import Target

_OPS = {c.name for c in CALLS}
_KINDS = {
    Cls.QUERY: "QUERY",
    Cls.ALLOC: "ALLOC",
    Cls.FREE: "FREE",
    Cls.COPY: "COPY",
    Cls.LAUNCH: "LAUNCH",
    Cls.SYNC: "SYNC",
    Cls.CTX: "CONTEXT",
    Cls.OTHER: "OTHER",
}
_GATES = {Gate.GRAPH_LAUNCH: "GRAPH_LAUNCH", Gate.MEMSET: "FILL"}
#: Bytes of an element that a fill counts.
_ELEMENTS = {"D8": 1, "D16": 2, "D32": 4}


def _traced(function: Function) -> bool:
    return function.ret == "CUresult"


def _kind(function: Function, symbol: Symbol) -> str:
    if symbol.name.startswith(("cuLaunchHostFunc", "cuStreamAddCallback")):
        return "OTHER"
    return _GATES.get(function.gate, _KINDS[function.cls])


def _op(symbol: Symbol) -> str:
    name = symbol.plain if symbol.plain in _OPS else symbol.name
    return f"HARP_OP_{name}" if name in _OPS else "0"


def bytes_of(function: Function, symbol: Symbol) -> str:
    """A C expression: bytes that the call moves, fills or allocates; "0": none that it says."""
    names = {p.name: p.type for p in symbol.params}
    element = next((n for mark, n in _ELEMENTS.items() if mark in symbol.name), 1)
    each = f"{element}u * " if element > 1 else ""
    if function.cls is Cls.COPY:
        if "pCopy" in names:
            depth = " * pCopy->Depth" if "3D" in symbol.name else ""
            return f"pCopy != NULL ? (uint64_t)pCopy->WidthInBytes * pCopy->Height{depth} : 0"
        if {"Width", "Height"} <= set(names):
            return f"{each}(uint64_t)Width * Height"
        for name in ("ByteCount", "N"):
            if name in names:
                return f"{each}(uint64_t){name}"
    if function.cls is Cls.ALLOC:
        for name in ("bytesize", "size", "bufferSize"):
            if name in names and "*" not in names[name]:
                return f"(uint64_t){name}"
    return "0"


def _stream(symbol: Symbol) -> str:
    stream = stream_of(symbol)
    if stream == "NULL":
        return "0"
    at = symbol.params[0].name
    bare = f"{at} != NULL ? (uintptr_t){stream} : 0" if "->" in stream else f"(uintptr_t){stream}"
    return f"own({bare})" if symbol.per_thread else bare


def _by_value(ctype: str) -> bool:
    """Whether a parameter is a struct itself: no slot holds it."""
    found = next((t for t in cuda.TYPES if t.name == ctype), None)
    if found is not None and found.kind == "alias":
        return _by_value(found.body)
    return found is not None and found.kind in ("struct", "union")


def _slot(param: Param) -> str:
    return "0" if _by_value(param.type) else slot_of(param.type, param.name)


def _wrapper(function: Function, symbol: Symbol) -> str:
    slots = ", ".join(map(_slot, symbol.params)) or "0"
    me = f"HARP_SYM_{symbol.name}"
    return f"""static CUresult traced_{symbol.name}({symbol.args})
{{
    const uint64_t slots[] = {{{slots}}};
    struct harp_trace_thread *call =
        harp_trace_begin({me}, slots, {_stream(symbol)}, {bytes_of(function, symbol)});
    CUresult r = ((harp_fn_{symbol.name})harp_trace_next[{me}])({symbol.call});
    return call != NULL ? harp_trace_end(call, r) : r;
}}
"""


def _row(function: Function, symbol: Symbol) -> str:
    fields = (
        _op(symbol),
        f"HARP_TRACE_{_kind(function, symbol)}",
        str(int(symbol.per_thread)),
        str(len(symbol.params)),
    )
    return f"    {{{', '.join(fields)}}}, /* {symbol.name} */"


def source() -> str:
    """Wrappers, and the tables by symbol."""
    all_pairs = symbol_pairs(cuda.FUNCTIONS)
    wrappers = "\n".join(_wrapper(f, s) for f, s in all_pairs if _traced(f))
    rows = "\n".join(_row(f, s) for f, s in all_pairs)
    table = "\n".join(
        f"    (void *)traced_{s.name}," if _traced(f) else f"    NULL, /* {s.name} */"
        for f, s in all_pairs
    )
    assert all(len(s.params) <= 16 for _, s in all_pairs)
    assert max(ops.numbers().values()) < 1 << 16
    return f"""
#include <stddef.h>
#include <string.h>

#include "generated/shim_symbols.h"
#include "generated/wire_ops.h"
#include "src/shim/trace/trace.h"
#include "src/trace/format.h"

static uint64_t harp_remote_bits(float value)
{{
    uint64_t slot = 0;
    memcpy(&slot, &value, sizeof value);
    return slot;
}}

/* The stream of a per-thread twin. */
static uint64_t own(uint64_t stream)
{{
    return stream != 0 ? stream : (uintptr_t)CU_STREAM_PER_THREAD;
}}

{wrappers}
/* One row a line. */
/* clang-format off */
const struct harp_trace_row harp_trace_rows[] = {{
{rows}
}};
void *const harp_traced[] = {{
{table}
}};
/* clang-format on */
"""


TARGETS: tuple[Target, ...] = (
    Target("generated/shim_trace.c", source, "native/gen/emit_trace.py"),
)
