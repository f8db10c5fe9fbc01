# SPDX-License-Identifier: Apache-2.0
"""A GPU's sensors by NVML. Each is asked by itself: no GPU has all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml

from harp.discovery.nvml import Nvml
from harp.model import DeviceKind, Sensors

__all__ = ["numa_node", "read_sensors"]

_MHZ = 1e6


def read_sensors(nvml: Nvml, uuid: str, kind: DeviceKind) -> Sensors:
    """What a device's sensors say now.

    A software GPU has none: its NVML answers with formulas, and only how busy its engines are is
    measured. So nothing else of it is taken.

    Raises:
        NvmlError: it does not know the device.
    """
    handle = nvml.handle(uuid)
    rates = _ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
    busy = None if rates is None else int(rates.gpu) / 100
    if kind is DeviceKind.SOFTWARE:
        return Sensors(utilization_ratio=busy)
    bus = _bus(handle)
    return Sensors(
        utilization_ratio=busy,
        copy_utilization_ratio=None if rates is None else int(rates.memory) / 100,
        temperature_celsius=_ask(
            pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU
        ),
        power_watts=_scaled(_ask(pynvml.nvmlDeviceGetPowerUsage, handle), 1e-3),
        energy_joules=_scaled(_ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle), 1e-3),
        sm_clock_hertz=_clock(handle, pynvml.NVML_CLOCK_SM),
        memory_clock_hertz=_clock(handle, pynvml.NVML_CLOCK_MEM),
        pci_bus_id=bus,
        numa_node=None if bus is None else numa_node(bus),
        minor=_ask(pynvml.nvmlDeviceGetMinorNumber, handle),
    )


def numa_node(bus: str, devices: Path = Path("/sys/bus/pci/devices")) -> int | None:
    """The NUMA node of a PCI device, as the kernel says; None: it does not say, or has none.

    Args:
        bus: as NVML has it: 00000000:0A:00.0.
        devices: sysfs's, which write 0000:0a:00.0.
    """
    domain, _, rest = bus.lower().partition(":")
    try:
        node = int((devices / f"{domain[-4:]}:{rest}" / "numa_node").read_text())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None  # -1: the firmware does not say


def _ask(call: Callable[..., Any], *arguments: object) -> Any:
    try:
        return call(*arguments)
    except pynvml.NVMLError:
        return None


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value * unit


def _clock(handle: object, which: int) -> float | None:
    return _scaled(_ask(pynvml.nvmlDeviceGetClockInfo, handle, which), _MHZ)


def _bus(handle: object) -> str | None:
    found = _ask(pynvml.nvmlDeviceGetPciInfo, handle)
    if found is None:
        return None
    text = found.busId
    return text.decode() if isinstance(text, bytes) else str(text)
