# SPDX-License-Identifier: Apache-2.0
"""Real helm, and the chart as it renders it."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "harp"
sys.path.insert(0, str(Path(__file__).parent))

Object = dict[str, Any]
Template = Callable[..., list[Object]]


@functools.cache
def _tool(name: str) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "deploy" / "tools" / "kubetools", name],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 3:
        if os.environ.get("CI"):
            pytest.fail(done.stderr)
        pytest.skip(f"NOTHING OF THE CHART IS TESTED: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="session")
def helm() -> Callable[..., subprocess.CompletedProcess[str]]:
    program = _tool("helm")

    def run(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


@pytest.fixture(scope="session")
def ask(helm) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`helm template` with these values, whatever comes of it."""

    def run(
        values: Mapping[str, Any], version: str = "", *options: str, **how: str
    ) -> subprocess.CompletedProcess[str]:
        chosen = [f"--kube-version={version}"] if version else []
        arguments = ["template", how.get("release", "harp"), CHART, "--namespace=gpu", *chosen]
        return helm(*arguments, *options, "--values=-", stdin=json.dumps(values))

    return run


@pytest.fixture(scope="session")
def template(ask) -> Template:
    """The objects of a release with these values."""
    known: dict[str, str] = {}

    def run(values: Mapping[str, Any], version: str = "", *options: str) -> list[Object]:
        key = json.dumps([values, version, options])
        if key not in known:
            done = ask(values, version, *options)
            assert done.returncode == 0, done.stderr
            known[key] = done.stdout
        return [found for found in yaml.safe_load_all(known[key]) if found]

    return run


def of_kind(objects: Sequence[Object], kind: str, end: str = "") -> list[Object]:
    return [o for o in objects if o["kind"] == kind and o["metadata"]["name"].endswith(end)]


def one(objects: Sequence[Object], kind: str, end: str = "") -> Object:
    (found,) = of_kind(objects, kind, end)
    return found


def pods(objects: Sequence[Object]) -> list[tuple[str, Object]]:
    """Specs of pods, each with the name of what makes them."""
    return [
        (o["metadata"]["name"], o["spec"]["template"]["spec"])
        for o in objects
        if o["kind"] in ("DaemonSet", "Deployment", "Job", "StatefulSet")
    ]


def containers(pod: Object) -> list[Object]:
    return [*pod.get("initContainers", ()), *pod["containers"]]
