# SPDX-License-Identifier: Apache-2.0
"""`harp remote serve --metrics`: who is here from elsewhere, as Prometheus sees it."""

from __future__ import annotations

import socket
import subprocess
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from serve_world import MIB, serving


def text(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        said: str = answer.read().decode()
    return said


def series(port: int) -> dict[str, float]:
    """{name without harp_remote_: value}."""
    return {
        sample.name.removeprefix("harp_remote_"): sample.value
        for metric in text_string_to_metric_families(text(port))
        for sample in metric.samples
    }


def test_leases_and_sessions_come_and_go(native_dir: Path, promtool: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ("--insecure", "--listen", "127.0.0.1:0", "--metrics", str(port))
    with serving(native_dir, *options) as node:
        nobody = {"leases": 0, "sessions": 0, "sessions_started_total": 0, "draining": 0}
        assert series(port) == nobody  # plaintext: no certificate, and no series of one
        client = node.client()
        lease = client.lease(mem_limit_bytes=256 * MIB)
        assert series(port) == nobody | {"leases": 1}
        client.holder(lease, 10)
        assert series(port) == nobody | {"leases": 1, "sessions": 1, "sessions_started_total": 1}
        checked = subprocess.run(
            [str(promtool), "check", "metrics"],
            input=text(port),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
        node.at.json("remote", "drain", node.endpoint, "--insecure", "--deadline", "600")
        assert series(port)["draining"] == 1
        node.at.json("remote", "drain", node.endpoint, "--insecure", "--stop")
        client.release(lease)
        assert series(port) == nobody | {"sessions_started_total": 1}
