# SPDX-License-Identifier: Apache-2.0
"""What our pods may do: no more than is written here."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from conftest import Template, containers, of_kind, one, pods
from scenarios import SCENARIOS

from harp.remote import uids

#: {(what, container): capabilities it may add}; any other gets none
CAPABILITIES = {
    ("harp-node", "folders"): {"CHOWN"},
    ("harp-node", "daemon"): {"SYS_PTRACE", "DAC_READ_SEARCH", "KILL"},
    ("harp-pool", "serve"): {"SETUID", "SETGID", "CHOWN", "DAC_OVERRIDE", "KILL"},
    ("harp-cleanup-node", "cleanup"): {"DAC_OVERRIDE", "FOWNER"},
    ("harp-cleanup-remote", "cleanup"): {"DAC_OVERRIDE", "FOWNER"},
}
#: who sees the host's processes, and why: pids are how tenants are known (cleanup: who has mounts)
HOST_PID = {"harp-node", "harp-pool", "harp-cleanup-node", "harp-cleanup-remote"}
NOT_ROOT = {
    ("harp-node", "compiler"),
    ("harp-extender", "extender"),
    ("harp-extender", "scheduler"),
}
#: the one container of each pod that talks to the API server
HAS_TOKEN = {
    ("harp-node", "plugin"),
    ("harp-remote", "plugin"),
    ("harp-extender", "extender"),
    ("harp-extender", "scheduler"),
}
RULES = {
    "harp-node": {("", "pods", "get"), ("", "pods", "list"), ("", "events", "create")},
    "harp-extender": {
        ("", "nodes", "list"),
        ("", "nodes", "watch"),
        ("", "pods", "get"),
        ("", "pods", "list"),
        ("", "pods", "watch"),
        ("", "pods/binding", "create"),
    },
}
HOST_FOLDERS = {
    "harp-node": {
        "/run/harp",
        "/run/harp/lock",
        "/run/harp/ptxc",
        "/var/lib/harp",
        "/var/lib/harp/history",
        "/var/lib/kubelet/device-plugins",
        "/var/lib/kubelet/pod-resources",
        "/usr/lib64/nvidia",
    },
    "harp-pool": {"/run/harp", "/run/harp/lock", "/usr/lib64/nvidia"},
    "harp-remote": {
        "/run/harp",
        "/var/lib/harp",
        "/var/lib/kubelet/device-plugins",
        "/var/lib/kubelet/pod-resources",
    },
    "harp-cleanup-node": {"/run", "/var/lib", "/var/lib/kubelet/device-plugins"},
    "harp-cleanup-remote": {"/run", "/var/lib", "/var/lib/kubelet/device-plugins"},
    "harp-extender": set(),
}
#: host folders that only some need to write
WRITABLE_KUBELET = {"/var/lib/kubelet/device-plugins"}

all_scenarios = pytest.mark.parametrize("name", SCENARIOS)


@all_scenarios
def test_containers_have_no_right_beyond_the_listed(template: Template, name: str) -> None:
    for owner, pod in pods(template(SCENARIOS[name])):
        assert not pod.get("hostNetwork")
        assert not pod.get("hostIPC")
        assert bool(pod.get("hostPID")) == (owner in HOST_PID), owner
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod):
            key = owner, container["name"]
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, key
            if context.get("privileged"):
                assert name == "bare driver", key
                continue
            assert context["allowPrivilegeEscalation"] is False, key
            assert context["capabilities"]["drop"] == ["ALL"], key
            assert set(context["capabilities"].get("add", ())) <= CAPABILITIES.get(key, set()), key
            user = {**pod["securityContext"], **context}
            assert (user["runAsUser"] != 0) == (key in NOT_ROOT), key
            assert bool(user.get("runAsNonRoot")) == (key in NOT_ROOT), key


def test_the_table_is_about_containers_that_are_there(template: Template) -> None:
    there = {
        (owner, container["name"])
        for values in SCENARIOS.values()
        for owner, pod in pods(template(values))
        for container in containers(pod)
    }
    assert there >= set(CAPABILITIES) | NOT_ROOT | HAS_TOKEN
    added = {
        (owner, c["name"])
        for values in SCENARIOS.values()
        for owner, pod in pods(template(values))
        for c in containers(pod)
        if c["securityContext"].get("capabilities", {}).get("add")
    }
    assert added == set(CAPABILITIES)


def test_privileged_is_for_those_that_open_device_nodes(template: Template) -> None:
    objects = template(SCENARIOS["bare driver"])
    node = one(objects, "DaemonSet", "-node")["spec"]["template"]["spec"]
    privileged = {c["name"]: c["securityContext"].get("privileged") for c in node["containers"]}
    assert privileged == {"daemon": True, "plugin": True}


def test_watching_processes_is_what_takes_capabilities(template: Template) -> None:
    def of_daemon(values: dict[str, object]) -> list[str]:
        pod = one(template(values), "DaemonSet", "-node")["spec"]["template"]["spec"]
        (daemon,) = (c for c in pod["containers"] if c["name"] == "daemon")
        return daemon["securityContext"]["capabilities"].get("add", [])

    assert of_daemon({}) == ["SYS_PTRACE", "DAC_READ_SEARCH", "KILL"]
    assert of_daemon({"daemon": {"watchProcesses": False}}) == []


@all_scenarios
def test_only_who_asks_the_api_server_has_a_token(template: Template, name: str) -> None:
    objects = template(SCENARIOS[name])
    for account in of_kind(objects, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for owner, pod in pods(objects):
        assert pod["automountServiceAccountToken"] is False
        for container in containers(pod):
            mounts = {m["mountPath"] for m in container.get("volumeMounts", ())}
            token = "/var/run/secrets/kubernetes.io/serviceaccount" in mounts
            assert token == ((owner, container["name"]) in HAS_TOKEN), (owner, container["name"])


@all_scenarios
def test_roles_have_exactly_the_listed_verbs(template: Template, name: str) -> None:
    objects = template(SCENARIOS[name])
    for role in of_kind(objects, "ClusterRole"):
        found = {
            (group, resource, verb)
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
        assert found == RULES[role["metadata"]["name"]]
    for role in of_kind(objects, "Role"):
        create, change = role["rules"]
        assert (create["verbs"], change["verbs"]) == (["create"], ["get", "update"])
        assert {*create["resources"], *change["resources"]} == {"leases"}
        leases = ["harp-scheduler-extender"]
        if name != "own scheduler":
            leases.append("harp-scheduler")
        assert change["resourceNames"] == leases
    borrowed = {
        b["roleRef"]["name"]
        for b in of_kind(objects, "ClusterRoleBinding")
        if b["roleRef"]["name"].startswith("system:")
    }
    assert borrowed in (set(), {"system:kube-scheduler", "system:volume-scheduler"})
    assert bool(borrowed) == bool(of_kind(objects, "Deployment") and name != "own scheduler")


@all_scenarios
def test_host_folders_are_the_listed_ones_and_sockets_are_read_only(
    template: Template, name: str
) -> None:
    for owner, pod in pods(template(SCENARIOS[name])):
        folders = {v["name"]: v["hostPath"]["path"] for v in pod["volumes"] if "hostPath" in v}
        assert set(folders.values()) <= HOST_FOLDERS[owner], owner
        for container in containers(pod):
            for mount in container["volumeMounts"]:
                path = folders.get(mount["name"], "")
                if path.startswith("/var/lib/kubelet/") and path not in WRITABLE_KUBELET:
                    assert mount["readOnly"], (owner, container["name"], path)
                if path.startswith("/usr/"):
                    assert mount["readOnly"], (owner, container["name"], path)
                # Kubelet mounts from these into pods, so they are the same outside and in.
                if path and "cleanup" not in owner and container["name"] != "folders":
                    assert mount["mountPath"] == path


@all_scenarios
def test_nothing_listens_on_a_node(template: Template, name: str) -> None:
    objects = template(SCENARIOS[name])
    for service in of_kind(objects, "Service"):
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP"
        assert not any("nodePort" in port for port in service["spec"]["ports"])
    for _, pod in pods(objects):
        for container in containers(pod):
            assert not any("hostPort" in port for port in container.get("ports", ()))


@all_scenarios
def test_every_port_has_a_policy_and_every_pod_is_in_one(template: Template, name: str) -> None:
    if name == "minimal":
        assert not of_kind(template(SCENARIOS[name]), "NetworkPolicy")
        return
    objects = template(SCENARIOS[name])
    for owner, pod in pods(objects):
        if owner.startswith("harp-cleanup"):
            continue
        policy = one(objects, "NetworkPolicy", owner.removeprefix("harp"))["spec"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        opened = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
        probed = {10259}  # kubelet's probes pass without one
        has = {p["containerPort"] for c in containers(pod) for p in c.get("ports", ())}
        assert has - probed == opened, owner
        for rule in policy["ingress"]:
            everybody = "from" not in rule
            assert everybody == (owner == "harp-extender" and rule["ports"][0]["port"] == 8888)


@all_scenarios
def test_policies_let_in_and_out_who_is_named_alone(template: Template, name: str) -> None:
    """The pool's GPUs are lent to HARP's own pods, and it calls nobody."""
    monitoring = {"kubernetes.io/metadata.name": "monitoring"}
    objects = template(SCENARIOS[name])
    for found in of_kind(objects, "NetworkPolicy"):
        owner, spec = found["metadata"]["name"], found["spec"]
        callers = [peer for rule in spec["ingress"] for peer in rule.get("from", ())]
        called = [_port_of(rule) for rule in spec["egress"] if "to" not in rule]
        assert all(rule["ports"] for rule in (*spec["ingress"], *spec["egress"])), owner
        match owner:
            case "harp-pool":
                peer, reader = callers
                assert reader == {"namespaceSelector": {"matchLabels": monitoring}}
                assert [_port_of(rule) for rule in spec["ingress"]] == [{7443, 7444}, {9406}]
                labels = peer["podSelector"]["matchLabels"]
                assert peer.keys() == {"podSelector"}
                assert labels["app.kubernetes.io/component"] == "remote"
                assert labels["app.kubernetes.io/name"] == "harp"
                assert spec["egress"] == []
            case "harp-remote":
                assert callers == [{"namespaceSelector": {"matchLabels": monitoring}}]
                elsewhere = {7443, 7444, 8443, 8444} if name == "remote pool" else set()
                assert set().union(*called) == {53} | elsewhere
            case _:
                assert callers == [{"namespaceSelector": {"matchLabels": monitoring}}]
                assert called == [{53}]


def _port_of(rule: dict[str, Any]) -> set[int]:
    return {port["port"] for port in rule["ports"]}


@pytest.mark.parametrize(("said", "ports"), [(0, [443, 6443]), (6443, [443, 6443]),
                                             (8443, [443, 6443, 8443])])  # fmt: skip
def test_whoever_is_told_where_the_api_server_is_may_go_there(
    template: Template, said: int, ports: list[int]
) -> None:
    values = {**SCENARIOS["remote"], "gpusPerNode": 2, "apiServer": {"host": "h", "port": said}}
    seen = 0
    for found in of_kind(template(values), "NetworkPolicy"):
        for rule in found["spec"]["egress"]:
            if any("ipBlock" in peer for peer in rule.get("to", ())):
                seen += 1
                assert [port["port"] for port in rule["ports"]] == ports
    assert seen == 3, "the node's, the extender's and the borrowers'"


def test_the_compiler_has_a_user_of_its_own_in_the_hosts_pid_namespace(template: Template) -> None:
    """It runs what pods' kernels say: of another's uid it could signal that one's processes."""
    for values, uid in (({}, uids.DEFAULT.last + 1), ({"uid": 70001}, 70001)):
        objects = template({"softwareGpu": {"enabled": True, "compiler": values}})
        pod = one(objects, "DaemonSet", "-node")["spec"]["template"]["spec"]
        assert pod["hostPID"] is True
        by_name = {container["name"]: container for container in containers(pod)}
        context = by_name["compiler"]["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"]) == (uid, uid)
        assert f"os.chown('/ptxc', {uid}, {uid})" in by_name["folders"]["args"][0]
        # Its cache is in a folder that nobody else can move: sticky.
        assert by_name["folders"]["args"][0].endswith("os.chmod('/tmp', 0o1777)")
        for name in ("folders", "compiler"):
            assert {"name": "compiler-tmp", "mountPath": "/tmp"} in by_name[name]["volumeMounts"]
        others = [c["securityContext"].get("runAsUser") for n, c in by_name.items()
                  if n != "compiler"]  # fmt: skip
        assert uid not in others


def test_a_keeper_is_ended_for_a_long_silence_alone(template: Template) -> None:
    """With it end all leases of its node."""
    pod = one(template(SCENARIOS["remote"]), "DaemonSet", "-remote")["spec"]["template"]["spec"]
    (keeper,) = (c for c in pod["containers"] if c["name"] == "keeper")
    (port,) = keeper["ports"]
    assert f"--health=0.0.0.0:{port['containerPort']}" in keeper["args"]
    for probe in ("livenessProbe", "readinessProbe"):
        assert keeper[probe]["httpGet"] == {"path": "/healthz", "port": port["name"]}
    live = keeper["livenessProbe"]
    assert live["periodSeconds"] * live["failureThreshold"] >= 120
    assert live["timeoutSeconds"] >= 10
    assert "startupProbe" not in keeper, "it waits for nobody"


def test_only_known_callers_may_have_pods_bound_over_the_network(template: Template) -> None:
    objects = template(SCENARIOS["own scheduler"])
    ((_, pod),) = [p for p in pods(objects) if p[0] == "harp-extender"]
    arguments = pod["containers"][0]["args"]
    assert "--tls-client-ca=/etc/harp/tls/ca.crt" in arguments
    entry = yaml.safe_load(one(objects, "ConfigMap", "-extender")["data"]["extender.yaml"])
    assert entry[0]["enableHTTPS"] is True
    assert entry[0]["tlsConfig"].keys() == {"caFile", "certFile", "keyFile"}


def test_nobody_reads_metrics_if_nobody_is_named(template: Template) -> None:
    objects = template({**SCENARIOS["remote"], "networkPolicy": {"metricsFrom": []}})
    for owner in ("-node", "-remote"):
        assert one(objects, "NetworkPolicy", owner)["spec"]["ingress"] == []


@all_scenarios
def test_certificates_are_read_by_those_alone_who_speak_tls(template: Template, name: str) -> None:
    holders = {
        ("harp-pool", "serve"): "pool",
        ("harp-remote", "keeper"): "pool",
        ("harp-extender", "extender"): "tls",
    }
    for owner, pod in pods(template(SCENARIOS[name])):
        secrets = {v["name"] for v in pod["volumes"] if "secret" in v}
        for volume in pod["volumes"]:
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] in (0o400, 0o440)
        for container in containers(pod):
            mine = {m["name"] for m in container["volumeMounts"]} & secrets
            assert mine <= {holders.get((owner, container["name"]))}


@all_scenarios
def test_resources_are_asked_for_and_bounded(template: Template, name: str) -> None:
    for owner, pod in pods(template(SCENARIOS[name])):
        for container in containers(pod):
            key = owner, container["name"]
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), key
            # What ends one of these ends all leases of its node: values.yaml says so.
            bounded = key not in {("harp-remote", "keeper"), ("harp-pool", "serve")}
            assert ("memory" in container["resources"].get("limits", {})) == bounded, key


def test_the_compiler_has_room_for_all_that_it_starts(template: Template) -> None:
    (pod,) = (p for owner, p in pods(template(SCENARIOS["software"])) if owner == "harp-node")
    (compiler,) = (c for c in containers(pod) if c["name"] == "compiler")
    flags = dict(a.removeprefix("--").split("=", 1) for a in compiler["args"] if "=" in a)
    # RLIMIT_AS is each process's, and a job is harp-ptxc and the C compiler that it started.
    most_mib = int(flags["jobs"]) * 2 * int(flags["memory-mib"])
    limit = compiler["resources"]["limits"]["memory"]
    assert int(limit.removesuffix("Gi")) * 1024 > most_mib
