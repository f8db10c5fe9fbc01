# SPDX-License-Identifier: Apache-2.0
"""deploy/examples/autoscale: what API servers take, and names that agree with each other."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser as promql
import pytest
import yaml
from test_monitoring import faults

EXAMPLE = Path(__file__).resolve().parents[2] / "deploy" / "examples" / "autoscale"
VERSIONS = ("1.28.0", "1.34.0", "1.37.0")
LABELS = 'namespace="a",pod=~"b|c"'


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((EXAMPLE / name).read_text())
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["serve.yaml", "hpa.yaml"])
def test_kubernetes_takes_it(name: str, version: str) -> None:
    kubernetes_validate.validate(read(name), version, strict=True)


def test_the_validation_sees_a_typo() -> None:
    wrong = copy.deepcopy(read("hpa.yaml"))
    wrong["spec"]["metrics"][0]["pods"]["target"]["averagevalue"] = "1"
    with pytest.raises(kubernetes_validate.ValidationError, match="averagevalue"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_both_scale_the_deployment_to_the_same() -> None:
    serve, hpa, keda = read("serve.yaml"), read("hpa.yaml")["spec"], read("keda.yaml")["spec"]
    name = serve["metadata"]["name"]
    target = hpa["scaleTargetRef"]
    assert (target["apiVersion"], target["kind"]) == (serve["apiVersion"], serve["kind"])
    assert target["name"] == keda["scaleTargetRef"]["name"] == name
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == (
        keda["minReplicaCount"],
        keda["maxReplicaCount"],
    )
    (metric,) = hpa["metrics"]
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "700m"}
    (trigger,) = keda["triggers"]
    assert (trigger["metricType"], trigger["metadata"]["threshold"]) == ("AverageValue", "0.7")
    assert f'pod=~"{name}-.*"' in trigger["metadata"]["query"]
    pods = serve["spec"]["template"]
    assert serve["spec"]["selector"]["matchLabels"].items() <= pods["metadata"]["labels"].items()
    (container,) = pods["spec"]["containers"]
    assert container["resources"]["limits"].keys() == {"harp.dev/gpu-share"}


def test_the_autoscaler_asks_for_what_the_adapter_serves() -> None:
    (rule,) = read("adapter.yaml")["rules"]
    (metric,) = read("hpa.yaml")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert set(rule["resources"]["overrides"]) == {"namespace", "pod"}


def test_words_of_keda_are_texts() -> None:
    """Its schema says so, and is not to be had here: a number is refused by the API server."""
    keda = read("keda.yaml")
    assert (keda["apiVersion"], keda["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    (trigger,) = keda["spec"]["triggers"]
    assert trigger["type"] == "prometheus"
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert {"serverAddress", "query", "threshold"} <= trigger["metadata"].keys()


def queries() -> dict[str, str]:
    (rule,) = read("adapter.yaml")["rules"]
    asked = rule["metricsQuery"].replace("<<.GroupBy>>", "namespace, pod")
    asked = asked.replace("<<.Series>>", rule["seriesQuery"].partition("{")[0])
    (trigger,) = read("keda.yaml")["spec"]["triggers"]
    return {
        "adapter": asked.replace("<<.LabelMatchers>>", LABELS),
        "series": rule["seriesQuery"],
        "keda": trigger["metadata"]["query"],
    }


@pytest.mark.parametrize("which", ["adapter", "series", "keda"])
def test_what_is_asked_of_prometheus_is_served(which: str) -> None:
    query = queries()[which]
    assert promql.parse(query)
    assert faults(query) == []
    assert faults(query.replace("harp_grant_compute", "harp_grand_compute")) != []
