# SPDX-License-Identifier: Apache-2.0
"""`harp suspend` and `harp resume`, judged by the software GPU's own ledger."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.machine import Machine, machine, wait_for

MIB = 1 << 20
PROGRAM = Path(__file__).with_name("suspend_program.py")


@pytest.fixture
def box(native_dir: Path) -> Iterator[Machine]:
    with machine(native_dir, HARP_SOFT_DEVICES="tiny,tiny") as found:
        found.start_harpd()
        yield found


def run(box: Machine, name: str, mib: int, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), str(mib)]
    child = box.tenant("--name", name, "--gpu", "0", *options, command=command)
    assert hears(child) == "ready"
    return child


def hears(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def told(child: subprocess.Popen[str], line: str) -> None:
    assert child.stdin is not None
    child.stdin.write(line + "\n")
    child.stdin.flush()


def does(child: subprocess.Popen[str], line: str) -> str:
    told(child, line)
    return hears(child)


def truth(box: Machine) -> dict[str, Any]:
    done = subprocess.run(
        [box.native_dir / "harp-soft-truth"], env=box.env, capture_output=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def used(box: Machine, gpu: int = 0) -> int:
    return int(truth(box)["devices"][gpu]["used_bytes"])


def held(box: Machine, pid: int) -> int:
    rows = [p for p in truth(box)["processes"] if p["pid"] == pid]
    return sum(p["mem_bytes"] + p["context_bytes"] for p in rows)


def tenant(box: Machine, name: str) -> dict[str, Any]:
    found = box.ps(name)
    assert found is not None
    return found


def fault(box: Machine, *rules: str) -> None:
    what = ["set", *rules] if rules else ["clear"]
    subprocess.run([box.native_dir / "harp-soft-fault", *what], env=box.env, check=True)


def test_a_suspended_tenant_frees_its_device_and_comes_back_as_it_was(box: Machine) -> None:
    one = run(box, "one", 300, "--mem", "500MiB")
    other = run(box, "other", 100, "--mem", "300MiB")
    before = used(box)
    shown = box.json("suspend", "one")["tenant"]
    assert (shown["suspended"], shown["host_bytes"]) == (True, 302 * MIB)
    assert held(box, one.pid) == 0
    assert used(box) == held(box, other.pid) < before
    assert tenant(box, "one")["suspended"]
    assert "suspended, 302MiB on the host" in box.harp("ps").stdout
    told(one, "same")  # waits
    assert does(other, "same").startswith("True")
    assert not box.json("resume", "one")["tenant"]["suspended"]
    assert hears(one).startswith("True")
    assert used(box) == before
    assert does(one, "more 100") == "code 0"
    assert does(one, "more 100") == "code 2"  # its limit is as it was
    assert box.json("suspend", "one")["tenant"]["suspended"]
    assert box.harp("suspend", "one").returncode == 0  # said twice
    assert box.harp("resume", "one").returncode == 0
    assert box.harp("resume", "one").returncode == 0
    assert does(one, "same").startswith("True")


@pytest.mark.slow
def test_it_comes_back_on_another_gpu(box: Machine) -> None:
    one = run(box, "one", 200, "--mem", "400MiB")
    first, second = (d["uuid"] for d in box.json("devices")["devices"])
    assert does(one, "same").split()[1] == first.partition("-")[2].replace("-", "")
    box.json("suspend", "one")
    moved = box.json("resume", "one", "--gpu", "1")["tenant"]
    assert (moved["gpus"], moved["device_uuids"]) == ([1], [second])
    assert does(one, "same").split() == ["True", second.partition("-")[2].replace("-", "")]
    assert (used(box, 0), used(box, 1)) == (0, held(box, one.pid))
    assert does(one, "more 100") == "code 0"
    assert does(one, "more 100") == "code 2"
    use = tenant(box, "one")["devices"]
    assert [(u["gpu"], u["mem_leased_bytes"]) for u in use] == [(1, 302 * MIB)]
    assert box.harp_json("resume", "one", "--gpu", "1")["tenant"]["gpus"] == [1]
    box.json("suspend", "one")
    assert box.json("resume", "one", "--gpu", "0")["tenant"]["gpus"] == [0]
    assert does(one, "same").startswith("True")


@pytest.mark.slow
def test_ckpt_reserve_before_restore(box: Machine) -> None:
    """Who came meanwhile keeps what he has, and the return is refused before the driver tries."""
    one = run(box, "one", 500)
    box.json("suspend", "one")
    other = run(box, "other", 700)
    refused = box.harp("resume", "one", "--json")
    assert refused.returncode == 1
    error = json.loads(refused.stdout.splitlines()[-1])["error"]
    assert "stays suspended" in error["text"]
    assert "harp ps" in error["hint"]
    assert tenant(box, "one")["suspended"]
    other.kill()
    other.wait()
    box.json("resume", "one")  # waits for memory of the dead
    assert does(one, "same").startswith("True")


@pytest.mark.slow
def test_ckpt_fail_rolls_back(box: Machine) -> None:
    one = run(box, "one", 100, "--mem", "300MiB")
    before = used(box)
    assert does(one, "busy") == "is"
    late = box.harp("suspend", "one", "--timeout", "0.3")
    assert late.returncode == 1
    assert "did not end within 0.3 s" in late.stderr
    assert "--timeout" in late.stderr
    one.kill()
    one.wait()

    two = run(box, "two", 100, "--mem", "300MiB")
    fault(box, "fail cuCheckpointProcessCheckpoint 304")
    assert box.harp("suspend", "two").returncode == 1
    fault(box)
    assert not tenant(box, "two")["suspended"]
    assert does(two, "same").startswith("True")
    wait_for(lambda: used(box) == before, "the dead one's memory is back")

    box.json("suspend", "two")
    fault(box, "fail cuCheckpointProcessRestore 304")
    assert box.harp("resume", "two").returncode == 1
    fault(box)
    assert tenant(box, "two")["suspended"]
    three = run(box, "three", 900)  # the reservation was given back
    three.kill()
    three.wait()
    box.json("resume", "two")
    assert does(two, "same").startswith("True")


@pytest.mark.slow
def test_several_processes_are_locked_before_any_is_put_away(box: Machine) -> None:
    two = (
        "import subprocess as s, sys;"
        f"s.Popen([sys.executable, {str(PROGRAM)!r}, '50'], stdin=s.PIPE);"
        f"s.Popen([sys.executable, {str(PROGRAM)!r}, '60'], stdin=s.PIPE);"
        "sys.stdin.read()"
    )
    child = box.tenant("--name", "both", "--gpu", "0", command=[sys.executable, "-c", two])
    assert [hears(child), hears(child)] == ["ready", "ready"]
    before = used(box)
    fault(box, "fail cuCheckpointProcessCheckpoint 304 nth=2 count=machine")
    assert box.harp("suspend", "both").returncode == 1
    fault(box)
    assert used(box) == before
    assert box.json("suspend", "both")["tenant"]["suspended"]
    assert used(box) == 0
    box.json("resume", "both")
    assert used(box) == before


@pytest.mark.slow
def test_a_killed_process_of_a_suspended_tenant_leaves_nothing(box: Machine) -> None:
    one = run(box, "one", 300, "--mem", "500MiB")
    box.json("suspend", "one")
    one.kill()
    one.wait()
    wait_for(lambda: box.ps("one") is None, "the tenant ends")
    assert used(box) == 0
    assert box.harp("run", "--mem", "900MiB", "--gpu", "0", "--", "true").returncode == 0


@pytest.mark.slow
def test_suspension_survives_harpd_and_the_arbiter(box: Machine) -> None:
    one = run(box, "one", 300, "--mem", "500MiB")
    box.json("suspend", "one")
    status = box.json("daemon", "--status")
    for pid in (box.harpd_pid(), status["arbiter_pid"]):
        os.kill(pid, signal.SIGKILL)
    box.start_harpd()
    assert tenant(box, "one")["suspended"]
    other = run(box, "other", 800)  # what is away counts for nothing, for the new arbiter too
    other.kill()
    other.wait()
    box.json("resume", "one")
    assert does(one, "same").startswith("True")


@pytest.mark.slow
def test_harpd_killed_half_way_leaves_a_tenant_that_is_suspended_whole(box: Machine) -> None:
    one = run(box, "one", 100, "--mem", "300MiB")
    fault(box, "slow cuCheckpointProcessCheckpoint 2s")
    asks = [sys.executable, "-m", "harp", "suspend", "one"]
    asked = subprocess.Popen(asks, env=box.env, stderr=subprocess.DEVNULL)
    wait_for(lambda: tenant(box, "one")["suspended"], "it is being suspended")
    os.kill(box.harpd_pid(), signal.SIGKILL)
    assert asked.wait() == 1
    fault(box)
    box.start_harpd()
    wait_for(lambda: held(box, one.pid) == 0, "it is put away")
    wait_for(lambda: box.events("tenant_suspended"), "harpd is done")
    box.json("resume", "one")
    assert does(one, "same").startswith("True")


@pytest.mark.slow
def test_managed_memory_is_refused_and_says_what_that_means(box: Machine) -> None:
    one = run(box, "one", 20)
    assert does(one, "managed") == "has"
    refused = box.harp("suspend", "one")
    assert refused.returncode == 1
    assert "managed memory" in refused.stderr
    assert not tenant(box, "one")["suspended"]
    assert does(one, "same").startswith("True")  # unlocked again: it goes on


@pytest.mark.slow
def test_without_checkpoints_memory_that_can_leave_is_evicted(native_dir: Path) -> None:
    with machine(native_dir, HARP_SOFT_DEVICES="tiny", HARP_SOFT_DRIVER="12.4") as box:
        box.start_harpd()
        one = run(box, "one", 500, "--mem", "700MiB", "--oversubscribe")
        shown = box.json("suspend", "one")["tenant"]
        assert shown["suspended"]
        assert shown["devices"][0]["residency"]["state"] == "suspended"
        assert held(box, one.pid) < 100 * MIB  # its context stays
        told(one, "same")  # waits
        other = run(box, "other", 700)
        other.kill()
        other.wait()
        assert tenant(box, "one")["suspended"]
        assert not box.json("resume", "one")["tenant"]["suspended"]
        assert hears(one).startswith("True")
        assert held(box, one.pid) > 500 * MIB


@pytest.mark.slow
def test_what_an_eviction_leaves_on_the_device_counts_under_the_next_arbiter(
    native_dir: Path,
) -> None:
    def contexts() -> int:
        done = box.harp("devices", "--json")
        if done.returncode:
            return 0
        return int(json.loads(done.stdout)["devices"][0]["overhead_bytes"])

    with machine(native_dir, HARP_SOFT_DEVICES="tiny", HARP_SOFT_DRIVER="12.4") as box:
        pid = box.start_harpd()["arbiter_pid"]
        one = run(box, "one", 500, "--mem", "700MiB", "--oversubscribe")
        box.json("suspend", "one")
        assert contexts() > 0
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: box.events("arbiter_found"), "another")
        wait_for(lambda: contexts() > 0, "its context counts again")
        assert tenant(box, "one")["suspended"]
        box.json("resume", "one")
        assert does(one, "same").startswith("True")


@pytest.mark.slow
def test_a_driver_without_checkpoints_says_so(native_dir: Path) -> None:
    with machine(native_dir, HARP_SOFT_DEVICES="tiny", HARP_SOFT_DRIVER="12.4") as box:
        box.start_harpd()
        run(box, "one", 20)
        refused = box.harp("suspend", "one")
        assert refused.returncode == 1
        assert "no checkpoints" in refused.stderr
        assert "--oversubscribe" in refused.stderr
        assert not tenant(box, "one")["suspended"]
