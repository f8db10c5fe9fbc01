# SPDX-License-Identifier: Apache-2.0
"""The software GPU's NVML through unmodified pynvml, against what its clients really hold."""

from __future__ import annotations

import time
from typing import Any

import nvml_machine
import pytest
from nvml_machine import Holder, busy

ASK = """
devices = []
for i in range(n.nvmlDeviceGetCount()):
    h = n.nvmlDeviceGetHandleByIndex(i)
    v1, v2 = n.nvmlDeviceGetMemoryInfo(h), n.nvmlDeviceGetMemoryInfo(h, version=n.nvmlMemory_v2)
    pci = n.nvmlDeviceGetPciInfo(h)
    devices.append({
        "name": n.nvmlDeviceGetName(h),
        "uuid": n.nvmlDeviceGetUUID(h),
        "bus": pci.busId,
        "by_uuid": n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByUUID(n.nvmlDeviceGetUUID(h))),
        "by_bus": n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByPciBusId(pci.busId)),
        "v1": [v1.total, v1.free, v1.used],
        "v2": [v2.total, v2.reserved, v2.free, v2.used],
        "processes": [
            [p.pid, p.usedGpuMemory] for p in n.nvmlDeviceGetComputeRunningProcesses(h)
        ],
        "old": [
            [p.pid, p.usedGpuMemory] for p in n.nvmlDeviceGetComputeRunningProcesses_v2(h)
        ],
        "graphics": len(n.nvmlDeviceGetGraphicsRunningProcesses(h)),
        "names": [n.nvmlSystemGetProcessName(p.pid)
                  for p in n.nvmlDeviceGetComputeRunningProcesses(h)],
        "capability": n.nvmlDeviceGetCudaComputeCapability(h),
        "gpu_percent": n.nvmlDeviceGetUtilizationRates(h).gpu,
        "process_util": tell(lambda: [
            [s.pid, s.smUtil] for s in n.nvmlDeviceGetProcessUtilization(h, 0)]),
        "fans": [n.nvmlDeviceGetNumFans(h), tell(n.nvmlDeviceGetFanSpeed, h)],
    })
print(json.dumps({
    "devices": devices,
    "driver": n.nvmlSystemGetDriverVersion(),
    "cuda": n.nvmlSystemGetCudaDriverVersion_v2(),
    "missing": [
        tell(n.nvmlDeviceGetHandleByIndex, 99),
        tell(n.nvmlDeviceGetHandleByUUID, "GPU-00000000-0000-0000-0000-000000000000"),
        tell(n.nvmlSystemGetProcessName, 0x7FFFFFFF)],
}))
n.nvmlShutdown()
assert tell(n.nvmlDeviceGetCount) == "error 1"
"""


def ask(env: dict[str, str]) -> dict[str, Any]:
    told: dict[str, Any] = nvml_machine.ask(env, ASK)
    return told


@pytest.fixture
def machine(soft_env: dict[str, str]) -> dict[str, str]:
    soft_env["HARP_SOFT_DEVICES"] = "h100-80g,tiny"
    soft_env["HARP_SOFT_TEARDOWN_MS"] = "0"
    return soft_env


def test_devices_are_described_alike_by_cuda_and_nvml(machine: dict[str, str]) -> None:
    told = ask(machine)
    assert told["cuda"] == 13000
    assert told["missing"] == ["error 2", "error 6", "error 6"]
    devices = told["devices"]
    assert len(devices) == 2
    for i, device in enumerate(devices):
        assert device["name"].startswith("HARP Software GPU")
        assert (device["by_uuid"], device["by_bus"]) == (i, i)
        assert device["processes"] == device["old"] == []
        assert device["process_util"] == "error 6"
        assert device["fans"] == [0, "error 3"]  # the server blows
        total, reserved, free, used = device["v2"]
        assert total == reserved + free + used
        assert used == 0
        assert device["v1"] == [total, free, reserved]
        holder = Holder(machine, i, 1)
        try:
            assert holder.uuid == device["uuid"].removeprefix("GPU-").replace("-", "")
            assert int(holder.bus.split(":")[1], 16) == int(device["bus"].split(":")[1], 16)
        finally:
            holder.end()


def test_memory_and_processes_follow_the_clients(machine: dict[str, str]) -> None:
    holders = [Holder(machine, 0, 64), Holder(machine, 0, 100), Holder(machine, 1, 10)]
    try:
        first, second = ask(machine)["devices"]
        held = dict(first["processes"])
        assert set(held) == {holders[0].process.pid, holders[1].process.pid}
        assert held[holders[1].process.pid] - held[holders[0].process.pid] == 36 << 20
        assert first["processes"] == first["old"]
        assert first["graphics"] == 0
        assert first["v2"][3] == sum(held.values())
        assert all("python" in name for name in first["names"])
        assert [pid for pid, _ in second["processes"]] == [holders[2].process.pid]
        assert {pid for pid, _ in first["process_util"]} == set(held)
        holders[0].end()
        first, _second = ask(machine)["devices"]
        assert [pid for pid, _ in first["processes"]] == [holders[1].process.pid]
        assert first["v2"][3] == held[holders[1].process.pid]
    finally:
        for holder in holders:
            holder.end()
    first, second = ask(machine)["devices"]
    assert first["v2"][3] == second["v2"][3] == 0


def test_no_devices_is_a_machine_too(soft_env: dict[str, str]) -> None:
    soft_env["HARP_SOFT_DEVICES"] = ""
    assert ask(soft_env)["devices"] == []


def test_looking_takes_nothing(machine: dict[str, str]) -> None:
    """NVML itself is no client: it appears in no list and holds no memory."""
    told = [ask(machine) for _ in range(2)]
    assert told[0] == told[1]


@pytest.mark.alone
def test_utilisation_is_the_engines_busy_time(machine: dict[str, str]) -> None:
    with busy(machine) as busy_pid:
        device = ask(machine)["devices"][0]
        assert device["gpu_percent"] >= 80
        [[pid, percent]] = device["process_util"]
        assert pid == busy_pid
        assert percent >= 50  # since the process began, its start included
    time.sleep(1.2)
    assert ask(machine)["devices"][0]["gpu_percent"] == 0
