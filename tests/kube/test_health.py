# SPDX-License-Identifier: Apache-2.0
"""A GPU that is ill is not given to new pods, those on it go on, and it comes back by itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rig.harp import PLUGIN_PORT, Harp
from rig.machine import wait_for
from rig.pods import Pod, Space, container

SLEEP = ["sleep", "600"]
STEPS = ["gpu_job.py", "--every", "0.5", "--seconds", "600"]
#: ten seconds, as the rig sets it
RECOVERY_S = 180.0


@pytest.fixture
def faults(harp: Harp) -> Iterator[None]:
    """There are none afterwards."""
    yield
    harp.soft("fault", "clear")
    wait_for("all slots are offered again", harp.offered, limit_s=RECOVERY_S)


def steps(pod: Pod) -> int:
    """How far it is; no call of its has failed."""
    lines = [line for line in pod.log().splitlines() if line.startswith("at ")]
    assert all(line.endswith(" 0 calls failed") for line in lines), lines
    return int(lines[-1].split()[1]) if lines else 0


def goes_on(pod: Pod) -> None:
    pod.says("at ")
    before = steps(pod)
    wait_for(f"{pod.name} steps on", lambda: steps(pod) > before)


def reported(harp: Harp, xid: int) -> float:
    """How often the plugin was told of such an error, on all GPUs."""
    name = "harp_device_xid_errors_total"
    return sum(
        n for has, of, n in harp.series(PLUGIN_PORT) if (has, of.get("xid")) == (name, str(xid))
    )


@pytest.mark.usefixtures("faults")
def test_an_ill_gpu_is_left_out_until_it_is_well(space: Space, harp: Harp) -> None:
    """Who is on it goes on."""
    on_it = space.pod("a", container("main", STEPS, 30))
    goes_on(on_it)
    assert space.tenants()["a/main"]["gpus"] == [0]
    harp.soft("fault", "set", "xid 63 dev=0")  # a bad page
    wait_for("one GPU's slots are left", lambda: harp.allocatable() == 100)
    late = space.pod("late", container("main", ["gpu_job.py", "--steps", "1"], 70))
    late.until("Succeeded")
    both = space.pod("both", container("main", SLEEP, 200))
    wait_for("the scheduler has said why", lambda: "Insufficient" in both.why())
    assert both.phase == "Pending"
    goes_on(on_it)
    on_it.end()
    harp.soft("fault", "clear")
    both.until("Running", limit_s=RECOVERY_S)
    assert harp.offered()


@pytest.mark.usefixtures("faults")
def test_an_applications_error_is_its_own(space: Space, harp: Harp) -> None:
    """No slot is taken away for that."""
    pod = space.pod("a", container("main", STEPS, 30))
    goes_on(pod)
    before = reported(harp, 31)
    harp.soft("fault", "set", "xid 31 dev=1")
    wait_for("the plugin was told", lambda: reported(harp, 31) > before)
    goes_on(pod)
    assert harp.offered()
