# SPDX-License-Identifier: Apache-2.0
"""`harp estimate` and `harp run --mem auto` before a real harpd, which has seen the job before."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.machine import Machine, machine, wait_for

PROGRAM = Path(__file__).with_name("estimate_program.py")
MIB = 1 << 20
NEED_MIB = 100


@pytest.fixture
def box(native_dir: Path) -> Iterator[Machine]:
    with machine(native_dir) as found:
        found.start_harpd()
        yield found


class Job:
    """A command that needs what a file says."""

    def __init__(self, box: Machine) -> None:
        self._box = box
        self._file = box.base / "need"
        self.command = [sys.executable, str(PROGRAM), str(self._file)]
        self.line = shlex.join(self.command)

    def run(self, *options: str, mib: int = NEED_MIB) -> tuple[int, int, str]:
        """Once, to its end; exit status, memory limit while it ran (0: none), what harp said."""
        self._file.write_text(str(mib))
        child = self._box.tenant(*options, "--name", "a-job", command=self.command)
        assert child.stdout
        assert child.stderr
        limit = 0
        if child.stdout.readline() == "ready\n":
            tenant = self._box.ps("a-job")
            assert tenant
            limit = tenant["mem_limit_bytes"]
        _, said = child.communicate()
        return child.returncode, limit, said

    def need(self) -> dict[str, Any]:
        found: dict[str, Any] = self._box.json("estimate", "--command", self.line)["needs"]
        return found


@pytest.fixture
def job(box: Machine) -> Job:
    """Has run three times without a limit."""
    made = Job(box)
    for known in range(3):
        assert not made.need()["gpu_mem_bytes"]["known"], known
        assert made.run()[0] == 0
    return made


def test_three_runs_make_a_limit_that_holds(box: Machine, job: Job) -> None:
    need = job.need()["gpu_mem_bytes"]
    assert need["known"]
    assert (need["level"], need["runs"]) == ("signature", 3)
    runs = box.json("estimate", "history")["runs"]
    peaks = [run["used"]["gpu_mem_bytes"] for run in runs]
    assert len(peaks) == 3
    assert NEED_MIB * MIB <= max(peaks) <= need["bound"] < 1 << 30
    status, limit, said = job.run("--mem", "auto")
    assert status == 0, said
    assert need["bound"] <= limit < need["bound"] + 2 * MIB
    assert f"harp: memory {limit // MIB}MiB: " in said
    assert "of 3 runs that agree" in said
    assert not box.events("memory_denied")
    # It ran as it would have without: its own limit is no request of its user's.
    last = box.json("estimate", "history", "--limit", "1")["runs"][0]
    assert (last["outcome"], last["mem_limit_bytes"]) == ("done", limit)
    assert last["job"]["asked_mem_bytes"] == 0
    assert last["job"]["program"] == runs[0]["job"]["program"]


@pytest.mark.slow
def test_a_tenant_is_known_by_its_name_living_and_ended(box: Machine, job: Job) -> None:
    by_command = box.json("estimate", "--command", job.line)
    ended = box.json("estimate", "a-job")
    assert ended["ended"] == "done"
    assert ended["needs"]["gpu_mem_bytes"]["bound"] == by_command["needs"]["gpu_mem_bytes"]["bound"]
    child = box.tenant("--name", "b-job", command=job.command)
    wait_for(lambda: box.ps("b-job"), "it runs")
    living = box.json("estimate", "b-job")
    assert living["ended"] is None
    assert living["job"]["program"] == by_command["job"]["program"]
    child.communicate()
    done = box.harp("estimate", "nobody")
    assert done.returncode == 1
    assert "no tenant 'nobody' runs, and none has ended" in done.stderr
    assert "harp estimate --command LINE" in done.stderr
    lines = box.harp("estimate", "explain", "a-job").stdout.splitlines()
    assert any("key signature" in line and "4 runs" in line for line in lines)


@pytest.mark.slow
def test_a_new_harpd_knows_what_the_last_one_learned(box: Machine, job: Job) -> None:
    before = job.need()
    for number, damaged in ((1, False), (2, True)):
        assert box.harp("daemon", "--stop").returncode == 0
        file = box.run_dir / "state" / "learned.db"
        if damaged:
            file.write_bytes(b"none" * 4000)
        box.start_harpd()
        told = wait_for(lambda: box.events("history_read")[number:], "it is read")  # noqa: B023
        assert (told[0]["runs"], told[0]["learned_before"]) == (3, 0 if damaged else 3)
        assert len(box.events("learned_dropped")) == int(damaged)
        assert job.need() == before


def test_one_out_of_an_estimated_limit_says_what_comes_next(job: Job) -> None:
    status, _, said = job.run("--mem", "auto", mib=500)
    assert status == 3
    first, last = said.splitlines()
    limit = int(first.split("memory ")[1].split("MiB")[0])
    assert limit < 500
    assert last.startswith(f"harp: a-job ran out of its estimated limit, {limit}MiB; next time: ")
    after = int(last.split("next time: memory ")[1].split("MiB")[0])
    assert after >= max(1.5 * limit, 500)
    status, given, said = job.run("--mem", "auto", mib=500)
    assert (status, given) == (0, after * MIB), said


def test_a_ceiling_is_what_is_asked_for(box: Machine, job: Job) -> None:
    status, limit, said = job.run("--mem", "auto:200MiB")
    assert (status, limit) == (0, 200 * MIB), said
    other = box.harp("run", "--mem", "auto:200MiB", "--share", "auto", "--json", "--", "true")
    assert other.returncode == 0
    first, told = other.stderr.splitlines()
    assert "memory 200MiB, as asked for: " in first
    assert "; share without a guarantee: " in first
    grant = json.loads(told)
    assert (grant["mem_limit_bytes"], grant["share_ppm"]) == (200 * MIB, 0)
    assert not grant["needs"]["gpu_mem_bytes"]["known"]


@pytest.mark.slow
def test_runs_go_to_another_machine(box: Machine, job: Job, native_dir: Path) -> None:
    file = box.base / "runs.csv"
    assert box.json("estimate", "export", str(file))["runs"] == 3
    with machine(native_dir) as other:
        other.start_harpd()
        need = other.json("estimate", "--command", job.line)["needs"]["duration_s"]
        assert not need["known"]
        for added in (3, 0):  # what is there already is not added again
            assert other.json("estimate", "import", str(file))["runs"] == added
        here, there = (m.json("estimate", "history")["runs"] for m in (box, other))
        assert [run.pop("number") for run in there] == [3, 2, 1]
        assert [run.pop("number") for run in here] == [3, 2, 1]
        assert there == here
        # Users there are others; that is no job of theirs, but it is one of the machine's.
        need = other.json("estimate", "--command", job.line)["needs"]["duration_s"]
        assert (need["known"], need["level"], need["runs"]) == (True, "cluster", 3)


def test_a_restarted_harpd_knows_what_it_knew(box: Machine, job: Job) -> None:
    before = job.need()
    assert box.harp("daemon", "--stop").returncode == 0
    box.start_harpd()
    wait_for(lambda: not box.json("estimate", "--command", job.line)["state"], "history is read")
    assert job.need() == before
