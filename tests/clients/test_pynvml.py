# SPDX-License-Identifier: Apache-2.0
"""pynvml on the software GPU, beside the driver API."""

from __future__ import annotations

import pytest
from client_process import Client


def test_usual_calls_agree_with_the_driver(client: Client) -> None:
    told = client("management.py", HARP_SOFT_TEARDOWN_MS="0")
    assert told["context_bytes"] > 0


@pytest.mark.parametrize("devices", ["h100-80g,tiny", "tiny"])
def test_devices_are_those_configured(client: Client, devices: str) -> None:
    told = client("devices.py", HARP_SOFT_DEVICES=devices)
    assert [row["uuid"] for row in told["nvml"]] == [row["uuid"] for row in told["cuda"]]
    assert [row["name"] for row in told["nvml"]] == [row["name"] for row in told["cuda"]]
    assert len({row["uuid"] for row in told["nvml"]}) == len(devices.split(","))
    assert told["cuda"][-1]["total_bytes"] <= 1 << 30  # tiny


def test_no_device_is_a_legal_machine(client: Client) -> None:
    told = client("devices.py", HARP_SOFT_DEVICES="")
    assert told == {"init": "CUDA_ERROR_NO_DEVICE", "nvml": []}
