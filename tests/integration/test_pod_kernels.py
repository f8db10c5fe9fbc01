# SPDX-License-Identifier: Apache-2.0
"""A container's kernels, whose grant folder is read-only: told by name, whatever restarts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugin_machine import Node, boxes, plugin_machine, said
from prometheus_client.parser import text_string_to_metric_families

from device_plugin.fake_kubelet import Ask
from device_plugin.proto import deviceplugin_pb2 as pb
from tests.integration.machine import wait_for

pytestmark = pytest.mark.skipif(not boxes(), reason="needs root and mount namespaces")
NOBODY = 65534
PROGRAM = Path(__file__).with_name("pod_kernels.py")


@pytest.fixture
def node(native_dir: Path) -> Iterator[Node]:
    with plugin_machine(native_dir) as node:
        yield node


def begin(
    node: Node, given: pb.ContainerAllocateResponse, launches: int, uid: int
) -> dict[str, str]:
    """A container's program has run, and lives on; what its attempts came to."""
    child = node.boxed(given, launches, uid=uid, program=PROGRAM)
    assert said(child) == "ready", child.communicate()
    found: dict[str, str] = json.loads(said(child))
    return found


def runs(node: Node, tenant: str) -> dict[str, float]:
    """{kernel: launches} as `harp metrics` has them."""
    done = node.box.harp("metrics")
    assert done.returncode == 0, done.stderr
    return {
        sample.labels["kernel"]: sample.value
        for metric in text_string_to_metric_families(done.stdout)
        for sample in metric.samples
        if sample.name == "harp_grant_kernel_runs_total" and sample.labels["tenant"] == tenant
    }


def pages(pid: int) -> int:
    """Descriptors of pages that a process has open."""
    count = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += "harp-profile" in str(link.readlink())
    return count


def arbiter_of(node: Node) -> int:
    found: int = node.box.json("daemon", "--status")["arbiter_pid"]
    return found


def test_a_container_s_kernels_are_told_by_name_and_outlive_restarts(node: Node) -> None:
    node.kubelet.admit("ns", "a", Ask("main", 40))
    given = node.kubelet.begin("ns", "a", "main")
    (grant,) = (m for m in given.mounts if m.container_path == "/opt/harp/grant")
    assert grant.read_only
    assert runs(node, "ns/a/main") == {}
    assert begin(node, given, 5, NOBODY) == {
        "mapped": "done",
        "cut": "EPERM",
        "grown": "EPERM",
        "written beyond": "EPERM",
        "reserved beyond": "EPERM",
        "sealed": "EPERM",
        "in the folder": "EROFS",
    }
    assert runs(node, "ns/a/main") == {"add_one": 5, "fill": 1}
    node.kubelet.admit("ns", "b", Ask("main", 40))
    begin(node, node.kubelet.begin("ns", "b", "main"), 3, 0)
    assert runs(node, "ns/b/main") == {"add_one": 3, "fill": 1}, "another's are its own"

    os.kill(node.box.harpd_pid(), signal.SIGKILL)
    node.box.start_harpd()
    assert runs(node, "ns/a/main") == {"add_one": 5, "fill": 1}, "the arbiter gave the page back"
    begin(node, given, 7, 0)
    assert runs(node, "ns/a/main") == {"add_one": 12, "fill": 2}

    before = arbiter_of(node)
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: arbiter_of(node) not in (0, before), "there is another arbiter")
    begin(node, given, 9, NOBODY)
    assert runs(node, "ns/a/main") == {"add_one": 21, "fill": 3}, "the next arbiter hands it out"

    both = node.box.harpd_pid(), arbiter_of(node)
    assert [pages(pid) for pid in both] == [2, 2]
    for child in node.containers:
        child.kill()
        child.wait()
    node.kubelet.remove("ns", "a")
    node.kubelet.admit("ns", "c", Ask("main", 40))  # the same slots: `a` is swept
    node.kubelet.begin("ns", "c", "main")
    assert runs(node, "ns/a/main") == {}
    wait_for(lambda: [pages(pid) for pid in both] == [2, 2], "none of a tenant that has ended")
