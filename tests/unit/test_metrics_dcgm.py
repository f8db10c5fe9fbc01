# SPDX-License-Identifier: Apache-2.0
"""The names of dcgm-exporter: figures harpd knows, in its units, with its labels."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

from metrics_cases import SENSORS, device, everything, seen
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from test_metrics_exposition import parsed

from harp.metrics import DAEMON, DCGM, DeviceSeen, dcgm_samples, expose, samples
from harp.model import DeviceKind, Sensors

GPU = device(0, DeviceKind.NVIDIA)
MIB = 1 << 20


def told(*devices: DeviceSeen) -> dict[str, dict[str, float]]:
    """{name: {uuid: value}}."""
    found: dict[str, dict[str, float]] = {}
    for sample in dcgm_samples(replace(seen(), devices=devices)):
        assert isinstance(sample.value, int | float)
        found.setdefault(sample.family.name, {})[sample.labels[1]] = sample.value
    return found


def test_values_are_in_the_units_of_dcgm() -> None:
    found = told(DeviceSeen(GPU, used_bytes=3072 * MIB, sensors=SENSORS))
    assert {name.removeprefix("DCGM_FI_DEV_"): of[GPU.uuid] for name, of in found.items()} == {
        "SM_CLOCK": 1980,
        "MEM_CLOCK": 2619,
        "GPU_TEMP": 41,
        "POWER_USAGE": 123.5,
        "TOTAL_ENERGY_CONSUMPTION": 4567500,
        "GPU_UTIL": 37,
        "MEM_COPY_UTIL": 12,
        "FB_USED": 3072,
        "FB_FREE": 5120,
    }
    assert set(found) == {family.name for family in DCGM}


def test_what_is_not_known_has_no_series() -> None:
    assert told(DeviceSeen(GPU)) == {}


def test_zero_is_a_value_and_no_memory_is_less_than_free() -> None:
    full = told(DeviceSeen(GPU, used_bytes=GPU.memory_bytes + MIB, sensors=Sensors(0.0)))
    assert {name.removeprefix("DCGM_FI_DEV_"): of[GPU.uuid] for name, of in full.items()} == {
        "GPU_UTIL": 0,
        "FB_USED": 8193,
        "FB_FREE": 0,
    }


def test_labels_are_the_exporters_and_a_software_gpu_is_no_nvidia_device() -> None:
    text = expose(DCGM, dcgm_samples(everything()))[0].decode()
    (sample,) = (s for m in parsed(text) for s in m.samples if s.name == "DCGM_FI_DEV_GPU_UTIL")
    assert sample.labels == {
        "gpu": "0",
        "UUID": device(0).uuid,
        "pci_bus_id": "00000000:0A:00.0",
        "device": "software0",
        "modelName": "tiny",
        "Hostname": "node-1",
        "DCGM_FI_DRIVER_VERSION": "1.2.3",
    }
    real = replace(seen(), devices=(DeviceSeen(GPU, sensors=SENSORS),))
    assert {s.labels[3] for s in dcgm_samples(real)} == {"nvidia3"}
    unknown = replace(seen(), devices=(DeviceSeen(GPU, sensors=Sensors(0.5)),))
    assert {s.labels[2:4] for s in dcgm_samples(unknown)} == {("", "")}


def test_promtool_and_the_strict_parser_take_them_beside_ours(promtool: Path) -> None:
    """`modelName` is dcgm-exporter's: promtool says that of each of its names, and no more."""
    every = everything()
    text = expose((*DAEMON, *DCGM), [*samples(every), *dcgm_samples(every)])[0].decode()
    assert "DCGM_FI_DEV_FB_FREE{" in text
    done = subprocess.run(
        [str(promtool), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    word = "label names should be written in 'snake_case' not 'camelCase'"
    assert sorted(done.stderr.splitlines()) == sorted(f"{one.name} {word}" for one in DCGM)
    assert done.stdout == ""
    strict = expose(DCGM, dcgm_samples(every), "application/openmetrics-text; version=1.0.0")
    assert {metric.name for metric in openmetrics(strict[0].decode())} == {f.name for f in DCGM}
