# SPDX-License-Identifier: Apache-2.0
"""Shares in real containers: time and memory, judged by the engine's own ledger and from inside."""

from __future__ import annotations

import json
import time

from rig.harp import Harp
from rig.machine import wait_for
from rig.pods import Pod, Space, container

MIB = 1 << 20
#: of the software GPU t4-16g, as it says itself
PIECE_MIB = 16
#: more than one costs before its first allocation
CONTEXT_MIB = 300


def busy(name: str) -> list[str]:
    """Fill the memory once, then keep the GPU busy under a name of its own in the ledger."""
    work = f"/tmp/{name} --mode saturate --kernel-us 500"
    return [
        "sh",
        "-ec",
        f"gpu_job.py --fill --steps 1; cp /opt/demo/harp-bench-busy /tmp/{name}; exec {work}",
    ]


def busy_ns(harp: Harp) -> dict[str, int]:
    """{program: time that it really had of compute engines}."""
    truth = json.loads(harp.soft("truth"))
    return {
        one["name"]: one["busy_ns"]["compute"]
        for one in truth["processes"]
        if one["state"] == "live"
    }


def counted(pod: Pod, begin_ns: int, end_ns: int) -> int:
    """Kernels that a program counted between two moments of the machine's clock."""
    rows = []
    for line in pod.log().splitlines():
        if line.startswith("{") and "iterations" in line:
            row = json.loads(line)
            rows.append((row["t_ns"], row["iterations"]))
    inside = [row for row in rows if begin_ns <= row[0] <= end_ns]
    return inside[-1][1] - inside[0][1]


def said_mib(pod: Pod, before: str, after: str) -> int:
    """A figure of what it said."""
    return int(pod.log().partition(before)[2].partition(after)[0])


def test_two_pods_hold_30_and_70_percent_of_time_and_memory(space: Space, harp: Harp) -> None:
    sizes = {"low": 30, "high": 70}
    pods = {
        name: space.pod(name, container("main", busy(f"busy-{name}"), size))
        for name, size in sizes.items()
    }
    for pod in pods.values():
        pod.says("iterations", limit_s=120)
    tenants = space.tenants()
    for name, size in sizes.items():
        tenant = tenants[f"{name}/main"]
        limit_mib = tenant["mem_limit_bytes"] // MIB
        assert tenant["share_ratio"] == size / 100
        # Its part, a context included.
        part_mib = harp.cli("devices")["devices"][0]["memory_bytes"] * size // 100 // MIB
        assert part_mib - CONTEXT_MIB < limit_mib < part_mib
        assert said_mib(pods[name], "memory: ", " MiB") == limit_mib
        allocated = said_mib(pods[name], "allocated ", " MiB, then out of memory")
        assert limit_mib - 2 * PIECE_MIB < allocated <= limit_mib
    before, begin_ns = busy_ns(harp), time.monotonic_ns()
    time.sleep(6)
    after, end_ns = busy_ns(harp), time.monotonic_ns()
    had = {name: after[f"busy-{name}"] - before[f"busy-{name}"] for name in sizes}
    share = had["low"] / sum(had.values())
    work = {name: counted(pod, begin_ns, end_ns) for name, pod in pods.items()}
    inside = work["low"] / sum(work.values())
    print(f"asked 30, the engine gave {share:.1%}, the programs counted {inside:.1%}")
    assert 0.27 < share < 0.33
    assert 0.25 < inside < 0.35


def annotate(pod: Pod, **said: str | None) -> None:
    """As `kubectl annotate` does; None takes one away."""
    marks = {f"harp.dev/{name}": text for name, text in said.items()}
    pod.client.merge(pod.path, {"metadata": {"annotations": marks}})


def test_edited_annotations_change_a_running_container_within_its_share(space: Space) -> None:
    work = ["gpu_job.py", "--hold", "64", "--every", "0.5", "--seconds", "600"]
    pod = space.pod("a", container("main", work, 30))
    pod.says("at ")

    def has() -> tuple[float, float, int]:
        tenant = space.tenants()["a/main"]
        return tenant["share_ratio"], tenant["limit_ratio"], tenant["mem_limit_bytes"]

    share = has()
    assert share[:2] == (0.3, 0.3)
    annotate(pod, compute="10", memory="1Gi")
    wait_for("it is lowered", lambda: has() == (0.1, 0.1, 1 << 30))
    annotate(pod, compute="90", memory="100Gi")
    wait_for("it is cut to its share", lambda: has() == share)
    told = wait_for("both are said", lambda: len(e := pod.events("HarpAnnotation")) == 2 and e)
    assert all("more than the share has" in one for one in told)
    annotate(pod, compute="20", memory=None)
    wait_for("one is edited, one is gone", lambda: has() == (0.2, 0.2, share[2]))
    lines = [line for line in pod.log().splitlines() if line.startswith("at ")]
    assert all(" 0 calls failed" in line for line in lines), lines
    assert pod.restarts() == 0
