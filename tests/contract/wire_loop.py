# SPDX-License-Identifier: Apache-2.0
"""Builds the libcuda.so.1 whose calls go through the body codec (wire_loop.c)."""

from __future__ import annotations

import subprocess
from pathlib import Path

from native.api import cuda, marshal
from native.api.model import Function, Symbol
from native.api.wire import Call, Field, Item

__all__ = ["build", "looped"]

ROOT = Path(__file__).resolve().parents[2]
_SOURCES = (
    "tests/contract/wire_loop.c",
    "native/generated/wire_ops.c",
    "native/generated/wire_invoke.c",
    *map(str, sorted((ROOT / "native/src/wire").glob("*.c"))),
)


def _holds(fields: tuple[Field, ...], what: frozenset[str]) -> bool:
    """Whether fields, or structs that they hold, are of one of these types, or tickets."""
    for f in fields:
        if str(f.type) in what:
            return True
        inner = (
            marshal.program_of(f.type).fields
            if isinstance(f.type, str) and f.item in (Item.STRUCT, Item.CASE)
            else ()
        )
        cases = tuple(c for _, case in f.cases for c in case)
        if _holds(inner, what) or _holds(cases, what):
            return True
    return False


#: Structs that a client must prepare itself: kernel parameters by layout, host functions.
_PREPARED = frozenset(
    {"struct harp_wire_packed", "CUDA_HOST_NODE_PARAMS_v1", "CUDA_HOST_NODE_PARAMS_v2"}
)


def looped(call: Call) -> bool:
    """Whether the loop sends a call over the wire; the others are made directly."""
    own = {
        "cuLaunchHostFunc",
        "cuStreamAddCallback",
        "cuUserObjectCreate",
    }  # the client's functions
    own |= {"cuLinkCreate", "cuLinkCreate_v2"}  # keeps the caller's array (harpLinkValues)
    return call.name not in own and not _holds(call.program.fields, _PREPARED)


def _images(call: Call) -> list[int]:
    named = {f.name for f in call.program.fields if f.type == "struct harp_wire_image"}
    return [i for i, p in enumerate(call.symbol.params) if p.name in named]


def _stub(row: Function, symbol: Symbol, call: Call | None) -> str:
    real = f"static {row.ret} (*real_{symbol.name})({symbol.args});\n"
    direct = f"return real_{symbol.name}({symbol.call});"
    head = f"{row.ret} {symbol.name}({symbol.args})\n{{\n"
    if call is None or not looped(call):
        return f"{real}{head}    {direct}\n}}\n"
    images = _images(call)
    slots = []
    for i, p in enumerate(symbol.params):
        if i in images:
            slots.append(f"loop_image(&image{i}, {p.name})")
        elif p.type == "float":
            slots.append(f"loop_bits({p.name})")
        elif p.type == "CUmemLocation":
            raise AssertionError(symbol.name)
        else:
            slots.append(f"(uint64_t){p.name}")
    locals_ = "".join(f"    struct harp_wire_image image{i};\n" for i in images)
    back = [f"loop_unimage(&args[{i}]);" for i in images]
    unpack = f"unpack_{symbol.name}" if back else "NULL"
    helper = f"static void {unpack}(uint64_t *args) {{ {' '.join(back)} }}\n" if back else ""
    given = ", ".join(slots) or "0"
    return f"""{real}{helper}{head}{locals_}    const uint64_t args[] = {{{given}}};
    uint32_t result = loop_call(HARP_OP_{call.name}, (void (*)(void))real_{symbol.name}, args,
                                {len(slots)}, {unpack});
    if (result == LOOP_DIRECT)
        {direct}
    return ({row.ret})result;
}}
"""


def _text() -> str:
    calls = {c.name: c for c in marshal.CALLS}
    stubs = [
        _stub(row, s, calls.get(s.plain or s.name)) for row in cuda.FUNCTIONS for s in row.symbols
    ]
    rows = [f'{{"{s.name}", (void (**)(void)) &real_{s.name}}},' for s in cuda.SYMBOLS]
    own = "harp_soft_counters"
    return f"""#include "generated/cuda_abi.h"
#include "wire_loop.h"
{"".join(stubs)}
static size_t (*real_{own})(void *, size_t);
__attribute__((visibility("default"))) size_t {own}(void *a, size_t b)
{{
    return real_{own}(a, b);
}}
const struct loop_symbol loop_symbols[] = {{
{chr(10).join(rows)}
{{"{own}", (void (**)(void)) &real_{own}}},
}};
const unsigned loop_symbol_count = sizeof loop_symbols / sizeof *loop_symbols;
"""


def build(cc: str, folder: Path) -> Path:
    """Make folder/libcuda.so.1."""
    (folder / "stubs.c").write_text(_text())
    flags = (
        "-std=gnu17",
        "-D_GNU_SOURCE",
        "-O1",
        "-g",
        "-w",
        "-fPIC",
        "-fvisibility=hidden",
        "-shared",
    )
    includes = ("-Inative", "-Inative/include", "-Itests/contract")
    link = ("-Wl,-soname,libcuda.so.1", "-Wl,-Bsymbolic", "-ldl")
    out = folder / "libcuda.so.1"
    subprocess.run(
        [cc, *flags, *includes, *_SOURCES, str(folder / "stubs.c"), "-o", str(out), *link],
        cwd=ROOT,
        check=True,
    )
    return out
