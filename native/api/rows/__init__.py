# SPDX-License-Identifier: Apache-2.0
"""All CUDA function rows, one file per area."""

from __future__ import annotations

from native.api.rows import (
    array,
    context,
    copy,
    debugger,
    device,
    graph,
    init,
    interop,
    launch,
    memory,
    module,
    pool,
    sharing,
    stream,
    vmm,
)

__all__ = ["ROWS"]

ROWS = (
    *array.ROWS,
    *context.ROWS,
    *copy.ROWS,
    *debugger.ROWS,
    *device.ROWS,
    *graph.ROWS,
    *init.ROWS,
    *interop.ROWS,
    *launch.ROWS,
    *memory.ROWS,
    *module.ROWS,
    *pool.ROWS,
    *sharing.ROWS,
    *stream.ROWS,
    *vmm.ROWS,
)
