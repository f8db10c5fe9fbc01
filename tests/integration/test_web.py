# SPDX-License-Identifier: Apache-2.0
"""The page's API of a real harpd: who is let in from where."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

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
