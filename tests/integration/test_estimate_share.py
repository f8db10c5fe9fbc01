# SPDX-License-Identifier: Apache-2.0
"""`harp run --share auto` of a job that has run: it gets what it was seen to use."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.machine import Machine, machine, wait_for

COMMAND = [sys.executable, str(Path(__file__).with_name("estimate_share_program.py"))]
PPM = 1_000_000


@pytest.fixture
def box(native_dir: Path) -> Iterator[Machine]:
    with machine(native_dir) as found:
        found.start_harpd("--set", "history.period_s=0.5")
        yield found


@pytest.mark.slow
def test_three_runs_make_a_share_that_is_guaranteed(box: Machine) -> None:
    for _ in range(3):
        child = box.tenant("--name", "a-job", command=COMMAND)
        child.communicate()
        assert child.returncode == 0
    runs = wait_for(lambda: (found := _runs(box))[2:] and found, "they are recorded")
    used = [run["used"]["share_ratio"] for run in runs]
    assert all(0.02 < ratio < 0.9 for ratio in used), used
    need = box.json("estimate", "--command", shlex.join(COMMAND))["needs"]["share_ratio"]
    assert (need["known"], need["level"], need["runs"]) == (True, "signature", 3)
    assert need["bound"] == pytest.approx(max(used) + 0.04)
    child = box.tenant("--share", "auto", "--name", "b-job", command=COMMAND)
    assert child.stdout
    assert child.stderr
    assert child.stdout.readline() == "ready\n"
    tenant = box.ps("b-job")
    assert tenant
    percent = math.ceil(need["bound"] * 100)
    assert tenant["share_ratio"] == percent / 100
    said = child.stderr.readline()
    assert f"share {percent}%" in said
    assert "largest of the last 3" in said
    # It is a promise: what is left is all that another may be promised.
    left = 100 - percent
    refused = box.harp("run", "--share", f"{left + 1}%", "--", "true")
    assert refused.returncode != 0
    assert "share" in refused.stderr
    assert box.harp("run", "--share", f"{left}%", "--", "true").returncode == 0
    child.communicate()
    assert child.returncode == 0
    last = wait_for(lambda: next((r for r in _runs(box) if _granted(r) == percent), None), "it")
    assert last["used"]["share_ratio"] > 0
    assert last["job"]["asked_share_ratio"] == 0.0  # what was estimated is no request of its user's
    # One less than it was seen to use, if its user says so.
    capped = box.harp("run", "--share", "auto:1%", "--json", "--", *COMMAND)
    assert capped.returncode == 0, capped.stderr
    grant = json.loads(next(x for x in capped.stderr.splitlines() if x.startswith("{")))
    assert grant["share_ppm"] == PPM // 100
    assert "share 1%: " in capped.stderr
    assert "the request at most" in capped.stderr


def _granted(run: dict[str, Any]) -> int:
    return round(run["share_ratio"] * 100) if "share_ratio" in run["used"] else 0


def _runs(box: Machine) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = box.json("estimate", "history")["runs"]
    return found
