# SPDX-License-Identifier: Apache-2.0
"""The remote part of libharp: one function a symbol that sends the call, or says why it cannot.

harp_sent_<symbol> is generated for every symbol. What has to be done by hand goes before it as
harp_remote_<symbol> (native/src/shim/remote); the table refers to each of these weakly, so that
there is no list of them. The exported name leads to entered_<symbol>, which says where the call of
the program's begins and ends.
"""

from __future__ import annotations

from native.api import cuda
from native.api.marshal import CALLS
from native.api.model import NOT_SUPPORTED, Function, Symbol
from native.api.wire import Cls, remote_class, why_not
from native.gen.output import Target

__all__ = ["LOCAL", "TARGETS"]

_WEAK = '__attribute__((weak, visibility("hidden")))'
_OPS = {c.name for c in CALLS}
_RESULTS = {v: n for t in cuda.TYPES if t.name == "CUresult" for n, v in reversed(t.members)}

#: Symbols that never go over the wire and are no refusals: each has to be written by hand.
LOCAL: tuple[str, ...] = tuple(
    s.name
    for f in cuda.FUNCTIONS
    for s in f.symbols
    if remote_class(f) is Cls.LOCAL and not s.plain
)


#: Answered whatever becomes of a session, at any time.
_FREE = (
    "cuDriverGetVersion",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGetExportTable",
    "cuGetProcAddress",
)
#: Programs begin with these; when the session is over, with another one.
_BEGINS = ("cuDeviceGet", "cuDeviceGetCount", "cuDevicePrimaryCtxRetain")
_FACTS = ("cuDeviceGet", "cuDeviceTotalMem", "cuDeviceComputeCapability")


def _opens(name: str) -> str:
    if name == "cuInit":
        return "BEGINS"
    if name in _BEGINS or name.startswith("cuCtxCreate"):
        return "LOOKS"
    return "OPENS" if name.startswith(_FACTS) else "STAYS"


def _needs(row: Function, symbol: Symbol) -> bool:
    return row.ret == "CUresult" and not symbol.name.startswith(_FREE)


def _pairs() -> list[tuple[Function, Symbol]]:
    pairs = [(f, s) for f in cuda.FUNCTIONS for s in f.symbols]
    return sorted(pairs, key=lambda pair: pair[1].name)


def header() -> str:
    """What is generated, and what may have been written by hand."""
    sent = "\n".join(f"{f.ret} harp_sent_{s.name}({s.args});" for f, s in _pairs())
    own = "\n".join(f"{f.ret} harp_remote_{s.name}({s.args}) {_WEAK};" for f, s in _pairs())
    return f"""
#ifndef HARP_SHIM_REMOTE_GENERATED_H
#define HARP_SHIM_REMOTE_GENERATED_H

#include "generated/shim_symbols.h"

{sent}

{own}

#endif
"""


def slot_of(ctype: str, name: str) -> str:
    """A parameter as a slot, in C."""
    if ctype == "float":
        return f"harp_remote_bits({name})"
    pointer = ctype.endswith("*") or any(
        t.name == ctype and t.kind in ("handle", "callback") for t in cuda.TYPES
    )
    return f"(uintptr_t){name}" if pointer else f"(uint64_t){name}"


def _sent(row: Function, symbol: Symbol) -> str:
    head = f"{row.ret} harp_sent_{symbol.name}({symbol.args})\n{{\n"
    if symbol.plain and symbol.plain in _OPS:
        return f"""{head}    bool was = harp_remote_per_thread(true);
    {row.ret} r = harp_remote_{symbol.plain} != NULL ? harp_remote_{symbol.plain}({symbol.call})
                                                     : harp_sent_{symbol.plain}({symbol.call});
    harp_remote_per_thread(was);
    return r;
}}
"""
    if symbol.name in _OPS:
        slots = ", ".join(slot_of(p.type, p.name) for p in symbol.params) or "0"
        return f"""{head}    const uint64_t args[] = {{{slots}}};
    return ({row.ret})harp_remote_make(HARP_OP_{symbol.name}, args, {len(symbol.params)});
}}
"""
    why = why_not(row, symbol)
    of_cuda = row.ret == "CUresult"
    fail = _RESULTS[row.fail if of_cuda else NOT_SUPPORTED]
    refused = f'harp_remote_refused(HARP_SYM_{symbol.name}, {fail}, "{why}")'
    if of_cuda:
        return f"{head}    return {refused};\n}}\n"
    return f"{head}    {refused};\n    return {row.fail};\n}}\n"


_ENTERED = """
#define ENTERED(symbol, opens, params, args)                                                       \\
    static CUresult entered_##symbol params                                                        \\
    {                                                                                              \\
        struct harp_lane *lane;                                                                    \\
        CUresult r = harp_remote_enter(HARP_REMOTE_##opens, &lane);                                \\
        if (r != CUDA_SUCCESS)                                                                     \\
            return r;                                                                              \\
        r = harp_remote_##symbol != NULL ? harp_remote_##symbol args : harp_sent_##symbol args;    \\
        harp_lane_leave(lane);                                                                     \\
        return r;                                                                                  \\
    }
"""


def _entered(symbol: Symbol) -> str:
    name = symbol.name
    return f"ENTERED({name}, {_opens(name)}, ({symbol.args}), ({symbol.call}))\n"


def source() -> str:
    """All functions, and the tables by symbol."""
    sent = "\n".join(f"    (void *)harp_sent_{s.name}," for _, s in _pairs())
    own = "\n".join(f"    (void *)harp_remote_{s.name}," for _, s in _pairs())
    absent = "\n".join(
        f"    {'false' if (s.plain or s.name) in _OPS else 'true'}, /* {s.name} */"
        for _, s in _pairs()
    )
    return f"""
#include "src/shim/remote/calls.h"

{"".join(_sent(f, s) for f, s in _pairs())}
void *const harp_remote_own[] = {{
{own}
}};
void *const harp_remote_sent[] = {{
{sent}
}};
const bool harp_remote_absent[] = {{
{absent}
}};
"""


def entries() -> str:
    """Where exported names lead. A file of its own, lest what is sent be here a second time."""
    entered = "".join(_entered(s) for f, s in _pairs() if _needs(f, s))
    table = "\n".join(
        f"    (void *)entered_{s.name}," if _needs(f, s) else f"    NULL, /* {s.name} */"
        for f, s in _pairs()
    )
    return f"""
#include "src/shim/remote/calls.h"

{_ENTERED}
{entered}
void *const harp_remote_entered[] = {{
{table}
}};
"""


_ME = "native/gen/emit_remote.py"
TARGETS: tuple[Target, ...] = (
    Target("generated/shim_remote.h", header, _ME),
    Target("generated/shim_remote.c", source, _ME),
    Target("generated/shim_remote_entries.c", entries, _ME),
)
