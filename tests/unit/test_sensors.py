# SPDX-License-Identifier: Apache-2.0
"""A GPU's sensors: what one of them refuses keeps no other away, and none is made up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pynvml
import pytest

from harp.discovery import Nvml, read_sensors, sensors
from harp.discovery.sensors import numa_node
from harp.model import DeviceKind, Sensors

SAID: dict[str, Any] = {
    "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=37, memory=12),
    "nvmlDeviceGetTemperature": 41,
    "nvmlDeviceGetPowerUsage": 123_500,
    "nvmlDeviceGetTotalEnergyConsumption": 4_567_500,
    "nvmlDeviceGetClockInfo": {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619},
    "nvmlDeviceGetPciInfo": SimpleNamespace(busId=b"00000000:0A:00.0"),
    "nvmlDeviceGetMinorNumber": 3,
}
NVML = cast("Nvml", SimpleNamespace(handle=lambda uuid: uuid))
ALL = Sensors(0.37, 0.12, 41, 123.5, 4567.5, 1.98e9, 2.619e9, "00000000:0A:00.0", 3, 1)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names that this NVML refuses."""
    names: set[str] = set()

    def answer(name: str) -> Any:
        def call(_device: object, *which: object) -> Any:
            if name in names:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            said = SAID[name]
            return said[which[0]] if isinstance(said, dict) else said

        return call

    for name in SAID:
        monkeypatch.setattr(pynvml, name, answer(name))
    monkeypatch.setattr(sensors, "numa_node", lambda bus: len(bus) - 15)
    return names


def test_all_of_them(refused: set[str]) -> None:
    assert not refused
    assert read_sensors(NVML, "GPU-1", DeviceKind.NVIDIA) == ALL


@pytest.mark.parametrize("name", SAID)
def test_one_that_is_refused_is_unknown_and_the_others_are_there(
    refused: set[str], name: str
) -> None:
    refused.add(name)
    found = read_sensors(NVML, "GPU-1", DeviceKind.NVIDIA)
    lost = [f for f in ALL.__slots__ if getattr(found, f) != getattr(ALL, f)]
    assert 1 <= len(lost) <= 2
    assert all(getattr(found, f) is None for f in lost)


def test_the_formulas_of_a_software_gpu_are_not_taken_for_sensors(refused: set[str]) -> None:
    assert not refused
    assert read_sensors(NVML, "GPU-1", DeviceKind.SOFTWARE) == Sensors(utilization_ratio=0.37)


@pytest.mark.parametrize(("said", "node"), [("1\n", 1), ("0\n", 0), ("-1\n", None), ("", None)])
def test_the_numa_node_is_the_kernels_word(tmp_path: Path, said: str, node: int | None) -> None:
    (tmp_path / "0001:0a:00.0").mkdir()
    (tmp_path / "0001:0a:00.0" / "numa_node").write_text(said)
    assert numa_node("00000001:0A:00.0", tmp_path) == node
    assert numa_node("00000001:0B:00.0", tmp_path) is None
