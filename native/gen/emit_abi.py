# SPDX-License-Identifier: Apache-2.0
"""cuda_abi.h: types, constants and prototypes of the CUDA driver API, in our own text."""

from __future__ import annotations

import re
from collections.abc import Iterable

from native.api import cuda
from native.api.model import Const, Function, Type

#: What a function is called in object files. Behind doors (emit_door.py) the exported name is the
#: door's, and what the C code calls cuInit is soft_cuInit there: no source has to know.
NAMES = """
#ifndef HARP_ABI_NAME
#ifdef HARP_SOFT_DOORS
#define HARP_ABI_NAME(name) __asm__("soft_" #name)
#else
#define HARP_ABI_NAME(name)
#endif
#endif
"""

_WORD = re.compile(r"[A-Za-z_]\w*")


def sort_by_need(types: Iterable[Type]) -> list[Type]:
    """Order types so that each comes after all that its definition names."""
    by_name = {t.name: t for t in types}
    out: dict[str, Type] = {}

    def visit(item: Type) -> None:
        if item.name in out:
            return
        for word in _WORD.findall(item.body):
            if word in by_name and word != item.name:
                visit(by_name[word])
        out[item.name] = item

    for item in by_name.values():
        visit(item)
    return list(out.values())


def define(item: Type) -> str:
    """One type in C."""
    match item.kind:
        case "alias":
            return f"typedef {item.body} {item.name};"
        case "handle":
            return f"typedef struct {item.body} *{item.name};"
        case "callback":
            ret, args = item.body.split("(", 1)
            return f"typedef {ret} (*{item.name})({args};"
        case "enum":
            rows = ",\n".join(f"{name} = {value}" for name, value in item.members)
            return f"typedef enum {{\n{rows},\n}} {item.name};\n"
        case "struct" | "union":
            return (
                f"typedef {item.kind} {{ {item.body} }} {item.name};\n"
                f"HARP_ABI_SIZE({item.name}, {item.size});\n"
            )
    raise ValueError(f"{item.name}: unknown kind {item.kind}")


def prototypes(rows: Iterable[Function]) -> str:
    """Prototypes of all symbols of these rows."""
    return "\n".join(
        f"{row.ret} {s.name}({s.args}) HARP_ABI_NAME({s.name});"
        for row in rows
        for s in row.symbols
    )


def constants(rows: Iterable[Const]) -> str:
    """Preprocessor constants."""
    return "\n".join(f"#define {c.name} {c.value}" for c in rows)


def emit() -> str:
    """The whole header."""
    types = "\n".join(define(t) for t in sort_by_need(cuda.TYPES))
    return f"""
/* The ABI of the CUDA driver API, version {cuda.VERSION}. Names are the exported symbols: nothing
 * is renamed by macros, so cuMemAlloc is the 32-bit call of old and cuMemAlloc_v2 today's. */
#ifndef HARP_CUDA_ABI_H
#define HARP_CUDA_ABI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define HARP_ABI_SIZE(type, bytes) static_assert(sizeof(type) == (bytes), #type)
#else
#define HARP_ABI_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type)
#endif

{NAMES}
#define CUDAAPI
#define CUDA_CB

{constants(cuda.CONSTS)}

{types}

#ifdef __cplusplus
extern "C" {{
#endif
#pragma GCC visibility push(default)
{prototypes(cuda.FUNCTIONS)}
#pragma GCC visibility pop
#ifdef __cplusplus
}}
#endif

#endif
"""
