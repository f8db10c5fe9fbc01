# SPDX-License-Identifier: Apache-2.0
"""All CUDA types, one file per area; the emitter sorts them by what they need."""

from __future__ import annotations

from native.api.types import (
    array,
    base,
    device,
    device_attribute,
    graph,
    interop,
    launch,
    memory,
    module,
    result,
    sharing,
)
from native.api.types.consts import CONSTS

__all__ = ["CONSTS", "TYPES"]

TYPES = (
    *base.TYPES,
    *result.TYPES,
    *device_attribute.TYPES,
    *device.TYPES,
    *memory.TYPES,
    *array.TYPES,
    *module.TYPES,
    *launch.TYPES,
    *graph.TYPES,
    *sharing.TYPES,
    *interop.TYPES,
)
