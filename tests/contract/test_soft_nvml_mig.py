# SPDX-License-Identifier: Apache-2.0
"""h100-mig-2x40g: one board, two GPU instances 3g.40gb; devices of their own in CUDA."""

from __future__ import annotations

from typing import Any

import nvml_machine
import pytest
from nvml_machine import Holder, busy

NOBODY = 0xFFFFFFFF
ASK = """
def rows(h):
    return [[p.pid, p.usedGpuMemory, p.gpuInstanceId, p.computeInstanceId]
            for p in n.nvmlDeviceGetComputeRunningProcesses(h)]
def memory(h):
    m = n.nvmlDeviceGetMemoryInfo(h, version=n.nvmlMemory_v2)
    return [m.total, m.reserved, m.free, m.used]
boards = []
for i in range(n.nvmlDeviceGetCount()):
    h = n.nvmlDeviceGetHandleByIndex(i)
    migs = []
    for k in range(n.nvmlDeviceGetMaxMigDeviceCount(h)):
        m = tell(n.nvmlDeviceGetMigDeviceHandleByIndex, h, k)
        if m == "error 6":
            continue
        uuid = n.nvmlDeviceGetUUID(m)
        again = n.nvmlDeviceGetHandleByUUID(uuid)
        migs.append({
            "uuid": uuid, "name": n.nvmlDeviceGetName(m),
            "is": n.nvmlDeviceIsMigDeviceHandle(m).value, "again": n.nvmlDeviceGetUUID(again),
            "gi": n.nvmlDeviceGetGpuInstanceId(m), "ci": n.nvmlDeviceGetComputeInstanceId(m),
            "parent": n.nvmlDeviceGetIndex(n.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(m)),
            "sms": n.nvmlDeviceGetAttributes(m).multiprocessorCount,
            "memory": memory(m), "rows": rows(m), "power": tell(n.nvmlDeviceGetPowerUsage, m)})
    boards.append({
        "uuid": n.nvmlDeviceGetUUID(h), "name": n.nvmlDeviceGetName(h),
        "bus": n.nvmlDeviceGetPciInfo(h).bus, "mode": tell(n.nvmlDeviceGetMigMode, h),
        "memory": memory(h), "rows": rows(h), "migs": migs,
        "util": tell(lambda: n.nvmlDeviceGetUtilizationRates(h).gpu)})
print(json.dumps(boards))
"""
CUDA = """
import ctypes as c
cu = c.CDLL("libcuda.so.1")
init = cu.cuInit(0)
count = c.c_int(0)
cu.cuDeviceGetCount(c.byref(count))
out = []
for i in range(count.value):
    name, uuid = c.create_string_buffer(96), (c.c_ubyte * 16)()
    total, sms = c.c_size_t(), c.c_int()
    cu.cuDeviceGetName(name, 96, i)
    cu.cuDeviceGetUuid_v2(uuid, i)
    cu.cuDeviceTotalMem_v2(c.byref(total), i)
    cu.cuDeviceGetAttribute(c.byref(sms), 16, i)
    bus = c.c_int()
    cu.cuDeviceGetAttribute(c.byref(bus), 33, i)
    out.append([name.value.decode(), bytes(uuid).hex(), total.value, sms.value, bus.value])
print(json.dumps(out))
"""


@pytest.fixture
def machine(soft_env: dict[str, str]) -> dict[str, str]:
    soft_env["HARP_SOFT_TEARDOWN_MS"] = "0"
    return {**soft_env, "HARP_SOFT_DEVICES": "tiny,h100-mig-2x40g"}


def ask(env: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    tiny, split = nvml_machine.ask(env, ASK)
    return tiny, split


def cuda(env: dict[str, str], visible: str | None) -> list[list[Any]]:
    env = env if visible is None else {**env, "CUDA_VISIBLE_DEVICES": visible}
    rows: list[list[Any]] = nvml_machine.ask(env, CUDA)
    return rows


def plain(uuid: str) -> str:
    return uuid.split("-", 1)[1].replace("-", "")


def test_board_and_its_instances(machine: dict[str, str]) -> None:
    tiny, split = ask(machine)
    assert (tiny["mode"], tiny["migs"]) == ("error 3", [])
    assert split["mode"] == [1, 1]
    assert split["name"] == "HARP Software GPU (H100 80GB model)"
    assert split["uuid"].startswith("GPU-")
    assert split["util"] == "error 3"  # as NVML documents
    first, second = split["migs"]
    assert len({first["uuid"], second["uuid"], "MIG-" + split["uuid"][4:]}) == 3
    for i, mig in enumerate((first, second)):
        assert mig["uuid"].startswith("MIG-")
        assert mig["again"] == mig["uuid"]
        assert (mig["is"], mig["gi"], mig["ci"], mig["parent"]) == (1, i + 1, 0, 1)
        assert mig["name"] == split["name"] + " MIG 3g.40gb"
        assert mig["sms"] == 60
        assert mig["power"] == "error 3"
        total, reserved, free, used = mig["memory"]
        assert total == 40448 << 20
        assert total == reserved + free + used
    assert split["memory"][2] == first["memory"][2] + second["memory"][2]
    assert split["memory"][0] > first["memory"][0] + second["memory"][0]


def test_what_a_process_sees(machine: dict[str, str]) -> None:
    """One instance at most, and beside it nothing else."""
    _, split = ask(machine)
    first, second = (mig["uuid"] for mig in split["migs"])
    for visible, wanted in (
        (None, first),
        ("1", first),
        (split["uuid"], first),
        (first, first),
        (second, second),
        (f"{second},{first}", second),
        (f"MIG-{split['uuid']}/2/0", second),
        (f"0,{second}", second),
    ):
        [row] = cuda(machine, visible)
        assert row[1] == plain(wanted), visible
        assert row[0] == split["migs"][0]["name"]
        assert row[2] == 39936 << 20
        assert row[3] == 60
        assert row[4] == split["bus"]
    [row] = cuda(machine, "0")
    assert "tiny" in row[0]
    assert cuda(machine, "MIG-00000000-0000-0000-0000-000000000000") == []


def test_instances_hold_memory_apart(machine: dict[str, str]) -> None:
    _, split = ask(machine)
    uuids = [mig["uuid"] for mig in split["migs"]]
    holders = [
        Holder({**machine, "CUDA_VISIBLE_DEVICES": uuid}, 0, mib)
        for uuid, mib in zip(uuids, (100, 30000), strict=True)
    ]
    try:
        tiny, split = ask(machine)
        rows = [mig["rows"] for mig in split["migs"]]
        for i, holder in enumerate(holders):
            [[pid, used, gi, ci]] = rows[i]
            assert (pid, gi, ci) == (holder.pid, i + 1, 0)
            assert split["migs"][i]["memory"][3] == used
            assert holder.uuid == plain(uuids[i])
        assert sorted(split["rows"]) == sorted(rows[0] + rows[1])
        assert split["memory"][3] == rows[0][0][1] + rows[1][0][1]
        assert tiny["rows"] == []
        # 30000 MiB of 39936 are gone: the other one's room is untouched
        third = Holder({**machine, "CUDA_VISIBLE_DEVICES": uuids[0]}, 0, 30000)
        third.end()
    finally:
        for holder in holders:
            holder.end()


def test_whole_boards_have_no_instance(machine: dict[str, str]) -> None:
    holder = Holder({**machine, "CUDA_VISIBLE_DEVICES": "0"}, 0, 10)
    try:
        tiny, split = ask(machine)
        [[pid, _, gi, ci]] = tiny["rows"]
        assert (pid, gi, ci) == (holder.pid, NOBODY, NOBODY)
        assert split["rows"] == []
    finally:
        holder.end()


@pytest.mark.alone
def test_engines_are_apart(machine: dict[str, str]) -> None:
    """Power is the board's: one busy instance of two takes half of what both would."""

    _, split = ask(machine)
    with busy({**machine, "CUDA_VISIBLE_DEVICES": split["migs"][1]["uuid"]}):
        told = nvml_machine.ask(
            machine,
            "h = n.nvmlDeviceGetHandleByIndex(1)\nprint(n.nvmlDeviceGetPowerUsage(h))",
        )
    span = 630000 * 0.9 / 2
    assert 70000 + 0.75 * span <= told <= 70000 + span + 1
