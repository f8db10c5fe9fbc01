# SPDX-License-Identifier: Apache-2.0
"""One cluster for the whole tier, HARP on it, and a namespace for each test."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig.cluster import Cluster
from rig.harp import Harp
from rig.pods import Space

#: {case: its lines where the fake kubelet and the real one differ}, of test_kubelets.py
KUBELETS = pytest.StashKey[dict[str, list[str]]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in what the two kubelets differ, in a run without failures too."""
    cases = terminalreporter.config.stash.get(KUBELETS, {})
    if not cases:
        return
    apart = {case: lines for case, lines in cases.items() if lines}
    terminalreporter.write_line(
        f"fake and real kubelet: {len(cases)} cases, {len(apart)} of them differ"
    )
    for case, lines in apart.items():
        terminalreporter.write_line(f"  {case}")
        for line in lines:
            terminalreporter.write_line(f"    {line}")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A control plane and two nodes; what hinders it fails the tier, but for who is not root."""
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces, mounts and control groups of its own")
    if not Path("/usr/bin/apt-get").exists():
        pytest.skip("needs Debian: its packages and its source of Kubernetes")
    running = Cluster(nodes=2)
    yield running
    running.down()


@pytest.fixture(scope="session")
def harp(cluster: Cluster) -> Harp:
    """HARP on the first node; the second is as any other node of a cluster."""
    installed = Harp(cluster)
    installed.install()
    return installed


@pytest.fixture
def space(harp: Harp, request: pytest.FixtureRequest) -> Iterator[Space]:
    """A namespace, gone afterwards with its pods."""
    harp.cluster.machine.alive()
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).removeprefix("test-")
    made = Space(harp, words)
    yield made
    made.end()
