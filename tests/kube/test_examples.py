# SPDX-License-Identifier: Apache-2.0
"""deploy/examples: what their READMEs say is typed, and what comes is compared with them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from readme_steps import agrees, steps
from rig.binaries import ROOT
from rig.harp import Harp
from rig.machine import NET
from rig.pods import Pod

EXAMPLES = ROOT / "deploy" / "examples"
#: asks a Prometheus, not a cluster: tests/integration/test_autoscale.py types it
ELSEWHERE = {"autoscale"}
NAMES = sorted({path.name for path in EXAMPLES.iterdir() if path.is_dir()} - ELSEWHERE)


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
