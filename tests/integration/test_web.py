# SPDX-License-Identifier: Apache-2.0
"""The page's API of a real harpd: two tenants on the software GPU, and who is let in from where."""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from harp.remote import authority
from harp.remote.certificate import Kind
from tests.integration.machine import Machine, machine, wait_for

TOKEN = "a-token-of-this-test-alone"


@pytest.fixture
def box(native_dir: Path) -> Iterator[Machine]:
    with machine(native_dir) as found:
        yield found


def port(box: Machine) -> int:
    (served,) = wait_for(lambda: box.events("web_served"), "harpd serves")
    return int(served["port"])


def get(box: Machine, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port(box)}/api/v1/{path}", timeout=60) as got:
        return json.load(got)


@pytest.mark.alone
def test_two_tenants_are_seen_from_their_grant_to_their_end(box: Machine, busy: Path) -> None:
    box.start_harpd("--web", "0")
    idle = box.gpu_tenant("--name", "idle", "--mem", "256MiB", "--share", "20%", mib=64)
    works = box.tenant(
        "--name", "works", "--share", "50%", command=[str(busy), "deep", "300", "60"]
    )
    assert works.stdout
    assert works.stdin
    assert works.stdout.readline().startswith("ready")
    works.stdin.write("\n")
    works.stdin.flush()

    def ratios() -> dict[str, tuple[float, int]] | None:
        """{name: (ratio, bytes)} of the last sample, once `works` has had some time."""
        told = get(box, "samples")
        if not told["samples"]:
            return None
        names = {int(series): one["name"] for series, one in told["series"].items()}
        points = told["samples"][-1]["points"]
        found = {names[p[0]]: (p[2] or 0.0, p[3]) for p in points}
        return found if found.get("works", (0, 0))[0] > 0.5 else None

    found = wait_for(ratios, "works has the GPU's time")
    assert found["idle"][0] < 0.05
    assert found["idle"][1] >= 64 << 20
    state = get(box, "state")
    assert state["arbiter_up"] is True
    assert [d["kind"] for d in state["devices"]] == ["software"]
    by_name = {t["name"]: t for t in state["tenants"]}
    assert set(by_name) == {"idle", "works"} == {t["name"] for t in box.json("ps")["tenants"]}
    assert by_name["idle"]["mem_limit_bytes"] == 256 << 20
    assert by_name["works"]["share_ratio"] == 0.5
    assert by_name["works"]["processes"][0]["pid"] == works.pid

    # The stream goes on, a sample a second, with the spans of who holds the GPU.
    connection = http.client.HTTPConnection("127.0.0.1", port(box), timeout=60)
    connection.request("GET", f"/api/v1/events?since={state['sample']}")
    stream = connection.getresponse()
    began_s, samples = time.monotonic(), []
    while len(samples) < 3:
        line = stream.readline().decode()
        if line.startswith("data: ") and '"points"' in line:
            samples.append(json.loads(line.removeprefix("data: ")))
    took_s = time.monotonic() - began_s
    print(f"three samples took {took_s:.2f} s")
    assert took_s > 1.0
    numbers = [one["n"] for one in samples]
    assert numbers == list(range(numbers[0], numbers[0] + 3))
    assert by_name["works"]["series"] in {span[0] for span in samples[-1]["spans"]}
    connection.close()

    for child in (works, idle):
        child.kill()
        child.wait()
    wait_for(lambda: not get(box, "state")["tenants"], "they are gone")
    told = get(box, "samples")
    assert {one["name"] for one in told["series"].values()} == {"idle", "works"}
    held = {told["series"][str(span[0])]["name"]: span[4] for span in told["spans"]}
    assert held["works"] > 0.5
    tcp = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()]
    assert {a.partition(":")[0] for a in tcp if a.endswith(f":{port(box):04X}")} == {"0100007F"}


def test_from_elsewhere_it_takes_tls_and_the_token(box: Machine) -> None:
    pool = box.base / "pool"
    authority.init(pool, datetime.now(UTC))
    authority.issue(pool, Kind.NODE, "n1", hosts=["127.0.0.1"], now=datetime.now(UTC))
    folder, token = pool / "node-n1", box.base / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    address = ("--web", "0.0.0.0:0")
    refused = box.harp("daemon", *address)
    assert refused.returncode == 1
    assert "can be reached from other machines" in refused.stderr
    assert "hint: set daemon.web_token" in refused.stderr
    box.start_harpd(
        *address,
        *("--set", f"daemon.web_cert={folder / 'tls.crt'}"),
        *("--set", f"daemon.web_key={folder / 'tls.key'}"),
        *("--set", f"daemon.web_token={token}"),
    )
    context = ssl.create_default_context(cafile=folder / "ca.crt")

    def status(**fields: str) -> int:
        client = http.client.HTTPSConnection("127.0.0.1", port(box), timeout=60, context=context)
        client.request("GET", "/api/v1/state", headers=fields)
        answer = client.getresponse()
        answer.read()
        client.close()
        return answer.status

    assert status() == 401
    assert status(Authorization="Bearer x") == 401
    assert status(Authorization=f"Bearer {TOKEN}") == 200
    assert TOKEN not in (box.run_dir / "harpd.log").read_text()
