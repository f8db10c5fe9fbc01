# SPDX-License-Identifier: Apache-2.0
"""harpd beside the real arbiter, the real shim and the software GPU."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from harp.rundir import RunDir
from tests.integration.machine import PROGRAM, ROOT, Machine, machine, wait_for

MIB = 1 << 20


@pytest.fixture
def box(native_dir: Path) -> Iterator[Machine]:
    with machine(native_dir) as found:
        yield found


@pytest.mark.slow
def test_the_first_run_starts_a_daemon_and_the_tenant_ends_with_its_program(box: Machine) -> None:
    done = box.harp("run", "--name", "t", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout) == (7, "out\n")
    assert "started harpd" in done.stderr
    assert done.stderr.endswith("err\n")
    wait_for(lambda: box.ps("t") is None, "tenant t ends")
    again = box.harp("run", "--", "true")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


@pytest.mark.slow
def test_the_tenant_whose_run_started_the_daemon_ends_like_any_other(box: Machine) -> None:
    """The daemon is a child of its first process, which has become the program: no part of it."""
    first = box.tenant(
        "--name", "t", "--share", "100%", command=["sh", "-c", "echo up; exec sleep 60"]
    )
    assert first.stdout
    assert first.stdout.readline() == "up\n"
    time.sleep(2.5)  # until the daemon has looked at who descends from whom
    first.kill()
    first.wait()
    wait_for(lambda: box.ps("t") is None, "tenant t ends")
    again = box.harp("run", "--name", "t", "--share", "100%", "--", "true")
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_what_has_ended_makes_room_at_once(box: Machine) -> None:
    """Run after run with one name and the whole device: none meets the one before."""
    box.start_harpd()
    for _ in range(4):
        done = box.harp("run", "--name", "t", "--share", "100%", "--mem", "800MiB", "--", "true")
        assert done.returncode == 0, done.stderr


def test_run_becomes_the_program_same_pid_signals_and_status(box: Machine) -> None:
    child = box.tenant("--name", "t", command=["sh", "-c", "echo $$; exec sleep 60"])
    assert child.stdout
    assert int(child.stdout.readline()) == child.pid
    tenant = box.ps("t")
    assert tenant
    assert (tenant["pid"], tenant["root_alive"]) == (child.pid, True)
    child.send_signal(signal.SIGTERM)
    assert child.wait(10) == -signal.SIGTERM


@pytest.mark.slow
def test_the_program_gets_default_signals_and_no_stray_descriptors(box: Machine) -> None:
    shell = ["sh", "-c", "cat /proc/$$/status | grep SigIgn; ls /proc/$$/fd"]
    # Whatever runs the tests may ignore signals: `harp run` must add none and take none away.
    plain = subprocess.run(shell, capture_output=True, text=True, check=True).stdout
    assert "SigIgn:" in plain
    assert box.harp("run", "--", *shell).stdout == plain


def test_limits_hold_and_ps_and_top_show_them(box: Machine) -> None:
    box.gpu_tenant("--name", "t", "--mem", "256MiB", "--share", "30%", "--limit", "50%", mib=100)
    tenant = box.ps("t")
    assert tenant
    assert tenant["mem_limit_bytes"] == 256 * MIB
    assert tenant["mem_leased_bytes"] == 100 * MIB
    assert tenant["mem_peak_bytes"] >= 100 * MIB
    assert (tenant["share_ratio"], tenant["limit_ratio"]) == (0.3, 0.5)
    assert tenant["software"] is True
    (client,) = tenant["clients"]
    assert client["state"] == "live"
    assert client["overhead_bytes"] > 0
    top = box.json("top")
    assert [t["name"] for t in top["tenants"]] == ["t"]
    assert top["devices"][0]["software"] is True
    once = box.harp("top", "--once", COLUMNS="80")
    assert "software" in once.stdout
    assert re.search(r"^t +\w+ +0 +std +100MiB 256MiB +30% ", once.stdout, re.MULTILINE), (
        once.stdout
    )
    (device,) = box.json("devices")["devices"]
    assert device["context_source"] == "measured"
    assert device["promised_bytes"] == 256 * MIB + device["context_bytes"]
    refused = box.tenant("--mem", "256MiB", command=[sys.executable, str(PROGRAM), "258"])
    assert refused.wait(20) == 3
    assert refused.stdout
    assert refused.stdout.read() == "cuMemAlloc 2\n"


def test_set_holds_at_once(box: Machine) -> None:
    box.gpu_tenant("--name", "t", "--mem", "100MiB", mib=64)
    shown = box.json("set", "t", "--mem", "200MiB", "--share", "20%", "--class", "latency")
    assert shown["tenant"]["mem_limit_bytes"] == 200 * MIB
    tenant = box.ps("t")
    assert tenant
    assert (tenant["share_ratio"], tenant["class"]) == (0.2, "latency")
    lifted = box.json("set", "t", "--mem", "none", "--share", "none")
    assert (lifted["tenant"]["mem_limit_bytes"], lifted["tenant"]["share_ratio"]) == (0, 0)
    assert box.harp("set", "nobody", "--mem", "1GiB").returncode == 1


@pytest.mark.slow
def test_admission_says_what_is_left_and_what_to_do(box: Machine) -> None:
    box.tenant("--name", "a", "--mem", "512MiB", "--share", "70%")
    wait_for(lambda: box.harp("ps").returncode == 0 and box.ps("a"), "tenant a")
    (device,) = box.json("devices")["devices"]
    left = device["memory_bytes"] - device["promised_bytes"] - device["context_bytes"]
    done = box.harp("run", "--mem", "1GiB", "--", "true")
    assert done.returncode == 125
    assert f"hint: ask for --mem {left // (2 * MIB) * 2}MiB" in done.stderr
    done = box.harp("run", "--share", "31%", "--", "true")
    assert done.returncode == 125
    assert "30% left" in done.stderr
    assert "hint: ask for --share 30%" in done.stderr
    assert box.harp("run", "--share", "30%", "--", "true").returncode == 0
    done = box.harp("set", "a", "--share", "101%")
    assert done.returncode == 2
    done = box.harp("run", "--gpu", "7", "--", "true")
    assert done.returncode == 125
    assert "no GPU named '7'" in done.stderr
    done = box.harp("run", "--name", "a", "--", "true")
    assert "runs already" in done.stderr
    assert not [p for p in (box.base / "user/harp/grants").iterdir() if p.name.startswith("true")]


@pytest.mark.slow
def test_limits_of_tenants_that_oversubscribe_need_not_fit_together(box: Machine) -> None:
    for name in ("a", "b"):
        box.gpu_tenant("--name", name, "--mem", "700MiB", "--oversubscribe", mib=16)
    tenant = box.ps("b")
    assert tenant
    assert tenant["oversubscribe"] is True
    assert tenant["devices"][0]["residency"]["state"] == "resident"
    assert tenant["devices"][0]["residency"]["swaps"] == 0
    done = box.harp("run", "--mem", "600MiB", "--", "true")
    assert done.returncode == 125
    assert "hint: ask for --mem" in done.stderr
    done = box.harp("set", "a", "--no-oversubscribe")
    assert done.returncode == 1
    assert "settled when a process begins" in done.stderr
    assert box.harp("set", "a", "--mem", "100MiB").returncode == 0


def test_sigkill_of_harpd_is_harmless_and_a_new_one_finds_the_tenants(box: Machine) -> None:
    child = box.gpu_tenant("--name", "t", "--mem", "256MiB", mib=100)
    before = box.ps("t")
    assert before
    os.kill(box.harpd_pid(), signal.SIGKILL)
    wait_for(lambda: box.harp("ps").returncode == 1, "harpd is gone")
    assert child.poll() is None
    box.start_harpd()
    after = box.ps("t")
    assert after
    assert after == {**before, "window_s": after["window_s"], "used_ratio": after["used_ratio"]}
    assert child.stdin
    child.stdin.close()
    assert child.wait(20) == 0
    wait_for(lambda: box.ps("t") is None, "tenant t ends under the new harpd")


def test_a_killed_arbiter_is_replaced_and_tenants_come_back(box: Machine) -> None:
    status = box.start_harpd()
    child = box.gpu_tenant("--name", "t", "--mem", "256MiB", mib=100)
    os.kill(status["arbiter_pid"], signal.SIGKILL)

    def back() -> bool:
        done = box.harp("ps", "--json")
        tenant = box.ps("t") if done.returncode == 0 else None
        return bool(tenant and tenant["mem_leased_bytes"] == 100 * MIB)

    wait_for(back, "the client adopts what it holds", 15)
    assert child.poll() is None
    assert box.json("daemon", "--status")["arbiter_pid"] != status["arbiter_pid"]
    assert not box.json("ps")["uncovered"]


@pytest.mark.slow
def test_first_runs_at_once_share_one_daemon(box: Machine) -> None:
    """Whoever is late to start it waits for the one that was not."""
    children = [box.tenant("--name", f"t{i}", command=["true"]) for i in range(6)]
    for child in children:
        _, stderr = child.communicate(timeout=60)
        assert child.returncode == 0, stderr


@pytest.mark.slow
def test_a_second_start_joins_the_first(box: Machine) -> None:
    first = box.start_harpd()
    assert box.start_harpd()["pid"] == first["pid"]
    done = box.harp("daemon", "--foreground")
    assert done.returncode == 0
    assert f"runs already in {box.run_dir} (pid {first['pid']})" in done.stderr


@pytest.mark.slow
def test_one_that_ends_still_is_waited_for_by_the_next(box: Machine) -> None:
    """It answers nobody any more and has the folder's lock for a while."""
    box.start_harpd()
    assert box.harp("daemon", "--stop").returncode == 0
    assert not RunDir(box.run_dir).held()
    with (box.run_dir / "harpd.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert RunDir(box.run_dir).held()
        harpd = subprocess.Popen(
            [sys.executable, "-m", "harp", "daemon", "--foreground"], env=box.env, cwd=ROOT
        )
        time.sleep(1.5)
        assert harpd.poll() is None
    wait_for(lambda: box.harp("ps").returncode == 0, "it serves")
    assert box.json("daemon", "--status")["pid"] == harpd.pid
    harpd.terminate()
    assert harpd.wait(20) == 0


@pytest.mark.slow
def test_stop_leaves_tenants_and_their_arbiter_alone(box: Machine) -> None:
    status = box.start_harpd()
    child = box.gpu_tenant("--name", "t", mib=10)
    assert box.harp("daemon", "--stop").returncode == 0
    assert box.harp("ps").returncode == 1
    assert child.poll() is None
    again = box.start_harpd()
    assert again["arbiter_pid"] == status["arbiter_pid"]
    done = box.harp("daemon", "--stop", "--all")
    assert done.returncode == 1
    assert "1 processes of tenants hold memory" in done.stderr


@pytest.mark.slow
def test_an_arbiter_that_outlived_its_daemon_can_be_ended(box: Machine) -> None:
    status = box.start_harpd()
    child = box.gpu_tenant("--name", "t", mib=10)
    os.kill(status["pid"], signal.SIGKILL)
    wait_for(lambda: not _runs(status["pid"]), "harpd is gone")
    done = box.harp("daemon", "--stop", "--all")
    assert done.returncode == 1
    assert "1 processes of tenants hold memory" in done.stderr
    child.kill()
    child.wait()
    # without a harpd the dead drain after five seconds
    wait_for(lambda: box.harp("daemon", "--stop", "--all").returncode == 0, "the arbiter ends")
    wait_for(lambda: not _runs(status["arbiter_pid"]), "the arbiter is gone")


@pytest.mark.slow
def test_stop_without_tenants_leaves_nothing_running(box: Machine) -> None:
    status = box.start_harpd()
    assert box.harp("daemon", "--stop").returncode == 0
    for pid in (status["pid"], status["arbiter_pid"]):
        wait_for(lambda pid=pid: not _runs(pid), f"process {pid} ends")
    assert not (box.run_dir / "control.sock").exists()
    assert not (box.run_dir / "auth.sock").exists()


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_a_killed_tenant_is_seen_within_a_second_and_its_memory_comes_back(box: Machine) -> None:
    box.start_harpd()
    child = box.gpu_tenant("--name", "t", "--mem", "256MiB", mib=100)
    killed_at = time.time()
    child.kill()
    (died,) = wait_for(lambda: box.events("client_died"), "the death is seen")
    seen_at = datetime.fromisoformat(died["timestamp"]).timestamp()
    assert seen_at - killed_at < 1.0
    wait_for(lambda: box.events("client_drained"), "the memory is back")
    wait_for(lambda: box.ps("t") is None, "the tenant ends")
    (device,) = box.json("devices")["devices"]
    assert (device["leased_bytes"], device["overhead_bytes"]) == (0, 0)


@pytest.mark.slow
def test_what_was_promised_is_kept_from_a_neighbour_without_a_limit(box: Machine) -> None:
    """A tenant's limit and its first context are there whenever it comes for them."""
    start = ["sh", "-c", f"read go; exec {sys.executable} {PROGRAM} 400"]
    limited = box.tenant("--name", "limited", "--mem", "400MiB", command=start)
    wait_for(lambda: box.harp("ps").returncode == 0 and box.ps("limited"), "the grant")
    (device,) = box.json("devices")["devices"]
    room = device["memory_bytes"] - device["promised_bytes"] - device["context_bytes"]
    greedy = box.tenant(
        "--name", "greedy", command=[sys.executable, str(PROGRAM), str(room // MIB + 2)]
    )
    assert greedy.stdout
    assert greedy.stdout.readline() == "cuMemAlloc 2\n"
    modest = box.gpu_tenant("--name", "modest", mib=room // MIB)
    assert limited.stdin
    assert limited.stdout
    limited.stdin.write("go\n")
    limited.stdin.flush()
    assert limited.stdout.readline() == "ready\n"
    assert modest.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("teardown_ms", [0, 300, 2000])
def test_a_neighbour_of_the_dead_never_meets_a_full_device(
    native_dir: Path, teardown_ms: int
) -> None:
    """The device keeps a dead process's memory for a while; who asks meanwhile waits."""
    with machine(native_dir, HARP_SOFT_TEARDOWN_MS=str(teardown_ms)) as box:
        box.start_harpd("--set", "admission.overcommit_ratio=3")
        (device,) = box.json("devices")["devices"]
        free_mib = (device["memory_bytes"] - 2 * device["context_bytes"]) // MIB
        mib = free_mib * 2 // 3
        first = box.gpu_tenant("--name", "first", "--mem", f"{mib}MiB", mib=mib)
        second = box.tenant(
            "--name",
            "second",
            "--mem",
            f"{mib}MiB",
            command=["sh", "-c", f"echo here; read go; exec {sys.executable} {PROGRAM} {mib}"],
        )
        assert second.stdout
        assert second.stdin
        assert second.stdout.readline() == "here\n"
        first.kill()
        second.stdin.write("go\n")
        second.stdin.flush()
        assert second.stdout.readline() == "ready\n"


@pytest.mark.slow
def test_a_child_that_outlives_its_tenants_root_keeps_the_tenant(box: Machine) -> None:
    child = box.tenant("--name", "t", command=["sh", "-c", "sleep 600 & echo $!"])
    assert child.stdout
    sleeper = int(child.stdout.readline())
    assert child.wait(10) == 0
    time.sleep(2.2)  # two looks of the watchdog
    tenant = box.ps("t")
    assert tenant
    assert tenant["root_alive"] is False
    assert _runs(sleeper)
    os.kill(sleeper, signal.SIGKILL)
    wait_for(lambda: box.ps("t") is None, "the tenant ends with its last process")


@pytest.mark.slow
def test_an_unsafe_run_folder_is_refused(box: Machine) -> None:
    box.run_dir.mkdir()
    box.run_dir.chmod(0o777)
    for arguments in (["ps"], ["run", "--", "true"], ["daemon"]):
        done = box.harp(*arguments)
        assert done.returncode == (125 if arguments[0] == "run" else 1)
        assert "writable by everybody" in done.stderr
    box.run_dir.rmdir()


@pytest.mark.slow
def test_a_daemon_that_cannot_start_says_why_and_where_its_log_is(box: Machine) -> None:
    done = box.harp("run", "--", "true", HARP_SOFT_DEVICES="")
    assert done.returncode == 125
    assert "no device" in done.stderr
    assert "harpd.log" in done.stderr
    done = box.harp("daemon", "--set", "watchdog.periods=2")
    assert done.returncode == 1
    assert "hint: did you mean watchdog.period_s?" in done.stderr


@pytest.mark.slow
def test_a_second_run_folder_does_not_get_a_held_device(box: Machine) -> None:
    box.start_harpd()
    other = {"HARP_RUN": str(box.base / "other")}
    done = box.harp("daemon", **other)
    assert done.returncode == 1
    assert "is held by" in done.stderr
    assert str(box.run_dir) in done.stderr
    # and the arbiter that was started for it is gone again
    assert not [p for p in Path("/proc").glob("[0-9]*") if other["HARP_RUN"] in _command(p)]
