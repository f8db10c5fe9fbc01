# SPDX-License-Identifier: Apache-2.0
"""The admission policies' CEL, evaluated by Google's own implementation.

Not by an API server: 1.20, which tests/kube has, knows no policies. `quantity` is Kubernetes' own
function, so it is given here, for whole numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import Template, of_kind

cel = pytest.importorskip("cel_expr_python.cel", reason="no wheel of CEL for this processor")
ext_optional = pytest.importorskip("cel_expr_python.ext.ext_optional")

POLICIES = "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"
Policies = Callable[[dict[str, Any]], dict[str, dict[str, Any]]]
OURS = "system:serviceaccount:gpu:harp-extender"
_FACTORS = {"k": 1000, "Ki": 1024}


def _quantity(text: str) -> int:
    for suffix, factor in _FACTORS.items():
        if text.endswith(suffix):
            return int(text.removesuffix(suffix)) * factor
    return int(text)


def _environment(names: list[str]) -> Any:
    kinds = cel.Type
    functions = [
        cel.FunctionDecl(
            "quantity",
            [cel.Overload("quantity_string", kinds.INT, [kinds.STRING], False, _quantity)],
        ),
        cel.FunctionDecl(
            "asInteger",
            [cel.Overload("quantity_as_integer", kinds.INT, [kinds.INT], True, lambda n: n)],
        ),
    ]
    return cel.NewEnv(
        variables=dict.fromkeys(["object", "oldObject", "request", *names], kinds.DYN),
        functions=functions,
        extensions=[ext_optional.ExtOptional()],
    )


def _is_about(constraints: dict[str, Any], resource: str, operation: str) -> bool:
    """Whether the API server asks the policy at all."""
    assert constraints.keys() == {"resourceRules"}
    return any(
        rule["apiGroups"] == [""]
        and rule["apiVersions"] == ["v1"]
        and resource in rule["resources"]
        and operation in rule["operations"]
        for rule in constraints["resourceRules"]
    )


def judge(
    policy: dict[str, Any], new: Any, old: Any = None, user: str = "jane", resource: str = ""
) -> list[str]:
    """What it says against an object; empty: nothing."""
    spec = policy["spec"]
    resource = resource or ("pods" if "spec" in new else "nodes")
    if not _is_about(spec["matchConstraints"], resource, "CREATE" if old is None else "UPDATE"):
        return []
    known: dict[str, Any] = {
        "object": new,
        "oldObject": old,
        "request": {"userInfo": {"username": user}},
    }

    def value(expression: str) -> Any:
        for name in known.get("variables", {}):
            expression = expression.replace(f"variables.{name}", f"variables_{name}")
        names = [f"variables_{name}" for name in known.get("variables", {})]
        data = {k: v for k, v in known.items() if k != "variables"}
        data |= {f"variables_{k}": v for k, v in known.get("variables", {}).items()}
        found = _environment(names).compile(expression).eval(data=data)
        assert found.type() != cel.Type.ERROR, f"{expression}: {found.value()}"
        return found.plain_value()

    if not all(value(row["expression"]) for row in spec.get("matchConditions", ())):
        return []
    known["variables"] = {}
    for row in spec.get("variables", ()):
        known["variables"][row["name"]] = value(row["expression"])
    return [row["message"] for row in spec["validations"] if value(row["expression"]) is not True]


@pytest.fixture(scope="module")
def policies(template: Template) -> Policies:
    def of(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
        objects = template(values, "1.34.0", f"--api-versions={POLICIES}")
        found = of_kind(objects, "ValidatingAdmissionPolicy")
        bindings = [b["spec"] for b in of_kind(objects, "ValidatingAdmissionPolicyBinding")]
        # Each is of a whole cluster, and what it says against something is a refusal.
        refuses = {"validationActions": ["Deny"]}
        wanted = [{"policyName": p["metadata"]["name"], **refuses} for p in found]
        assert bindings == wanted
        return {p["metadata"]["name"].removeprefix("harp-"): p for p in found}

    return of


def pod(
    *shares: str,
    remote: str = "",
    init: tuple[str, ...] = (),
    resource: str = "harp.dev/gpu-share",
    **annotations: str,
) -> dict[str, Any]:
    named = {f"harp.dev/{k.replace('_', '-')}": v for k, v in annotations.items()}
    if remote:
        named["harp.dev/remote"] = remote

    def containers(amounts: tuple[str, ...]) -> list[dict[str, Any]]:
        return [
            {"name": f"c{i}", "resources": {"limits": {"cpu": "1", resource: n}} if n else {}}
            for i, n in enumerate(amounts)
        ]

    spec: dict[str, Any] = {"containers": [{"name": "bare"}, *containers(shares)]}
    if init:
        spec["initContainers"] = containers(init)
    return {"metadata": {"name": "p", **({"annotations": named} if named else {})}, "spec": spec}


BORROWED = "harp.dev/remote-gpu-share"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (pod(), ""),
        (pod(""), ""),
        (pod("1"), ""),
        (pod("100"), ""),
        (pod("30", "70", ""), ""),
        (pod("200"), ""),
        (pod("800"), ""),
        (pod("1k"), ""),
        (pod("101"), "a multiple of 100"),
        (pod("150"), "a multiple of 100"),
        (pod("30", "250"), "a multiple of 100"),
        (pod("30", init=("120",)), "a multiple of 100"),
        (pod("30", init=("20",)), ""),
        (pod(remote="required"), ""),
        (pod("25", remote="required", resource=BORROWED), ""),
        (pod("25", resource=BORROWED), 'remedy: harp.dev/remote: "required"'),
        (pod("101", remote="required", resource=BORROWED), "1 to 100"),
        (pod("25", remote="preferred", resource=BORROWED), "nobody could choose"),
        (pod("25", remote="preferred"), "nobody could choose"),
        (pod(remote="preferred"), ""),
    ],
)
def test_shares_that_no_gpu_can_be_cut_into_are_refused(
    policies: Policies, asked: dict[str, Any], words: str
) -> None:
    said = judge(policies({})["shares"], asked)
    assert bool(said) == bool(words)
    assert any(words in message and "remedy: " in message for message in said) or not words


@pytest.mark.parametrize(
    ("asked", "good"), [("150", True), ("200", True), ("400", True), ("300", False)]
)
def test_a_whole_gpu_is_as_many_slots_as_it_has(policies: Policies, asked: str, good: bool) -> None:
    assert (judge(policies({"slotsPerGPU": 200})["shares"], pod(asked)) == []) == good


@pytest.mark.parametrize(
    ("new", "old", "user", "good"),
    [
        (pod("30"), None, "jane", True),
        (pod("30", memory="4Gi"), None, "jane", True),
        (pod("30", gpu="0"), None, "jane", False),
        (pod("30", gpu=""), None, "jane", False),
        (pod("30", gpu="0"), None, OURS, True),
        (pod("30", gpu="0"), None, "system:serviceaccount:other:harp-extender", False),
        (pod("30", gpu="0"), None, "system:serviceaccount:gpu:harp-node", False),
        (pod("30", gpu="0", memory="4Gi"), pod("30", gpu="0"), "jane", True),
        (pod("30", gpu="1"), pod("30", gpu="0"), "jane", False),
        (pod("30", gpu="1"), pod("30"), "jane", False),
        (pod("30"), pod("30", gpu="0"), "jane", False),
        (pod("30"), pod("30", gpu="0"), OURS, True),
    ],
)
def test_which_gpu_a_pod_has_is_written_by_harp_alone(
    policies: Policies, new: dict[str, Any], old: dict[str, Any] | None, user: str, good: bool
) -> None:
    assert (judge(policies({})["placement"], new, old, user) == []) == good


@pytest.mark.parametrize("resource", ["pods/binding", "bindings"])
@pytest.mark.parametrize(
    ("annotations", "user", "good"),
    [
        (None, "system:kube-scheduler", True),
        ({"a/b": "c"}, "system:kube-scheduler", True),
        ({"harp.dev/gpu": "0"}, OURS, True),
        ({"harp.dev/gpu": "0"}, "jane", False),
        ({"harp.dev/gpu": ""}, "system:kube-scheduler", False),
    ],
)
def test_a_binding_that_names_a_gpu_is_the_extenders(
    policies: Policies, annotations: dict[str, str] | None, user: str, good: bool, resource: str
) -> None:
    meta = {"name": "p"} | ({"annotations": annotations} if annotations else {})
    binding = {"metadata": meta, "target": {"kind": "Node", "name": "n"}}
    said = judge(policies({})["placement"], binding, None, user, resource)
    assert (said == []) == good


def test_the_status_of_a_pod_is_no_way_round(policies: Policies) -> None:
    """The API server takes annotations with it."""
    said = judge(
        policies({})["placement"], pod("30", gpu="1"), pod("30", gpu="0"), "jane", "pods/status"
    )
    assert len(said) == 1


def node(labels: dict[str, str] | None = None, **annotations: str) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": "n"}
    if annotations:
        meta["annotations"] = {
            k.replace("_", "/", 1).replace("_", "-"): v for k, v in annotations.items()
        }
    if labels:
        meta["labels"] = labels
    return {"metadata": meta}


SLOTS = "harp.dev_slots_per_gpu"
KUBELET = "system:node:n"


@pytest.mark.parametrize(
    ("new", "old", "user", "words"),
    [
        (node(), None, KUBELET, ""),
        (node({"kubernetes.io/arch": "amd64"}), node(), KUBELET, ""),
        (node({"harp.dev/enabled": "true"}), node(), "admin", ""),
        (node({"harp.dev/enabled": "true"}), node({"harp.dev/enabled": "true"}), KUBELET, ""),
        # kubelet --node-labels: a node that joins may say that it is HARP's
        (node({"harp.dev/enabled": "true", "harp.dev/remote": "true"}), None, KUBELET, ""),
        (node({"harp.dev/enabled": "true"}), node(), KUBELET, ""),
        (node({"harp.dev/slots-per-gpu": "200"}), None, KUBELET, "not say of itself"),
        (node({"harp.dev/slots-per-gpu": "200"}), node(), KUBELET, "not say of itself"),
        (node(**{"harp.dev_gpus": "x"}), node(), KUBELET, "not say of itself"),
        (node(**{SLOTS: "200"}), node(), "admin", ""),
        (node(**{SLOTS: "200"}), node(), KUBELET, "not say of itself"),
        (node(**{SLOTS: "150"}), node(), "admin", "100, 200 or 400"),
        (node({"harp.dev/slots-per-gpu": "1"}), None, "admin", "100, 200 or 400"),
        (node(**{SLOTS: "150", "a_b": "c"}), node(**{SLOTS: "150"}), KUBELET, ""),
    ],
)
def test_what_is_said_of_a_node_is_said_by_administrators(
    policies: Policies, new: dict[str, Any], old: dict[str, Any] | None, user: str, words: str
) -> None:
    said = judge(policies({})["nodes"], new, old, user)
    assert bool(said) == bool(words), said
    assert all("remedy: " in message for message in said)
    assert not words or any(words in message for message in said)


def test_the_messages_follow_the_rules_of_the_api_server(policies: Policies) -> None:
    for policy in policies({}).values():
        for row in policy["spec"]["validations"]:
            assert "\n" not in row["message"]
            assert row["reason"] in ("Invalid", "Forbidden")
        assert policy["spec"]["failurePolicy"] == "Fail"
