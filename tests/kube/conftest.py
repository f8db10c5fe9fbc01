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
