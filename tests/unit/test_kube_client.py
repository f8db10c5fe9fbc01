# SPDX-License-Identifier: Apache-2.0
"""Requests, lists and watches against an API server over HTTP."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from fake_kube import NODES, PODS, FakeKube, node, pod, served

from harp.errors import ConfigError, DaemonUnreachable
from harp.kube.access import IN_CLUSTER, find
from harp.kube.client import ApiServer, Object, Stream
from harp.kube.watch import Change, Follower, Kind, list_all, read


def kubeconfig(path: Path, server: str, user: dict[str, object], **cluster: object) -> str:
    context = {"cluster": "c", "user": "u", "namespace": "mine"}
    text = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "contexts": [{"name": "x", "context": context}],
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(json.dumps(text))
    return str(path)


@pytest.fixture
def kube() -> FakeKube:
    return FakeKube()


@pytest.fixture
def api(kube: FakeKube, tmp_path: Path) -> Iterator[ApiServer]:
    with served(kube) as url:
        yield ApiServer(find(kubeconfig(tmp_path / "config", url, {"token": "t"}), {}))


def wait_for(good: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not good():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_kubeconfig_is_found_by_name_and_by_environment(tmp_path: Path) -> None:
    name = kubeconfig(tmp_path / "config", "http://127.0.0.1:1/prefix/", {"token": "t"})
    for access in (find(name, {}), find("", {"KUBECONFIG": name})):
        assert access.url == "http://127.0.0.1:1/prefix"
        assert access.namespace == "mine"
        assert access.headers() == {"authorization": "Bearer t"}


def test_a_pods_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("token", "t1"), ("ca.crt", "PEM"), ("namespace", "harp\n")):
        (tmp_path / name).write_text(text)
    its = "kubernetes.config.incluster_config.SERVICE"
    monkeypatch.setattr(f"{its}_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(f"{its}_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr("harp.kube.access._NAMESPACE", tmp_path / "namespace")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    for access in (find(), find(IN_CLUSTER)):
        assert (access.url, access.namespace) == ("https://[fd00::1]:443", "harp")
        assert access.headers() == {"authorization": "bearer t1"}


@pytest.mark.parametrize(
    ("name", "env"),
    [("/nowhere", {}), (IN_CLUSTER, {}), ("", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})],
)
def test_no_api_server(name: str, env: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="no API server is known"):
        find(name, env)


@pytest.mark.parametrize("text", ["a: [1", "hello", "[1, 2]", "3", "", "contexts: [3]", "\0"])
def test_a_kubeconfig_that_is_none_is_said_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ConfigError, match="no API server is known by") as said:
        find(str(path), {})
    assert str(path) in said.value.message
    assert "name a kubeconfig" in said.value.hint


def test_an_api_server_that_is_not_verified_is_refused(tmp_path: Path) -> None:
    more = {"insecure-skip-tls-verify": True}
    name = kubeconfig(tmp_path / "config", "https://127.0.0.1:1", {"token": "t"}, **more)
    with pytest.raises(ConfigError, match="insecure-skip-tls-verify"):
        find(name, {})


def test_requests(kube: FakeKube, api: ApiServer) -> None:
    kube.put(pod("a", 30))
    path = "/api/v1/namespaces/ns/pods/a"
    body = {"metadata": {"uid": "uid-a"}, "target": {"name": "n"}}
    assert api.ask("POST", f"{path}/binding", body).good
    assert api.ask("GET", path).body["spec"]["nodeName"] == "n"
    again = api.ask("POST", f"{path}/binding", body)
    assert (again.good, again.status) == (False, 409)
    assert again.why == "409 pod is already assigned to node n"
    patch = {"metadata": {"annotations": {"k": "v"}}}
    assert api.ask("PATCH", path, patch).body["metadata"]["annotations"] == {"k": "v"}
    assert api.ask("GET", "/api/v1/namespaces/ns/pods/b").status == 404


def test_an_answer_that_does_not_come(kube: FakeKube, api: ApiServer, tmp_path: Path) -> None:
    def lost(*_: object) -> None:
        raise DaemonUnreachable("lost")

    kube.after = lost
    with pytest.raises(DaemonUnreachable, match="does not answer"):
        api.ask("GET", NODES)
    gone = find(kubeconfig(tmp_path / "gone", "http://127.0.0.1:1", {}), {})
    with pytest.raises(DaemonUnreachable, match="does not answer"):
        ApiServer(gone).ask("GET", NODES)


def test_a_slow_answer_is_not_waited_for(kube: FakeKube, api: ApiServer) -> None:
    ended = threading.Event()

    def slow(*_: object) -> None:
        ended.wait(20)

    kube.hook = slow
    began_s = time.monotonic()
    with pytest.raises(DaemonUnreachable):
        api.ask("GET", NODES, timeout_s=0.2)
    assert time.monotonic() - began_s < 10
    ended.set()


def test_nothing_is_sent_twice(kube: FakeKube, api: ApiServer) -> None:
    kube.hook = lambda *_: 503
    assert api.ask("POST", NODES, {"metadata": {"name": "n"}}).status == 503
    assert kube.calls == [("POST", NODES)]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_nothing_is_sent_twice_where_the_answer_is_lost(
    kube: FakeKube, api: ApiServer, method: str
) -> None:
    def lost(*_: object) -> None:
        raise DaemonUnreachable("lost")

    kube.after = lost
    with pytest.raises(DaemonUnreachable):
        api.ask(method, NODES, {"metadata": {"name": "n"}})
    assert kube.calls == [(method, NODES)]


def test_lists_come_in_pages(
    kube: FakeKube, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harp.kube.watch._PAGE", 2)
    for name in "abcde":
        kube.put(pod(name, 1))
    items, version = list_all(api, PODS)
    assert [item["metadata"]["name"] for item in items] == list("abcde")
    assert version == str(kube.version)
    assert len(kube.calls) == 3


class _Sink:
    def __init__(self) -> None:
        self.names: set[str] = set()
        self.puts: list[str] = []
        self.lists = 0
        self.fail = False

    def replace(self, items: Sequence[Object]) -> None:
        self.lists += 1
        self.names = {item["metadata"]["name"] for item in items}

    def put(self, item: Object) -> None:
        if self.fail:
            self.fail = False
            raise RuntimeError("a bug")
        self.puts.append(item["metadata"]["name"])
        self.names.add(item["metadata"]["name"])

    def gone(self, item: Object) -> None:
        self.names.discard(item["metadata"]["name"])


@pytest.fixture
def sink() -> _Sink:
    return _Sink()


def streaming(follower: Follower) -> Stream:
    wait_for(lambda: follower._stream is not None)
    assert follower._stream is not None
    return follower._stream


@pytest.fixture
def follower(api: ApiServer, sink: _Sink, monkeypatch: pytest.MonkeyPatch) -> Iterator[Follower]:
    monkeypatch.setattr("harp.kube.watch._PAUSE_S", 0.01)
    monkeypatch.setattr("harp.kube.watch._PAUSE_MAX_S", 0.05)
    follower = Follower(api, PODS, sink)
    thread = threading.Thread(target=follower.run)
    thread.start()
    yield follower
    follower.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_a_list_is_kept(kube: FakeKube, sink: _Sink, follower: Follower) -> None:
    kube.put(pod("a", 1))
    wait_for(lambda: sink.names == {"a"})
    assert follower.synced.is_set()
    kube.put(pod("b", 1))
    kube.put(node("n"))
    kube.remove(pod("a"))
    wait_for(lambda: sink.names == {"b"})
    assert sink.lists == 1


def test_a_watch_goes_on_where_it_broke_off(
    kube: FakeKube, sink: _Sink, follower: Follower
) -> None:
    kube.put(pod("a", 1))
    wait_for(lambda: sink.names == {"a"})
    for name in "bcd":
        streaming(follower).close()
        kube.put(pod(name, 1))
        wait_for(lambda name=name: name in sink.names)
    assert sink.lists == 1  # never anew: nothing was missed
    assert len(sink.puts) == len(set(sink.puts))  # and none was told again
    assert sum(method == "WATCH" for method, _ in kube.calls) >= 4


def test_a_version_that_is_too_old_is_listed_anew(
    kube: FakeKube, sink: _Sink, follower: Follower
) -> None:
    kube.put(pod("a", 1))
    wait_for(lambda: sink.names == {"a"})
    stream = streaming(follower)
    with kube.changed:  # while it is away
        kube.put(pod("b", 1))
        kube.remove(pod("a"))
        kube.compact()
        stream.close()
    wait_for(lambda: sink.names == {"b"} and sink.lists == 2)


def test_a_watch_that_is_refused_for_its_version_is_listed_anew(
    kube: FakeKube, sink: _Sink, follower: Follower
) -> None:
    refused = []

    def hook(method: str, _path: str) -> int | None:
        refused.append(method)
        return 410 if refused == ["WATCH"] else None

    wait_for(follower.synced.is_set)
    stream = streaming(follower)
    kube.hook = hook
    stream.close()
    wait_for(lambda: sink.lists == 2)
    kube.put(pod("a", 1))
    wait_for(lambda: sink.names == {"a"})


def test_a_change_that_was_not_taken_is_not_lost(
    kube: FakeKube, sink: _Sink, follower: Follower
) -> None:
    wait_for(follower.synced.is_set)
    sink.fail = True
    kube.put(pod("a", 1))
    wait_for(lambda: sink.names == {"a"})
    assert sink.lists == 2


def test_refusals_are_asked_again(kube: FakeKube, sink: _Sink, follower: Follower) -> None:
    wait_for(follower.synced.is_set)
    refused = []

    def hook(method: str, _path: str) -> int | None:
        refused.append(method)
        return 500 if len(refused) < 4 else None

    kube.hook = hook
    streaming(follower).close()
    kube.put(pod("a", 1))
    wait_for(lambda: sink.names == {"a"})
    assert sink.lists == 1


@pytest.mark.parametrize("refused", ["WATCH", "GET"])
def test_tries_that_fail_all_along_are_no_following(
    kube: FakeKube, follower: Follower, refused: str
) -> None:
    """Also where there are lists, and no watch: what it has is of then."""
    assert not Follower(follower._api, PODS, _Sink()).follows(60.0)
    wait_for(lambda: follower.follows(0.0))
    stream = streaming(follower)
    kube.hook = lambda method, _path: 403 if method in (refused, "WATCH") else None
    if refused == "GET":
        kube.compact()
    stream.close()
    wait_for(lambda: not follower.follows(0.05))
    assert follower.follows(60.0)
    kube.hook = lambda *_: None
    wait_for(lambda: follower.follows(0.0))


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ({"type": "ADDED", "object": {"metadata": {"resourceVersion": "7"}}}, Kind.PUT),
        ({"type": "DELETED", "object": {"metadata": {"resourceVersion": "7"}}}, Kind.GONE),
        ({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "7"}}}, Kind.MARK),
        ({"type": "ERROR", "object": {"code": 410}}, Kind.EXPIRED),
        ({"type": "ERROR", "object": {"reason": "Expired"}}, Kind.EXPIRED),
        ({"type": "ERROR", "object": {"code": 500}}, Kind.ERROR),
        ({"type": "ADDED", "object": {"metadata": {}}}, Kind.ERROR),
        ({"type": "ADDED"}, Kind.ERROR),
        ({"type": "NEW", "object": {"metadata": {"resourceVersion": "7"}}}, Kind.ERROR),
        ({}, Kind.ERROR),
    ],
)
def test_lines_of_a_watch(line: Object, kind: Kind) -> None:
    change: Change = read(line)
    assert change.kind is kind
    assert change.version == ("7" if kind in (Kind.PUT, Kind.GONE, Kind.MARK) else "")
