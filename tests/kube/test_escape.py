# SPDX-License-Identifier: Apache-2.0
"""What a pod may try in order to have more than its share, and what comes of it."""

from __future__ import annotations

import pytest
from rig.machine import wait_for
from rig.pods import Pod, Space, container

MIB = 1 << 20
FILL = ["gpu_job.py", "--fill", "--steps", "1"]
_LIBRARIES = "/usr/lib/x86_64-linux-gnu"


def filled_mib(pod: Pod) -> int:
    """How much its program got."""
    said = pod.says("then out of memory")
    return int(said.partition("allocated ")[2].partition(" MiB")[0])


def limit_mib(space: Space) -> int:
    """Of the one pod there is."""
    return int(space.tenants()["a/main"]["mem_limit_bytes"]) // MIB


#: {what: (environment in the pod's spec, what its command begins with)}
_EDITS: dict[str, tuple[dict[str, str], list[str]]] = {
    "nothing": ({}, []),
    "its environment is empty": ({}, ["env", "-i", "PATH=/opt/demo:/usr/bin:/bin"]),
    "no preload": ({"LD_PRELOAD": ""}, ["env", "-u", "LD_PRELOAD"]),
    "another driver": ({"LD_LIBRARY_PATH": _LIBRARIES, "LD_PRELOAD": ""}, []),
    "another grant": (
        {"HARP_GRANT": "/tmp"},
        ["env", "HARP_GRANT=/tmp", "HARP_CUDA_REAL=/opt/harp/driver/libcuda.so.1"],
    ),
    "no grant": ({"HARP_GRANT": ""}, ["env", "-u", "HARP_GRANT"]),
    "all GPUs": (
        {"CUDA_VISIBLE_DEVICES": "0,1", "NVIDIA_VISIBLE_DEVICES": "all"},
        ["env", "CUDA_VISIBLE_DEVICES=0,1"],
    ),
}


@pytest.mark.parametrize("what", _EDITS)
def test_an_edited_environment_wins_nothing(space: Space, what: str) -> None:
    """The grant that is mounted counts, whatever is said: the share, and not more of it."""
    env, first = _EDITS[what]
    keep = ["sh", "-c", '"$@"; echo "ended with $?"; exec sleep 600', "sh"]
    pod = space.pod("a", container("main", [*keep, *first, *FILL], 30, env=env))
    said = pod.says("ended with")
    assert "allocated" in said, said
    assert 0 < filled_mib(pod) <= limit_mib(space)
    # Without its environment it does not know where kernels are compiled (221), which is no harm.
    assert "ended with 0" in said or what == "its environment is empty", said


def test_a_gpu_of_others_can_be_seen_and_not_be_had(space: Space) -> None:
    edit = ["env", "CUDA_VISIBLE_DEVICES=0,1", "gpu_job.py"]
    pod = space.pod("a", container("main", [*edit, "--device", "1", "--steps", "1"], 30))
    pod.until("Failed")
    assert "cuDevicePrimaryCtxRetain failed with code 800" in pod.log()
    mine = space.pod("b", container("main", [*edit, "--steps", "1"], 30))
    mine.until("Succeeded")


def test_a_larger_annotation_is_cut_to_the_share_and_said(space: Space) -> None:
    wish = {"harp.dev/memory": "100Gi", "harp.dev/compute": "90", "harp.dev/compute-brust": "true"}
    keep = ["sh", "-c", f"{' '.join(FILL)}; exec sleep 600"]
    pod = space.pod("a", container("main", keep, 30), annotations=wish)
    assert filled_mib(pod) <= limit_mib(space) < 5000
    tenant = space.tenants()["a/main"]
    assert (tenant["share_ratio"], tenant["limit_ratio"]) == (0.3, 0.3)
    events = wait_for(
        "events",
        lambda: said if len(said := pod.events("HarpAnnotation")) == len(wish) else None,
    )
    assert any("100Gi is more than the share has" in one for one in events)
    assert any("did you mean harp.dev/compute-burst?" in one for one in events)


def test_a_smaller_annotation_is_done(space: Space) -> None:
    wish = {"harp.dev/memory": "1Gi", "harp.dev/compute": "20", "harp.dev/compute-burst": "true"}
    keep = ["sh", "-c", f"{' '.join(FILL)}; exec sleep 600"]
    pod = space.pod("a", container("main", keep, 30), annotations=wish)
    assert filled_mib(pod) <= 1024
    assert limit_mib(space) == 1024
    tenant = space.tenants()["a/main"]
    assert tenant["share_ratio"] == 0.2
    assert pod.events("HarpAnnotation") == []


def test_nothing_of_another_pod_is_within_reach(space: Space) -> None:
    """No folder of grants but its own, and that cannot be written; no control socket of harpd's."""
    keep = ["sh", "-c", "gpu_job.py --steps 1; exec sleep 600"]
    pods = [space.pod(name, container("main", keep, 20)) for name in ("a", "b")]
    for pod in pods:
        pod.says("0 calls failed")
    sockets = pods[0].run("find", "/", "-xdev", "-type", "s").stdout.split()
    mounted = pods[0].run("find", "/opt/harp/", "-type", "s").stdout.split()
    assert sockets == []
    assert sorted(mounted) == ["/opt/harp/grant/arbiter.sock", "/opt/harp/ptxc/sock"]
    assert pods[0].run("ls", "/run/harp").returncode != 0
    for path in ("/opt/harp/grant/x", "/opt/harp/shim/x", f"{_LIBRARIES}/libcuda.so.1"):
        assert pods[0].run("sh", "-c", f"echo >{path}").returncode != 0
    inside = pods[0].run("cat", "/proc/self/mountinfo").stdout
    mine = [line for line in inside.splitlines() if " /opt/harp/grant " in line]
    theirs = [
        line
        for line in pods[1].run("cat", "/proc/self/mountinfo").stdout.splitlines()
        if " /opt/harp/grant " in line
    ]
    assert len(mine) == len(theirs) == 1
    assert mine[0].split()[3] != theirs[0].split()[3]


def test_a_user_who_is_not_root_has_the_share_too(space: Space) -> None:
    keep = ["sh", "-c", f"{' '.join(FILL)}; exec sleep 600"]
    pod = space.pod(
        "a", container("main", keep, 30, securityContext={"runAsUser": 4711, "runAsGroup": 4711})
    )
    assert 0 < filled_mib(pod) <= limit_mib(space)
