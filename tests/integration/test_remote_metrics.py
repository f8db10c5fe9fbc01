# SPDX-License-Identifier: Apache-2.0
"""`harp remote serve --metrics`: who is here from elsewhere, as Prometheus sees it."""

from __future__ import annotations

import datetime as dt
import subprocess
import urllib.request
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serve_world import MIB, Remote, serving

from harp.remote import authority
from harp.remote.certificate import Kind
from tests.integration.machine import wait_for


def text(node: Remote, path: str = "/metrics") -> str:
    (served,) = wait_for(lambda: node.events("metrics_served"), "its page is served")
    with urllib.request.urlopen(f"http://127.0.0.1:{served['port']}{path}", timeout=30) as answer:
        said: str = answer.read().decode()
    return said


def series(node: Remote) -> dict[str, float]:
    """{name without harp_remote_: value}."""
    return {
        sample.name.removeprefix("harp_remote_"): sample.value
        for metric in text_string_to_metric_families(text(node))
        for sample in metric.samples
    }


def test_leases_and_sessions_come_and_go(native_dir: Path, promtool: Path) -> None:
    options = ("--insecure", "--listen", "127.0.0.1:0", "--metrics", "0")
    with serving(native_dir, *options) as node:
        nobody = {"leases": 0, "sessions": 0, "sessions_started_total": 0, "draining": 0}
        assert series(node) == nobody  # plaintext: no certificate runs out
        client = node.client()
        lease = client.lease(mem_limit_bytes=256 * MIB)
        assert series(node) == nobody | {"leases": 1}
        client.holder(lease, 10)
        assert series(node) == nobody | {"leases": 1, "sessions": 1, "sessions_started_total": 1}
        checked = subprocess.run(
            [str(promtool), "check", "metrics"],
            input=text(node),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
        node.at.json("remote", "drain", node.endpoint, "--insecure", "--deadline", "600")
        assert series(node)["draining"] == 1
        node.at.json("remote", "drain", node.endpoint, "--insecure", "--stop")
        client.release(lease)
        assert series(node) == nobody | {"sessions_started_total": 1}
        assert text(node, "/livez") == "ok\n"


@pytest.mark.slow
def test_it_says_when_its_certificate_runs_out(native_dir: Path, tmp_path: Path) -> None:
    pool, now = tmp_path / "pool", dt.datetime.now(dt.UTC)
    authority.init(pool, now)
    authority.issue(pool, Kind.NODE, "n1", hosts=["localhost", "127.0.0.1"], now=now, days=30)
    options = ("--dir", str(pool / "node-n1"), "--listen", "127.0.0.1:0", "--metrics", "0")
    with serving(native_dir, *options) as node:
        ends = dt.datetime.fromisoformat(node.told["certificate_ends"])
        assert series(node)["certificate_not_after_timestamp_seconds"] == ends.timestamp()
        assert dt.timedelta(days=29) < ends - now <= dt.timedelta(days=30)


@pytest.mark.slow
def test_a_page_is_served_only_where_it_is_asked_for(native_dir: Path) -> None:
    with serving(native_dir) as node:
        client = node.client(grpc.insecure_channel(node.endpoint))
        client.lease(mem_limit_bytes=64 * MIB)
        assert node.events("metrics_served") == []
