# SPDX-License-Identifier: Apache-2.0
"""What tests/bench/results/README.md says of each file's runs is what the file has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "bench" / "results"
ROWS = dict(re.findall(r"^\| (\w+) \| (\d+) \|", (FOLDER / "README.md").read_text(), re.MULTILINE))
FILES = sorted(FOLDER.glob("*.json"))


def _runs(found: dict[str, Any]) -> int:
    """How often what the file's first table shows was done."""
    result = found.get("result")
    if result is None:
        return len(found["runs"])
    if "repeat" in result:
        return int(result["repeat"])
    if "deaths" in result:
        return int(result["deaths"])
    if "compared" in result:
        return min(int(one["runs"]) for one in result["compared"])
    return 1


def test_every_file_has_a_row() -> None:
    assert ROWS.keys() == {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_row_says_how_many_runs(path: Path) -> None:
    assert int(ROWS[path.stem]) == _runs(json.loads(path.read_text()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_file_says_when_where_and_how(path: Path) -> None:
    found = json.loads(path.read_text())
    assert re.fullmatch(r"20\d\d-[01]\d-[0-3]\d", found["date"])
    assert re.fullmatch(r"\d+ cores of .+, Linux [\d.]+", found["machine"])
    assert found["command"].startswith("harp bench ")


def test_the_readme_says_the_machine_of_all_files() -> None:
    readme = (FOLDER.parents[2] / "README.md").read_text()
    for path in FILES:
        found = json.loads(path.read_text())
        assert f"Machine: {found['machine']}." in readme
        assert f"`{found['command']}`, {found['date']}" in " ".join(readme.split())
