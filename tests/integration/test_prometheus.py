# SPDX-License-Identifier: Apache-2.0
"""Debian's Prometheus scrapes a real harpd: our rules record, and each query of the dashboard runs.

Figures of the software GPU: that they are there is asked, not what a GPU would do.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.machine import ROOT, Machine, machine, wait_for

pytestmark = pytest.mark.slow
MONITORING = ROOT / "deploy" / "monitoring"
#: of parts that do not run here: the device plugin, kube-state-metrics, a GPU's sensors
ELSEWHERE = (
    *("harp_plugin_", "harp_device_healthy", "harp_device_xid", "kube_"),
    *("harp_device_temperature", "harp_device_power"),
)
#: of estimates that came true, or did not, after several runs of one job: here a single one runs;
#: test_estimate_enforce.py asks a harpd for their series
LEARNED = (
    "harp_estimator_confidence_ratio",
    "harp_estimator_coverage_ratio",
    "harp_estimator_reserved_bytes",
    "harp_estimator_saved_ratio",
)
CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: harp
    honor_labels: true
    static_configs: [{{targets: ["127.0.0.1:{port}"], labels: {{node: n1, cluster: c1}}}}]
"""


class Prometheus:
    """One that runs."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def ask(self, path: str, **words: str) -> Any:
        """What its HTTP API answers."""
        query = urllib.parse.urlencode(words)
        where = f"{self.address}/api/v1/{path}?{query}"
        with urllib.request.urlopen(where, timeout=60) as answer:
            found = json.load(answer)
        assert found["status"] == "success"
        return found["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of a query at this moment."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found


@contextlib.contextmanager
def running(program: Path, folder: Path, target: int) -> Iterator[Prometheus]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "prometheus.yaml"
    config.write_text(CONFIG.format(rules=MONITORING / "rules.yaml", port=target))
    log = folder / "prometheus.log"
    with log.open("w") as out:
        child = subprocess.Popen(
            [
                str(program),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=out,
            stderr=out,
        )
    try:
        wait_for(lambda: _answers(child, port, log), "Prometheus is ready", 60)
        yield Prometheus(port)
    finally:
        child.terminate()
        child.wait()


def _answers(child: subprocess.Popen[bytes], port: int, log: Path) -> bool:
    assert child.poll() is None, log.read_text()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=10):
            return True
    except OSError:
        return False


@pytest.fixture
def box(native_dir: Path) -> Iterator[Machine]:
    with machine(native_dir) as found:
        yield found


def dashboard_queries() -> list[str]:
    """As Grafana asks them where all variables are All."""
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    found = {t["expr"] for panel in panels for t in panel.get("targets", [])}
    variables = ("cluster", "node", "gpu", "namespace", "pod", "tenant")
    queries = []
    for expression in sorted(found):
        query = expression.replace("$__rate_interval", "1m")
        for name in variables:
            query = query.replace(f"${name}", ".*")
        assert "$" not in query
        queries.append(query)
    return queries


def test_prometheus_records_our_rules_and_answers_every_query_of_the_dashboard(
    box: Machine, busy: Path, prometheus: Path
) -> None:
    box.start_harpd("--metrics", "0")
    works = box.tenant(
        *("--name", "works", "--mem", "256MiB", "--share", "50%", "--oversubscribe"),
        *("--limit", "90%"),
        command=[str(busy), "deep", "300", "120"],
    )
    assert works.stdout
    assert works.stdin
    assert works.stdout.readline().startswith("ready")
    works.stdin.write("\n")
    works.stdin.flush()
    (served,) = wait_for(lambda: box.events("metrics_served"), "harpd serves")
    with running(prometheus, box.base, served["port"]) as prom:
        (target,) = wait_for(
            lambda: [t for t in prom.ask("targets")["activeTargets"] if t["health"] != "unknown"],
            "it has scraped",
            60,
        )
        assert (target["health"], target["lastError"]) == ("up", "")
        recorded = wait_for(
            lambda: prom.query('tenant_uuid:harp_grant_compute:rate5m{tenant="works"} > 0.01'),
            "a rule records what the tenant gets",
            90,
        )
        assert recorded[0]["metric"]["node"] == "n1"
        assert recorded[0]["metric"]["kind"] == "software"
        groups = prom.ask("rules")["groups"]
        ill = [r["name"] for g in groups for r in g["rules"] if r["health"] == "err"]
        assert ill == []
        alerts = {a["labels"]["alertname"] for a in prom.ask("alerts")["alerts"]}
        assert alerts <= {"HarpOversubscribed"}
        # Of who wanted the GPU all of the last 30 s: harp/metrics/fairness.py.
        wait_for(lambda: prom.query("harp_grant_share_error_ratio"), "its share has an error", 90)
        empty = [q for q in dashboard_queries() if not prom.query(q)]
        assert [q for q in empty if not any(name in q for name in (*ELSEWHERE, *LEARNED))] == []
        assert len(empty) < len(dashboard_queries()) / 2

        # harpd away: the target is down, by the first sign that HarpTargetDown looks at.
        assert prom.query("up == 1")
        works.kill()
        works.wait()
        assert box.harp("daemon", "--stop", "--all").returncode == 0
        wait_for(lambda: prom.query("up == 0"), "it is seen to be down", 60)
        assert prom.query("harp_grant_info") == []
