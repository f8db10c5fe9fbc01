# SPDX-License-Identifier: Apache-2.0
"""What a caller can take of the extender's memory and threads."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from extender_calls import call
from fake_kube import FakeKube, node, pod
from test_kube_client import wait_for

from harp.extender import server as module
from harp.extender.bind import Binder
from harp.extender.calls import Extender
from harp.extender.decide import Scorer
from harp.extender.metrics import Meter
from harp.extender.server import BODY_MAX, BODY_SMALL, Server
from harp.extender.state import View


@pytest.fixture
def serving() -> Iterator[Any]:
    servers: list[tuple[Server, threading.Thread]] = []

    def make(extender: Any = None, **more: Any) -> Server:
        stub: Any = SimpleNamespace(lack="", filter=None, prioritize=None, bind=None)
        server = Server(extender or stub, "127.0.0.1", 0, **more)
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        servers.append((server, thread))
        return server

    yield make
    for server, thread in servers:
        server.stop()
        thread.join()


def _extender() -> Extender:
    """One that knows no node but those it is told of."""
    view, lock = View(), threading.Condition()
    binder = Binder(view, lock, FakeKube(), leads=lambda: True)
    meter = Meter(view, lock, synced=lambda: True, leads=lambda: True)
    return Extender(view, lock, Scorer("hybrid"), binder, meter, lambda: True, lambda: True)


def _silent(port: int) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.connect()
    return connection


def _begin(port: int, length: int) -> tuple[int, str]:
    """The answer to a body of which nothing is sent."""
    connection = _silent(port)
    connection.putrequest("POST", "/filter")
    connection.putheader("Content-Length", str(length))
    connection.endheaders()
    answer = connection.getresponse()
    said = json.loads(answer.read())["Error"]
    connection.close()
    return answer.status, said


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


def test_hundreds_of_bindings_may_wait(serving: Any) -> None:
    """kube-scheduler does not wait for one before it asks for the next."""
    waiting = threading.Semaphore(0)
    go_on = threading.Event()

    def wait(_body: object, _gone: object) -> object:
        waiting.release()
        go_on.wait(60)
        return {}

    stub = SimpleNamespace(lack="", filter=None, prioritize=None, bind=wait)
    stub.meter = SimpleNamespace(timed=lambda _name: contextlib.nullcontext())
    server = serving(extender=stub)
    with ThreadPoolExecutor(300) as pool:
        asked = [pool.submit(call, server.port, "POST", "/bind", {}) for _ in range(300)]
        for _ in asked:
            assert waiting.acquire(timeout=20)
        assert _answers(server.port)
        go_on.set()
        assert {one.result(20)[0] for one in asked} == {200}


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
    status, said = _begin(serving(read_only=read_only).port, most + 1)
    assert status == 413
    assert f"{most} at most; remedy: nodeCacheCapable: true" in said


def test_what_kube_scheduler_sends_is_no_more() -> None:
    """Names of 5,000 nodes at their longest, and the largest object the API server keeps."""
    assert BODY_SMALL > 5_000 * (253 + 3) + 1_572_864


def _whole(number: int) -> dict[str, Any]:
    """A node as a kubelet of some age writes it: most of it is its images."""
    body = node(f"node-{number:04}", gpus=8)
    body["status"]["images"] = [
        {"names": [f"registry.example.com/team/app-{at}@sha256:{at:064x}", f"app-{at}:v1"]}
        for at in range(50)
    ]
    return body


def test_5000_whole_nodes(serving: Any) -> None:
    """Of a kube-scheduler whose configuration does not say nodeCacheCapable."""
    server = serving(extender=_extender())
    nodes = [_whole(number) for number in range(5000)]
    asked = json.dumps({"Pod": pod("p", 60), "Nodes": {"items": nodes}, "NodeNames": None})
    assert 32 << 20 < len(asked) < BODY_MAX
    began_s = time.monotonic()
    status, text, _ = call(server.port, "POST", "/filter", asked)
    print("s", time.monotonic() - began_s)
    assert status == 200
    found = json.loads(text)
    assert found["Nodes"]["items"] == nodes
    assert found["FailedNodes"] == {}


def test_large_bodies_are_worked_on_one_at_a_time(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, go_on = threading.Event(), threading.Event()

    def slow(_body: object) -> object:
        there.set()
        go_on.wait(20)
        return {}

    stub = SimpleNamespace(lack="", filter=slow, prioritize=None, bind=lambda _body, _gone: {})
    stub.meter = SimpleNamespace(timed=lambda _name: contextlib.nullcontext())
    server = serving(extender=stub)
    large, small = json.dumps({"x": "x" * BODY_SMALL}), {"x": "x"}
    monkeypatch.setattr(module, "_LARGE_S", 0.2)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(call, server.port, "POST", "/filter", large)
        assert there.wait(20)
        status, said = _begin(server.port, len(large))
        assert status == 503
        assert "nodeCacheCapable: true" in said
        assert call(server.port, "POST", "/bind", small)[0] == 200  # nobody else waits
        monkeypatch.setattr(module, "_LARGE_S", 20.0)
        second = pool.submit(call, server.port, "POST", "/filter", large)
        go_on.set()
        assert (first.result(20)[0], second.result(20)[0]) == (200, 200)
