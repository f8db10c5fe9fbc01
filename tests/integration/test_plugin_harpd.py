# SPDX-License-Identifier: Apache-2.0
"""The device plugin beside the real harpd, arbiter, shim and software GPU; kubelet alone is a fake.

Whether a runtime does the same as plugin_machine.py is for tests/kube.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from plugin_machine import MIB, Node, plugin_machine, said

from device_plugin.fake_kubelet import AdmissionError, Ask
from device_plugin.tenants import tenant_name
from tests.integration.machine import ROOT, wait_for

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="tenants of containers are made by harpd of root for root"
)


@pytest.fixture
def node(native_dir: Path) -> Iterator[Node]:
    with plugin_machine(native_dir) as node:
        yield node


def test_a_program_in_a_pod_has_its_part_and_no_more(node: Node) -> None:
    """Two pods on one GPU; each may allocate up to its limit, and is told code 2 above it."""
    for name, size in (("a", 30), ("b", 60)):
        node.kubelet.admit("ns", name, Ask("main", size))
        first = node.begin(name, 1)
        assert said(first) == "ready", first.stderr
        limit = node.tenant_of(name)["mem_limit_bytes"]
        assert isinstance(limit, int)
        limit_mib = limit // MIB
        first.kill()
        assert said(node.begin(name, limit_mib + 2)) == "cuMemAlloc 2"
        assert said(node.begin(name, limit_mib // 2)) == "ready"
    shares = [t["share_ratio"] for t in node.box.json("ps")["tenants"]]
    assert sorted(shares) == [0.3, 0.6]


@pytest.mark.slow
def test_a_plugin_restart_does_not_touch_a_running_program(node: Node) -> None:
    node.kubelet.admit("ns", "a", Ask("main", 50))
    child = node.begin("a", 4)
    assert said(child) == "ready"
    before = node.tenant_of("a")
    node.stop_plugin()
    node.start_plugin()
    assert child.poll() is None
    after = node.tenant_of("a")
    assert after["tenant_id"] == before["tenant_id"]
    assert after["mem_limit_bytes"] == before["mem_limit_bytes"]
    again = node.begin("a", 1)  # the container starts again
    assert said(again) == "ready"


@pytest.mark.slow
def test_a_harpd_restart_lets_containers_start_again_meanwhile(node: Node) -> None:
    node.kubelet.admit("ns", "a", Ask("main", 50))
    assert said(node.begin("a", 4)) == "ready"
    assert node.box.harp("daemon", "--stop").returncode == 0
    assert said(node.begin("a", 1)) == "ready"
    node.kubelet.admit("ns", "b", Ask("main", 10))
    with pytest.raises(AdmissionError, match="harpd does not answer"):
        node.kubelet.begin("ns", "b", "main")
    node.box.start_harpd()
    assert said(node.begin("b", 1)) == "ready"


@pytest.mark.slow
def test_a_tenant_that_harpd_ended_is_made_again_where_its_container_looks(node: Node) -> None:
    """harpd takes away a folder that is empty; what a container has mounted must stay the same."""
    node.kubelet.admit("ns", "a", Ask("main", 50))
    given = node.kubelet.begin("ns", "a", "main")
    assert node.plugin is not None
    assert node.tenants is not None
    (grant,) = node.plugin.starts.living()
    folder = node.settings.grants / grant.id
    inode = folder.stat().st_ino
    # of a pod of that name that had another folder
    node.tenants.remove(replace(grant, id="another"))
    node.tenants.remove_named(tenant_name(grant), node.settings.grants / "another")
    assert node.box.ps(tenant_name(grant)) is not None
    node.tenants.remove(grant)
    assert node.box.ps(tenant_name(grant)) is None
    node.plugin.starts.sweep()
    assert folder.stat().st_ino == inode
    assert said(node.enter(given, 4)) == "ready"
    assert node.tenant_of("a")["mem_leased_bytes"]


@pytest.mark.slow
def test_a_share_that_is_gone_is_the_next_ones(node: Node) -> None:
    for name in ("a", "b"):
        node.kubelet.admit("ns", name, Ask("main", 100))
        child = node.begin(name, 4)
        assert said(child) == "ready"
        child.kill()
        child.wait()
        node.kubelet.remove("ns", name)
    assert len(node.box.json("ps")["tenants"]) == 1


@pytest.mark.slow
def test_a_harpd_of_another_software_gpu_is_refused(node: Node) -> None:
    assert node.tenants is not None
    node.kubelet.admit("ns", "a", Ask("main", 50))
    node.box.env["HARP_SOFT_DIR"] += "-other"
    try:
        for _ in range(2):  # kubelet tries again
            with pytest.raises(AdmissionError, match=r"HARP_SOFT_DIR is .* for the plugin"):
                node.kubelet.begin("ns", "a", "main")
    finally:
        node.box.env["HARP_SOFT_DIR"] = node.box.env["HARP_SOFT_DIR"].removesuffix("-other")


@contextmanager
def program(node: Node, *more: str) -> Iterator[subprocess.Popen[str]]:
    """The plugin as it is run."""
    folders = ["--kubelet-dir", str(node.settings.kubelet_dir)]
    folders += ["--state-dir", str(node.settings.state_dir)]
    child = subprocess.Popen(
        [sys.executable, "-m", "device_plugin", *folders, *more],
        env=node.box.env,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@pytest.mark.slow
def test_the_program_serves_until_it_is_told_to_end(node: Node) -> None:
    node.stop_plugin()
    wait_for(lambda: not node.kubelet.listed.is_set(), "kubelet sees that it is gone")
    with program(node, "--node", "n1", "--slots-per-gpu", "200") as child:
        assert node.kubelet.listed.wait(20)
        assert len(node.kubelet.devices.healthy) == 200
        node.kubelet.admit("ns", "a", Ask("main", 100))
        assert said(node.begin("a", 4)) == "ready"
        fault = [str(node.box.native_dir / "harp-soft-fault"), "set"]
        subprocess.run([*fault, "xid 31 dev=0"], env=node.box.env, check=True)  # a program's
        time.sleep(1.5)
        assert len(node.kubelet.devices.healthy) == 200
        subprocess.run([*fault, "xid 63 dev=0"], env=node.box.env, check=True)
        wait_for(lambda: len(node.kubelet.devices.unhealthy) == 200, "kubelet hears of it")
        child.terminate()
        assert child.wait(20) == 0
    # begun again without a harpd, it knows the node from before
    assert node.box.harp("daemon", "--stop").returncode == 0
    wait_for(lambda: not node.kubelet.listed.is_set(), "kubelet sees that it is gone")
    with program(node, "--node", "n1", "--slots-per-gpu", "200"):
        assert node.kubelet.listed.wait(20)
        assert len(node.kubelet.devices.free()) == 100
        assert said(node.begin("a", 4)) == "ready"
    node.box.start_harpd()


@pytest.mark.slow
def test_without_a_name_the_program_ends_with_the_remedy(node: Node) -> None:
    with program(node) as child:
        out, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "name is not known" in err
    assert "NODE_NAME" in err
    assert out == ""


def test_all_processes_of_a_pod_are_within_its_part(node: Node) -> None:
    """Two pods fill a GPU. One's further contexts are its own: the other's part stays whole."""
    total = node.box.truth()["devices"][0]["capacity_bytes"]
    parts = {"a": 60, "b": 40}
    for name, size in parts.items():
        node.kubelet.admit("ns", name, Ask("main", size))
    given = node.kubelet.begin("ns", "a", "main")
    first = node.enter(given, 1)
    assert said(first) == "ready"
    limit = node.tenant_of("a")["mem_limit_bytes"]
    context = node.box.json("devices")["devices"][0]["context_bytes"]
    assert isinstance(limit, int)
    free_mib = limit // MIB - 1
    second = node.enter(given, 1)
    assert said(second) == "ready"
    free_mib -= context // MIB + 1
    third = node.enter(given, free_mib + 2 - context // MIB)
    assert said(third) == "cuMemAlloc 2"
    third = node.enter(given, free_mib - context // MIB - 2)
    assert said(third) == "ready"
    fourth = node.enter(given, 1)
    assert said(fourth) == "cuDevicePrimaryCtxRetain 2", "no room for one more context"
    held = node.tenant_of("a")
    assert isinstance(held["mem_charged_bytes"], int)
    assert 2 * context <= held["mem_charged_bytes"] <= limit
    assert held["mem_over_limit_bytes"] == 0
    child = node.begin("b", 1)
    assert said(child) == "ready"
    whole = node.tenant_of("b")["mem_limit_bytes"]
    assert isinstance(whole, int)
    child.kill()
    assert said(node.begin("b", whole // MIB)) == "ready"
    pids = {"a": {p.pid for p in (first, second, third)}}
    pids["b"] = {p.pid for p in node.containers} - pids["a"]
    living = [row for row in node.box.truth()["processes"] if row["state"] == "live"]
    for name, size in parts.items():
        rows = [row for row in living if row["pid"] in pids[name]]
        has = sum(row["mem_bytes"] + row["context_bytes"] for row in rows)
        assert len(rows) == (3 if name == "a" else 1)
        assert has <= total * size // 100, f"{name} has {has} of {total * size // 100}"
