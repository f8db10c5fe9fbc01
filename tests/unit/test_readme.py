# SPDX-License-Identifier: Apache-2.0
"""README.md shows what the result files say, tests/README.md names tests that exist."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench import hardware, tables

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "bench" / "readme.py"


def _check(readme: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--check", "--readme", str(readme)],
        capture_output=True,
        text=True,
        check=False,
    )


def _hardware(*results: dict[str, Any]) -> str:
    return hardware.text(list(results))


def _run(**outcomes: str) -> dict[str, Any]:
    tests = {f"test_gpu.py::{name}": {"outcome": outcome} for name, outcome in outcomes.items()}
    return {"device": "D", "driver": "1.2", "cuda": "13.0", "date": "today", "tests": tests}


def test_readme_agrees_with_the_result_files() -> None:
    done = _check(ROOT / "README.md")
    assert done.returncode == 0, done.stderr


def test_a_changed_figure_is_noticed(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    begin = text.index("<!-- generated: bench -->")
    name = "| saturate-30/70.200us.2000us.20us | "
    row = text.index(name, begin) + len(name)
    changed = tmp_path / "README.md"
    changed.write_text(f"{text[:row]}9{text[row:]}")
    done = _check(changed)
    assert done.returncode == 1
    assert "readme.py" in done.stderr


def test_a_missing_marker_is_noticed(tmp_path: Path) -> None:
    changed = tmp_path / "README.md"
    changed.write_text((ROOT / "README.md").read_text().replace("generated: hardware", "x"))
    assert _check(changed).returncode == 1


def test_every_bench_file_is_labelled_and_names_no_place() -> None:
    files = sorted((ROOT / "tests" / "bench" / "results").glob("*.json"))
    assert files
    for path in files:
        text = path.read_text()
        assert json.loads(text)["label"] == tables.LABEL
        assert str(ROOT) not in text
        assert '"/' not in text


def test_the_placement_file_holds_what_is_promised_and_names_no_place() -> None:
    path = ROOT / "tests" / "bench" / "traces" / "place.json"
    assert str(ROOT.parent) not in path.read_text()
    found = json.loads(path.read_text())["result"]
    for workload, least in (("default", 95.5), ("gpushare100", 86.64)):
        of_seeds = found[workload]["hybrid"]["100"]
        assert len(of_seeds) == 10
        assert statistics.mean(of_seeds) >= least
        assert max(found[workload]["hybrid"]["ms"]) <= 3


def test_nothing_is_claimed_without_a_run() -> None:
    said = _hardware()
    assert "No part of this release has run on a real GPU yet" in said
    assert "real events" in said


def test_only_what_passed_is_claimed() -> None:
    gate = {"test_30_beside_70": "passed", "test_the_check_fails_without_the_gate": "passed"}
    shown, left = _hardware(_run(**gate)).split("Not shown")
    assert "D, driver 1.2, CUDA 13.0, today: 2 passed" in shown
    assert "real events" in shown
    assert "real events" not in left
    for outcome in ("failed", "skipped"):
        _, left = _hardware(_run(**gate | {"test_30_beside_70": outcome})).split("Not shown")
        assert "real events" in left


def test_a_later_failure_takes_a_claim_back() -> None:
    name = "test_output_is_the_same_bare_shimmed_and_limited"
    good, bad = _run(**{name: "passed"}), _run(**{name: "failed"})
    assert "injection" in _hardware(bad, good).split("Not shown")[0]
    assert "injection" not in _hardware(good, bad).split("Not shown")[0]


def test_a_result_of_the_software_gpu_is_refused() -> None:
    with pytest.raises(SystemExit):
        _hardware(_run(test_30_beside_70="passed") | {"device": "HARP Software GPU"})


def test_the_tests_behind_the_claims_exist() -> None:
    code = "".join(path.read_text() for path in (ROOT / "tests" / "gpu").glob("test_*.py"))
    named = [name for _, names in hardware.CLAIMS for name in names]
    assert len(named) > 5
    assert [name for name in named if f"def {name}(" not in code] == []


def test_the_tests_that_answer_complaints_exist() -> None:
    rows = [
        (re.findall(r"`([a-z0-9_]+)`", names), re.findall(r"([iu])/(test_\w+\.py)", where))
        for _, _, names, where, _ in (
            line.split("|")
            for line in (ROOT / "tests" / "README.md").read_text().splitlines()
            if line.startswith("|") and re.search(r" [iu]/test_", line)
        )
    ]
    assert len(rows) > 10
    for names, where in rows:
        code = {
            name: (ROOT / "tests" / {"i": "integration", "u": "unit"}[tier] / name).read_text()
            for tier, name in where
        }
        assert names
        assert [n for n in names if f"def test_{n}" not in "".join(code.values())] == []
        for text in code.values():
            assert any(f"def test_{name}" in text for name in names)
