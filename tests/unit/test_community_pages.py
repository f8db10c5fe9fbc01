# SPDX-License-Identifier: Apache-2.0
"""Pages in .github say what is so: versions, tiers, generators, what hardware has not shown."""

from __future__ import annotations

import json
import re

import pytest
import yaml

import harp
from tests.bench import hardware
from tests.unit.page_parts import ROOT

GITHUB = ROOT / ".github"
CONTRIBUTING = (GITHUB / "CONTRIBUTING.md").read_text()
CHANGELOG = (GITHUB / "CHANGELOG.md").read_text()
SECURITY = (GITHUB / "SECURITY.md").read_text()
CHECK = (ROOT / "tests" / "check").read_text()


def _generators() -> set[str]:
    body = re.search(r"^generated\(\) \{\n(.*?)^\}", CHECK, re.MULTILINE | re.DOTALL)
    assert body
    return set(re.findall(r"python -m ([\w.]+) --check", body[1]))


def test_the_newest_version_is_this_one() -> None:
    versions = re.findall(r"^## \[(\d[^]]*)\] - (.*)$", CHANGELOG, re.MULTILINE)
    assert versions[0][0] == harp.__version__
    for version, date in versions:
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
        assert re.fullmatch(r"20\d\d-[01]\d-[0-3]\d|not released", date)
    chart = yaml.safe_load((ROOT / "deploy" / "helm" / "harp" / "Chart.yaml").read_text())
    assert chart["appVersion"] == versions[0][0]


def test_the_newest_version_has_its_parts() -> None:
    newest = re.split(r"^## \[\d", CHANGELOG, flags=re.MULTILINE)[1]
    found = re.findall(r"^### (.+)$", newest, re.MULTILINE)
    assert found == ["Added", "Not in it", "Not seen on hardware", "Known limits"]
    assert "## [Unreleased]" in CHANGELOG


def test_what_hardware_did_not_show_is_what_the_result_files_say() -> None:
    """A claim that no result shows is in the changelog; one that is shown is not."""
    results = [
        json.loads(path.read_text())
        for path in sorted((ROOT / "tests" / "gpu" / "results").glob("*.json"))
    ]
    shown, _, left = hardware.text(results).partition("Not shown")
    words = re.search(r"### Not seen on hardware(.*?)###", CHANGELOG, re.DOTALL)
    assert words
    for phrase in ("two trainings of PyTorch", "watchdog's comparison", "several GPUs in one"):
        assert phrase in left.replace("\n    ", " ")
        assert phrase not in shown
        assert phrase in words[1]
    not_shown = re.findall(r"^  - (.+)$", left, re.MULTILINE)
    assert len(not_shown) == 4, "the changelog's list has to follow"


@pytest.mark.parametrize("tier", sorted(set(re.findall(r"--only (\w+)", CONTRIBUTING))))
def test_tiers_are_those_of_the_check(tier: str) -> None:
    assert re.search(rf"^tier {tier} ", CHECK, re.MULTILINE)


def test_every_generator_is_named() -> None:
    named = set(re.findall(r"`python -m ([\w.]+)`", CONTRIBUTING))
    assert _generators() <= named
    assert len(_generators()) >= 4


def test_the_minutes_of_the_check_are_what_it_says() -> None:
    head = CHECK.split("set -u")[0]
    assert "15 min at most on 2 cores" in head
    assert "<= 75 min" in head
    assert "15 minutes at most on 2 cores" in CONTRIBUTING
    assert "up to 75 minutes" in CONTRIBUTING


def test_what_is_not_protected_is_said_first() -> None:
    assert "not a security boundary" in SECURITY.split("\n\n")[1]
    for word in ("**nothing**", "**little**", "**nobody is kept out**", "**No certificate can be"):
        assert word in SECURITY
