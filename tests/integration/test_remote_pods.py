# SPDX-License-Identifier: Apache-2.0
"""Pods whose GPU is elsewhere, from kubelet's first word to the pool's: TLS, leases, containers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import wait_for
from remote_pod_world import Elsewhere, PodNode, elsewhere, pod_node

from device_plugin.fake_kubelet import AdmissionError

PROGRAM = "remote_program.py"
HOLDS = "gpu_program.py"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root: mount namespaces")


@pytest.fixture
def pool(native_dir: Path) -> Iterator[Elsewhere]:
    with elsewhere(native_dir) as made:
        yield made


@pytest.fixture
def node(native_dir: Path, pool: Elsewhere) -> Iterator[PodNode]:
    with pod_node(native_dir, pool) as made:
        yield made


def test_a_pod_on_a_node_without_a_gpu_has_its_part_of_one_elsewhere(
    node: PodNode, pool: Elsewhere
) -> None:
    node.start_plugin()
    node.admit("train", 25, {"harp.dev/remote": "required", "harp.dev/class": "latency"})
    child = node.begin("train", PROGRAM, "add", "1000", uid=4242)
    out, err = child.communicate(timeout=60)
    assert json.loads(out)["right"] is True, err
    (lease,) = pool.leases()
    found = pool.at.ps(lease["tenant"])
    assert found is not None
    assert lease["tenant"].startswith("remote-")
    assert found["share_ratio"] == 0.25
    (gpu,) = pool.at.json("devices")["devices"]
    # A context is part of the share; memory is leased in pieces of 2 MiB.
    whole = gpu["memory_bytes"] // 4 - gpu["context_bytes"]
    assert found["mem_limit_bytes"] == whole // (2 << 20) * (2 << 20)
    limit_mib = found["mem_limit_bytes"] >> 20
    over = node.begin("train", HOLDS, str(limit_mib + 2))  # it starts again
    assert over.communicate(timeout=60)[0].strip() == "cuMemAlloc 2"
    fits = node.begin("train", HOLDS, str(limit_mib // 2))
    assert fits.stdout is not None
    assert fits.stdout.readline().strip() == "ready"
    assert pool.leases()[0]["lease"] == lease["lease"]  # one lease through all of it
    assert node.api.events == []
