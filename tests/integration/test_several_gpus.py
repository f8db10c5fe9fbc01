# SPDX-License-Identifier: Apache-2.0
"""A tenant with several devices: grant, limits on each, what is shown, restarts."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.machine import Machine, machine, wait_for

MIB = 1 << 20
SHOW = ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES"]


@pytest.fixture
def box(native_dir: Path) -> Iterator[Machine]:
    with machine(native_dir, HARP_SOFT_DEVICES="tiny,tiny") as found:
        found.start_harpd()
        yield found


def _uuids(box: Machine) -> list[str]:
    return [d["uuid"] for d in box.json("devices")["devices"]]


@pytest.mark.slow
def test_the_program_sees_the_gpus_in_the_order_asked(box: Machine) -> None:
    first, second = _uuids(box)
    for asked in ("1,0", f"{second},0", f"1,{first[:13]}"):
        done = box.harp("run", "--gpu", asked, "--", *SHOW)
        assert done.stdout.strip() == f"{second},{first}", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "says", "hint"),
    [
        ("0,0", "names GPU 0", "once"),
        ("0,2", "no GPU named '2'", "there is 0"),
        ("0,", "no GPU named ''", "there is 0"),
    ],
)
def test_a_wrong_list_is_refused_and_leaves_nothing(
    box: Machine, asked: str, says: str, hint: str
) -> None:
    done = box.harp("run", "--gpu", asked, "--", "true")
    assert done.returncode == 125
    assert says in done.stderr
    assert hint in done.stderr
    assert box.json("ps")["tenants"] == []


@pytest.mark.slow
def test_each_gpu_has_the_limit_for_itself_and_its_own_use_is_shown(box: Machine) -> None:
    box.gpu_tenant(
        "--name", "t", "--gpu", "1,0", "--mem", "64MiB", "--share", "30%", mib=64, gpus=2
    )
    tenant = box.ps("t")
    assert tenant
    assert (tenant["gpus"], tenant["gpu"], tenant["gang"]) == ([1, 0], 1, True)
    assert tenant["mem_limit_bytes"] == 64 * MIB
    assert tenant["mem_leased_bytes"] == 128 * MIB
    assert [d["mem_leased_bytes"] for d in tenant["devices"]] == [64 * MIB] * 2
    assert all(d["overhead_bytes"] > 0 for d in tenant["devices"])
    for device in box.json("devices")["devices"]:
        assert device["promised_ratio"] == 0.3
        assert device["leased_bytes"] == 64 * MIB
    assert " 1,0 soft " in box.harp("ps").stdout
    assert " 1,0 " in box.harp("top", "--once").stdout
    checks = {c["name"]: c["text"] for c in box.json("doctor")["checks"]}
    assert "tenants: t" in checks["GPU 0"]
    assert "tenants: t" in checks["GPU 1"]
    done = box.harp("run", "--gpu", "0,1", "--mem", "64MiB", "--", *_program(96, 2))
    assert done.returncode == 3, "more than the limit of one GPU is refused on it"
    assert "cuMemAlloc 2" in done.stdout


def _program(mib: int, gpus: int) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("gpu_program.py")), str(mib), str(gpus)]


def test_admission_is_all_or_nothing(box: Machine) -> None:
    box.tenant("--name", "a", "--gpu", "1", "--share", "60%")
    wait_for(lambda: box.ps("a"), "tenant a")
    done = box.harp("run", "--gpu", "0,1", "--share", "50%", "--", "true")
    assert done.returncode == 125
    assert "on GPU 1, 40% left" in done.stderr
    assert [t["name"] for t in box.json("ps")["tenants"]] == ["a"]
    promised = [d["promised_ratio"] for d in box.json("devices")["devices"]]
    assert promised == [0, 0.6]
    done = box.harp("run", "--gpu", "0,1", "--share", "40%", "--", "true")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_set_changes_all_gpus_and_says_what_is_in_force(box: Machine) -> None:
    box.tenant("--name", "t", "--gpu", "0,1", "--no-gang", "--share", "30%")
    wait_for(lambda: box.ps("t"), "tenant t")
    done = box.harp("set", "t", "--share", "50%", "--limit", "60%", "--class", "best-effort")
    assert done.stderr.strip() == (
        "t: GPU 0,1 each: memory no limit, share 50%, limit 60%, class best-effort, gang off"
    )
    assert [d["promised_ratio"] for d in box.json("devices")["devices"]] == [0.5, 0.5]
    row = r"^t +\w+ +0,1 soft +b-eff +\S+/50%/60% +\d+ +-/- no GPU use yet"
    assert re.search(row, box.harp("ps").stdout, re.MULTILINE)  # nothing is cut off
    found = box.json("set", "t", "--gang")["tenant"]
    assert (found["gang"], found["class"], found["limit_ratio"]) == (True, "best-effort", 0.6)
    box.tenant("--name", "a", "--gpu", "1", "--share", "30%")
    wait_for(lambda: box.ps("a"), "tenant a")
    done = box.harp("set", "t", "--share", "80%", "--limit", "none")
    assert done.returncode == 1
    assert "on GPU 1, 70% left" in done.stderr
    assert [d["promised_ratio"] for d in box.json("devices")["devices"]] == [0.5, 0.8]


@pytest.mark.slow
def test_a_killed_harpd_and_a_killed_arbiter_leave_every_grant(box: Machine) -> None:
    box.gpu_tenant("--name", "t", "--gpu", "1,0", "--mem", "64MiB", "--no-gang", mib=32, gpus=2)
    before = box.ps("t")
    assert before
    os.kill(box.harpd_pid(), signal.SIGKILL)
    wait_for(lambda: box.harp("daemon", "--status").returncode, "harpd is gone")
    box.start_harpd()
    after = box.ps("t")
    assert after
    assert (after["gpus"], after["gang"], after["tenant_id"]) == (
        [1, 0],
        False,
        before["tenant_id"],
    )
    os.kill(box.json("daemon", "--status")["arbiter_pid"], signal.SIGKILL)

    def back() -> bool:
        done = box.harp("ps", "--json")
        found = box.ps("t") if not done.returncode else None
        return bool(found) and [d["mem_leased_bytes"] for d in found["devices"]] == [32 * MIB] * 2

    wait_for(back, "the tenant's processes are back on both GPUs")
    found = box.ps("t")
    assert found
    assert (found["gpus"], found["gang"], found["mem_limit_bytes"]) == ([1, 0], False, 64 * MIB)
