# SPDX-License-Identifier: Apache-2.0
"""What is found where a device does not answer."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from structlog.testing import capture_logs

from harp.discovery import Found
from harp.discovery.nvml import Nvml, NvmlDevice
from harp.errors import NvmlError
from harp.model import DeviceKind


class _Nvml(Nvml):
    def __init__(self, lost: set[int]) -> None:
        self.lost = lost

    def _device(self, index: int) -> NvmlDevice:
        if index in self.lost:
            raise NvmlError(f"device {index}: GPU is lost")
        return NvmlDevice(index, f"GPU-{index}", "x", 1, 0)


@pytest.fixture(autouse=True)
def _three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pynvml.nvmlDeviceGetCount", lambda: 3)


def test_a_lost_device_is_left_out_and_said() -> None:
    with capture_logs() as logs:
        assert [device.index for device in _Nvml({1}).devices()] == [0, 2]
    assert [(entry["event"], entry["gpu"]) for entry in logs] == [("device_lost", 1)]


def test_with_no_device_left_it_is_an_error() -> None:
    """Else "auto" would take the software GPU in place of a broken one."""
    with capture_logs(), pytest.raises(NvmlError, match="GPU is lost"):
        _Nvml({0, 1, 2}).devices()


def test_the_software_gpu_in_the_driver_s_place_is_no_nvidia_device() -> None:
    """As under `python -m harp.softgpu`: its series would be taken for a GPU's."""
    names = ("HARP Software GPU (T4 16GB model)", "Tesla T4")
    devices = tuple(NvmlDevice(i, f"GPU-{i}", name, 1, 0) for i, name in enumerate(names))
    nowhere = Path("/nowhere")
    found = Found(DeviceKind.NVIDIA, cast("Nvml", None), devices, nowhere, nowhere)
    kinds = [found.kind_of(f"GPU-{i}") for i in range(3)]
    assert kinds == [DeviceKind.SOFTWARE, DeviceKind.NVIDIA, DeviceKind.NVIDIA]
