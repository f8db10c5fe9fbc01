# SPDX-License-Identifier: Apache-2.0
"""A pod on a node without a GPU uses one of another node's, by the chart's pool and its keeper."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rig.chart import NAMESPACE
from rig.harp import Harp
from rig.machine import sh, wait_for
from rig.pods import Pod, Space, container

REMOTE = "harp.dev/remote-gpu-share"
MIB = 1 << 20
#: of the software GPU t4-16g, as it says itself
PIECE_MIB = 16
_HARP = Path(sys.executable).with_name("harp")
_LABEL = "harp.dev/remote"


def secret(harp: Harp, name: str, folder: Path) -> None:
    """A Secret of what `harp remote init` made, as the values say."""
    files = [f"--from-file={folder / one}" for one in ("ca.crt", "tls.crt", "tls.key")]
    ours = ["-n", NAMESPACE]
    harp.cluster.kubectl(*ours, "delete", "secret", name, "--ignore-not-found")
    harp.cluster.kubectl(*ours, "create", "secret", "generic", name, *files)


@pytest.fixture(scope="module")
def borrower(harp: Harp, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harp]:
    """The second node, which has no GPU and borrows the first one's."""
    folder, service = tmp_path_factory.mktemp("pool"), f"harp-pool.{NAMESPACE}.svc"
    init = ["remote", "init", "--dir", folder, "--node", service, "--client", "kubernetes"]
    sh(_HARP, *init)
    secret(harp, "pool", folder / f"node-{service}")
    secret(harp, "borrower", folder / "client-kubernetes")
    second = harp.on(2)
    second.mark(_LABEL, "true")
    harp.chart.install(
        {
            "remote": {
                "serve": {"enabled": True, "secretName": "pool"},
                "pods": {"enabled": True, "secretName": "borrower"},
            }
        }
    )
    wait_for("remote shares are offered", lambda: second.allocatable(REMOTE) == 400, limit_s=120)
    rollout = ["rollout", "status", "daemonset/harp-node", "--timeout=120s"]
    harp.cluster.kubectl("-n", NAMESPACE, *rollout)
    wait_for("the pool serves", lambda: _is_ready(harp.pod("pool")), limit_s=120)
    yield second
    second.mark(_LABEL, None)
    harp.chart.install()
    wait_for("no pool", lambda: not harp.pods("pool") and not second.pods("remote"))


def _is_ready(pod: dict[str, Any]) -> bool:
    said = pod["status"].get("containerStatuses", ())
    return bool(said) and all(one["ready"] for one in said)


def asks(space: Space, name: str, command: list[str], share: int) -> Pod:
    """A pod for a remote share, wherever there is one."""
    wish = {"harp.dev/remote": "required"}
    limits = {"limits": {REMOTE: str(share)}}
    made = container("main", command, resources=limits)
    return space.pod(name, made, annotations=wish)


def test_a_pod_without_a_gpu_on_its_node_has_a_share_of_another(
    space: Space, harp: Harp, borrower: Harp
) -> None:
    job = "gpu_job.py --fill --steps 3 && exec sleep 600"
    pod = asks(space, "far", ["sh", "-c", job], 25)
    said = pod.says("3 steps, 0 calls failed", limit_s=120)
    assert pod.object["spec"]["nodeName"] == borrower.node.name
    assert "GPUs: 1" in said
    (tenant,) = (one for one in harp.cli("ps")["tenants"] if one["share_ratio"] == 0.25)
    limit_mib = tenant["mem_limit_bytes"] // MIB
    assert f"memory: {limit_mib} MiB" in said
    filled_mib = int(said.partition("allocated ")[2].partition(" MiB")[0])
    assert limit_mib - 2 * PIECE_MIB < filled_mib <= limit_mib
    near = space.pod("near", container("main", ["sleep", "600"], 25))
    near.until("Running")
    local = harp.tenant(space.name, near.name, "main")
    assert local is not None
    assert local["mem_limit_bytes"] // MIB == limit_mib


def test_more_than_the_pool_has_is_refused_and_said(space: Space, borrower: Harp) -> None:
    del borrower
    keep = ["sh", "-c", "gpu_job.py --steps 1 && exec sleep 600"]
    pods = [asks(space, f"full{number}", keep, 100) for number in range(2)]
    for pod in pods:
        pod.says("1 steps, 0 calls failed", limit_s=120)
    late = asks(space, "late", keep, 50)
    wait_for("it is said why", lambda: late.events("HarpRemote"))
    assert late.phase != "Running"
    print(late.events("HarpRemote"))
