# SPDX-License-Identifier: Apache-2.0
"""Processes that evade HARP are seen, attributed, and acted on by policy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.machine import PROGRAM, Machine, machine, wait_for


@pytest.fixture
def box(native_dir: Path) -> Iterator[Machine]:
    with machine(native_dir, HARP_CONFIG_WATCHDOG_PERIOD_S="0.2") as found:
        found.start_harpd()
        yield found


def evader(box: Machine) -> list[str]:
    """A command that reaches the software GPU past the shim: a cleared environment."""
    return [
        "env",
        "-i",
        f"HARP_SOFT_DIR={box.env['HARP_SOFT_DIR']}",
        f"HARP_SOFT_DEVICES={box.env['HARP_SOFT_DEVICES']}",
        f"LD_LIBRARY_PATH={box.native_dir / 'soft'}",
        sys.executable,
        str(PROGRAM),
        "64",
    ]


def uncovered(box: Machine) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = box.json("ps")["uncovered"]
    return found


@pytest.mark.slow
def test_a_covered_tenant_is_never_called_uncovered(box: Machine) -> None:
    child = box.gpu_tenant("--name", "t", "--policy", "kill", mib=16)
    wait_for(lambda: (box.ps("t") or {}).get("window_s", 0) > 1, "several looks")
    assert child.poll() is None
    assert box.json("ps")["uncovered_total"] == 0


@pytest.mark.slow
def test_an_evading_child_is_shown_under_its_tenant(box: Machine) -> None:
    child = box.tenant("--name", "t", command=["sh", "-c", " ".join(evader(box)) + "; true"])
    (one,) = wait_for(lambda: uncovered(box), "the child is seen")
    assert (one["tenant"], one["evidence"], one["action"]) == ("t", "ancestry", "seen")
    assert one["mem_bytes"] >= 64 << 20
    assert "UNCOVERED" in box.harp("ps").stdout
    assert "UNCOVERED" in box.harp("top", "--once").stdout
    doctor = box.harp("doctor", "--pid", str(one["pid"]))
    assert doctor.returncode == 1
    assert "without HARP_GRANT" in doctor.stdout
    assert child.poll() is None
    (device,) = box.json("devices")["devices"]
    assert device["used_bytes"] >= 64 << 20


@pytest.mark.slow
def test_policy_kill_ends_the_evader_and_nobody_else(box: Machine) -> None:
    shell = f"{' '.join(evader(box))}; echo status $?; sleep 60"
    child = box.tenant("--name", "t", "--policy", "kill", command=["sh", "-c", shell])
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    (event,) = wait_for(lambda: box.events("process_uncovered"), "the child is seen")
    assert (event["tenant"], event["action"]) == ("t", "killed")
    wait_for(lambda: not _lives(event["pid"]), "the child is dead", 5)
    assert child.stdout.readline() == f"status {128 + signal.SIGKILL}\n"
    assert child.poll() is None


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_policy_stop_stops_the_evader(box: Machine) -> None:
    shell = " ".join(evader(box)) + "; true"
    box.tenant("--name", "t", "--policy", "stop", command=["sh", "-c", shell])
    (one,) = wait_for(lambda: uncovered(box), "the child is seen")
    assert one["action"] == "stopped"
    state = Path(f"/proc/{one['pid']}/stat").read_text().rsplit(")", 1)[1].split()[0]
    assert state == "T"
    os.kill(one["pid"], signal.SIGKILL)


@pytest.mark.slow
def test_a_process_outside_harp_is_shown_and_left_alone(box: Machine) -> None:
    box.tenant("--name", "t", "--policy", "kill")
    wait_for(lambda: box.ps("t"), "the tenant")
    (before,) = box.json("devices")["devices"]
    command = evader(box)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stranger:
        (one,) = wait_for(lambda: uncovered(box), "the stranger is seen")
        assert (one["pid"], one["tenant"], one["action"]) == (stranger.pid, None, "seen")
        # What it holds cannot be promised to others.
        wait_for(
            lambda: (
                "64MiB" not in box.harp("run", "--mem", "64TiB", "--", "true").stderr
                and box.events("capacity_changed")
            ),
            "capacity shrinks",
        )
        assert box.events("capacity_changed")[-1]["capacity_bytes"] < before["memory_bytes"]
        assert stranger.poll() is None
        stranger.kill()
    wait_for(lambda: not uncovered(box), "the stranger is gone")
    wait_for(
        lambda: box.events("capacity_changed")[-1]["capacity_bytes"] == before["memory_bytes"],
        "capacity grows again",
    )
