# SPDX-License-Identifier: Apache-2.0
"""deploy/monitoring: rules that speak when they must, a dashboard that asks for what there is."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
from metrics_cases import everything
from test_metrics_exposition import text_of

from device_plugin.health import APPLICATION_XIDS
from device_plugin.metrics import Counts
from harp.metrics import DAEMON, PLUGIN, REMOTE, SERVED, Family, Kind, expose
from harp.metrics.dashboard import dashboard

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "monitoring" / "rules.yaml"
DASHBOARD = ROOT / "deploy" / "monitoring" / "dashboard.json"
CASES = Path(__file__).with_name("monitoring_rules.yaml")
#: what a target's series have besides our labels, by Prometheus or by our README's word
OF_TARGETS = {"instance", "job", "node", "cluster"}
#: of kube-state-metrics
OTHERS = {"kube_pod_container_resource_requests", "kube_node_status_allocatable"}


def names_of(family: Family) -> list[str]:
    if family.kind is Kind.HISTOGRAM:
        return [f"{family.name}_{part}" for part in ("bucket", "count", "sum")]
    return [family.name]


#: {name of a series: its labels}; of two that serve one name, both
EXPORTED: dict[str, set[str]] = {}
for _family in (*DAEMON, *PLUGIN, *REMOTE, *SERVED):
    for _name in names_of(_family):
        _le = {"le"} if _name.endswith("_bucket") else set()
        EXPORTED.setdefault(_name, set()).update(_family.labels, _le)


def run(program: Path, *words: str, text: str = "", cwd: Path = ROOT) -> str:
    """What it says; "": nothing, and all is well."""
    done = subprocess.run(
        [str(program), *words], input=text, cwd=cwd, capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 and not done.stderr else f"{done.stdout}{done.stderr}" or "?"


def faults(expression: str) -> list[str]:
    """What an expression asks for that nobody serves."""
    found = []

    def visit(part: Any) -> bool:
        if isinstance(part, promql.VectorSelector) and part.name not in OTHERS:
            labels = EXPORTED.get(part.name)
            if labels is None:
                found.append(f"no series {part.name}")
                return True
            found.extend(
                f"{part.name} has no label {matcher.name}"
                for matcher in part.matchers.matchers
                if matcher.name not in labels | OF_TARGETS
            )
        if isinstance(part, promql.AggregateExpr) and part.modifier is not None:
            inside = {word for name in names_in(part) for word in EXPORTED.get(name, set())}
            found.extend(
                f"nothing in it has a label {label}"
                for label in part.modifier.labels
                if label not in inside | OF_TARGETS
            )
        return True

    promql.walk(promql.parse(expression.replace("$__rate_interval", "5m")), visit)
    return found


def names_in(expression: Any) -> set[str]:
    found = set()

    def visit(part: Any) -> bool:
        if isinstance(part, promql.VectorSelector):
            found.add(part.name)
        return True

    promql.walk(expression, visit)
    return found


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def test_promtool_has_no_word_for_our_series(promtool: Path) -> None:
    plugin = Counts("harp.dev/gpu-share", [("GPU-0", 0)])
    told = plugin.samples(registered=True, grants=1, ill=())
    for text in (text_of(everything()), expose(PLUGIN, told)[0].decode()):
        assert run(promtool, "check", "metrics", text=text) == ""
    bad = "# HELP harp_x_milliseconds A text.\n# TYPE harp_x_milliseconds gauge\n"
    assert "base unit" in run(promtool, "check", "metrics", text=f"{bad}harp_x_milliseconds 1\n")


def test_rules_are_rules(promtool: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(promtool), "check", "rules", str(RULES)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    broken = tmp_path / "rules.yaml"
    broken.write_text(RULES.read_text().replace("harp_arbiter_up == 0", "harp_arbiter_up == = 0"))
    assert "parse error" in run(promtool, "check", "rules", str(broken))


def test_each_rule_speaks_when_it_must(promtool: Path) -> None:
    done = subprocess.run(
        [str(promtool), "test", "rules", str(CASES)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_a_case_where_it_speaks_and_every_alert_one_where_it_is_silent() -> None:
    rules, cases = RULES.read_text(), CASES.read_text()
    alerts = re.findall(r"- alert: (\w+)", rules)
    assert len(alerts) > 15
    assert [name for name, count in Counter(alerts).items() if count > 1] == []
    speaks = re.findall(
        r"alertname: (\w+)\n\s+eval_time: \w+\n\s+exp_alerts:\n\s+- exp_labels", cases
    )
    silent = re.findall(r"alertname: (\w+), eval_time: \w+, exp_alerts: \[\]", cases)
    assert set(speaks) == set(alerts)
    assert set(silent) == set(alerts)
    records = re.findall(r"- record: (\S+)", rules)
    assert records
    assert [name for name in records if f"expr: {name}" not in cases] == []


def test_rules_ask_for_series_that_are_served() -> None:
    text = "\n".join(line for line in RULES.read_text().splitlines() if "#" not in line)
    asked = set(re.findall(r"(?<![:\w])harp_[a-z0-9_]+(?![\w:])", text))
    assert len(asked) > 20
    assert asked - set(EXPORTED) == set()


def test_rules_and_plugin_have_one_list_of_errors_of_programs() -> None:
    (codes,) = set(re.findall(r'xid!~"([\d|]+)"', RULES.read_text()))
    assert {int(code) for code in codes.split("|")} == APPLICATION_XIDS


def test_the_dashboard_is_that_of_the_code() -> None:
    assert DASHBOARD.read_text() == dashboard(), (
        "python -m harp.metrics dashboard > deploy/monitoring/dashboard.json"
    )


@pytest.mark.parametrize(
    "expression", sorted({t["expr"] for p in panels() for t in p.get("targets", [])})
)
def test_a_query_asks_for_what_is_served(expression: str) -> None:
    assert faults(expression) == []


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("harp_arbiter_upp", "no series harp_arbiter_upp"),
        ('sum(rate(harp_grant_swaps_total{card="0"}[5m]))', "no label card"),
        ("sum by (card) (harp_grant_processes)", "a label card"),
        ("harp_plugin_start_duration_seconds", "no series harp_plugin_start_duration_seconds"),
    ],
)
def test_a_query_for_what_is_not_served_is_found(expression: str, says: str) -> None:
    assert any(says in one for one in faults(expression))


def test_variables_ask_for_labels_that_there_are() -> None:
    variables = json.loads(DASHBOARD.read_text())["templating"]["list"]
    assert [one["name"] for one in variables] == [
        *("datasource", "cluster", "node", "gpu", "namespace", "pod", "tenant")
    ]
    for one in variables[1:]:
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", one["query"]["query"])
        assert found is not None
        assert faults(found[1]) == []
        (name,) = names_in(promql.parse(found[1]))
        assert found[2] in EXPORTED[name] | OF_TARGETS
        assert one["allValue"] == ".*"  # series without the label, too


def test_the_dashboard_is_as_grafana_wants_it() -> None:
    """What its import needs, and nothing that it no longer has (Angular's graph)."""
    model = json.loads(DASHBOARD.read_text())
    assert model["schemaVersion"] >= 39
    assert model["id"] is None
    assert re.fullmatch(r"[a-z0-9-]{1,40}", model["uid"])
    assert model["tags"] == ["harp", "gpu"]
    assert [p["title"] for p in model["panels"] if p["type"] == "row"] == [
        *("Cluster", "Node and GPU", "Workload", "Estimator", "Control plane")
    ]
    assert len({p["id"] for p in model["panels"]}) == len(model["panels"])
    for panel in model["panels"]:
        assert panel["type"] in ("row", "timeseries", "stat", "table")
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"]
        assert panel["fieldConfig"]["defaults"]["unit"] in (
            *("short", "bytes", "Bps", "percentunit", "s", "ops", "celsius", "watt"),
        )


def test_no_panel_lies_on_another() -> None:
    taken: Counter[tuple[int, int]] = Counter()
    for panel in panels():
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        taken.update(
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        )
    assert max(taken.values()) == 1
