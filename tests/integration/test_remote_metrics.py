# SPDX-License-Identifier: Apache-2.0
"""`harp remote serve --metrics`: who is here from elsewhere, as Prometheus sees it."""

from __future__ import annotations

import os
import socket
import subprocess
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from serve_world import MIB, serving

from harp.native import NativeDir
from harp.remote.beside import beside
from harp.remote.offers import Offers
from harp.remote.traffic import Traffic
from tests.integration.machine import wait_for


def text(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        said: str = answer.read().decode()
    return said


def series(port: int) -> dict[str, float]:
    """{name without harp_remote_: value}, without what sessions carry."""
    return {
        sample.name.removeprefix("harp_remote_"): sample.value
        for metric in text_string_to_metric_families(text(port))
        for sample in metric.samples
        if not any(word in sample.name for word in ("_bytes", "_round_trip"))
    }


def carried(port: int) -> dict[tuple[str, str], float]:
    """{(name without harp_remote_, tenant or ""): value} of what sessions carry."""
    return {
        (sample.name.removeprefix("harp_remote_"), sample.labels.get("tenant", "")): sample.value
        for metric in text_string_to_metric_families(text(port))
        for sample in metric.samples
        if "le" not in sample.labels and any(w in sample.name for w in ("_bytes", "_round_trip"))
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


def test_bytes_and_round_trips_of_sessions_are_counted_by_lease(native_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ("--insecure", "--listen", "127.0.0.1:0", "--metrics", str(port))
    with serving(native_dir, *options) as node:
        assert set(carried(port).values()) == {0}
        client = node.client()
        lease = client.lease(mem_limit_bytes=256 * MIB)
        with client.renewing(lease):
            child = client.holder(lease, 10)
            (tenant,) = (tenant["name"] for tenant in node.at.json("ps")["tenants"])
            received = ("received_bytes_total", "")
            now = wait_for(lambda: c if (c := carried(port))[received] else None, "a session says")
            assert now["round_trip_seconds_count", ""] >= 1
            assert 0 < now["round_trip_seconds_sum", ""] < 10
            assert now["lease_received_bytes_total", tenant] == now[received]
            assert now["lease_sent_bytes_total", tenant] == now["sent_bytes_total", ""] > 0
            child.communicate("end\n", timeout=60)
            wait_for(lambda: series(port)["sessions"] == 0, "the session ends")
        after = wait_for(
            lambda: c if (c := carried(port))[received] > now[received] else None,
            "what it said last is counted, too",
        )
        client.release(lease)
        gone = carried(port)
        assert (gone[received], ("lease_received_bytes_total", tenant) in gone) == (
            after[received],
            False,
        )


def test_beside_programs_the_same_is_said_of_an_offered_session(
    native_dir: Path, tmp_path: Path
) -> None:
    (sessions := tmp_path / "sessions").mkdir()
    with serving(native_dir, "--insecure", "--listen", "127.0.0.1:0") as node:
        client = node.client()
        lease = client.lease(mem_limit_bytes=256 * MIB)
        session = client.attach(lease)
        Offers(sessions).offer(session.session_id, session.token, session.endpoint)
        at, native = tmp_path / "near.sock", NativeDir(native_dir)
        with (
            client.renewing(lease),
            beside(native, at, sessions, None, os.environ, certificate=False, traffic=True) as link,
        ):
            child = client.start_at(at, "gpu_program.py", "10", "1")
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            child.communicate("end\n", timeout=60)
            assert link.stdout is not None
            said = [link.stdout.readline().decode().split()]
            while said[-1][0] != "ended":
                said.append(link.stdout.readline().decode().split())
    words = [line[0] for line in said]
    assert (words[0], set(words[1:-1])) == ("taken", {"traffic"})
    traffic = Traffic()
    assert all(traffic.heard(" ".join(line[1:])) for line in said[1:-1])
    assert traffic.seen().carried.received_bytes == int(said[-2][2]) > 0
    assert traffic.seen().carried.sent_bytes == int(said[-2][3]) > 0
