# SPDX-License-Identifier: Apache-2.0
"""What a pod's processes can do, whoever they run as and whatever their environment says.

Each runs in a mount namespace with just what Allocate said, beside the real harpd and arbiter.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugin_machine import MIB, Node, boxes, plugin_machine, said

from device_plugin.fake_kubelet import Ask
from device_plugin.proto import deviceplugin_pb2 as pb
from tests.integration.machine import wait_for

pytestmark = pytest.mark.skipif(not boxes(), reason="needs root and mount namespaces")
NOBODY = 65534


@pytest.fixture
def node(native_dir: Path) -> Iterator[Node]:
    with plugin_machine(native_dir) as node:
        yield node


def admitted(node: Node, name: str, size: int) -> tuple[pb.ContainerAllocateResponse, int]:
    """What its container is given, and its memory limit in MiB."""
    node.kubelet.admit("ns", name, Ask("main", size))
    given = node.kubelet.begin("ns", name, "main")
    limit = node.tenant_of(name)["mem_limit_bytes"]
    assert isinstance(limit, int)
    return given, limit // MIB


def test_a_container_of_any_user_has_its_part_and_no_more(node: Node) -> None:
    given, limit = admitted(node, "a", 40)
    for uid in (0, 1000, NOBODY):
        child = node.boxed(given, limit // 2, uid=uid)
        assert said(child) == "ready", child.communicate()
        clients = node.tenant_of("a")["clients"]
        assert isinstance(clients, list)
        assert [client["pid"] for client in clients] == [child.pid]
        child.kill()
        child.wait()
        wait_for(lambda: not node.tenant_of("a")["clients"], "it is gone")
        assert said(node.boxed(given, limit + 2, uid=uid)) == "cuMemAlloc 2"


@pytest.mark.slow
@pytest.mark.parametrize("uid", [0, NOBODY])
def test_no_environment_gives_a_container_more(node: Node, uid: int) -> None:
    given, limit = admitted(node, "a", 30)
    other, _ = admitted(node, "b", 60)
    (theirs,) = (m.host_path for m in other.mounts if m.container_path == "/opt/harp/grant")
    edits: list[dict[str, str]] = [
        {},
        {"HARP_GRANT": ""},
        {"HARP_GRANT": "/nowhere"},
        {"HARP_GRANT": theirs},
        {"HARP_GATE": "off", "HARP_SOFT_DIR": "/tmp/none-of-harp"},
        {"HARP_REMOTE": "/nowhere"},
        {"HARP_CUDA_REAL": "/nowhere", "HARP_NVML_REAL": "/nowhere"},
        {"LD_PRELOAD": "", "HARP_SOFT_DEVICES": "h100-80g"},
    ]
    for env in edits:
        child = node.boxed(given, limit - 8, uid=uid, env=env)
        assert said(child) == "ready", (env, child.communicate())
        leased = node.tenant_of("a")["mem_leased_bytes"]
        assert isinstance(leased, int)
        assert leased >= (limit - 8) * MIB, env
        child.kill()
        child.wait()
        wait_for(lambda: not node.tenant_of("a")["clients"], "it is gone")
        assert said(node.boxed(given, limit + 2, uid=uid, env=env)) == "cuMemAlloc 2", env
    assert not Path("/tmp/none-of-harp").exists()
    assert not node.tenant_of("b")["mem_leased_bytes"]


@pytest.mark.slow
def test_a_folder_that_others_could_have_made_is_no_grant(node: Node) -> None:
    """On a plain host nobody but root may put a trap there for others' programs."""
    given, limit = admitted(node, "a", 30)
    traps = (
        "chown 1000:1000 /opt/harp/grant",
        "chmod 777 /opt/harp/grant",
        "mv /opt/harp/grant /opt/harp/g && ln -s g /opt/harp/grant",
    )
    for trap in traps:
        # The driver alone is there: what is above the limit is had, so no grant was taken.
        setup = f"umount /opt/harp/grant && {trap}"
        child = node.boxed(given, limit + 2, uid=NOBODY, env={}, setup=setup)
        assert said(child) != "cuMemAlloc 2", trap
        child.kill()
        child.wait()
    # One that root made, with nobody in it, is one: there is no GPU without its arbiter.
    bare = node.boxed(given, 1, uid=NOBODY, env={}, setup="umount /opt/harp/grant")
    assert said(bare) != "ready"


@pytest.mark.slow
def test_a_tenant_without_a_process_outlives_plugin_harpd_and_arbiter(node: Node) -> None:
    given, limit = admitted(node, "a", 40)
    before = node.tenant_of("a")
    node.stop_plugin()
    os.kill(node.box.harpd_pid(), signal.SIGKILL)
    node.box.start_harpd()

    def stays() -> dict[str, object]:
        (tenant,) = node.box.json("ps")["tenants"]
        assert isinstance(tenant, dict)
        assert (tenant["name"], tenant["held"]) == ("ns/a/main", True)
        assert tenant["labels"] == {"container": "main", "namespace": "ns", "pod": "a"}
        return tenant

    assert stays()["tenant_id"] == before["tenant_id"]
    os.kill(node.box.json("daemon", "--status")["arbiter_pid"], signal.SIGKILL)
    wait_for(lambda: "arbiter_found" in str(node.box.log()[-20:]), "another arbiter")
    stays()
    child = node.boxed(given, limit // 2, uid=NOBODY)
    assert said(child) == "ready", child.communicate()
    child.kill()
    node.start_plugin()
    assert node.plugin is not None
    node.plugin.starts.sweep()
    node.plugin.orphans.sweep()
    stays()
    node.kubelet.remove("ns", "a")


@pytest.mark.slow
def test_commands_take_a_containers_name(node: Node) -> None:
    given, _ = admitted(node, "a", 40)
    child = node.boxed(given, 8)
    assert said(child) == "ready", child.communicate()
    assert "ns/a/main" in node.box.harp("ps").stdout
    node.box.json("set", "ns/a/main", "--mem", "64MiB")
    assert node.tenant_of("a")["mem_limit_bytes"] == 64 * MIB
    assert node.box.harp("suspend", "ns/a/main").returncode == 0
    assert node.tenant_of("a")["suspended"]
    assert node.box.harp("resume", "ns/a/main").returncode == 0
    assert not node.tenant_of("a")["suspended"]


@pytest.mark.slow
def test_who_opens_the_driver_by_its_path_is_seen_as_the_containers(node: Node) -> None:
    """Interception is cooperative; what gets past it is known by the grant it has mounted."""
    given, limit = admitted(node, "a", 30)
    admitted(node, "b", 30)
    past = "sed -i 's,libcuda.so.1,/opt/harp/driver/libcuda.so.1,' /opt/program.py"
    child = node.boxed(given, limit + 2, uid=NOBODY, env={}, setup=past)
    assert said(child) == "ready", child.communicate()
    (seen,) = wait_for(lambda: node.box.json("ps")["uncovered"], "the watchdog sees it")
    assert (seen["pid"], seen["tenant"], seen["evidence"]) == (child.pid, "ns/a/main", "mount")
