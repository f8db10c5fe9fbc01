# SPDX-License-Identifier: Apache-2.0
"""What Prometheus would be told of a pod, over the network of pods, and how soon."""

from __future__ import annotations

import time
from pathlib import Path

from rig.harp import DAEMON_PORT, PLUGIN_PORT, Harp
from rig.machine import wait_for
from rig.pods import Pod, Space, container

#: "series for a grant <= 2 s after Allocate" (issue 7); a container starts after its Allocate
SEEN_S = 2.0
_TICKS = 100  # per second, in /proc (sysconf(_SC_CLK_TCK))


def began_s(pod: Pod) -> float:
    """When its container's program began, by the clock that counts from the machine's start."""
    fields = Path(f"/proc/{pod.pid()}/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / _TICKS


def has(harp: Harp, port: int, family: str, pod: Pod) -> bool:
    """Whether there is a series of this pod's container."""
    wanted = {"namespace": pod.namespace, "pod": pod.name, "container": "main"}
    return any(
        name == family and wanted.items() <= labels.items() for name, labels, _ in harp.series(port)
    )


def test_a_pod_has_series_as_soon_as_it_runs(space: Space, harp: Harp) -> None:
    pod = space.pod("a", container("main", ["gpu_job.py", "--seconds", "600"], 30))
    wanted = {"harp_plugin_slots": PLUGIN_PORT, "harp_grant_info": DAEMON_PORT}
    seen_s = {}
    for family, port in wanted.items():
        wait_for(family, lambda f=family, p=port: has(harp, p, f, pod), limit_s=60)
        seen_s[family] = time.clock_gettime(time.CLOCK_BOOTTIME)
    begin_s = began_s(pod)
    for family, at_s in seen_s.items():
        print(f"{family}: {at_s - begin_s:+.2f} s after the container's program began")
        assert at_s - begin_s < SEEN_S
    used = "harp_grant_memory_limit_bytes"
    told = [(of["pod"], value) for name, of, value in harp.series(DAEMON_PORT) if name == used]
    tenant = space.tenants()["a/main"]
    assert (pod.name, tenant["mem_limit_bytes"]) in told
    pod.end()
    wait_for("no slots of it", lambda: not has(harp, PLUGIN_PORT, "harp_plugin_slots", pod))
