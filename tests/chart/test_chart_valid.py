# SPDX-License-Identifier: Apache-2.0
"""What the chart renders is what API servers of several versions take."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml
from conftest import CHART, ROOT, Ask, Helm, Template, containers, of_kind, one, pods
from kubernetes_validate import utils
from scenarios import SCENARIOS

from harp.extender.app import LEASE

VERSIONS = ("1.28.0", "1.34.0", "1.37.0")
#: what is there in 1.20, the oldest that the chart promises; tests/kube installs it on that one
OLD = {
    "v1",
    "apps/v1",
    "rbac.authorization.k8s.io/v1",
    "networking.k8s.io/v1",
    "coordination.k8s.io/v1",
    "monitoring.coreos.com/v1",
}
POLICIES = "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"


@pytest.fixture(autouse=True, scope="module")
def _schemas_are_read_once() -> Iterator[None]:
    before = utils.schema_contents
    utils.schema_contents = functools.cache(before)
    yield
    utils.schema_contents = before


def test_it_is_linted_strictly(helm: Helm) -> None:
    for name, values in SCENARIOS.items():
        done = helm("lint", "--strict", CHART, "--values=-", stdin=json.dumps(values))
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_of_its_strict_schema(template: Template, version: str) -> None:
    seen = set()
    for name, values in SCENARIOS.items():
        options = [f"--api-versions={POLICIES}"] if version >= "1.30" else []
        objects = template(values, version, *options)
        assert len(objects) >= 3, name
        for found in objects:
            text = json.dumps(found, sort_keys=True)
            if text in seen or found["apiVersion"] == "monitoring.coreos.com/v1":
                continue
            seen.add(text)
            kubernetes_validate.validate(found, version, strict=True)
    kinds = {json.loads(text)["kind"] for text in seen}
    assert ("ValidatingAdmissionPolicy" in kinds) == (version >= "1.30"), kinds
    assert kinds >= {"DaemonSet", "Deployment", "Service", "NetworkPolicy", "ClusterRole", "Role"}


def test_the_validation_sees_a_typo(template: Template) -> None:
    wrong = one(template({}), "DaemonSet")
    wrong["spec"]["template"]["spec"]["hostPid"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="hostPid"):
        kubernetes_validate.validate(wrong, "1.37.0", strict=True)


@pytest.mark.parametrize("name", SCENARIOS)
def test_1_20_has_all_of_it(template: Template, name: str) -> None:
    assert {o["apiVersion"] for o in template(SCENARIOS[name], "1.20.2")} <= OLD


def test_a_cluster_that_is_too_old_is_refused(ask: Ask) -> None:
    done = ask({}, "1.19.3")
    assert done.returncode != 0
    assert "1.20" in done.stderr


@pytest.mark.parametrize(
    ("version", "api"),
    [("1.20.2", "v1beta1"), ("1.22.0", "v1beta1"), ("1.24.3", "v1beta3"), ("1.37.0", "v1")],
)
def test_kube_scheduler_gets_the_configuration_it_reads(
    template: Template, version: str, api: str
) -> None:
    objects = template({"gpusPerNode": 2}, version)
    text = one(objects, "ConfigMap", "-extender")["data"]["scheduler.yaml"]
    config = yaml.safe_load(text)
    assert config["apiVersion"] == f"kubescheduler.config.k8s.io/{api}"
    (extender,) = config["extenders"]
    assert extender["managedResources"] == [
        {"name": "harp.dev/gpu-share", "ignoredByScheduler": False}
    ]
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    serve, scheduler = pod["containers"]
    bind = next(a for a in serve["args"] if a.startswith("--bind="))
    assert extender["urlPrefix"] == f"http://{bind.removeprefix('--bind=')}"
    assert scheduler["image"] == f"registry.k8s.io/kube-scheduler:v{version}"


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_is_mounted_is_a_volume_and_what_is_a_volume_is_mounted(
    template: Template, name: str
) -> None:
    for owner, pod in pods(template(SCENARIOS[name])):
        there = [volume["name"] for volume in pod.get("volumes", ())]
        mounted = {m["name"] for c in containers(pod) for m in c.get("volumeMounts", ())}
        assert len(there) == len(set(there)), owner
        assert set(there) == mounted, owner


@pytest.mark.parametrize("name", SCENARIOS)
def test_selectors_find_their_own_pods_and_nobody_elses(template: Template, name: str) -> None:
    objects = template(SCENARIOS[name])
    labels = {}
    for kind in ("DaemonSet", "Deployment"):
        for found in of_kind(objects, kind):
            key = (kind, found["metadata"]["name"])
            labels[key] = found["spec"]["template"]["metadata"]["labels"]
            matched = found["spec"]["selector"]["matchLabels"]
            assert matched.items() <= labels[key].items(), key
    for kind in ("DaemonSet", "Deployment"):
        for found in of_kind(objects, kind):
            selector = found["spec"]["selector"]["matchLabels"].items()
            owners = [key for key, has in labels.items() if selector <= has.items()]
            assert owners == [(kind, found["metadata"]["name"])]
    for kind, where in (("Service", "selector"), ("NetworkPolicy", "podSelector")):
        for found in of_kind(objects, kind):
            selector = found["spec"][where]
            selector = selector.get("matchLabels", selector).items()
            owners = [key[1] for key, has in labels.items() if selector <= has.items()]
            assert owners == [found["metadata"]["name"]], found["metadata"]["name"]


@pytest.mark.parametrize("name", SCENARIOS)
def test_accounts_and_roles_that_are_named_are_there(template: Template, name: str) -> None:
    objects = template(SCENARIOS[name])
    accounts = {o["metadata"]["name"] for o in of_kind(objects, "ServiceAccount")}
    roles = {
        (o["kind"], o["metadata"]["name"]) for o in objects if o["kind"] in ("Role", "ClusterRole")
    }
    used = {pod["serviceAccountName"] for _, pod in pods(objects) if "serviceAccountName" in pod}
    assert used == accounts
    bound = set()
    for found in objects:
        if not found["kind"].endswith("RoleBinding"):
            continue
        role = found["roleRef"]["kind"], found["roleRef"]["name"]
        assert role in roles or role[1].startswith("system:"), role
        bound.add(role)
        for subject in found["subjects"]:
            assert subject["name"] in accounts
            assert subject["namespace"] == "gpu"
    assert roles <= bound


def test_names_are_apart_for_two_releases(ask: Ask) -> None:
    def names(release: str) -> set[tuple[str, str]]:
        done = ask({"gpusPerNode": 2}, release=release)
        assert done.returncode == 0, done.stderr
        found = {(o["kind"], o["metadata"]["name"]) for o in yaml.safe_load_all(done.stdout) if o}
        # Called after the scheduler, and left out where another release's is there.
        return found - {("Lease", "harp-scheduler")}

    assert not names("harp") & names("other")


def test_the_operator_and_grafana_get_what_they_know(template: Template) -> None:
    objects = template(SCENARIOS["monitoring"])
    monitor: dict[str, Any] = one(objects, "PodMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    ports = {
        port["name"] for _, pod in pods(objects) for c in containers(pod) for port in c["ports"]
    }
    for endpoint in monitor["spec"]["podMetricsEndpoints"]:
        assert endpoint["honorLabels"] is True
        assert endpoint["port"] in ports
    rules = one(objects, "PrometheusRule")["spec"]
    assert rules == yaml.safe_load((ROOT / "deploy/monitoring/rules.yaml").read_text())
    board = one(objects, "ConfigMap", "-dashboard")
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert board["data"]["harp.json"] == (ROOT / "deploy/monitoring/dashboard.json").read_text()


@pytest.mark.usefixtures("helm")
def test_what_is_checked_in_is_what_the_chart_says() -> None:
    render = [sys.executable, ROOT / "deploy" / "render", "--check"]
    done = subprocess.run(render, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    static = list(yaml.safe_load_all((ROOT / "deploy/static/harp.yaml").read_text()))
    assert [o["kind"] for o in static if o].count("DaemonSet") == 1
    assert all("helm.sh/hook" not in json.dumps(o) for o in static)


def test_harpd_is_not_restarted_for_a_device_that_does_not_answer(template: Template) -> None:
    """Its arbiter would end with it, and with that new memory of all other devices."""
    pod = one(template({}), "DaemonSet", "-node")["spec"]["template"]["spec"]
    (daemon,) = (c for c in pod["containers"] if c["name"] == "daemon")
    paths = {kind: daemon[kind]["httpGet"]["path"] for kind in daemon if kind.endswith("Probe")}
    assert paths == {
        "startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/healthz"
    }  # fmt: skip


def test_the_plugin_of_remote_shares_is_probed_and_scraped_as_the_other_is(
    template: Template,
) -> None:
    """The keeper, whose end ends all leases of its node, is ended after two minutes alone."""
    values = {**SCENARIOS["remote"], "plugin": {"metricsPort": 9555}}
    objects = template({**values, "monitoring": {"podMonitor": {"enabled": True}}})
    found = {}
    for owner in ("-node", "-remote"):
        pod = one(objects, "DaemonSet", owner)["spec"]["template"]
        (plugin,) = (c for c in pod["spec"]["containers"] if c["name"] == "plugin")
        assert "--metrics=0.0.0.0:9555" in plugin["args"]
        probes = {kind: probe for kind, probe in plugin.items() if kind.endswith("Probe")}
        found[owner] = (plugin["ports"], probes)
        selected = one(objects, "PodMonitor")["spec"]["selector"]["matchLabels"]
        assert selected.items() <= pod["metadata"]["labels"].items()
    assert found["-node"] == found["-remote"]
    (port,), probes = found["-remote"]
    assert probes.keys() == {"startupProbe", "livenessProbe", "readinessProbe"}
    assert all(probe["httpGet"]["port"] == port["name"] for probe in probes.values())
    scraped = {e["port"] for e in one(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]}
    assert port["name"] in scraped
    (keeper,) = (
        c
        for c in one(objects, "DaemonSet", "-remote")["spec"]["template"]["spec"]["containers"]
        if c["name"] == "keeper"
    )
    probe = keeper["livenessProbe"]
    assert probe["httpGet"]["path"] == "/healthz"
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 120


@pytest.mark.parametrize("mode", ["scheduler", "service"])
def test_where_nobody_may_read_metrics_policies_are_whole(template: Template, mode: str) -> None:
    """Kubelet's probes pass all the same; kube-scheduler's calls come in mode service alone."""
    tls = {"replicas": 1, "tls": {"secretName": "x"}} if mode == "service" else {}
    objects = template(
        {"gpusPerNode": 2, "extender": {"mode": mode, **tls}, "networkPolicy": {"metricsFrom": []}}
    )
    calls = [{"ports": [{"port": 8888, "protocol": "TCP"}]}] if mode == "service" else []
    assert one(objects, "NetworkPolicy", "-extender")["spec"]["ingress"] == calls
    assert one(objects, "NetworkPolicy", "-node")["spec"]["ingress"] == []


def test_certificates_of_a_pool_are_scraped_by_who_may(template: Template) -> None:
    """Both sides' pages, and a way in to them."""
    values = {**SCENARIOS["remote"], "monitoring": {"podMonitor": {"enabled": True}}}
    objects = template({**values, "networkPolicy": {"metricsFrom": [{"podSelector": {}}]}})
    scraped = {e["port"] for e in one(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]}
    assert scraped == {"metrics", "plugin-metrics", "pool-metrics", "health"}
    for owner, port, option in (
        ("-pool", "pool-metrics", "--metrics=0.0.0.0:9406"),
        ("-remote", "health", "--health=0.0.0.0:9405"),
    ):
        found = [
            (c, p["containerPort"])
            for c in one(objects, "DaemonSet", owner)["spec"]["template"]["spec"]["containers"]
            for p in c["ports"]
            if p["name"] == port
        ]
        ((container, number),) = found
        assert option in container["args"]
        rules = one(objects, "NetworkPolicy", owner)["spec"]["ingress"]
        let_in = [r["from"] for r in rules if {"port": number, "protocol": "TCP"} in r["ports"]]
        assert let_in == [[{"podSelector": {}}]]
    only = one(template({"monitoring": values["monitoring"]}), "PodMonitor")
    assert [e["port"] for e in only["spec"]["podMetricsEndpoints"]] == ["metrics", "plugin-metrics"]


@pytest.mark.parametrize(
    ("name", "lease"),
    [("many GPUs", "harp-scheduler"), ("own scheduler", "harp-scheduler-extender")],
)
def test_the_lease_of_who_decides_goes_with_the_release(
    template: Template, name: str, lease: str
) -> None:
    """Who leads would make it anew: so it stays until they have gone, the cleanup's step."""
    for cleanup in (False, True):
        objects = template(SCENARIOS[name] | {"cleanup": {"enabled": cleanup}})
        found = one(objects, "Lease")
        assert (found["metadata"]["name"], "spec" in found) == (lease, False)
        assert bool(of_kind(objects, "Deployment")) != cleanup
    assert not of_kind(template(SCENARIOS["extender off"]), "Lease")


def test_the_lease_is_the_one_that_is_elected_by(template: Template) -> None:
    objects = template(SCENARIOS["many GPUs"])
    said = yaml.safe_load(one(objects, "ConfigMap", "-extender")["data"]["scheduler.yaml"])
    assert said["leaderElection"]["resourceName"] == one(objects, "Lease")["metadata"]["name"]
    assert one(template(SCENARIOS["own scheduler"]), "Lease")["metadata"]["name"] == LEASE
