# SPDX-License-Identifier: Apache-2.0
"""The software GPU's outside: symbol tables, look-up, what is not implemented, exports."""

from __future__ import annotations

from native.api import cuda
from native.api.model import Function, Symbol
from native.api.soft import implemented
from native.api.texts import TEXTS
from native.gen.output import Target

_RESULTS = {v: n for t in cuda.TYPES if t.name == "CUresult" for n, v in reversed(t.members)}


def symbols_h() -> str:
    """Numbers of the symbols and the look-up that cuGetProcAddress needs."""
    numbers = "\n".join(f"SOFT_SYM_{s.name} = {i}," for i, s in enumerate(cuda.SYMBOLS))
    return f"""
#ifndef HARP_SOFT_SYMBOLS_H
#define HARP_SOFT_SYMBOLS_H

#include <stdbool.h>
#include <stdint.h>

/* Exported symbols, numbered in strcmp order. */
enum soft_symbol {{
{numbers}
SOFT_SYMBOLS
}};

struct soft_symbol_info {{
    const char *name;
    void *address;
    bool implemented; /* false: a stub that answers an error */
    bool per_thread;
}};
extern const struct soft_symbol_info soft_symbols[SOFT_SYMBOLS];

/* What cuGetProcAddress knows: `symbol` answers for `name` from version `since` on. Sorted by name,
 * then per_thread, then since. */
struct soft_proc_row {{
    const char *name;
    int since;
    bool per_thread;
    uint16_t symbol;
}};
extern const struct soft_proc_row soft_proc_rows[];
extern const int soft_proc_row_count;

/* The symbol that a driver of `driver` version answers for `name` as of CUDA `version`: the newest
 * one not newer than asked; with `per_thread` the twin for per-thread default streams where there is
 * one. -1: none, and *status says why in the terms of CUdriverProcAddressQueryResult (1 no such
 * name, 2 name is newer than asked); 0 on success. */
int soft_proc_find(const char *name, int version, bool per_thread, int driver, int *status);

/* Called by every stub. Logs the name once; must not change errno. */
void soft_unimplemented(enum soft_symbol symbol);

#endif
"""


_FIND = """
int soft_proc_find(const char *name, int version, bool per_thread, int driver, int *status)
{
    int low = 0, high = soft_proc_row_count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (strcmp(soft_proc_rows[middle].name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    int plain = -1, twin = -1;
    bool known = false;
    for (int i = low; i < soft_proc_row_count; i++) {
        const struct soft_proc_row *row = &soft_proc_rows[i];
        if (strcmp(row->name, name) != 0)
            break;
        if (row->since > driver)
            continue;
        known = true;
        if (row->since > version)
            continue;
        if (row->per_thread)
            twin = row->symbol;
        else
            plain = row->symbol;
    }
    int found = per_thread && twin >= 0 ? twin : plain;
    *status = found >= 0 ? 0 : known ? 2 : 1;
    return found;
}
"""


def symbols_c() -> str:
    """The tables and the look-up."""
    number = {s.name: i for i, s in enumerate(cuda.SYMBOLS)}
    have = implemented()
    infos = "\n".join(
        f'{{"{s.name}", {s.name}, {_c(s.name in have or s.plain in have)}, {_c(s.per_thread)}}},'
        for s in cuda.SYMBOLS
    )
    entries = "\n".join(f"extern char {s.name}[];" for s in cuda.SYMBOLS)
    rows = sorted(
        (row.name.encode(), s.per_thread, s.since, s.name)
        for row in cuda.FUNCTIONS
        for s in row.symbols
        if s.since
    )
    table = "\n".join(
        f'{{"{name.decode()}", {since}, {_c(per_thread)}, {number[symbol]}}},'
        for name, per_thread, since, symbol in rows
    )
    return f"""
#include "generated/soft_symbols.h"

#include <string.h>

/* The exported entries, which are doors: what dlsym finds, cuGetProcAddress answers. */
{entries}

const struct soft_symbol_info soft_symbols[SOFT_SYMBOLS] = {{
{infos}
}};

const struct soft_proc_row soft_proc_rows[] = {{
{table}
}};
const int soft_proc_row_count = {len(rows)};
{_FIND}"""


def _c(value: object) -> str:
    return "true" if value else "false"


def _twin(row: Function, symbol: Symbol) -> str:
    return f"""{row.ret} {symbol.name}({symbol.args})
{{
    const bool was = soft_per_thread_default();
    soft_per_thread_default_set(true);
    const {row.ret} result = {symbol.plain}({symbol.call});
    soft_per_thread_default_set(was);
    return result;
}}
"""


def _stub(row: Function, symbol: Symbol) -> str:
    fail = _RESULTS[row.fail] if row.ret == "CUresult" else str(row.fail)
    return f"""{row.ret} {symbol.name}({symbol.args})
{{
    soft_unimplemented(SOFT_SYM_{symbol.name});
    return {fail};
}}
"""


def default_c() -> str:
    """Per-thread twins of what is implemented, stubs of what is not."""
    have = implemented()
    parts = []
    for symbol in cuda.SYMBOLS:
        row = cuda.function_of(symbol.name)
        if symbol.name in have:
            continue
        parts.append(_twin(row, symbol) if symbol.plain in have else _stub(row, symbol))
    return f"""
#include "generated/cuda_abi.h"
#include "generated/soft_symbols.h"
#include "soft/gpu/soft.h"

{"".join(parts)}"""


def exports_map() -> str:
    """Version script: every symbol a driver exports, and what tests read."""
    names = "".join(f"        {name};\n" for name in (*(s.name for s in cuda.SYMBOLS), *_OWN))
    return "{\n    global:\n" + names + "    local:\n        *;\n};\n"


def results_inc() -> str:
    """One HARP_RESULT(name, text) per CUresult, for cuGetErrorName and cuGetErrorString."""
    rows = (name for _, name in sorted(_RESULTS.items()))
    return "".join(f'HARP_RESULT({name}, "{TEXTS[name]}")\n' for name in rows)


#: exports that no driver has: native/soft/gpu/function_counters.h
_OWN = ("harp_soft_counters",)

_ME = "native/gen/emit_soft.py"
TARGETS: tuple[Target, ...] = (
    Target("generated/soft_symbols.h", symbols_h, _ME),
    Target("generated/soft_symbols.c", symbols_c, _ME),
    Target("generated/soft_default.c", default_c, _ME),
    Target("generated/results.inc", results_inc, _ME),
    Target("generated/soft_exports.map", exports_map, _ME),
)
