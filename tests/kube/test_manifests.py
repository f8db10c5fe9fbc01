# SPDX-License-Identifier: Apache-2.0
"""What people apply without helm, and all that the chart renders: a real API server takes it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rig.binaries import ROOT
from rig.cluster import Cluster
from rig.machine import sh, wait_for

sys.path.append(str(ROOT / "tests" / "chart"))
from scenarios import SCENARIOS

DEPLOY = ROOT / "deploy"
NAMESPACE = "harp"  # that of static/harp.yaml
#: kinds of others' operators: this cluster has none of these
_OPERATORS = "monitoring.coreos.com/"

Object = dict[str, Any]


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    """There, for what is not written is in no namespace that is not."""
    cluster.kubectl("create", "namespace", NAMESPACE)
    yield NAMESPACE
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    path = f"/api/v1/namespaces/{NAMESPACE}"
    wait_for("the namespace is gone", lambda: cluster.client.find(path) is None)


def judged(cluster: Cluster, objects: list[Object]) -> list[str]:
    """What the API server would have made of them; nothing is written.

    Raises:
        RuntimeError: it takes one of them not.
    """
    whole = {"apiVersion": "v1", "kind": "List", "items": objects}
    apply = ["apply", "--dry-run=server", "--output=name", "--filename=-"]
    return cluster.kubectl(*apply, text=json.dumps(whole)).split()


def read(text: str) -> list[Object]:
    return [one for one in yaml.safe_load_all(text) if one]


def static() -> list[Object]:
    """What is applied without helm."""
    return read((DEPLOY / "static" / "harp.yaml").read_text())


def chart() -> list[Object]:
    """All that it renders for these values, each object once."""
    helm = sh(sys.executable, DEPLOY / "tools" / "kubetools", "helm").strip()
    template: list[str | Path] = [
        helm,
        "template",
        "harp",
        DEPLOY / "helm" / "harp",
        f"--namespace={NAMESPACE}",
    ]
    found: dict[str, Object] = {}
    for values in SCENARIOS.values():
        said = sh(*template, "--kube-version=1.20.2", "--values=-", input=json.dumps(values))
        for one in read(said):
            if not one["apiVersion"].startswith(_OPERATORS):
                found.setdefault(json.dumps(one, sort_keys=True), one)
    return list(found.values())


def test_the_static_manifest_is_taken_as_it_is(cluster: Cluster, namespace: str) -> None:
    objects = static()
    said = judged(cluster, objects)
    assert len(said) == len(objects) > 5
    assert "daemonset.apps/harp-node" in said
    there = cluster.kubectl("-n", namespace, "get", "daemonset", "--output=name")
    assert there == "", "a dry run has written something"


@pytest.mark.usefixtures("namespace")
def test_all_that_the_chart_renders_is_taken(cluster: Cluster) -> None:
    objects = chart()
    said = judged(cluster, objects)
    assert len(said) == len(objects)
    kinds = {one.partition("/")[0] for one in said}
    assert kinds >= {
        "clusterrole.rbac.authorization.k8s.io",
        "configmap",
        "daemonset.apps",
        "deployment.apps",
        "networkpolicy.networking.k8s.io",
        "service",
    }


@pytest.mark.usefixtures("namespace")
def test_the_api_server_judges(cluster: Cluster) -> None:
    """By more than a schema: a selector that does not find its own pods is of the right kind."""
    (node,) = (one for one in static() if one["kind"] == "DaemonSet")
    node["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] = "another"
    with pytest.raises(RuntimeError, match="does not match template"):
        judged(cluster, [node])
