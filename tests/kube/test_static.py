# SPDX-License-Identifier: Apache-2.0
"""Static pods: kubelet starts them from a file, and the API server knows their mirrors."""

from __future__ import annotations

import json

from rig.harp import Harp
from rig.machine import wait_for
from rig.pods import Pod, Space, container


def test_a_static_pod_has_its_share_and_its_annotations(space: Space, harp: Harp) -> None:
    keep = ["sh", "-c", "gpu_job.py --steps 2 && sleep 600"]
    name = f"fixed-{space.mark}"
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": space.name,
            "annotations": {"harp.dev/memory": "1Gi"},
        },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [container("main", keep, 30)],
        },
    }
    mirror = Pod(harp, space.name, f"{name}-{harp.node.name}")
    file = harp.node.manifests / "fixed.json"
    file.write_text(json.dumps(manifest))
    try:
        wait_for("it has a mirror", lambda: harp.cluster.client.find(mirror.path))
        said = mirror.says("2 steps, 0 calls failed")
        assert "memory: 1024 MiB" in said
        tenant = harp.tenant(space.name, mirror.name, "main")
        assert tenant is not None
        assert (tenant["share_ratio"], tenant["mem_limit_bytes"]) == (0.3, 1 << 30)
    finally:
        file.unlink()
    wait_for("it is gone", lambda: harp.cluster.client.find(mirror.path) is None)
    whole = space.pod("whole", container("main", ["gpu_job.py", "--steps", "1"], 200))
    whole.until("Succeeded")
