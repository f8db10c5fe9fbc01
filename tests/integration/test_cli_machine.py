# SPDX-License-Identifier: Apache-2.0
"""Commands that look at the whole machine: doctor, devices, bench."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.machine import Machine, machine, wait_for


@pytest.fixture
def box(native_dir: Path) -> Iterator[Machine]:
    with machine(native_dir) as found:
        yield found


def test_the_doctor_finds_a_good_machine_good(box: Machine) -> None:
    before = box.json("doctor")
    assert before["ok"] is True
    verdicts = {c["name"]: c for c in before["checks"]}
    assert verdicts["built files"]["verdict"] == "ok"
    assert verdicts["harpd"]["verdict"] == "warn"
    assert "harp daemon" in verdicts["harpd"]["remedy"]
    box.start_harpd()
    verdicts = {c["name"]: c for c in box.json("doctor")["checks"]}
    for name in ("harpd", "arbiter", "GPU 0", "uncovered"):
        assert verdicts[name]["verdict"] == "ok", verdicts[name]
    assert "software, not a GPU" in verdicts["GPU 0"]["text"]
    assert "libcudart" in verdicts["cudart"]["text"]


@pytest.mark.slow
def test_the_doctor_says_what_is_missing(box: Machine, tmp_path: Path) -> None:
    done = box.harp("doctor", HARP_NATIVE_DIR=str(tmp_path))
    assert done.returncode == 1
    # Where its folder's name is long the table breaks within the word.
    assert "libharp.soisnotthere" in "".join(done.stdout.split())
    done = box.harp("doctor", PATH=str(tmp_path))
    assert "no C compiler" in done.stdout


@pytest.mark.slow
def test_the_doctor_sees_harp_in_a_covered_process(box: Machine) -> None:
    child = box.gpu_tenant("--name", "t", mib=4)
    verdicts = {
        c["name"]: c["verdict"] for c in box.json("doctor", "--pid", str(child.pid))["checks"]
    }
    assert verdicts == {"session": "ok", "environment": "ok", "libraries": "ok"}
    done = box.harp("doctor", "--pid", "4194305")
    assert done.returncode == 1
    assert "no process" in done.stdout


@pytest.mark.slow
def test_an_overwritten_preload_is_named(box: Machine) -> None:
    child = box.tenant("--name", "t", command=["env", "LD_PRELOAD=", "sleep", "60"])
    wait_for(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n", "sleep runs")
    verdicts = {c["name"]: c for c in box.harp_json("doctor", "--pid", str(child.pid))["checks"]}
    assert verdicts["LD_PRELOAD"]["verdict"] == "warn"
    assert "it was overwritten" in verdicts["LD_PRELOAD"]["text"]


@pytest.mark.slow
def test_two_devices_are_told_apart(native_dir: Path) -> None:
    with machine(native_dir, HARP_SOFT_DEVICES="tiny,tiny") as box:
        box.start_harpd()
        devices = box.json("devices")["devices"]
        assert [d["index"] for d in devices] == [0, 1]
        show = ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES"]
        first = box.tenant("--name", "a", "--share", "60%")
        wait_for(lambda: box.ps("a"), "tenant a")
        done = box.harp("run", "--share", "60%", "--", *show)
        assert done.stdout.strip() == devices[1]["uuid"]
        done = box.harp("run", "--gpu", "0", "--share", "40%", "--", *show)
        assert done.stdout.strip() == devices[0]["uuid"]
        done = box.harp("run", "--gpu", devices[1]["uuid"][:12], "--", *show)
        assert done.stdout.strip() == devices[1]["uuid"]
        done = box.harp("run", "--gpu", "0", "--share", "50%", "--", *show)
        assert done.returncode == 125
        assert "40% left" in done.stderr
        assert first.poll() is None
        second = box.gpu_tenant("--name", "b", "--gpu", "1", "--mem", "64MiB", mib=64)
        assert second.poll() is None
        tenant = box.ps("b")
        assert tenant
        assert (tenant["gpu"], tenant["mem_leased_bytes"]) == (1, 64 << 20)


@pytest.mark.slow
def test_bench_overhead_says_all_its_fields(box: Machine) -> None:
    found = box.json("bench", "overhead", "--rounds", "21")
    assert found["software"] is True
    assert set(found["noop_added_ns"]) == {"no_limit", "limited_alone", "limited_8_threads"}
    assert found["launch_ns_bare"] > 0
    assert found["ratio"] == pytest.approx(found["launch_ns_harp"] / found["launch_ns_bare"])
    variants = {f"paced_{name}" for name in found["paced_added_ns"]} | {*found["calls_added_ns"]}
    assert set(found["spread"]) == {"device", *found["noop_added_ns"]} | variants
    assert set(found["n_of"]) == set(found["spread"])
    assert found["end_to_end_ratio"] > 0
    assert found["label"] == "software GPU, not evidence for hardware"
    assert {target["figure"] for target in found["targets"]} == set(found["noop_added_ns"])
    assert found["n"] > 0
    # Far above what it is (some 10 ns): only a lock or a system call on the path is caught here.
    assert all(value < 500 for value in found["noop_added_ns"].values()), found


@pytest.mark.slow
def test_time_settings_are_in_force_and_the_doctor_says_which(box: Machine) -> None:
    done = box.harp("daemon", "--set", "time.quantum_us=500")
    assert done.returncode == 1
    assert "time.quantum_us = '500' (--set) is out of range" in done.stderr
    assert "1000 to 50000 us" in done.stderr
    settings = ("time.policy=fifo", "time.quantum_us=2000", "time.burst_us=7000")
    box.start_harpd(*(word for one in settings for word in ("--set", one)))
    check = _checks(box)["GPU time"]
    assert check["verdict"] == "ok"
    assert check["text"] == "policy fifo, quantum 2000 us, burst 7000 us"
    assert "policy=fifo quantum_us=2000" in (box.run_dir / "arbiter.log").read_text()
    # The arbiter outlives harpd while a tenant is there, and keeps what it was told.
    box.tenant("--name", "t")
    wait_for(lambda: box.ps("t"), "tenant t")
    assert box.harp("daemon", "--stop").returncode == 0
    box.start_harpd("--set", "time.policy=priority")
    check = _checks(box)["GPU time"]
    assert check["verdict"] == "warn"
    assert "policy fifo, quantum 2000 us" in check["text"]
    assert "time.policy is fifo, set is priority" in check["text"]
    assert "time.quantum_us is 2000, set is 5000" in check["text"]
    assert "harp daemon --upgrade" in check["remedy"]
    done = box.harp("daemon", "--upgrade", "--set", "time.policy=priority")
    assert done.returncode == 0, done.stderr
    check = _checks(box)["GPU time"]
    assert (check["verdict"], check["text"]) == (
        "ok",
        "policy priority, quantum 5000 us, burst 50000 us",
    )
    assert box.ps("t"), "tenants go on meanwhile"


def _checks(box: Machine) -> dict[str, dict[str, str]]:
    return {c["name"]: c for c in box.json("doctor")["checks"]}


@pytest.mark.slow
def test_tenants_have_the_time_slices_of_harpds_machine(native_dir: Path) -> None:
    with machine(native_dir, HARP_SOFT_SLICE_US="6000") as box:
        box.start_harpd()
        command = ("sh", "-c", "echo $HARP_SOFT_SLICE_US,$HARP_SOFT_SWITCH_US")
        done = box.harp("run", "--", *command, HARP_SOFT_SLICE_US="1000", HARP_SOFT_SWITCH_US="300")
        assert done.stdout == "6000,\n", done.stderr
