# SPDX-License-Identifier: Apache-2.0
"""Pods of several containers, and containers that start again: who has which share when."""

from __future__ import annotations

from rig.machine import wait_for
from rig.pods import Pod, Space, container

JOB = ["gpu_job.py", "--steps", "2"]
MIB = 1 << 20


def memory_mib(pod: Pod, name: str) -> int:
    """The memory that a container says it has."""
    return int(pod.log(name).partition("memory: ")[2].partition(" MiB")[0])


def shares(space: Space) -> dict[str, float]:
    """Of all containers of a test that have one."""
    return {name: one["share_ratio"] for name, one in space.tenants().items()}


def test_an_init_container_gives_its_share_on(space: Space) -> None:
    pod = space.pod(
        "job",
        container("main", ["sh", "-c", "gpu_job.py --steps 2 && sleep 600"], 40),
        init=[container("prepare", JOB, 100)],
    )
    pod.says("2 steps, 0 calls failed", "main")
    assert pod.phase == "Running"
    assert "2 steps, 0 calls failed" in pod.log("prepare")
    assert 2 < memory_mib(pod, "prepare") / memory_mib(pod, "main") < 3
    assert shares(space) == {"job/main": 0.4}


def test_an_init_container_has_its_annotations_and_keeps_its_share(space: Space) -> None:
    """Kubelet's list leaves init containers out, so the plugin knows them by their pod."""
    slow = ["sh", "-c", "gpu_job.py --steps 1; sleep 42; gpu_job.py --steps 2"]
    pod = space.pod(
        "job",
        container("main", ["true"]),
        init=[container("prepare", slow, 60)],
        annotations={"harp.dev/memory": "1Gi"},
    )
    pod.says("1 steps, 0 calls failed", "prepare")
    assert memory_mib(pod, "prepare") == 1024
    assert shares(space) == {"job/prepare": 0.6}
    pod.until("Succeeded", limit_s=120)
    assert "2 steps, 0 calls failed" in pod.log("prepare")


def test_the_same_share_for_an_init_container_and_the_next(space: Space) -> None:
    pod = space.pod("job", container("main", JOB, 40), init=[container("prepare", JOB, 40)])
    pod.until("Succeeded")
    assert "2 steps, 0 calls failed" in pod.log("main")
    assert memory_mib(pod, "prepare") == memory_mib(pod, "main")


def test_containers_of_a_pod_have_shares_of_their_own(space: Space) -> None:
    """One with 20, one with 50, and a sidecar without a GPU, which has none of HARP's either."""
    work = ["sh", "-c", "gpu_job.py --steps 2 && sleep 600"]
    pod = space.pod(
        "several",
        container("small", work, 20),
        container("large", work, 50),
        container("log", ["sh", "-c", "ls /opt; sleep 600"]),
    )
    for name in ("small", "large"):
        pod.says("2 steps, 0 calls failed", name)
    assert shares(space) == {"several/small": 0.2, "several/large": 0.5}
    assert memory_mib(pod, "small") < memory_mib(pod, "large") / 2
    assert pod.says("demo", "log").split() == ["demo"]
    assert pod.run("gpu_job.py", "--steps", "1", name="log").returncode != 0


def test_a_container_that_starts_again_has_what_it_had(space: Space) -> None:
    """And only that: its share is neither lost nor there twice."""
    script = (
        "gpu_job.py --fill --steps 2; test -e /keep/seen && exec sleep 600; >/keep/seen; exit 1"
    )
    pod = space.pod(
        "again",
        container(
            "main", ["sh", "-c", script], 60, volumeMounts=[{"name": "keep", "mountPath": "/keep"}]
        ),
        restart="OnFailure",
        volumes=[{"name": "keep", "emptyDir": {}}],
    )
    first = pod.says("2 steps, 0 calls failed")
    wait_for("it has been started again", lambda: pod.restarts() == 1)
    pod.says("2 steps, 0 calls failed")
    assert pod.log() == first
    assert shares(space) == {"again/main": 0.6}


def test_a_pod_of_the_same_name_is_another(space: Space) -> None:
    work = ["sh", "-c", "gpu_job.py --fill --steps 2 && sleep 600"]
    said = []
    for size in (70, 30):
        pod = space.pod("worker", container("main", work, size), unique=False)
        said.append(pod.says("2 steps, 0 calls failed"))
        assert shares(space) == {"worker/main": size / 100}
        pod.end()
        space.pods.remove(pod)
    assert said[0] != said[1]
