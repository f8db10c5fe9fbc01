# SPDX-License-Identifier: Apache-2.0
"""NVML: nvml_abi.h, and the software GPU's libnvidia-ml: stubs and exports."""

from __future__ import annotations

from native.api import nvml
from native.gen.emit_abi import NAMES, constants, define, sort_by_need
from native.gen.output import Target


def abi_h() -> str:
    """Types and prototypes."""
    types = "\n".join(define(t) for t in sort_by_need(nvml.TYPES))
    prototypes = "\n".join(
        f"{f.ret} {f.name}({f.args}) HARP_ABI_NAME({f.name});"
        for f in nvml.FUNCTIONS
        if f.params is not None
    )
    return f"""
/* The ABI of NVML: types, and prototypes of the calls that HARP answers or rewrites. */
#ifndef HARP_NVML_ABI_H
#define HARP_NVML_ABI_H

#include <stddef.h>
#include <stdint.h>

#ifndef HARP_ABI_SIZE
#ifdef __cplusplus
#define HARP_ABI_SIZE(type, bytes) static_assert(sizeof(type) == (bytes), #type)
#else
#define HARP_ABI_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type)
#endif
#endif

{NAMES}
/* The version word of a versioned struct: its size and its generation. */
#define HARP_NVML_STRUCT(type, generation)                                                         \\
    ((unsigned int)sizeof(type) | ((unsigned int)(generation) << 24))

{constants(nvml.CONSTS)}

{types}

#ifdef __cplusplus
extern "C" {{
#endif
#pragma GCC visibility push(default)
{prototypes}
#pragma GCC visibility pop
#ifdef __cplusplus
}}
#endif

#endif
"""


def default_c() -> str:
    """Stubs of what the software GPU's NVML does not implement.

    A stub takes no parameters whatever its caller passes: it reads none.
    """
    have = nvml.implemented()
    stubs = "\n".join(
        f"SOFT_NVML_STUB({f.name}, {f.fail})"
        for f in nvml.FUNCTIONS
        if f.name not in have and f.ret == "nvmlReturn_t"
    )
    return f"""
{NAMES}
/* Logs the name once; must not change errno. Written by hand in native/soft/nvml. */
void soft_nvml_unimplemented(const char *name);

#define SOFT_NVML_STUB(name, result)                                                               \\
    __attribute__((visibility("default"))) int name(void) HARP_ABI_NAME(name);                     \\
    int name(void)                                                                                 \\
    {{                                                                                              \\
        soft_nvml_unimplemented(#name);                                                            \\
        return result;                                                                             \\
    }}

{stubs}
"""


def exports_map() -> str:
    """Version script: all of NVML, nothing else."""
    names = "".join(f"        {name};\n" for name in nvml.SYMBOLS)
    return "{\n    global:\n" + names + "    local:\n        *;\n};\n"


_ME = "native/gen/emit_nvml.py"
TARGETS: tuple[Target, ...] = (
    Target("generated/nvml_abi.h", abi_h, _ME),
    Target("generated/soft_nvml_default.c", default_c, _ME),
    Target("generated/soft_nvml_exports.map", exports_map, _ME),
)
