# SPDX-License-Identifier: Apache-2.0
"""Device plugin and real harpd: pods of one maker are known by those before them."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest
from plugin_machine import MIB, Node, plugin_machine, said

from device_plugin.fake_kubelet import Ask
from device_plugin.identity import Container, Pod
from tests.integration.machine import wait_for

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="tenants of containers are made by harpd of root for root"
)
MAIN = (Container("main", image="registry/train:1", command=("train", "--epochs=3")),)
NEED_MIB = 40


def kept(node: Node, runs: int) -> bool:
    """Whether so many runs have been written."""
    return len(node.box.json("estimate", "history")["runs"]) == runs


def test_after_three_pods_of_a_cron_job_the_next_gets_what_it_needs(native_dir: Path) -> None:
    with plugin_machine(native_dir) as node:
        assert node.plugin is not None
        assert node.tenants is not None
        for number in range(4):
            name = f"train-2841234{number}-abcde"
            annotations = {"harp.dev/estimate": "auto"}
            pod = Pod("ns", name, f"u{number}", "n1", MAIN, pending=True, annotations=annotations,
                      maker="ns/CronJob/train")  # fmt: skip
            node.api.pods = [pod]
            node.kubelet.admit("ns", name, Ask("main", 90))
            child = node.begin(name, NEED_MIB)
            assert said(child) == "ready"
            limit = int(str(node.tenant_of(name)["mem_limit_bytes"]))
            if number == 3:
                break
            assert limit > 800 * MIB  # nobody knows yet: its share
            assert node.api.events == []
            child.communicate()
            (grant,) = (g for g in node.plugin.starts.living() if g.owner and g.owner.pod == name)
            node.tenants.remove(grant)
            node.kubelet.remove("ns", name)
            wait_for(functools.partial(kept, node, number + 1), "its run is kept")
        assert NEED_MIB * MIB <= limit < 400 * MIB
        ((_, reason, text),) = node.api.events
        assert reason == "HarpEstimate"
        assert "container main has" in text
        # How much time it wants nobody saw in so short a run: no smaller share is spoken of.
        assert "harp.dev/gpu-share" not in text
        runs = node.box.json("estimate", "history")["runs"]
        assert {run["job"]["owner"] for run in runs} == {"ns/CronJob/train"}
        assert {run["job"]["image"] for run in runs} == {"registry/train:1"}
        assert {run["outcome"] for run in runs} == {"done"}
        # What it would have had is what it asks for, and not what it was given.
        assert {run["job"]["asked_mem_bytes"] > 800 * MIB for run in runs} == {True}
        assert "train" not in "".join(str(run["job"]["program"]) for run in runs)
