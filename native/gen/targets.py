# SPDX-License-Identifier: Apache-2.0
"""All generated files: output -> emitter."""

from __future__ import annotations

from native.gen import (
    emit_abi,
    emit_coverage,
    emit_door,
    emit_nvml,
    emit_remote,
    emit_shim,
    emit_soft,
    emit_softgpu,
    emit_trace,
    emit_wire,
)
from native.gen.output import Target

TARGETS: tuple[Target, ...] = (
    Target("generated/cuda_abi.h", emit_abi.emit, "native/gen/emit_abi.py"),
    *emit_soft.TARGETS,
    *emit_nvml.TARGETS,
    *emit_door.TARGETS,
    *emit_coverage.TARGETS,
    *emit_shim.TARGETS,
    *emit_softgpu.TARGETS,
    *emit_wire.TARGETS,
    *emit_remote.TARGETS,
    *emit_trace.TARGETS,
)
