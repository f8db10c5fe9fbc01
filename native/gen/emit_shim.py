# SPDX-License-Identifier: Apache-2.0
"""What libharp is made of: names, exported jumps, proc-address rows, time-gated calls.

An exported symbol is one jump through `harp_entry[i]`. The slot starts at a lazy resolver; the
first call replaces it by the driver's function, or by a hook if this process has a grant. A hook is
a C function named harp_hook_<symbol>: those of the time gate are generated here, all others are
written by hand in native/src/shim/gate. There is no list of hooks: the table refers to each name
weakly, so a hook exists by being written.
"""

from __future__ import annotations

from collections.abc import Sequence

from native.api import nvml
from native.api.cuda import FUNCTIONS
from native.api.model import TIME_GATES, Function, Gate, Param, Symbol
from native.gen.output import Target

#: Hooks that nobody wrote are null.
_WEAK = '__attribute__((weak, visibility("hidden")))'

PUBLIC = ("dlopen", "dlmopen", "harp_shim_v1")


def gnu_hash(name: str) -> int:
    """The hash of a symbol's name in DT_GNU_HASH."""
    value = 5381
    for byte in name.encode():
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value


def _hashes(names: Sequence[str]) -> list[str]:
    return [
        "const uint32_t harp_sym_hash[] = {",
        *(f"    {gnu_hash(n):#010x}u," for n in names),
        "};",
    ]


def symbol_pairs(functions: Sequence[Function]) -> list[tuple[Function, Symbol]]:
    """All symbols with their functions, in the order of the tables."""
    pairs = [(f, s) for f in functions for s in f.symbols]
    return sorted(pairs, key=lambda pair: pair[1].name)


def symbols_h(functions: Sequence[Function]) -> str:
    """Index and C type of each driver function, and the hooks that may exist."""
    pairs = symbol_pairs(functions)
    lines = [
        "#ifndef HARP_SHIM_SYMBOLS_H",
        "#define HARP_SHIM_SYMBOLS_H",
        '#include "generated/cuda_abi.h"',
        "enum harp_sym {",
        *(f"    HARP_SYM_{s.name} = {i}," for i, (_, s) in enumerate(pairs)),
        f"    HARP_SYMS = {len(pairs)}",
        "};",
        *(f"typedef {f.ret} (*harp_fn_{s.name})({s.args});" for f, s in pairs),
        *(f"{f.ret} harp_hook_{s.name}({s.args}) {_WEAK};" for f, s in pairs),
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def table_c(functions: Sequence[Function]) -> str:
    """Names, exported jumps and hooks by index; the rows of cuGetProcAddress sorted by name."""
    pairs = symbol_pairs(functions)
    index = {s.name: i for i, (_, s) in enumerate(pairs)}
    rows = sorted(
        (f.name, s.since, s.per_thread, index[s.name])
        for f in functions
        for s in f.symbols
        if s.since
    )
    lines = [
        '#include "src/shim/backend/table.h"',
        "",
        *(f"extern char {s.name}[];" for _, s in pairs),
        *(f"extern char harp_hook_{s.name}[] {_WEAK};" for _, s in pairs),
        "",
        "const char *const harp_sym_name[] = {",
        *(f'    "{s.name}",' for _, s in pairs),
        "};",
        *_hashes([s.name for _, s in pairs]),
        "void *const harp_sym_stub[] = {",
        *(f"    {s.name}," for _, s in pairs),
        "};",
        "void *const harp_sym_hook[] = {",
        *(f"    harp_hook_{s.name}," for _, s in pairs),
        "};",
        f"const unsigned harp_sym_count = {len(pairs)};",
        "const struct harp_proc_row harp_proc_rows[] = {",
        *(f'    {{"{n}", {v}, {int(p)}, {i}}},' for n, v, p, i in rows),
        "};",
        f"const unsigned harp_proc_row_count = {len(rows)};",
    ]
    return "\n".join(lines) + "\n"


def stubs_s(names: Sequence[str]) -> str:
    """The exported jumps, in the order of the table."""
    lines = [
        '#include "src/shim/entry/stubs.inc"',
        f"harp_slots {len(names)}",
        *(f"harp_stub {i}, {n}" for i, n in enumerate(names)),
    ]
    return "\n".join(lines) + "\n"


def cuda_stubs_s(functions: Sequence[Function]) -> str:
    """Exported jumps of libharp."""
    return stubs_s([s.name for _, s in symbol_pairs(functions)])


def exports_map(names: Sequence[str], public: Sequence[str] = PUBLIC) -> str:
    """The version script: our exports and nothing else."""
    body = "".join(f"        {n};\n" for n in (*sorted(names), *public))
    return "{\n    global:\n" + body + "    local:\n        *;\n};\n"


def cuda_exports_map(functions: Sequence[Function]) -> str:
    """Version script of libharp."""
    return exports_map([s.name for _, s in symbol_pairs(functions)])


def _find(symbol: Symbol, *names: str) -> Param | None:
    return next((p for n in names for p in symbol.params if p.name == n), None)


def stream_of(symbol: Symbol) -> str:
    """The stream that a call names, in C; NULL: none."""
    names = [p.name for p in symbol.params if p.type == "CUstream"]
    if names:
        return names[0]
    if symbol.params and symbol.params[0].type == "const CUlaunchConfig *":
        return f"{symbol.params[0].name}->hStream"
    if symbol.params and symbol.params[0].type == "CUDA_LAUNCH_PARAMS *":
        return f"{symbol.params[0].name}->hStream"
    return "NULL"


def _grid(prefix: str = "") -> str:
    return " * ".join(f"(uint64_t){prefix}gridDim{axis}" for axis in "XYZ")


def _work(function: Function, symbol: Symbol) -> tuple[str, str]:
    """What tells two calls apart whose durations differ: an object and a size."""
    me = f"(const void *)(uintptr_t)HARP_SYM_{symbol.name}"
    first = symbol.params[0].name if symbol.params else ""
    if function.gate is Gate.GRAPH_LAUNCH:
        return first, "1"
    if function.gate is Gate.LAUNCH:
        if _find(symbol, "gridDimX"):
            return "f", _grid()
        if symbol.params[0].type == "const CUlaunchConfig *":
            return "f", _grid(f"{first}->")
        if symbol.params[0].type == "CUDA_LAUNCH_PARAMS *":
            return f"{first}->function", _grid(f"{first}->")
        if _find(symbol, "grid_width"):
            return "f", "(uint64_t)grid_width * (uint64_t)grid_height"
        return "f", "1"
    if (size := _find(symbol, "ByteCount", "N")) is not None:
        return me, f"(uint64_t){size.name}"
    if _find(symbol, "Width") and _find(symbol, "Height"):
        return me, "(uint64_t)Width * Height"
    if first == "pCopy":
        depth = " * pCopy->Depth" if "3D" in symbol.name else ""
        return me, f"(uint64_t)pCopy->WidthInBytes * pCopy->Height{depth}"
    if (size := _find(symbol, "count", "numOps")) is not None:
        return me, f"(uint64_t){size.name} << 20"
    raise ValueError(f"{symbol.name}: no rule for its size")


def _taken(function: Function, symbol: Symbol, key: str) -> tuple[str, list[str], str]:
    """Memory that a launch takes: when it takes none for sure, what leases it, what ends that.

    What is sure is asked before the time gate, and then nothing else is; else all is leased first.
    """
    if function.gate is Gate.GRAPH_LAUNCH:
        fast, taken = "", "harp_graph_turn"  # its row is there always
    elif function.gate is Gate.LAUNCH and symbol.params[0].type != "CUDA_LAUNCH_PARAMS *":
        fast, taken = "row != NULL && ", "harp_local"
    else:
        return "", [], "{}"
    lease = [
        f"    struct {taken} taken;",
        f"    {function.ret} denied = {taken}_begin(&taken, {key}, on);",
        "    if (denied != CUDA_SUCCESS)",
        "        return denied;",
    ]
    return fast, lease, f"{taken}_end(&taken, {{}})"


def _product(prefix: str, name: str) -> str:
    return " * ".join(f"(uint64_t){prefix}{name}Dim{axis}" for axis in "XYZ")


def _profiled(function: Function, symbol: Symbol, key: str, size: str) -> tuple[str, str, str]:
    """Where a launch is counted: the row that is at hand, the one of the slow path, how many blocks."""
    if function.gate is Gate.GRAPH_LAUNCH:
        return "harp_profile_graph()", "row", "1"
    first = symbol.params[0]
    if first.type in ("CUDA_LAUNCH_PARAMS *", "const CUlaunchConfig *"):
        prefix = f"{first.name}->"
    elif _find(symbol, "blockDimX"):
        prefix = ""
    else:  # the block is told by another call
        return f"harp_local_row({key})", f"harp_profile_launch({key}, 0, 0)", size
    shape = f"{_product(prefix, 'block')}, {prefix}sharedMemBytes"
    return f"harp_local_row({key})", f"harp_profile_launch({key}, {shape})", size


#: which way, by what the name says
_WAYS = (
    (("HtoD", "HtoA"), "HTOD"),
    (("DtoH", "AtoH"), "DTOH"),
    (("DtoD", "DtoA", "AtoD", "AtoA"), "DTOD"),
)


def _copied(symbol: Symbol, size: str) -> list[str]:
    """Counts the bytes of a copy or fill; of batches and prefetches, which only the driver knows, none."""
    name = symbol.name
    if name.startswith("cuMemset"):
        bits = next(b for b in (8, 16, 32) if f"D{b}" in name)
        return [f"    harp_profile_copied(HARP_COPIED_FILL, {size} * {bits // 8});"]
    if not name.startswith("cuMemcpy") or "Batch" in name or _find(symbol, "numOps"):
        return []
    way = next((f"HARP_COPIED_{w}" for parts, w in _WAYS if any(p in name for p in parts)), "")
    if not way and "pCopy" in size:
        way = "harp_profile_way(pCopy->srcMemoryType, pCopy->dstMemoryType)"
    elif not way:
        way = "HARP_COPIED_DTOD" if "Peer" in name else "HARP_COPIED_OTHER"
    return [f"    harp_profile_copied({way}, {size});"]


def time_c(functions: Sequence[Function]) -> str:
    """The hooks of launches, copies and fills: all pass the same time gate."""
    lines = [
        '#include "src/shim/gate/graph_memory.h"',
        '#include "src/shim/gate/local.h"',
        '#include "src/shim/gate/time.h"',
        "",
    ]
    for f, s in symbol_pairs(functions):
        if f.gate not in TIME_GATES:
            continue
        stream = stream_of(s)
        guard = f"{s.params[0].name} != NULL" if "->" in stream else ""
        key, size = _work(f, s)
        kind = (
            "HARP_WORK_COMPUTE" if f.gate in (Gate.LAUNCH, Gate.GRAPH_LAUNCH) else "HARP_WORK_COPY"
        )
        nulls = (
            []
            if not (guard or "->" in size)
            else [
                f"    if ({s.params[0].name} == NULL)",
                f"        return HARP_REAL({s.name})({s.call});",
            ]
        )
        fast, before, done = _taken(f, s, key)
        launch = kind == "HARP_WORK_COMPUTE"
        row, slow, blocks = _profiled(f, s, key, size) if launch else ("", "", "")
        counted = f"harp_profile_launched(row, {'blocks' if blocks != '1' else '1'});"
        local = [f"    struct harp_profile_row *row = {row};"] if launch else _copied(s, size)
        if launch and blocks != "1":
            local.insert(0, f"    uint64_t blocks = {blocks};")
            size = "blocks"
        lines += [
            f"{f.ret} harp_hook_{s.name}({s.args})",
            "{",
            *nulls,
            f"    CUstream on = {stream};",
            *(
                ["    if (on == NULL)", "        on = CU_STREAM_PER_THREAD;"]
                if s.per_thread
                else []
            ),
            *local,
            *(before if not fast else []),
            f"    if ({fast}harp_time_open(on, {kind})) {{",
            *([f"        {counted}"] if launch else []),
            f"        return {(done if not fast else '{}').format(f'HARP_REAL({s.name})({s.call})')};",
            "    }",
            *(before if fast else []),
            "    struct harp_turn turn;",
            f"    harp_turn_begin(&turn, on, {kind}, {key}, {size});",
            *(["    if (!turn.captured)", f"        turn.row = {slow};"] if launch else []),
            f"    {f.ret} result = HARP_REAL({s.name})({s.call});",
            *(
                [
                    "    if (result == CUDA_SUCCESS)",
                    "        " + counted.replace("(row", "(turn.row"),
                ]
                if launch
                else []
            ),
            "    harp_turn_end(&turn, result);",
            f"    return {done.format('result')};",
            "}",
            "",
        ]
    return "\n".join(lines)


def _touch(function: Function, symbol: Symbol) -> list[str]:
    call = f"HARP_REAL({symbol.name})({symbol.call})"
    if function.gate is Gate.STAY:
        return [
            f'    if (!harp_swap_pin(addr, "{function.name}"))',
            "        return CUDA_ERROR_OUT_OF_MEMORY;",
            f"    return {call};",
        ]
    if function.gate is Gate.TOUCH:
        return [
            "    struct harp_timegate *held = harp_swap_touch();",
            f"    {function.ret} result = {call};",
            "    if (held != NULL)",
            "        harp_touch_end(held);",
            "    return result;",
        ]
    if "Begin" in function.name:
        return [
            "    harp_edge_begin();",
            f"    {function.ret} result = {call};",
            "    if (result == CUDA_SUCCESS)",
            "        harp_swap_capturing(1);",
            "    harp_edge_begun();",
            "    if (result == CUDA_SUCCESS)",
            "        harp_time_unsee_all();",
            "    return result;",
        ]
    default = "CU_STREAM_PER_THREAD" if symbol.per_thread else "NULL"
    return [
        f"    CUstream on = hStream != NULL ? hStream : {default};",
        "    bool captured = harp_swap_captured(on);",
        f"    {function.ret} result = {call};",
        "    if (captured && !harp_swap_captured(on))",
        "        harp_swap_capturing(-1);",
        "    return result;",
    ]


def touch_c(functions: Sequence[Function]) -> str:
    """The hooks of calls that name memory which may be off the device, and of captures."""
    lines = [
        '#include "src/shim/gate/swap.h"',
        "",
        "#include <stddef.h>",
        "",
        '#include "src/shim/backend/table.h"',
        '#include "src/shim/gate/edge.h"',
        '#include "src/shim/trace/trace.h"',
        "",
    ]
    for f, s in symbol_pairs(functions):
        by_hand = f.gate is Gate.STAY and "addr" not in {p.name for p in s.params}
        if f.gate in (Gate.TOUCH, Gate.STAY, Gate.CAPTURE) and not by_hand:
            lines += [f"{f.ret} harp_hook_{s.name}({s.args})", "{", *_touch(f, s), "}", ""]
    return "\n".join(lines)


def nvml_table_c(names: Sequence[str]) -> str:
    """Names, jumps and hooks of the NVML twin."""
    names = sorted(names)
    lines = [
        '#include "src/shim/backend/table.h"',
        "",
        *(f"extern char {n}[];" for n in names),
        *(f"extern char harp_hook_{n}[] {_WEAK};" for n in names),
        "const char *const harp_sym_name[] = {",
        *(f'    "{n}",' for n in names),
        "};",
        *_hashes(names),
        "void *const harp_sym_stub[] = {",
        *(f"    {n}," for n in names),
        "};",
        "void *const harp_sym_hook[] = {",
        *(f"    harp_hook_{n}," for n in names),
        "};",
        f"const unsigned harp_sym_count = {len(names)};",
    ]
    return "\n".join(lines) + "\n"


def nvml_symbols_h(names: Sequence[str]) -> str:
    """Index of each NVML function."""
    lines = [
        "#ifndef HARP_SHIM_NVML_SYMBOLS_H",
        "#define HARP_SHIM_NVML_SYMBOLS_H",
        "enum harp_nvml_sym {",
        *(f"    HARP_SYM_{n} = {i}," for i, n in enumerate(sorted(names))),
        "};",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


_ME = "native/gen/emit_shim.py"
#: The files of libharp.
TARGETS: tuple[Target, ...] = (
    Target("generated/shim_symbols.h", lambda: symbols_h(FUNCTIONS), _ME),
    Target("generated/shim_table.c", lambda: table_c(FUNCTIONS), _ME),
    Target("generated/shim_stubs.S", lambda: cuda_stubs_s(FUNCTIONS), _ME),
    Target("generated/shim.map", lambda: cuda_exports_map(FUNCTIONS), _ME),
    Target("generated/shim_time.c", lambda: time_c(FUNCTIONS), _ME),
    Target("generated/shim_touch.c", lambda: touch_c(FUNCTIONS), _ME),
    Target("generated/shim_nvml_table.c", lambda: nvml_table_c(nvml.SYMBOLS), _ME),
    Target("generated/shim_nvml_stubs.S", lambda: stubs_s(sorted(nvml.SYMBOLS)), _ME),
    Target("generated/shim_nvml.map", lambda: exports_map(nvml.SYMBOLS, ()), _ME),
    Target("generated/shim_nvml_symbols.h", lambda: nvml_symbols_h(nvml.SYMBOLS), _ME),
)
