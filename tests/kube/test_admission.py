# SPDX-License-Identifier: Apache-2.0
"""What a node takes and what it refuses, and whether its reason can be read."""

from __future__ import annotations

import pytest
from rig.client import ApiError
from rig.harp import PLUGIN_PORT, RESOURCE, Harp
from rig.machine import wait_for
from rig.pods import Space, container

SLEEP = ["sleep", "600"]


def test_what_asks_for_too_much_stays_pending_and_the_reason_can_be_read(
    space: Space, harp: Harp
) -> None:
    pod = space.pod("large", container("main", SLEEP, harp.allocatable() + 100))
    wait_for("the scheduler has said why", lambda: "Insufficient" in pod.why())
    assert pod.phase == "Pending"
    assert "Insufficient harp.dev/gpu-share" in pod.why()


def fragmented(harp: Harp) -> float:
    """Refusals that the plugin has counted under this word."""
    (count,) = (
        value
        for name, labels, value in harp.series(PLUGIN_PORT)
        if name == "harp_plugin_allocate_errors_total" and labels["reason"] == "fragmented"
    )
    return count


def test_forty_and_forty_free_are_no_sixty(space: Space, harp: Harp) -> None:
    """No extender: the scheduler adds up over GPUs, so the pod fails at the node and says why."""
    before = fragmented(harp)
    for name in ("a", "b"):
        space.pod(name, container("main", SLEEP, 60)).until("Running")
    late = space.pod("c", container("main", SLEEP, 60))
    late.until("Failed")
    assert "UnexpectedAdmissionError" in late.why()
    assert "largest free share on one GPU is 40, need 60" in late.why()
    assert fragmented(harp) == before + 1
    small = space.pod("d", container("main", ["gpu_job.py", "--steps", "2"], 40))
    small.until("Succeeded")
    assert "2 steps, 0 calls failed" in small.log()


def test_whole_gpus_come_in_multiples(space: Space) -> None:
    odd = space.pod("odd", container("main", SLEEP, 150))
    odd.until("Failed")
    assert "150 slots are more than one GPU" in odd.why()
    both = space.pod("both", container("main", ["gpu_job.py", "--steps", "2"], 200))
    both.until("Succeeded")
    assert "GPUs: 2" in both.log()
    assert "2 steps, 0 calls failed" in both.log()


def test_a_quota_counts_shares(space: Space, harp: Harp) -> None:
    client = harp.cluster.client
    path = f"/api/v1/namespaces/{space.name}/resourcequotas"
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "gpus"},
        "spec": {"hard": {f"requests.{RESOURCE}": "50"}},
    }
    client.create(path, quota)
    wait_for("the quota is looked after", lambda: client.get(f"{path}/gpus")["status"].get("used"))
    space.pod("a", container("main", SLEEP, 30)).until("Running")
    with pytest.raises(ApiError, match="exceeded quota: gpus") as refused:
        space.pod("b", container("main", SLEEP, 30))
    assert refused.value.status == 403
    assert f"limited: requests.{RESOURCE}=50" in str(refused.value)
    space.pod("c", container("main", SLEEP, 20)).until("Running")
