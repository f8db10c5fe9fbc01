# SPDX-License-Identifier: Apache-2.0
"""deploy/examples/autoscale: a real Prometheus, fed by a real harpd, answers what it asks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from plugin_machine import Node, plugin_machine
from readme_steps import agrees, steps

from device_plugin.fake_kubelet import Ask
from tests.integration.machine import ROOT, wait_for
from tests.integration.test_prometheus import Prometheus, running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0, reason="tenants of containers are made by harpd of root for root"
    ),
]
EXAMPLE = ROOT / "deploy" / "examples" / "autoscale"
#: instead of the minute that Prometheus would need to fill
RANGE = "[15s]"


@pytest.fixture
def node(native_dir: Path) -> Iterator[Node]:
    with plugin_machine(native_dir, "--metrics", "0") as node:
        yield node


def adapter_query(pods: str) -> str:
    """As prometheus-adapter fills its template in for some pods."""
    (rule,) = yaml.safe_load((EXAMPLE / "adapter.yaml").read_text())["rules"]
    query: str = rule["metricsQuery"]
    for name, value in (
        ("Series", rule["seriesQuery"].partition("{")[0]),
        ("LabelMatchers", f'namespace="default",pod=~"{pods}"'),
        ("GroupBy", "namespace, pod"),
    ):
        query = query.replace(f"<<.{name}>>", value)
    assert "<<" not in query
    return query.replace("[1m]", RANGE)


def keda_query() -> str:
    (trigger,) = yaml.safe_load((EXAMPLE / "keda.yaml").read_text())["spec"]["triggers"]
    query: str = trigger["metadata"]["query"]
    return query.replace("[1m]", RANGE)


def by_pod(prom: Prometheus) -> dict[str, float]:
    return {
        one["metric"]["pod"]: float(one["value"][1])
        for one in prom.query(adapter_query("serve-a|serve-b"))
        if one["metric"]["namespace"] == "default"
    }


def test_both_queries_say_what_the_pods_use(
    node: Node, busy: Path, prometheus: Path, promtool: Path
) -> None:
    for name in ("serve-a", "serve-b"):
        node.kubelet.admit("default", name, Ask("main", 30))
    given = node.kubelet.begin("default", "serve-a", "main")
    node.kubelet.begin("default", "serve-b", "main")  # what it runs does nothing
    works = node.enter(given, 0, [str(busy), "deep", "300", "200"])
    assert works.stdout
    assert works.stdin
    assert works.stdout.readline().startswith("ready")
    works.stdin.write("\n")
    works.stdin.flush()
    (served,) = wait_for(lambda: node.box.events("metrics_served"), "harpd serves")
    with running(prometheus, node.box.base, served["port"]) as prom:
        found = wait_for(
            lambda: f if (f := by_pod(prom)).get("serve-a", 0) > 0.85 else None,
            "one pod uses its share",
            90,
        )
        print(found)
        assert found == {"serve-a": pytest.approx(1, abs=0.15), "serve-b": 0}
        (total,) = prom.query(keda_query())
        assert float(total["value"][1]) == pytest.approx(1, abs=0.15)  # of two shares
        # As KEDA asks with ignoreNullValues: of pods that are not there, no answer and no 0.
        assert prom.query(keda_query().replace("serve-", "other-")) == []
        for step in steps(EXAMPLE / "README.md"):
            typed = step.command.replace("[1m]", RANGE)
            typed = typed.replace("http://localhost:9090", prom.address)
            assert typed != step.command
            done = subprocess.run(
                ["sh", "-c", typed],
                env={**os.environ, "PATH": f"{promtool.parent}:{os.environ['PATH']}"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            said = sorted(done.stdout.splitlines())
            print(f"$ {typed}", *said, sep="\n")
            assert len(said) == len(step.expected), said
            for line, expected in zip(said, step.expected, strict=True):
                assert agrees(line, expected), f"{line!r}, expected {expected!r}"
