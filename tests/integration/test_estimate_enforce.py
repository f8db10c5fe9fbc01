# SPDX-License-Identifier: Apache-2.0
"""A real harpd in mode enforce: limits are lowered, a GPU is filled by what its jobs need."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.machine import Machine, machine, wait_for

PROGRAM = Path(__file__).with_name("growing_program.py")
MIB = 1 << 20
#: MiB that runs needed: mostly little, sometimes much
NEEDS = (100, 100, 100, 100, 300, 100)
#: of a GPU of 1 GiB: two of them have no room beside each other; what was seen, with its margin
#: (300 MiB and 15 %, and 256 MiB for so few runs), is less
ASKED = "700MiB"


@pytest.fixture
def box(native_dir: Path) -> Iterator[Machine]:
    with machine(native_dir) as found:
        yield found


def start(box: Machine, name: str, mib: int) -> tuple[subprocess.Popen[str], str]:
    """A job, and the first line that it, or harp, says."""
    (box.base / "need").write_text(str(mib))
    command = [sys.executable, str(PROGRAM), str(box.base / "need")]
    child = box.tenant("--mem", ASKED, "--name", name, command=command)
    assert child.stdout
    return child, child.stdout.readline().strip()


def kept(box: Machine, runs: int) -> bool:
    """Whether so many runs have been written."""
    return len(box.json("estimate", "history")["runs"]) == runs


def learn(box: Machine) -> None:
    box.start_harpd()
    for number, mib in enumerate(NEEDS):
        child, said = start(box, f"r{number}", mib)
        assert said == "ready"
        child.communicate()
        # It is learned from once it is written, which nobody who begins waits for.
        wait_for(functools.partial(kept, box, number + 1), "it is kept")


def enforce(box: Machine) -> None:
    assert box.harp("daemon", "--stop").returncode == 0
    box.start_harpd("--set", "estimate.mode=enforce")
    wait_for(lambda: box.events("history_read")[1:], "history is read")


def figure(box: Machine, series: str) -> float:
    (value,) = re.findall(rf"^{re.escape(series)} (\S+)$", box.harp("metrics").stdout, re.MULTILINE)
    return float(value)


def full(box: Machine) -> float:
    (value,) = re.findall(
        r"^harp_device_oom_full_total\{.*\} (\S+)$", box.harp("metrics").stdout, re.MULTILINE
    )
    return float(value)


@pytest.mark.slow
def test_observe_learns_and_changes_nothing(box: Machine) -> None:
    learn(box)
    child, said = start(box, "a", 100)
    assert said == "ready"
    tenant = box.ps("a")
    assert tenant
    assert tenant["mem_limit_bytes"] == 700 * MIB
    assert figure(box, 'harp_estimator_mode{mode="observe"}') == 1
    answers = 'harp_estimator_predictions_total{known="%s",target="gpu_mem_bytes"}'
    assert figure(box, answers % "true") == len(NEEDS) - 3 + 1
    assert figure(box, answers % "false") == 3
    judged = figure(box, 'harp_estimator_judged_total{target="gpu_mem_bytes"}')
    covered = figure(box, 'harp_estimator_covered_total{target="gpu_mem_bytes"}')
    assert judged == covered == len(NEEDS) - 3
    assert figure(box, "harp_estimator_asked_bytes_total") == len(NEEDS) * 700 * MIB
    assert figure(box, "harp_estimator_bound_bytes_total") < len(NEEDS) * 700 * MIB
    told = box.harp("metrics").stdout
    for name in ("confidence_ratio", "coverage_ratio", "reserved_bytes", "saved_ratio"):
        assert re.search(rf"^harp_estimator_{name}[{{ ]", told, re.MULTILINE), name
    child.communicate()


def test_by_their_requests_one_runs_and_by_their_needs_four(box: Machine) -> None:
    learn(box)
    first, said = start(box, "a", 100)
    assert said == "ready"
    second, said = start(box, "b", 100)
    assert said == ""
    assert second.wait() == 125
    first.communicate()
    enforce(box)
    children = []
    for name in "abcd":
        child, said = start(box, name, 100)
        assert said == "ready", child.stderr.read() if child.stderr else ""
        children.append(child)
    limits = [tenant["mem_limit_bytes"] for tenant in box.json("ps")["tenants"]]
    assert len(limits) == 4
    assert all(300 * MIB <= limit < 700 * MIB for limit in limits)
    assert sum(limits) > 1024 * MIB  # each has what the largest run of all needed, as its limit
    assert len(box.events("limits_lowered")) == 4
    for child in children:
        child.communicate()
        assert child.returncode == 0
    assert full(box) == 0


@pytest.mark.slow
def test_who_is_within_its_limit_can_meet_a_full_gpu_and_it_is_counted(box: Machine) -> None:
    learn(box)
    enforce(box)
    children = []
    for name in "abcd":
        child, said = start(box, name, 100)
        assert said == "ready", name
        children.append(child)
    for child in children:
        assert child.stdin
        assert child.stdout
        child.stdin.write("150\n")
        child.stdin.flush()
        last = child is children[-1]
        assert child.stdout.readline().strip() == ("2" if last else "ready")  # out of memory
    assert full(box) == 1
    for child in children:
        child.communicate()
    (denied,) = box.events("memory_denied")
    assert denied["leased_bytes"] + denied["asked_bytes"] < denied["limit_bytes"]
    last_run = box.json("estimate", "history", "--limit", "1")["runs"][0]
    assert last_run["outcome"] == "oom"
