# SPDX-License-Identifier: Apache-2.0
"""Nodes for the tests of the device plugin."""

from __future__ import annotations

from device_plugin.slots import Gpu, Slots

GIB = 1 << 30


def gpus(
    count: int, *, memory_bytes: int = 80 * GIB, context_bytes: int = 512 << 20, numa: int = -1
) -> list[Gpu]:
    """So many alike, whose UUIDs begin with their index."""
    return [
        Gpu(f"GPU-{i:08x}-0000-4000-8000-000000000000", i, memory_bytes, context_bytes, numa)
        for i in range(count)
    ]


def slots_of(count: int, per_gpu: int = 100, *, numa: int = -1) -> Slots:
    """Their slots."""
    return Slots(gpus(count, numa=numa), per_gpu)
