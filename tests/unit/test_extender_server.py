# SPDX-License-Identifier: Apache-2.0
"""The whole extender over HTTP, against an API server over HTTP."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from extender_calls import bind, bound, call, get, post
from fake_kube import FakeKube, node, pod, served
from prometheus_client.parser import text_string_to_metric_families
from test_kube_client import kubeconfig, wait_for

from harp.errors import ConfigError, DaemonUnreachable
from harp.extender.app import Options, Service
from harp.extender.server import Tls
from harp.kube.access import find
from harp.kube.client import ApiServer
from harp.kube.lease import Tempo

Start = Callable[..., Service]
LEASE = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/harp-scheduler-extender"


@pytest.fixture
def kube() -> FakeKube:
    kube = FakeKube()
    kube.put(node("n1"))
    kube.put(node("n2"))
    return kube


@pytest.fixture
def start(kube: FakeKube, tmp_path: Path) -> Iterator[Start]:
    started: list[Service] = []
    with served(kube) as url:
        access = find(kubeconfig(tmp_path / "config", url, {}), {})

        def make(me: str = "me", **more: Any) -> Service:
            options = replace(Options(bind=("127.0.0.1", 0), me=me, namespace="ns"), **more)
            service = Service(ApiServer(access), options)
            service.start()
            started.append(service)
            return service

        yield make
        for service in started:
            service.stop()


@pytest.fixture
def service(start: Start) -> Service:
    service = start()
    wait_for(lambda: get(service, "/readyz")[0] == 200)
    return service


def test_filter_names_the_reason(kube: FakeKube, service: Service) -> None:
    kube.put(pod("x", 60, on="n1", gpu="0"))
    kube.put(pod("y", 60, on="n1", gpu="1"))
    wait_for(lambda: len(service.view.on("n1")) == 2)
    kube.put(node("n3", gpus=0))
    wait_for(lambda: "n3" in service.view.nodes)
    asked = {"Pod": pod("p", 60), "Nodes": None, "NodeNames": ["n1", "n2", "n3"]}
    never = {"n3": "the node has no harp.dev/gpu-share"}
    assert post(service, "/filter", asked) == {
        "NodeNames": ["n2"],
        "FailedNodes": {"n1": "largest free share on one GPU is 40, need 60"} | never,
        "FailedAndUnresolvableNodes": never,
        "Error": "",
    }


def test_a_no_waits_for_a_watch_that_is_behind(
    kube: FakeKube, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen on a real cluster: else the pod waits for kube-scheduler's next round, minutes later."""
    monkeypatch.setattr("harp.extender.calls._WAIT_S", 20.0)
    for gpu in "01":
        kube.put(pod(f"x{gpu}", 60, on="n1", gpu=gpu))
    wait_for(lambda: len(service.view.on("n1")) == 2)
    asked = {"Pod": pod("p", 60), "NodeNames": ["n1"]}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, service, "/filter", asked)
        wait_for(lambda: bool(service.lock._waiters))  # type: ignore[attr-defined]
        kube.put(pod("y", 40, on="n1", gpu="0"))  # a change, but not the right one
        wait_for(lambda: len(service.view.on("n1")) == 3)
        assert not answer.done()
        kube.remove(pod("x1"))
        assert answer.result(15)["NodeNames"] == ["n1"]


def test_whole_nodes_come_back_as_whole_nodes(service: Service) -> None:
    asked = {"pod": pod("p", 200), "nodes": {"items": [node("n2"), node("new", gpus=1)]}}
    answer = post(service, "/filter", asked)  # small names, of old kube-schedulers
    assert [one["metadata"]["name"] for one in answer["Nodes"]["items"]] == ["n2"]
    assert answer["FailedNodes"] == {"new": "the node has 1 GPUs, need 2"}
    scores = post(service, "/prioritize", asked)
    assert {one["Host"]: one["Score"] for one in scores} == {"n2": 10, "new": 0}


def test_bind_names_the_gpu_in_the_same_write(kube: FakeKube, service: Service) -> None:
    for name, share in (("a", 30), ("b", 80), ("c", 70)):
        kube.put(pod(name, share))
        assert bind(service, pod(name, share), "n1") == ""
    assert bound(kube) == {"a": ("n1", "0"), "b": ("n1", "1"), "c": ("n1", "0")}
    writes = [path for method, path in kube.calls if method != "GET" and "/pods/" in path]
    assert [path.rpartition("/")[2] for path in writes] == ["binding"] * 3
    kube.put(pod("d", 30))
    why = "node n1: largest free share on one GPU is 20, need 30"
    assert bind(service, pod("d", 30), "n1") == why
    assert "d" not in bound(kube)


def test_many_at_once(kube: FakeKube, service: Service) -> None:
    pods = [pod(f"p{at}", 60) for at in range(12)]
    for body in pods:
        kube.put(body)
    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(lambda body: bind(service, body, "n1"), pods))
    assert said.count("") == 2
    assert sorted(bound(kube).values()) == [("n1", "0"), ("n1", "1")]


def test_pods_that_are_not_there_any_more(kube: FakeKube, service: Service) -> None:
    assert bind(service, pod("gone", 30), "n1") == "ns/gone is not there any more"
    kube.put(pod("a", 30, uid="new"))
    assert "its uid is new, not old" in bind(service, pod("a", 30, uid="old"), "n1")
    # deleted between our look and the binding
    kube.put(pod("b", 100))
    kube.hook = lambda method, _: kube.remove(pod("b")) if method == "POST" else None
    assert "404" in bind(service, pod("b", 100), "n1")
    kube.hook = lambda *_: None
    for name in "cd":
        kube.put(pod(name, 100))
        assert bind(service, pod(name, 100), "n1") == ""


def test_somebody_was_faster(kube: FakeKube, service: Service) -> None:
    """The reason stands in the status, not in the text: 409 in a pod's name is no conflict."""
    kube.put(pod("p409", 100))

    def faster(method: str, path: str) -> None:
        if method == "POST" and path.endswith("binding"):
            kube.put(pod("p409", 100, on="n2", gpu="1"))

    kube.hook = faster
    assert bind(service, pod("p409", 100), "n1") == "ns/p409 is bound to node n2 already"
    kube.hook = lambda _, path: 403 if path.endswith("binding") else None
    kube.put(pod("q409", 100))
    assert "403" in bind(service, pod("q409", 100), "n1")
    kube.hook = lambda *_: None
    for name in "ab":  # n1 is free as before
        kube.put(pod(name, 100))
        assert bind(service, pod(name, 100), "n1") == ""


def test_a_binding_whose_answer_is_lost(kube: FakeKube, service: Service) -> None:
    def lost(_: str, path: str) -> None:
        if path.endswith("binding"):
            raise DaemonUnreachable("lost")

    kube.put(pod("a", 100))
    kube.after = lost
    assert bind(service, pod("a", 100), "n1") == ""  # it was done, and was seen to be
    kube.put(pod("b", 100))
    kube.hook = lambda method, path: 500 if method == "POST" and "pods" in path else None
    kube.after = lambda *_: None
    assert "500" in bind(service, pod("b", 100), "n1")
    kube.hook = lambda *_: None
    kube.put(pod("c", 100))
    assert "is 0, need 100" in bind(service, pod("c", 100), "n1")  # b's is not given away
    assert "may be bound there" in bind(service, pod("b", 100), "n2")
    assert bind(service, pod("b", 100), "n1") == ""
    assert bound(kube) == {"a": ("n1", "0"), "b": ("n1", "1")}
    assert "harp_scheduler_assumed_pods" in get(service, "/metrics")[1]


def test_a_restart_knows_all_from_the_annotations(kube: FakeKube, start: Start) -> None:
    first = start("first")
    wait_for(lambda: get(first, "/readyz")[0] == 200)
    for name, share in (("a", 70), ("b", 50)):
        kube.put(pod(name, share))
        assert bind(first, pod(name, share), "n1") == ""
    first.stop()
    second = start("second")
    wait_for(lambda: get(second, "/readyz")[0] == 200)
    assert second.view.room("n1").free == (30, 50)
    kube.put(pod("c", 60))
    assert "is 50, need 60" in bind(second, pod("c", 60), "n1")


def test_only_the_leader_answers(kube: FakeKube, start: Start) -> None:
    leader = start("a")
    wait_for(lambda: get(leader, "/readyz")[0] == 200)
    follower = start("b", tempo=Tempo(retry_s=0.1))
    wait_for(lambda: get(follower, "/readyz")[1].endswith("is not the leader"))
    assert get(follower, "/readyz")[0] == 503
    assert get(follower, "/healthz") == (200, "ok")
    kube.put(pod("p", 30))
    assert "is not the leader" in bind(follower, pod("p", 30), "n1")
    asked = {"Pod": pod("p", 30), "NodeNames": ["n1"]}
    assert "is not the leader" in post(follower, "/filter", asked)["Error"]
    status, _, headers = call(follower.server.port, "POST", "/prioritize", asked)
    assert (status, headers["Connection"]) == (503, "close")
    assert bound(kube) == {}
    leader.stop()  # gives up the lease: no need to wait until it expires
    wait_for(lambda: get(follower, "/readyz")[0] == 200)
    assert bind(follower, pod("p", 30), "n1") == ""


def test_the_lease_is_given_up_after_the_last_binding(kube: FakeKube, start: Start) -> None:
    service = start()
    wait_for(lambda: get(service, "/readyz")[0] == 200)
    kube.put(pod("p", 30))
    there, go_on = threading.Event(), threading.Event()

    def slow(_: str, path: str) -> None:
        if path.endswith("binding"):
            there.set()
            go_on.wait(20)

    kube.hook = slow
    with ThreadPoolExecutor(2) as pool:
        binding = pool.submit(bind, service, pod("p", 30), "n1")
        assert there.wait(20)
        ending = pool.submit(service.stop)
        wait_for(lambda: service._binder._closed)
        with pytest.raises(TimeoutError):
            ending.result(0.5)
        assert kube.objects[LEASE]["spec"]["holderIdentity"] == "me"
        go_on.set()
        assert binding.result(20) == ""
        ending.result(20)
    assert kube.objects[LEASE]["spec"]["holderIdentity"] is None


def test_without_an_election_what_another_bound_is_read(kube: FakeKube, start: Start) -> None:
    """Its kube-scheduler has begun to lead, and its watch has not shown what was bound before."""
    service = start(elect=False)
    wait_for(lambda: get(service, "/readyz")[0] == 200)
    for follower in service._followers:
        follower.stop()
    for thread in service._watchers:
        thread.join()
    kube.put(pod("x", 70, on="n1", gpu="0"))
    for name, share in (("a", 70), ("b", 70)):
        kube.put(pod(name, share))
    assert bind(service, pod("a", 70), "n1") == ""
    assert bound(kube)["a"] == ("n1", "1")
    assert "is 30, need 70" in bind(service, pod("b", 70), "n1")
    lists = [path for method, path in kube.calls if method == "GET" and "pods?" in path]
    assert len(lists) == 2  # once to begin with, once at the first binding


def test_not_ready_before_the_cluster_is_seen(kube: FakeKube, start: Start) -> None:
    kube.hook = lambda _, path: 403 if path.startswith("/api/v1/pods") else None
    service = start(elect=False)
    wait_for(lambda: get(service, "/healthz")[0] == 200)
    assert get(service, "/readyz") == (
        503,
        "HARP's extender does not see the cluster, yet or any more; see its log",
    )
    assert "does not see the cluster" in bind(service, pod("p", 30), "n1")
    kube.hook = lambda *_: None
    wait_for(lambda: get(service, "/readyz")[0] == 200)


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/filter", "x", 400, "no JSON"),
        ("/filter", "[]", 400, "no JSON object"),
        ("/filter", "{}", 400, "Pod is missing"),
        ("/filter", {"Pod": {}}, 400, "a pod without metadata.name"),
        ("/filter", {"Pod": pod("p")}, 400, "neither NodeNames nor Nodes"),
        ("/filter", {"Pod": pod("p"), "Nodes": {"items": [{}]}}, 400, "a node without a name"),
        ("/prioritize", {"Pod": pod("p"), "NodeNames": [1]}, 400, "neither NodeNames nor Nodes"),
        ("/bind", {"PodName": "p"}, 400, "PodNamespace is missing"),
        ("/preempt", {}, 404, "POST /filter, /prioritize or /bind"),
    ],
)
def test_what_is_no_call(service: Service, path: str, body: object, status: int, said: str) -> None:
    found = call(service.server.port, "POST", path, body)
    assert found[0] == status
    assert said in json.loads(found[1])["Error"]


def test_ipv6_without_dns(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getfqdn", lambda *_: pytest.fail("DNS was asked"))
    service = start(bind=("::1", 0))
    connection = http.client.HTTPConnection("::1", service.server.port, timeout=20)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    connection.close()


def test_bodies_without_end(service: Service) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", service.server.port, timeout=20)
    connection.putrequest("POST", "/filter")
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert "nodeCacheCapable" in json.loads(answer.read())["Error"]
    connection.close()


def test_metrics(kube: FakeKube, start: Start) -> None:
    service = start(metrics=("127.0.0.1", 0))
    wait_for(lambda: get(service, "/readyz")[0] == 200)
    kube.put(pod("a", 30))
    kube.put(pod("pinned", 50, on="n2"))
    assert bind(service, pod("a", 30), "n1") == ""
    assert bind(service, pod("gone", 30), "n1") != ""
    post(service, "/filter", {"Pod": pod("p", 30), "NodeNames": ["n1", "x"]})
    wait_for(lambda: service.view.room("n2").adrift == (50,))
    assert service.metrics is not None
    status, text, _ = call(service.metrics.port, "GET", "/metrics")
    assert status == 200
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["harp_scheduler_decisions_total", "bound"] == 1
    assert found["harp_scheduler_decisions_total", "refused"] == 1
    assert found["harp_scheduler_decisions_total", "lost"] == 0
    assert found["harp_scheduler_filtered_nodes_total", "full"] == 1
    assert found["harp_scheduler_call_duration_seconds_count", "bind"] == 2
    assert found["harp_scheduler_gpus", "total"] == 4
    assert found["harp_scheduler_gpus", "free"] == pytest.approx(3.7)
    assert found["harp_scheduler_gpus", "not_located"] == 0.5
    assert found[("harp_scheduler_leader",)] == 1
    assert call(service.metrics.port, "GET", "/readyz")[0] == 200
    assert call(service.metrics.port, "POST", "/bind", {})[0] == 404  # not here


def test_what_cannot_be_served(start: Start, service: Service, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot listen"):
        start(bind=("127.0.0.1", service.server.port))
    (tmp_path / "x").write_text("x")
    with pytest.raises(ConfigError, match="cannot be used"):
        start(tls=Tls(tmp_path / "x", tmp_path / "x"))
