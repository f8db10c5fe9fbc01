# SPDX-License-Identifier: Apache-2.0
"""A GPU that is ill is not given to new pods, those on it go on, and it comes back by itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rig.harp import Harp
from rig.machine import wait_for
from rig.pods import Space, container

SLEEP = ["sleep", "600"]
#: three good probes and a minute
RECOVERY_S = 180.0


@pytest.fixture
def fault(harp: Harp) -> Iterator[None]:
    """The first GPU reports a bad page."""
    harp.soft("fault", "set", "xid 63 dev=0")
    yield
    harp.soft("fault", "clear")
    wait_for("all slots are offered again", harp.offered, limit_s=RECOVERY_S)


def test_an_ill_gpu_is_left_out_until_it_is_well(space: Space, harp: Harp, fault: None) -> None:
    del fault
    wait_for("one GPU's slots are left", lambda: harp.allocatable() == 100)
    late = space.pod("late", container("main", ["gpu_job.py", "--steps", "1"], 100))
    late.until("Succeeded")
    both = space.pod("both", container("main", SLEEP, 200))
    wait_for("the scheduler has said why", lambda: "Insufficient" in both.why())
    assert both.phase == "Pending"
    harp.soft("fault", "clear")
    both.until("Running", limit_s=RECOVERY_S)
    assert harp.offered()


def test_a_pod_on_a_gpu_that_falls_ill_goes_on(space: Space, harp: Harp) -> None:
    """An application's error is its own: no slot is taken away for that."""
    pod = space.pod(
        "a", container("main", ["gpu_job.py", "--every", "0.5", "--seconds", "600"], 30)
    )
    pod.says("at ")
    harp.soft("fault", "set", "xid 31 dev=1 pid=1")
    try:
        pod.says("at ")
        assert harp.offered()
    finally:
        harp.soft("fault", "clear")
