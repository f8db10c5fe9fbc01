# SPDX-License-Identifier: Apache-2.0
"""What a caller can take of the extender's memory and threads."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from extender_calls import call
from test_kube_client import wait_for

from harp.extender import server as module
from harp.extender.server import BODY_MAX, Server


@pytest.fixture
def serving() -> Iterator[Any]:
    servers: list[tuple[Server, threading.Thread]] = []

    def make(**more: Any) -> Server:
        extender: Any = SimpleNamespace(lack="", filter=None, prioritize=None, bind=None)
        server = Server(extender, "127.0.0.1", 0, **more)
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        servers.append((server, thread))
        return server

    yield make
    for server, thread in servers:
        server.stop()
        thread.join()


def _silent(port: int) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.connect()
    return connection


def _answers(port: int) -> bool:
    try:
        return call(port, "GET", "/healthz")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def test_connections_are_counted(serving: Any) -> None:
    server = serving(connections_max=2)
    two = [_silent(server.port) for _ in range(2)]
    wait_for(lambda: not _answers(server.port))
    assert not _answers(server.port)  # hung up on, not kept waiting
    two[0].close()
    wait_for(lambda: _answers(server.port))
    for _ in range(5):  # each gives its place back
        wait_for(lambda: _answers(server.port))
    two[1].close()


def test_who_says_nothing_keeps_its_place_for_a_moment(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module._Handler.timeout <= 10
    monkeypatch.setattr(module._Handler, "timeout", 0.2)
    server = serving(connections_max=1)
    silent = _silent(server.port)
    wait_for(lambda: _answers(server.port))
    silent.close()


def test_a_connection_that_was_used_is_kept(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._Handler, "timeout", 0.2)
    connection = _silent(serving().port)
    for _ in range(2):
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b"ok"
        time.sleep(0.5)
    assert connection.sock is not None
    connection.close()


@pytest.mark.parametrize(("read_only", "most"), [(False, BODY_MAX), (True, 1024)])
def test_a_body_is_not_read_beyond_its_bound(serving: Any, read_only: bool, most: int) -> None:
    connection = _silent(serving(read_only=read_only).port)
    connection.putrequest("POST", "/filter")
    connection.putheader("Content-Length", str(most + 1))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert f"{most} at most" in json.loads(answer.read())["Error"]
    connection.close()


def test_what_kube_scheduler_sends_is_no_more() -> None:
    """Names of 5,000 nodes at their longest, and the largest object the API server keeps."""
    assert BODY_MAX > 5_000 * (253 + 3) + 1_572_864
