# SPDX-License-Identifier: Apache-2.0
"""The same figures under the names that dcgm-exporter gives them, for dashboards that ask so.

Only what harpd knows of a whole GPU. Units are DCGM's (MiB, percent, MHz, mJ), not base units; its
labels are the exporter's as well. What has no value has no series. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from harp.metrics.families import Family, Kind, Sample
from harp.metrics.samples import DeviceSeen, Seen
from harp.model import DeviceKind

__all__ = ["DCGM", "dcgm_samples"]

_LABELS = ("gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname", "DCGM_FI_DRIVER_VERSION")
_MIB = 1 << 20
_PERCENT = 100.0
_MILLI = 1e3
_MEGA = 1e-6


def _family(name: str, text: str) -> Family:
    return Family(f"DCGM_FI_DEV_{name}", Kind.GAUGE, text, _LABELS)


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _free(one: DeviceSeen) -> float | None:
    if one.used_bytes is None:
        return None
    return max(0, one.device.memory_bytes - one.used_bytes) / _MIB


_ROWS: tuple[tuple[Family, Callable[[DeviceSeen], float | None]], ...] = (
    (
        _family("SM_CLOCK", "Clock of the processors (in MHz)."),
        lambda d: _times(d.sensors.sm_clock_hertz, _MEGA),
    ),
    (
        _family("MEM_CLOCK", "Clock of the memory (in MHz)."),
        lambda d: _times(d.sensors.memory_clock_hertz, _MEGA),
    ),
    (
        _family("GPU_TEMP", "Temperature (in C)."),
        lambda d: d.sensors.temperature_celsius,
    ),
    (
        _family("POWER_USAGE", "Power (in W)."),
        lambda d: d.sensors.power_watts,
    ),
    (
        # A counter; but in OpenMetrics a counter's name must end in _total, and this one is DCGM's.
        _family("TOTAL_ENERGY_CONSUMPTION", "Energy since the driver was loaded (in mJ)."),
        lambda d: _times(d.sensors.energy_joules, _MILLI),
    ),
    (
        _family("GPU_UTIL", "Time with a kernel at work (in %)."),
        lambda d: _times(d.sensors.utilization_ratio, _PERCENT),
    ),
    (
        _family("MEM_COPY_UTIL", "Time in which memory was read or written (in %)."),
        lambda d: _times(d.sensors.copy_utilization_ratio, _PERCENT),
    ),
    (
        _family("FB_FREE", "Memory that is free (in MiB)."),
        _free,
    ),
    (
        _family("FB_USED", "Memory in use (in MiB)."),
        lambda d: _times(d.used_bytes, 1 / _MIB),
    ),
)

DCGM = tuple(family for family, _ in _ROWS)


def dcgm_samples(seen: Seen) -> Iterator[Sample]:
    """Every sample under a name of DCGM."""
    for one in seen.devices:
        labels = _labels(one, seen.hostname)
        for family, value_of in _ROWS:
            value = value_of(one)
            if value is not None:
                yield Sample(family, labels, value)


def _labels(one: DeviceSeen, hostname: str) -> tuple[str, ...]:
    """A software GPU is no /dev/nvidiaN, and says so."""
    device, sensors = one.device, one.sensors
    if device.kind is DeviceKind.SOFTWARE:
        node = f"software{device.index}"
    else:
        node = "" if sensors.minor is None else f"nvidia{sensors.minor}"
    return (
        str(device.index),
        device.uuid,
        sensors.pci_bus_id or "",
        node,
        device.name,
        hostname,
        device.driver_version,
    )
