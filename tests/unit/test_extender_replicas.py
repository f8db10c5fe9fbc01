# SPDX-License-Identifier: Apache-2.0
"""Several replicas, one of which dies or goes blind; and bindings that wait for other pods."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from extender_calls import bind, bound, get
from fake_kube import FakeKube, node, pod, served
from test_kube_client import kubeconfig, wait_for

from harp.errors import DaemonUnreachable
from harp.extender import bind as module
from harp.extender.app import Options, Service
from harp.kube.access import Access, find
from harp.kube.client import Answer, ApiServer, Stream
from harp.kube.lease import Tempo

TEMPO = Tempo(lease_s=2.0, renew_s=1.0, retry_s=0.1)
BLIND_S = 0.3
LEASE = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/harp-scheduler-extender"


class Cable(ApiServer):
    """The way of one replica to the API server; it can be cut, for all or for some."""

    def __init__(self, access: Access) -> None:
        super().__init__(access)
        self.cut: Callable[[str], bool] = lambda _path: False
        self.lost: Callable[[str], bool] = lambda _path: False  #: the answers alone

    def ask(self, method: str, path: str, body: object = None, *, timeout_s: float = 5.0) -> Answer:
        if self.cut(path):
            raise DaemonUnreachable("cut")
        answer = super().ask(method, path, body, timeout_s=timeout_s)
        if self.lost(path):
            raise DaemonUnreachable("lost")
        return answer

    @contextmanager
    def stream(self, path: str, query: Mapping[str, str], *, read_s: float) -> Iterator[Stream]:
        if self.cut(path):
            raise DaemonUnreachable("cut")
        with super().stream(path, query, read_s=read_s) as stream:
            yield stream


@dataclass(frozen=True)
class Replica:
    service: Service
    cable: Cable

    @property
    def ready(self) -> bool:
        return self.answers()

    def answers(self) -> bool:
        return get(self.service, "/readyz")[0] == 200

    def cut(self, which: Callable[[str], bool] = lambda _path: True) -> None:
        """From now on, also what is under way."""
        self.cable.cut = which
        for follower in self.service._followers:
            if which(follower._path) and follower._stream is not None:
                follower._stream.close()

    def mend(self) -> None:
        self.cable.cut = self.cable.lost = lambda _path: False


Start = Callable[[str], Replica]


@pytest.fixture
def kube() -> FakeKube:
    kube = FakeKube()
    kube.put(node("n1"))
    kube.put(node("n2"))
    return kube


@pytest.fixture
def start(kube: FakeKube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setattr("harp.extender.app._BLIND_S", BLIND_S)
    monkeypatch.setattr("harp.kube.watch._PAUSE_MAX_S", 0.2)
    started: list[Service] = []
    with served(kube) as url:
        access = find(kubeconfig(tmp_path / "config", url, {}), {})

        def make(me: str) -> Replica:
            options = Options(bind=("127.0.0.1", 0), me=me, namespace="ns", tempo=TEMPO)
            cable = Cable(access)
            service = Service(cable, options)
            service.start()
            started.append(service)
            return Replica(service, cable)

        yield make
        for service in started:
            service.stop()


@pytest.fixture
def two(start: Start) -> tuple[Replica, Replica]:
    """The first leads."""
    first = start("first")
    wait_for(lambda: first.ready)
    second = start("second")
    wait_for(second.service.synced)
    return first, second


@pytest.fixture
def service(start: Start) -> Service:
    one = start("one")
    wait_for(lambda: one.ready)
    return one.service


def _times_bound(kube: FakeKube, name: str) -> int:
    nodes = [
        body["spec"].get("nodeName")
        for _, kind, _, body in kube.log
        if body["metadata"]["name"] == name and kind == "MODIFIED"
    ]
    before = [None, *nodes][: len(nodes)]
    return sum(new is not None and old is None for old, new in zip(before, nodes, strict=True))


def test_a_leader_that_sees_nothing_any_more_hands_over(
    kube: FakeKube, two: tuple[Replica, Replica]
) -> None:
    """It reaches its lease, but its lists and watches of pods fail."""
    first, second = two
    kube.put(pod("a", 60))
    assert bind(first.service, pod("a", 60), "n1") == ""
    began_s = time.monotonic()
    first.cut(lambda path: path.startswith("/api/v1/pods"))
    kube.put(pod("x", 60, on="n1", gpu="1"))  # nobody has told it
    wait_for(lambda: not first.ready)
    assert not second.ready  # what the first had begun has its time
    wait_for(lambda: second.ready)
    assert time.monotonic() - began_s > TEMPO.lease_s - TEMPO.renew_s
    assert not first.ready
    assert "does not see the cluster" in get(first.service, "/readyz")[1]
    kube.put(pod("b", 60))
    assert "does not see the cluster" in bind(first.service, pod("b", 60), "n1")
    assert "is 40, need 60" in bind(second.service, pod("b", 60), "n1")
    assert bind(second.service, pod("b", 60), "n2") == ""
    first.mend()
    wait_for(first.service.synced)
    assert "not the leader" in get(first.service, "/readyz")[1]
    assert second.ready
    assert bound(kube) == {"a": ("n1", "0"), "x": ("n1", "1"), "b": ("n2", "0")}


def test_a_replica_that_cannot_see_does_not_stand(kube: FakeKube, start: Start) -> None:
    """Once it took the lease and kept it, and nobody led."""
    kube.hook = lambda _, path: 403 if path.startswith("/api/v1/pods") else None
    blind = start("blind")
    time.sleep(5 * TEMPO.retry_s)
    assert not blind.service.leads()
    assert not [path for method, path in kube.calls if method in ("POST", "PUT")]
    kube.hook = lambda *_: None
    wait_for(lambda: blind.ready)


def test_one_that_cannot_read_what_was_bound_lets_the_other_lead(
    kube: FakeKube, two: tuple[Replica, Replica]
) -> None:
    first, second = two
    # Its watches go on, lists fail: that of who takes over.
    second.cable.cut = lambda path: path.startswith("/api/v1/pods?limit")
    first.service.stop()
    wait_for(lambda: any("second" in str(o.get("spec")) for _, _, _, o in kube.log))
    wait_for(lambda: kube.objects[LEASE]["spec"]["holderIdentity"] is None)
    assert not second.ready
    second.mend()
    wait_for(lambda: second.ready)


def test_a_list_that_takes_longer_than_the_lease(
    kube: FakeKube, two: tuple[Replica, Replica], start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once two that had to read many pods took the lease from each other for ever."""
    for number in range(6):
        kube.put(pod(f"p{number}", 10))
    third = start("third")
    wait_for(third.service.synced)
    monkeypatch.setattr("harp.kube.watch._PAGE", 1)

    def slow(path: str) -> bool:
        time.sleep(0.5 * ("pods?limit" in path))
        return False

    for replica in (two[1], third):
        replica.cable.cut = slow
    two[0].service.stop()
    wait_for(lambda: two[1].answers() or third.answers())
    assert kube.objects[LEASE]["spec"]["leaseTransitions"] == 1


@pytest.mark.parametrize("arrived", [True, False])
def test_a_leader_that_dies_within_a_binding(
    kube: FakeKube, two: tuple[Replica, Replica], arrived: bool
) -> None:
    """kube-scheduler asks the next leader; the pod is bound once, and its slots counted once."""
    first, second = two
    kube.put(pod("a", 60))

    def dies(path: str) -> bool:
        if path.endswith("/binding"):
            first.cut()
            return True
        return False

    if arrived:
        first.cable.lost = dies
    else:
        first.cable.cut = dies
    assert bind(first.service, pod("a", 60), "n1") != ""
    assert ("a" in bound(kube)) == arrived
    wait_for(lambda: second.ready)
    assert not first.service.leads()
    if arrived:
        assert bind(second.service, pod("a", 60), "n2") == "ns/a is bound to node n1 already"
    assert bind(second.service, pod("a", 60), "n1") == ""
    assert _times_bound(kube, "a") == 1
    for name, why in (("b", ""), ("c", "node n1: largest free share on one GPU is 40, need 60")):
        kube.put(pod(name, 60))
        assert bind(second.service, pod(name, 60), "n1") == why
    assert bound(kube) == {"a": ("n1", "0"), "b": ("n1", "1")}
    first.mend()
    wait_for(lambda: first.service.view.room("n1").free == (40, 40))
    assert first.service.view.assumed() == ()


def test_a_binding_that_waits_ends_with_the_lead(
    kube: FakeKube, two: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next leader binds it, or another pod; not both."""
    monkeypatch.setattr(module, "_WAIT_S", 60.0)
    first, second = two
    kube.kubelet = False
    for name in "ab":
        kube.put(pod(name, 60))
    assert bind(first.service, pod("a", 60), "n1") == ""
    with ThreadPoolExecutor(1) as pool:
        binding = pool.submit(bind, first.service, pod("b", 60), "n1")
        wait_for(lambda: bool(first.service.lock._waiters))  # type: ignore[attr-defined]
        first.cut()
        assert "not the leader any more" in binding.result(20)
    wait_for(lambda: second.ready)
    kube.begin(pod("a", 60))
    assert bind(second.service, pod("b", 60), "n1") == ""
    assert bound(kube) == {"a": ("n1", "0"), "b": ("n1", "1")}


def test_leaders_come_and_go(kube: FakeKube, two: tuple[Replica, Replica]) -> None:
    """A kube-scheduler that asks whoever answers: all is bound once, and no GPU given twice."""
    bodies = [pod(f"p{number}", 40) for number in range(10)]
    for body in bodies:
        kube.put(body)
    ended = threading.Event()

    def place(body: dict[str, object]) -> None:
        at = 0
        while not ended.wait(0.02):
            at += 1
            if bind(two[at % 2].service, body, f"n{1 + at // 2 % 2}") == "":
                return

    with ThreadPoolExecutor(4) as pool:
        placing = [pool.submit(place, body) for body in bodies]
        for turn in range(4):
            leading, other = two[turn % 2], two[1 - turn % 2]
            wait_for(leading.answers)
            leading.cable.lost = lambda path: path.endswith("/binding")
            time.sleep(0.1)
            leading.cut()
            wait_for(other.answers)
            assert not leading.service.leads()
            leading.mend()
        wait_for(lambda: len(bound(kube)) == 8)
        ended.set()
        for one in placing:
            one.result(20)
    places = sorted(bound(kube).values())
    assert places == sorted(2 * [(name, gpu) for name in ("n1", "n2") for gpu in "01"])
    assert all(_times_bound(kube, body["metadata"]["name"]) <= 1 for body in bodies)


def test_one_that_could_be_mixed_up_is_bound_once_the_other_has_begun(
    kube: FakeKube, service: Service
) -> None:
    """kube-scheduler binds each pod in a thread of its own: it holds up no other."""
    kube.kubelet = False
    a, b = pod("a", 60), pod("b", 60)
    kube.put(a)
    kube.put(b)
    assert bind(service, a, "n1") == ""
    with ThreadPoolExecutor(1) as pool:
        binding = pool.submit(bind, service, b, "n1")
        wait_for(lambda: bool(service.lock._waiters))  # type: ignore[attr-defined]
        kube.put(pod("c", 30))
        assert bind(service, pod("c", 30), "n2") == ""  # a change, but not the one
        assert not binding.done()
        assert "b" not in bound(kube)
        kube.begin(a)
        assert binding.result(20) == ""
    assert bound(kube) == {"a": ("n1", "0"), "b": ("n1", "1"), "c": ("n2", "0")}


def test_kube_scheduler_hears_in_time_that_one_has_to_wait(
    kube: FakeKube, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module._WAIT_S + 2 * module._GET_S + module._POST_S < 15 - 0.4  # httpTimeout: 15s
    kube.kubelet = False
    for name in "ab":
        kube.put(pod(name, 60))
    assert bind(service, pod("a", 60), "n1") == ""
    monkeypatch.setattr(module, "_WAIT_S", 0.2)
    assert "kubelet has not begun it; the pod is tried again" in bind(service, pod("b", 60), "n1")
    monkeypatch.setattr(module, "_WAIT_S", 20.0)
    with ThreadPoolExecutor(1) as pool:  # and an extender that ends is not held up
        binding = pool.submit(bind, service, pod("b", 60), "n1")
        wait_for(lambda: bool(service.lock._waiters))  # type: ignore[attr-defined]
        assert service._binder.close()
        assert "not the leader" in binding.result(1)
    assert "b" not in bound(kube)


def test_who_hangs_up_is_not_bound_for_later(
    kube: FakeKube, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kube-scheduler that has lost its election ends; the next one has an extender of its own."""
    monkeypatch.setattr(module, "_WAIT_S", 60.0)
    kube.kubelet = False
    for name in "ab":
        kube.put(pod(name, 60))
    assert bind(service, pod("a", 60), "n1") == ""
    connection = http.client.HTTPConnection("127.0.0.1", service.server.port, timeout=20)
    asked = {"PodName": "b", "PodNamespace": "ns", "PodUID": "uid-b", "Node": "n1"}
    connection.request("POST", "/bind", json.dumps(asked))
    wait_for(lambda: service._binder._running == 1)
    wait_for(lambda: bool(service.lock._waiters))  # type: ignore[attr-defined]
    connection.close()
    wait_for(lambda: service._binder._running == 0)
    kube.begin(pod("a", 60))
    assert bind(service, pod("b", 60), "n2") == ""
    assert bound(kube) == {"a": ("n1", "0"), "b": ("n2", "0")}
