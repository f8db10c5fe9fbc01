# SPDX-License-Identifier: Apache-2.0
"""Power, energy, heat, clocks, link: a software GPU has no sensors, but formulas."""

from __future__ import annotations

import time
from typing import Any

import nvml_machine
import pytest
from nvml_machine import busy

ASK = """
def fields(h, ids):
    out = {}
    for f in n.nvmlDeviceGetFieldValues(h, ids):
        kind = ["dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal"][f.valueType]
        out[f.fieldId] = getattr(f.value, kind) if f.nvmlReturn == 0 else f"error {f.nvmlReturn}"
    return out
boards = []
for i in range(n.nvmlDeviceGetCount()):
    h = n.nvmlDeviceGetHandleByIndex(i)
    clocks = [n.NVML_CLOCK_GRAPHICS, n.NVML_CLOCK_SM, n.NVML_CLOCK_MEM, n.NVML_CLOCK_VIDEO]
    memory_clocks = n.nvmlDeviceGetSupportedMemoryClocks(h)
    boards.append({
        "power": n.nvmlDeviceGetPowerUsage(h),
        "limits": [n.nvmlDeviceGetPowerManagementLimit(h), n.nvmlDeviceGetEnforcedPowerLimit(h),
                   n.nvmlDeviceGetPowerManagementDefaultLimit(h),
                   *n.nvmlDeviceGetPowerManagementLimitConstraints(h)],
        "energy": n.nvmlDeviceGetTotalEnergyConsumption(h),
        "heat": n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU),
        "margin": n.nvmlDeviceGetMarginTemperature(h),
        "thresholds": [tell(n.nvmlDeviceGetTemperatureThreshold, h, k) for k in range(5)],
        "clocks": [tell(n.nvmlDeviceGetClockInfo, h, k) for k in clocks],
        "most": [tell(n.nvmlDeviceGetMaxClockInfo, h, k) for k in clocks],
        "app": [tell(n.nvmlDeviceGetApplicationsClock, h, k) for k in clocks],
        "memory_clocks": memory_clocks,
        "sm_clocks": n.nvmlDeviceGetSupportedGraphicsClocks(h, memory_clocks[0]),
        "wrong_memory_clock": tell(n.nvmlDeviceGetSupportedGraphicsClocks, h, 1),
        "pstate": n.nvmlDeviceGetPerformanceState(h),
        "reasons": n.nvmlDeviceGetCurrentClocksEventReasons(h),
        "violation": n.nvmlDeviceGetViolationStatus(h, n.NVML_PERF_POLICY_POWER).violationTime,
        "link": [n.nvmlDeviceGetMaxPcieLinkGeneration(h), n.nvmlDeviceGetCurrPcieLinkGeneration(h),
                 n.nvmlDeviceGetMaxPcieLinkWidth(h), n.nvmlDeviceGetCurrPcieLinkWidth(h)],
        "throughput": [n.nvmlDeviceGetPcieThroughput(h, k) for k in (0, 1)],
        "nvlink": [tell(n.nvmlDeviceGetNvLinkState, h, k) for k in (0, 17, 18)],
        "fields": fields(h, [1, 82, 83, 91, 94, 142, 185, 186, 187, 188, 189, 190, 193, 194, 300]),
        "samples": {
            name: [s.sampleValue.uiVal for s in tell(n.nvmlDeviceGetSamples, h, kind, 0)[1]]
            for name, kind in (("gpu", n.NVML_GPU_UTILIZATION_SAMPLES),
                               ("power", n.NVML_TOTAL_POWER_SAMPLES))},
        "util": n.nvmlDeviceGetUtilizationRates(h).gpu,
    })
print(json.dumps(boards))
"""
SM, MEMORY, VIDEO = 1, 2, 3


@pytest.fixture
def machine(soft_env: dict[str, str]) -> dict[str, str]:
    return {**soft_env, "HARP_SOFT_DEVICES": "h100-80g,a100-40g,t4-16g"}


def ask(env: dict[str, str]) -> list[dict[str, Any]]:
    boards: list[dict[str, Any]] = nvml_machine.ask(env, ASK)
    return boards


def test_idle_boards(machine: dict[str, str]) -> None:
    h100, a100, t4 = ask(machine)
    assert [b["power"] for b in (h100, a100, t4)] == [70000, 50000, 10000]
    assert h100["limits"] == [700000, 700000, 700000, 200000, 700000]
    assert [b["heat"] for b in (h100, a100, t4)] == [32, 31, 35]
    assert h100["thresholds"] == [95, 92, 95, 87, "error 3"]
    assert t4["thresholds"] == [96, 93, "error 3", 85, "error 3"]  # no sensor in its memory
    assert h100["margin"] == 87 - 32
    assert h100["clocks"] == [345, 345, 2619, "error 3"]
    assert t4["clocks"] == [300, 300, 405, "error 3"]
    assert h100["most"] == h100["app"] == [1980, 1980, 2619, "error 3"]
    assert [b["pstate"] for b in (h100, a100, t4)] == [0, 0, 8]
    assert [b["link"] for b in (h100, a100, t4)] == [[g, g, 16, 16] for g in (5, 4, 3)]
    assert h100["nvlink"] == [0, 0, "error 2"]
    assert a100["nvlink"] == [0, "error 2", "error 2"]
    assert t4["nvlink"] == ["error 3"] * 3
    for board in (h100, a100, t4):
        assert board["reasons"] == 1  # idle
        assert board["violation"] == 0
        assert board["throughput"] == [0, 0]
        assert board["sm_clocks"][0] == board["most"][SM]
        assert board["sm_clocks"][-1] == board["clocks"][SM]
        assert board["memory_clocks"][0] == board["most"][MEMORY]
        assert board["wrong_memory_clock"] == "error 6"
        assert set(board["samples"]["gpu"]) == {0}
        assert set(board["samples"]["power"]) == {board["power"]}


def test_fields_say_what_calls_say(machine: dict[str, str]) -> None:
    h100, a100, t4 = ask(machine)
    fields = {int(k): v for k, v in h100["fields"].items()}
    energy = fields.pop(83)
    assert h100["energy"] <= energy <= h100["energy"] + 70000
    assert fields == {
        1: 1,  # ECC
        82: 37,  # memory is warmer
        91: 18,
        94: 0,
        142: 0,
        185: 70000,
        186: 70000,
        187: 200000,
        188: 700000,
        189: 700000,
        190: 700000,
        193: 87 - 95,
        194: 87 - 92,
        300: "error 3",
    }
    assert a100["fields"]["91"] == 12
    assert [t4["fields"][k] for k in ("82", "91", "142")] == ["error 3"] * 3


@pytest.mark.alone
def test_work_takes_power_and_warms(machine: dict[str, str]) -> None:
    before = ask(machine)[0]
    from_s = time.monotonic()
    with busy(machine):
        h100, a100, _ = ask(machine)
        again = ask(machine)[0]
    watt_seconds = (time.monotonic() - from_s) * 700
    assert h100["util"] >= 80
    span = 700000 - 70000
    assert 70000 + 0.9 * span * 0.75 <= h100["power"] <= 70000 + 0.9 * span + 1
    assert h100["heat"] > before["heat"]
    assert h100["margin"] == 87 - h100["heat"]
    assert h100["clocks"][SM] == 1980
    assert h100["reasons"] == 0
    assert max(h100["samples"]["gpu"]) >= 95
    assert 70000 + 0.85 * span <= max(h100["samples"]["power"]) <= 70000 + 0.9 * span
    assert a100["power"] == 50000  # only the board that works
    assert before["energy"] < h100["energy"] < again["energy"]
    # between idling and the most, for the time that passed
    assert again["energy"] - before["energy"] <= 1000 * watt_seconds
    assert again["energy"] - before["energy"] >= 1000 * 70


def test_same_question_same_answer(machine: dict[str, str]) -> None:
    told = [ask(machine), ask(machine)]
    for boards in told:
        for board in boards:
            del board["energy"], board["fields"]["83"]
    assert told[0] == told[1]
