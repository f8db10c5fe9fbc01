# SPDX-License-Identifier: Apache-2.0
"""HARP goes, and leaves nothing: no process, no object, no file, no slot to be asked for."""

from __future__ import annotations

from pathlib import Path

from rig import cgroups
from rig.chart import NAMESPACE
from rig.harp import RESOURCE, Harp
from rig.machine import wait_for
from rig.pods import Space, container


def programs() -> set[str]:
    """HARP's among the processes of the rig, pods' included."""
    found = set()
    for pid in cgroups.members():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if "harp-kube" in command:  # kubelet, containerd and their paths
            continue
        found |= {w for w in ("harp", "device_plugin") if w in command}
    return found


#: what a chart may make that is left when it has gone
_KINDS = (
    "all,configmap,secret,serviceaccount,role,rolebinding,networkpolicy,lease,"
    "clusterrole,clusterrolebinding,priorityclass,runtimeclass,mutatingwebhookconfiguration,"
    "validatingwebhookconfiguration,customresourcedefinition"
)


def files(harp: Harp) -> list[Path]:
    """HARP's on the node."""
    wanted = {"/run/harp": "*", "/var/lib/harp": "*", "/var/lib/kubelet/device-plugins": "harp*"}
    return [one for at, names in wanted.items() for one in harp.node.path(at).glob(names)]


def leases(harp: Harp) -> list[str]:
    """Of elections in HARP's namespace that somebody has won."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
    found = harp.cluster.client.get(path)["items"]
    return [one["metadata"]["name"] for one in found if one.get("spec", {}).get("holderIdentity")]


def test_uninstalling_leaves_nothing(space: Space, harp: Harp) -> None:
    harp.chart.install({"extender": {"enabled": True, "replicas": 1}})
    wait_for("its scheduler leads", lambda: leases(harp) == ["harp-scheduler"], limit_s=120)
    pod = space.pod("a", container("main", ["gpu_job.py", "--steps", "2"], 30))
    pod.until("Succeeded")
    pod.end()
    assert programs() == {"harp", "device_plugin"}
    assert {path.name for path in files(harp)} >= {"grants", "shim", "harp-gpu-share.sock"}
    try:
        print(harp.uninstall())
        wait_for("no slot is offered", lambda: harp.allocatable() == 0)
        wait_for("no process of HARP's is left", lambda: not programs())
        client = harp.cluster.client
        assert files(harp) == []
        assert harp.chart.helm("list", "--short") == ""
        ours = ["--all-namespaces", "--selector=app.kubernetes.io/name=harp", "--output=name"]
        wait_for("no object is left", lambda: not harp.cluster.kubectl("get", _KINDS, *ours))
        left = harp.cluster.kubectl("-n", NAMESPACE, "get", "lease", "--output=name")
        assert left == "", "who led has made it, and nothing of helm's"
        node = client.get(f"/api/v1/nodes/{harp.node.name}")
        for marks in ("labels", "annotations"):
            assert not [key for key in node["metadata"].get(marks, {}) if "harp.dev" in key]
        late = space.pod("b", container("main", ["gpu_job.py"], 30))
        wait_for("it has nowhere to go", lambda: f"Insufficient {RESOURCE}" in late.why())
    finally:
        harp.install()
    late.until("Failed", "Succeeded", "Running")
    after = space.pod("c", container("main", ["gpu_job.py", "--steps", "1"], 30))
    after.until("Succeeded")
