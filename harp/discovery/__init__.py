# SPDX-License-Identifier: Apache-2.0
"""Which devices there are: NVML's, the real one's or the software GPU's."""

from __future__ import annotations

from harp.discovery.events import GpuEvent, NvmlEvents, Trouble
from harp.discovery.find import Found, discover
from harp.discovery.nvml import Nvml, ProcessUse
from harp.discovery.overhead import measure_overhead
from harp.discovery.sensors import read_sensors

__all__ = [
    "Found",
    "GpuEvent",
    "Nvml",
    "NvmlEvents",
    "ProcessUse",
    "Trouble",
    "discover",
    "measure_overhead",
    "read_sensors",
]
