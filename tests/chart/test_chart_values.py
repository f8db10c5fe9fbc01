# SPDX-License-Identifier: Apache-2.0
"""Values that are refused, each with what to do; and that every value has an effect."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from conftest import CHART, Ask, Helm
from scenarios import SCENARIOS

SERVE = {"enabled": True, "secretName": "a"}
PODS = {"enabled": True, "secretName": "b", "pool": ["h:7443"]}

#: values that do not go together, and a part of what is said
APART: list[tuple[str, dict[str, Any], str]] = [
    ("software and real", {"softwareGpu": {"enabled": True}, "nvidia": {"runtimeClassName": "n"}},
     "unset one of the two"),
    ("privileged with a runtime",
     {"nvidia": {"privileged": True, "driverDir": "/a/b", "runtimeClassName": "n"}},
     "unset nvidia.privileged"),
    ("privileged without libraries", {"nvidia": {"privileged": True}}, "set nvidia.driverDir"),
    ("a path that climbs", {"hostPaths": {"run": "/run/harp/../x"}}, "write it plainly"),
    ("folders in each other", {"hostPaths": {"state": "/run/harp/state"}}, "side by side"),
    ("folders in each other, turned", {"hostPaths": {"run": "/var/lib/harp/run"}}, "side by side"),
    ("kubelet's folder", {"hostPaths": {"state": "/var/lib/kubelet/harp"}}, "side by side"),
    (
        "metrics where calls come",
        {"remote": {"serve": {"enabled": True, "secretName": "s", "metricsPort": 7444}}},
        "another port",
    ),
    ("one port twice", {"daemon": {"metricsPort": 9403}}, "two ports"),
    ("one port twice in the extender", {"gpusPerNode": 2, "extender": {"port": 9404}}, "two ports"),
    ("plain HTTP over the network",
     {"gpusPerNode": 2, "extender": {"mode": "service", "replicas": 1}},
     "harp-extender.gpu.svc, or extender.mode to scheduler"),
    ("a certificate nobody sees", {"gpusPerNode": 2, "extender": {"tls": {"secretName": "x"}}},
     "unset extender.tls.secretName"),
    ("replicas that are never ready",
     {"gpusPerNode": 2, "extender": {"mode": "service", "tls": {"secretName": "x"}}},
     "set extender.replicas to 1"),
    ("the cluster's scheduler",
     {"gpusPerNode": 2, "extender": {"schedulerName": "default-scheduler"}},
     "another name"),
    ("slots that the extender does not know", {"gpusPerNode": 2, "slotsPerGPU": 400},
     "label the nodes so"),
    ("a pool without a certificate", {"remote": {"serve": {"enabled": True}}},
     "harp remote init --node harp-pool.gpu.svc"),
    ("borrowers without one", {"remote": {"pods": {"enabled": True, "pool": ["h:7443"]}}},
     "harp remote init --client NAME"),
    ("no pool", {"remote": {"pods": {"enabled": True, "secretName": "b"}}}, "set remote.pods.pool"),
    ("one certificate for both",
     {"remote": {"serve": SERVE, "pods": {**PODS, "secretName": "a"}}}, "a Secret each"),
    ("the compiler's user in a lease's place",
     {"softwareGpu": {"enabled": True, "compiler": {"uid": 20005}},
      "remote": {"serve": {**SERVE, "workerUids": "20000-20005"}}},
     "a uid outside of it"),
    ("nodes of both kinds",
     {"remote": {"pods": {**PODS, "nodeSelector": {"harp.dev/enabled": "true",
                                                   "harp.dev/remote": None}}}},
     "two labels"),
    ("all nodes", {"nodeSelector": {"harp.dev/enabled": None}}, "a label that you set on nodes"),
    ("policies that are not there", {"admissionPolicy": {"enabled": True}}, "remedy: auto"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "remedy"), [row[1:] for row in APART], ids=[r[0] for r in APART]
)
def test_what_does_not_go_together_is_refused_with_a_remedy(
    ask: Ask, values: dict[str, Any], remedy: str
) -> None:
    done = ask(values, "1.29.0")
    assert done.returncode != 0
    assert remedy in done.stderr
    assert "remedy: " in done.stderr
    assert done.stdout == ""


def test_every_refusal_of_the_chart_is_in_the_table(ask: Ask) -> None:
    text = (CHART / "templates" / "validation.yaml").read_text()
    refusals = re.findall(r"\bfail .*?remedy: ([^\"%]{4,})", text)
    assert len(refusals) == text.count("{{- fail")
    said = [ask(values, "1.29.0").stderr for _, values, _ in APART]
    lacking = [r for r in refusals if not any(r.strip(" \\") in line for line in said)]
    assert not lacking


#: what a schema refuses, and the name that is in the answer
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"softwareGPU": {"enabled": True}}, "softwareGPU"),
    ({"daemon": {"watchProceses": True}}, "watchProceses"),
    ({"daemon": {"settings": {"policy": "kill"}}}, "settings"),
    ({"daemon": {"metricsPort": 0}}, "metricsPort"),
    ({"plugin": {"healthyAfterSeconds": 0}}, "healthyAfterSeconds"),
    ({"slotsPerGPU": 150}, "slotsPerGPU"),
    ({"gpusPerNode": 0}, "gpusPerNode"),
    ({"gpusPerNode": "8"}, "gpusPerNode"),
    ({"updateStrategy": {"type": "Recreate"}}, "type"),
    ({"updateStrategy": {"maxUnavailable": "0%"}}, "maxUnavailable"),
    ({"hostPaths": {"run": "/run"}}, "run"),
    ({"hostPaths": {"run": "run/harp"}}, "run"),
    ({"hostPaths": {"state": "/var/lib/ha rp"}}, "state"),
    ({"hostPaths": {"run": "/run/" + "x" * 60}}, "run"),
    ({"nvidia": {"driverDir": "/usr"}}, "driverDir"),
    ({"softwareGpu": {"devices": "h200"}}, "devices"),
    ({"estimator": {"mode": "force"}}, "mode"),
    ({"estimator": {"namespaces": {"a": "yes"}}}, "namespaces"),
    ({"estimator": {"namespaces": {"a,b=enforce,c": "observe"}}}, "a,b=enforce,c"),
    ({"extender": {"enabled": "yes"}}, "enabled"),
    ({"extender": {"policy": "best"}}, "policy"),
    ({"extender": {"mode": "nodePort"}}, "mode"),
    ({"extender": {"replicas": 0}}, "replicas"),
    ({"remote": {"serve": {"port": 65535}}}, "port"),
    ({"remote": {"serve": {"workerUids": "all"}}}, "workerUids"),
    ({"remote": {"pods": {"pool": ["host"]}}}, "pool"),
    ({"remote": {"pods": {"slots": 0}}}, "slots"),
    ({"remote": {"pods": {"tlsName": "harp-pool.gpu.svc:7443"}}}, "tlsName"),
    ({"remote": {"pods": {"healthPort": 0}}}, "healthPort"),
    ({"softwareGpu": {"compiler": {"uid": 0}}}, "uid"),
    ({"monitoring": {"podMonitor": {"interval": "15"}}}, "interval"),
    ({"networkPolicy": {"apiServer": {"cidrs": []}}}, "cidrs"),
    ({"image": {"pullPolicy": "always"}}, "pullPolicy"),
    ({"image": {"daemon": ""}}, "daemon"),
    ({"plugin": {"resources": {"limit": {}}}}, "limit"),
    ({"plugin": {"resources": {"limits": {"memory": "1 GB"}}}}, "memory"),
    ({"tolerations": [{"key": "a", "effect": "No"}]}, "effect"),
    ({"nodeSelector": {"a b": "c"}}, "nodeSelector"),
]


@pytest.mark.parametrize(("values", "name"), WRONG, ids=[json.dumps(row[0])[:60] for row in WRONG])
def test_a_value_that_is_none_is_refused_by_name(
    ask: Ask, values: dict[str, Any], name: str
) -> None:
    done = ask(values)
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr
    assert name in done.stderr


def _leaves(tree: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _leaves(value, (*path, key))
    else:
        yield path


def _objects(schema: object, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        if schema.get("type") == "object" and "properties" in schema:
            yield path, schema
        for key, value in schema.items():
            yield from _objects(value, f"{path}/{key}")
    elif isinstance(schema, list):
        for value in schema:
            yield from _objects(value, path)


def test_the_schema_has_exactly_the_values_and_lets_no_other_in() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    for path, found in _objects(schema):
        assert found.get("additionalProperties") is False, path
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(there: dict[str, Any], wanted: dict[str, Any], path: str) -> None:
        names = set(wanted["properties"]) - {"global"}
        assert set(there) == names, path
        for name, value in there.items():
            if "properties" in wanted["properties"][name]:
                compare(value, wanted["properties"][name], f"{path}.{name}")

    compare(values, schema, "values")


#: another value for each, where another of its kind would be refused or would do nothing alone
OTHER: dict[str, Any] = {
    "image.pullPolicy": "Always",
    "imagePullSecrets": [{"name": "x"}],
    "slotsPerGPU": 200,
    "softwareGpu.devices": "tiny",
    "affinity": {"nodeAffinity": {}},
    "tolerations": [{"operator": "Exists"}],
    "updateStrategy.type": "OnDelete",
    "podLabels": {"x": "y"},
    "podAnnotations": {"x": "y"},
    "hostPaths.kubelet": "/data/kubelet",
    "nvidia.driverDir": "/usr/lib/x",
    "daemon.settings": {"watchdog.policy": "stop"},
    "plugin.libraryDirs": ["/usr/lib"],
    "estimator.mode": "recommend",
    "estimator.namespaces": {"training": "enforce"},
    "extender.enabled": False,
    "extender.policy": "fgd",
    "extender.nodeSelector": {"x": "y"},
    "extender.tolerations": [{"operator": "Exists"}],
    "remote.serve.admins": ["x"],
    "remote.serve.workerUids": "none",
    "remote.serve.from": [{"podSelector": {}}],
    "remote.pods.pool": ["h:7443"],
    "remote.pods.tolerations": [{"operator": "Exists"}],
    "networkPolicy.apiServer.cidrs": ["10.0.0.0/8"],
    "networkPolicy.apiServer.ports": [6443],
    "networkPolicy.metricsFrom": [],
    "admissionPolicy.enabled": False,
    "monitoring.podMonitor.interval": "30s",
}
#: what a value is nothing without
WITH: dict[str, dict[str, Any]] = {
    "extender": {"gpusPerNode": 2},
    "image.scheduler": {"gpusPerNode": 2},
    "extender.tls": {"gpusPerNode": 2, "extender": {"mode": "service", "replicas": 1,
                                                     "tls": {"secretName": "y"}}},
    "extender.mode": {"gpusPerNode": 2, "extender": {"replicas": 1, "tls": {"secretName": "y"}}},
    "softwareGpu": {"softwareGpu": {"enabled": True}},
    "image.compiler": {"softwareGpu": {"enabled": True}},
    "nvidia.privileged": {"nvidia": {"driverDir": "/a/b"}},
    "remote": {"remote": {"serve": SERVE, "pods": {"enabled": True, "secretName": "b"}}},
    "remote.serve.enabled": {"remote": {"serve": {"secretName": "a"}, "pods": PODS}},
    "monitoring.podMonitor": {"monitoring": {"podMonitor": {"enabled": True}}},
    "monitoring.rules": {"monitoring": {"rules": {"enabled": True}}},
    "monitoring.dashboard": {"monitoring": {"dashboard": {"enabled": True}}},
}  # fmt: skip
_VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


@pytest.mark.parametrize("path", [".".join(p) for p in _leaves(_VALUES)])
def test_every_value_changes_what_is_installed(ask: Ask, path: str) -> None:
    near = max(
        (key for key in WITH if path == key or path.startswith(key + ".")), key=len, default=""
    )
    base = copy.deepcopy(WITH.get(near, {}))
    if path == "extender.mode":
        base["extender"].pop("tls")
    changed = copy.deepcopy(base)
    if path == "extender.mode":
        changed["extender"]["tls"] = {"secretName": "y"}
    at, now = changed, _VALUES
    *folders, name = path.split(".") if not _dotted(path) else _dotted(path)
    for folder in folders:
        at = at.setdefault(folder, {})
        now = now[folder]
    at[name] = _another(path, at.get(name, now[name]))
    texts = []
    for values in (base, changed):
        done = ask(
            values,
            "1.34.0",
            "--api-versions=admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy",
        )
        assert done.returncode == 0, done.stderr
        # A sum over all of the extender's values is no effect of any.
        texts.append(re.sub(r"(?m)^ *checksum/.*$", "", done.stdout))
    assert texts[0] != texts[1]


@pytest.mark.parametrize(
    ("pods", "named"),
    [
        ({}, "harp-pool.gpu.svc"),
        ({"tlsName": "gpus.example.org"}, "gpus.example.org"),
        ({"pool": ["h:7443"]}, ""),
        ({"pool": ["h:7443"], "tlsName": "gpus.example.org"}, "gpus.example.org"),
    ],
)
def test_a_keeper_expects_the_name_that_the_pools_certificates_are_for(
    ask: Ask, pods: dict[str, Any], named: str
) -> None:
    values = {"remote": {"serve": SERVE, "pods": {"enabled": True, "secretName": "b", **pods}}}
    found = re.findall(r"- --tls-name=(.*)", ask(values).stdout)
    assert found == [named] * bool(named)


def test_plugin_and_policies_cut_gpus_into_as_many_slots(ask: Ask) -> None:
    policies = "--api-versions=admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"
    done = ask({"slotsPerGPU": 400}, "1.34.0", policies)
    assert done.returncode == 0, done.stderr
    assert "- --slots-per-gpu=400\n" in done.stdout
    assert "n <= 400 || n % 400 == 0" in done.stdout


def _dotted(path: str) -> list[str]:
    """Labels have dots and slashes of their own."""
    head, found, tail = path.partition("harp.dev/")
    return [*head.rstrip(".").split("."), found + tail] if found else []


def _another(path: str, value: object) -> object:
    if path in OTHER:
        return OTHER[path]
    if path == "extender.mode":
        return "service"
    match value:
        case bool():
            return not value
        case int():
            return value + 3
        case str() if value.startswith("/"):
            return f"{value}2"
        case str() if re.fullmatch(r"[0-9]+[a-zA-Z]+", value):
            return f"1{value}"
        case str():
            return f"{value}x" if value else "x"
        case dict():
            return {"x": "y"}
    raise AssertionError(f"{path}: say another value than {value!r} in OTHER")


def test_whole_references_of_images_stay_as_they_are(ask: Ask) -> None:
    values = {
        "image": {"registry": "r.example.org:5000/a", "daemon": "b/d@sha256:12", "plugin": "p"}
    }
    text = ask(values).stdout
    assert "image: b/d@sha256:12\n" in text
    assert "image: r.example.org:5000/a/p:0.1.0\n" in text


@pytest.mark.parametrize("name", SCENARIOS)
def test_notes_name_what_there_is(helm: Helm, name: str) -> None:
    done = helm(
        "install", "harp", CHART, "--namespace=gpu", "--dry-run=client", "--values=-",
        stdin=json.dumps(SCENARIOS[name]),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:\n")[2]
    assert "<no value>" not in done.stdout
    assert "%!" not in done.stdout
    assert ("schedulerName: harp-scheduler" in notes) == (
        name in ("software", "many GPUs", "monitoring")
    )
    assert ("helm -n gpu uninstall harp" in notes) == (name == "cleanup")
    assert ("The extender is off" in notes) == (name == "extender off")


def test_modes_of_namespaces_are_told_to_both_who_act_on_them(ask: Ask) -> None:
    modes = {"mode": "recommend", "namespaces": {"training": "enforce", "dev": "observe"}}
    done = ask({"estimator": modes})
    assert done.returncode == 0, done.stderr
    said = re.findall(r"- (--(?:set=)?estimate\S+)", done.stdout)
    assert said == [
        "--set=estimate.mode=recommend",
        "--set=estimate.modes=dev=observe,training=enforce",
        "--estimate-mode=recommend",
        "--estimate-namespaces=dev=observe,training=enforce",
    ]
