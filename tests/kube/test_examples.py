# SPDX-License-Identifier: Apache-2.0
"""deploy/examples: what their READMEs say is typed, and what comes is compared with them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rig.binaries import ROOT
from rig.harp import Harp
from rig.machine import NET
from rig.pods import Pod

EXAMPLES = ROOT / "deploy" / "examples"
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
#: of a number that the README writes with a ~
TOLERANCE = 0.2


@dataclass(frozen=True)
class Step:
    """A command and what it is to say."""

    command: str
    expected: tuple[str, ...]


def steps(readme: Path) -> Iterator[Step]:
    """Of its block of expected output."""
    block = readme.read_text().partition("```console\n")[2].partition("```")[0]
    assert block, f"{readme} has no block of expected output"
    for part in block.strip().split("$ ")[1:]:
        command, *expected = part.strip().splitlines()
        yield Step(command, tuple(expected))


def agrees(said: str, expected: str) -> bool:
    """Whether a line is as expected: `...` is anything, `~30` a number within a fifth."""
    pattern = ""
    numbers = []
    for part in re.split(r"(\.\.\.|~\d+)", expected):
        if part == "...":
            pattern += ".*"
        elif part.startswith("~"):
            pattern += r"(\d+)"
            numbers.append(int(part[1:]))
        else:
            pattern += re.escape(part)
    found = re.fullmatch(pattern, said)
    return found is not None and all(
        abs(int(is_) - wanted) <= TOLERANCE * wanted
        for is_, wanted in zip(found.groups(), numbers, strict=True)
    )


@pytest.mark.parametrize(
    ("said", "expected", "verdict"),
    [
        ("had 29 % of it", "had ~30 % of it", True),
        ("had 40 % of it", "had ~30 % of it", False),
        ("a b c", "a ... c", True),
        ("a b d", "a ... c", False),
        ("(a", "(a", True),
    ],
)
def test_lines_are_compared(said: str, expected: str, verdict: bool) -> None:
    assert agrees(said, expected) is verdict


@pytest.fixture
def default(harp: Harp) -> Iterator[None]:
    """The default namespace, without pods afterwards."""
    yield
    path = "/api/v1/namespaces/default/pods"
    harp.cluster.kubectl("delete", "job", "--all", "--wait=false")
    for one in harp.cluster.client.get(path)["items"]:
        Pod(harp, "default", one["metadata"]["name"]).end()


@pytest.mark.parametrize("name", NAMES)
def test_an_example_does_what_it_says(harp: Harp, default: None, name: str) -> None:
    del default
    for step in steps(EXAMPLES / name / "README.md"):
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{NET}", "sh", "-c", step.command],
            cwd=ROOT,
            env=harp.cluster.kubectl_env(),
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{step.command}: {done.stderr}{done.stdout}"
        said = done.stdout.splitlines()
        print(f"$ {step.command}", *said, sep="\n")
        assert len(said) == len(step.expected), f"{step.command}: {said}"
        for line, expected in zip(said, step.expected, strict=True):
            assert agrees(line, expected), f"{step.command}: {line!r}, expected {expected!r}"
