# SPDX-License-Identifier: Apache-2.0
"""Pages about the whole name files and programs that are there, and where facts come from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harp import native, rundir
from tests.unit.page_parts import ROOT

PAGE = (ROOT / "harp" / "ARCHITECTURE.md").read_text()
COMPARISON = (ROOT / "harp" / "COMPARISON.md").read_text()
#: cells that say no more than that nothing is known
_NOTHING = {"not looked for", "not known"}


def _tables() -> list[list[list[str]]]:
    """Tables after the sources, row by row: the first cell, HARP's, and others'."""
    return [
        [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in part.splitlines()
            if line.startswith("| ") and not line.startswith("| |")
        ]
        for part in COMPARISON.split("\n## ")[1:]
    ]


def _sources() -> dict[str, str]:
    return dict(re.findall(r"^\| \[(\w+)\] \| .* \| (.*) \|$", COMPARISON, re.MULTILINE))


def test_files_of_the_run_folder_have_their_names() -> None:
    run = rundir.RunDir(Path("/r"))
    for path in (run.control, run.auth, run.admin, run.lock, run.store, run.log, run.arbiter_log):
        assert f"`{path.name}`" in PAGE


@pytest.mark.parametrize("name", ["harp-arbiter", "harp-link", "harp-worker", "harp-ptxc"])
def test_programs_are_those_that_are_built(name: str) -> None:
    assert name in PAGE
    built = "".join(p.read_text() for p in (ROOT / "native").rglob("CMakeLists.txt"))
    built += "".join(p.read_text() for p in (ROOT / "native" / "cmake").iterdir())
    assert name in built or name in Path(native.__file__).read_text()


def test_every_package_is_named_with_its_page() -> None:
    linked = re.findall(r"\]\(([^)#]+)\)", PAGE.split("## Where to read on")[1])
    readmes = {(ROOT / "harp" / path).resolve() for path in linked}
    assert len(readmes) == len(linked) > 15
    for name in ("daemon", "remote", "metrics", "estimator", "scheduler", "extender", "cli"):
        assert ROOT / "harp" / name / "README.md" in readmes


def test_every_source_has_a_date() -> None:
    sources = _sources()
    assert len(sources) > 12
    for name, state in sources.items():
        assert re.search(r"\b20\d\d-[01]\d-[0-3]\d$", state), name


def test_every_cell_about_others_has_a_source() -> None:
    used = set()
    tables = _tables()
    assert [len(rows) > 7 for rows in tables] == [True] * 3
    for rows in tables:
        for _, ours, *others in rows:
            assert ours
            assert len(others) == 4
            for cell in others:
                if cell in _NOTHING:
                    continue
                found = re.search(r" \[(\w+)\]$", cell)
                assert found, f"no source: {cell}"
                used.add(found[1])
    assert used == _sources().keys()
