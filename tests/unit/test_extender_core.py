# SPDX-License-Identifier: Apache-2.0
"""Binding, step by step: no GPU is ever given twice, whatever is late, lost, or somebody else's."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from fake_kube import FakeKube, node, pod
from hypothesis import given
from hypothesis import strategies as st

from harp.extender.core import (
    BindAsked,
    Done,
    NodeGone,
    NodeSeen,
    NodesListed,
    Outcome,
    PodGone,
    PodSeen,
    PodsListed,
    Post,
    Posted,
    Read,
    TookOver,
    Was,
    step,
)
from harp.extender.decide import filter_nodes
from harp.extender.objects import NodeInfo, PodInfo
from harp.extender.room import best
from harp.extender.state import CONFIRMED_S, LOST_S, View

#: a request whose client has gone may still be done for so long
LATE_S = 60.0
NAMES = ("n1", "n2")


def _view(*nodes: dict[str, object], pods: tuple[dict[str, object], ...] = ()) -> View:
    view = View()
    step(view, NodesListed(tuple(map(NodeInfo.of, nodes))), 0.0)
    step(view, PodsListed(tuple(map(PodInfo.of, pods))), 0.0)
    return view


def _post(view: View, body: dict[str, object], on: str, now_s: float = 0.0) -> Post:
    (action,) = step(view, BindAsked(PodInfo.of(body), on), now_s)
    assert isinstance(action, Post), action
    return action


def _done(view: View, event: object, now_s: float = 0.0) -> Done:
    action = step(view, event, now_s)[-1]
    assert isinstance(action, Done), action
    return action


def _refused(view: View, body: dict[str, object], on: str, now_s: float = 0.0) -> str:
    done = _done(view, BindAsked(PodInfo.of(body), on), now_s)
    assert done.outcome is Outcome.REFUSED
    return done.why


def test_two_binds_at_once_get_what_is_there_once() -> None:
    view = _view(node("n", gpus=2))
    first = _post(view, pod("a", 60), "n")
    second = _post(view, pod("b", 60), "n")
    assert (first.annotations, second.annotations) == ({"harp.dev/gpu": "0"}, {"harp.dev/gpu": "1"})
    assert _refused(view, pod("c", 60), "n") == (
        "node n: largest free share on one GPU is 40, need 60"
    )


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.CONFLICT])
def test_what_was_not_bound_is_free_again(outcome: Outcome) -> None:
    view = _view(node("n", gpus=1))
    post = _post(view, pod("a", 60), "n")
    action = step(view, Posted(post.pod, outcome, "403"), 0.0)[-1]
    if isinstance(action, Read):
        action = _done(view, Was(post.pod, PodInfo.of(pod("a", 60)), why=action.why))
    assert action == Done(Outcome.REFUSED, "ns/a is not bound to n: 403")
    _post(view, pod("b", 60), "n")


def test_a_conflict_with_our_own_lost_request_is_success() -> None:
    view = _view(node("n", gpus=1))
    post = _post(view, pod("a", 60), "n")
    assert isinstance(step(view, Posted(post.pod, Outcome.CONFLICT, "409"), 0.0)[-1], Read)
    now = PodInfo.of(pod("a", 60, on="n", gpu="0"))
    assert _done(view, Was(post.pod, now)).outcome is Outcome.BOUND
    assert view.room("n").free == (40,)


def test_bound_elsewhere_by_somebody_else() -> None:
    view = _view(node("n"), node("other"))
    post = _post(view, pod("a", 60), "n")
    step(view, Posted(post.pod, Outcome.CONFLICT, "409"), 0.0)
    now = PodInfo.of(pod("a", 60, on="other", gpu="1"))
    assert _done(view, Was(post.pod, now)).why == "ns/a is bound to node other already"
    assert (view.room("n").free, view.room("other").free) == ((100, 100), (100, 40))


def test_after_a_lost_answer_it_is_that_node_and_that_gpu_or_none() -> None:
    view = _view(node("n"), node("m"), pods=(pod("x", 50, on="n", gpu="0"),))
    post = _post(view, pod("a", 50), "n")
    step(view, Posted(post.pod, Outcome.LOST, "time"), 0.0)
    assert _done(view, Was(post.pod, None, known=False)).outcome is Outcome.LOST
    assert "may be bound there" in _refused(view, pod("a", 50), "m")
    judged = filter_nodes(view, PodInfo.of(pod("a", 50)), ["n", "m"])
    assert (judged.fitting, list(judged.full)) == (("n",), ["m"])
    step(view, PodGone("uid-x"), 1.0)  # GPU 0 is free now, but a is on it or nowhere
    again = _post(view, pod("a", 50), "n", 2.0)
    assert again.annotations == post.annotations == {"harp.dev/gpu": "0"}
    # The second is refused for good; the first may still come.
    step(view, Posted(again.pod, Outcome.REFUSED, "403"), 3.0)
    assert view.room("n").free == (50, 100)
    (expired,) = step(view, NodeGone("x"), 3.0 + LOST_S)
    assert expired.pod == post.pod
    _post(view, pod("a", 50), "m", 3.0 + LOST_S)


def test_a_pod_that_is_being_bound_is_not_bound_twice() -> None:
    view = _view(node("n"))
    _post(view, pod("a", 50), "n")
    assert _refused(view, pod("a", 50), "n") == "ns/a is being bound to node n at this moment"


def test_the_watch_may_come_before_the_answer_and_long_after() -> None:
    view = _view(node("n", gpus=1))
    early = _post(view, pod("a", 30), "n")
    step(view, PodSeen(PodInfo.of(pod("a", 30, on="n", gpu="0"))), 0.0)
    assert _done(view, Posted(early.pod, Outcome.BOUND)).outcome is Outcome.BOUND
    late = _post(view, pod("b", 30), "n")
    step(view, Posted(late.pod, Outcome.BOUND), 1.0)
    step(view, PodSeen(PodInfo.of(pod("b", 30))), 2.0)  # as it was before
    assert view.room("n").free == (40,)
    assert view.assumed() == (late.pod,)
    assert step(view, PodGone("uid-a"), 3.0) == ()
    assert view.room("n").free == (70,)
    (expired,) = step(view, NodeGone("m"), 1.0 + CONFIRMED_S)
    assert expired.pod == late.pod


def test_deleted_before_the_answer() -> None:
    view = _view(node("n", gpus=1))
    post = _post(view, pod("a", 30), "n")
    step(view, PodGone("uid-a"), 0.0)
    assert _done(view, Posted(post.pod, Outcome.BOUND)).outcome is Outcome.BOUND
    assert view.room("n").free == (100,)


def test_ended_pods_have_nothing_and_are_not_bound() -> None:
    view = _view(node("n", gpus=1), pods=(pod("x", 90, on="n", gpu="0", phase="Failed"),))
    assert view.room("n").free == (100,)
    assert _refused(view, pod("a", 30, phase="Succeeded"), "n") == "ns/a has ended"


def test_bound_already() -> None:
    view = _view(node("n"))
    assert _done(view, BindAsked(PodInfo.of(pod("a", 30, on="n")), "n")).outcome is Outcome.BOUND
    assert "bound to node m already" in _refused(view, pod("b", 30, on="m"), "n")
    # read before it was bound, asked for after the watch has shown it
    step(view, PodSeen(PodInfo.of(pod("c", 30, on="n", gpu="0"))), 0.0)
    assert _done(view, BindAsked(PodInfo.of(pod("c", 30)), "n")).outcome is Outcome.BOUND


def test_a_new_leader_counts_what_its_watch_has_not_shown() -> None:
    view = _view(node("n", gpus=1))
    step(view, TookOver((PodInfo.of(pod("a", 70, on="n", gpu="0")), PodInfo.of(pod("b", 9)))), 0.0)
    assert _refused(view, pod("c", 40), "n").endswith("is 30, need 40")


def test_late_news_of_pods_that_are_gone_say_nothing() -> None:
    view = _view(node("n", gpus=1), pods=(pod("a", 70, on="n", gpu="0"), pod("b", 30)))
    step(view, PodGone("uid-a"), 0.0)
    step(view, TookOver((PodInfo.of(pod("a", 70, on="n", gpu="0")),)), 0.0)
    assert view.room("n").free == (100,)
    step(view, PodsListed(()), 0.0)
    assert _refused(view, pod("b", 30), "n") == "ns/b has ended"


def test_no_gpu_is_named_where_one_would_be_guessed() -> None:
    view = _view(node("n", ill=1), pods=())
    post = _post(view, pod("a", 30, gpu="1"), "n")
    assert post.annotations == {"harp.dev/gpu": ""}  # over what its maker wrote
    step(view, NodeSeen(NodeInfo.of(node("n"))), 0.0)
    assert view.room("n").adrift == (30,)


def test_a_pod_without_shares_keeps_its_annotations() -> None:
    assert _post(_view(node("n")), pod("a", 0), "n").annotations == {}


def test_unknown_nodes() -> None:
    assert "does not know the node" in _refused(_view(node("n")), pod("a", 1), "m")


# Random interleavings.


@dataclass
class _Binding:
    """One that has begun: its next event, when it is known."""

    replica: _Replica
    event: object
    late: list[Post] = field(default_factory=list)


@dataclass
class _Replica:
    kube: FakeKube
    view: View = field(default_factory=View)
    seen: int = 0  #: of the log

    def list(self) -> None:
        nodes = [NodeInfo.of(self.kube.objects[f"/api/v1/nodes/{name}"]) for name in NAMES]
        step(self.view, NodesListed(tuple(nodes)), 0.0)
        step(self.view, PodsListed(tuple(map(PodInfo.of, self.kube.pods()))), 0.0)
        self.seen = len(self.kube.log)

    def watch(self, now_s: float) -> None:
        """One change more."""
        if self.seen < len(self.kube.log):
            _, kind, where, body = self.kube.log[self.seen]
            self.seen += 1
            if where.endswith("pods"):
                info = PodInfo.of(body)
                gone = kind == "DELETED"
                step(self.view, PodGone(info.uid) if gone else PodSeen(info), now_s)


class _World:
    """Two replicas, one of which leads, an API server, and all that can be late or lost."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.kube = FakeKube()
        for name in NAMES:
            self.kube.put(node(name))
        self.replicas = [_Replica(self.kube), _Replica(self.kube)]
        for replica in self.replicas:
            replica.list()
        self.leader = self.replicas[0]
        self.now_s = 0.0
        self.running: list[_Binding] = []
        self.late: list[tuple[float, Post]] = []  #: until when it may be done
        self.made = 0
        self.bound = 0

    def turn(self) -> None:
        moves = (
            *[self.make] * 2,
            *[self.ask] * 3,
            *[self.go_on] * 6,
            *[self.watch] * 3,
            self.arrive,
            self.delete,
            self.wait,
            self.take_over,
            self.relist,
        )
        self.rng.choice(moves)()
        self.check()

    def make(self) -> None:
        if len(self.kube.pods()) < 8:
            self.made += 1
            shares = self.rng.choice([(20,), (30,), (50,), (60,), (100,), (200,), (30, 40)])
            self.kube.put(pod(f"p{self.made % 10}", *shares, uid=f"uid-{self.made}"))

    def ask(self) -> None:
        """kube-scheduler, of whom there may be two, and who may be behind."""
        if pods := self.kube.pods():
            info = PodInfo.of(self.rng.choice(pods))
            if self.rng.random() < 0.3:
                info = replace(info, node="", gpus=())
            self.running.append(_Binding(self.leader, BindAsked(info, self.rng.choice(NAMES))))

    def go_on(self) -> None:
        if not self.running:
            return
        binding = self.rng.choice(self.running)
        action = step(binding.replica.view, binding.event, self.now_s)[-1]
        match action:
            case Done(outcome):
                self.running.remove(binding)
                self.bound += outcome is Outcome.BOUND
            case Post():
                binding.event = self.post(action)
            case Read(pod=info, why=why):
                known = self.rng.random() < 0.7
                binding.event = Was(info, self.find(info) if known else None, known, why)

    def post(self, post: Post) -> Posted:
        luck = self.rng.random()
        if luck < 0.15:
            self.late.append((self.now_s + LATE_S, post))
            return Posted(post.pod, Outcome.LOST, "time")
        if luck < 0.2:
            return Posted(post.pod, Outcome.REFUSED, "403")
        if luck < 0.3:
            self.do(post)
            return Posted(post.pod, Outcome.LOST, "time")
        outcomes = {201: Outcome.BOUND, 404: Outcome.REFUSED, 409: Outcome.CONFLICT}
        return Posted(post.pod, outcomes[self.do(post)], "no")

    def do(self, post: Post) -> int:
        meta = {"uid": post.pod.uid, "annotations": dict(post.annotations)}
        path = f"/api/v1/namespaces/ns/pods/{post.pod.name}/binding"
        body = {"metadata": meta, "target": {"name": post.pod.node}}
        return self.kube.ask("POST", path, body).status

    def find(self, info: PodInfo) -> PodInfo | None:
        path = f"/api/v1/namespaces/ns/pods/{info.name}"
        there = self.kube.objects.get(path)
        return PodInfo.of(there) if there else None

    def watch(self) -> None:
        replica = self.rng.choice(self.replicas)
        for _ in range(self.rng.choice([1, 1, 5])):
            replica.watch(self.now_s)

    def relist(self) -> None:
        self.rng.choice(self.replicas).list()

    def arrive(self) -> None:
        if self.late:
            _, post = self.late.pop(self.rng.randrange(len(self.late)))
            if self.rng.random() < 0.7:
                self.do(post)

    def delete(self) -> None:
        if pods := self.kube.pods():
            self.kube.remove(self.rng.choice(pods))

    def wait(self) -> None:
        self.now_s += self.rng.choice([1.0, 20.0, LATE_S, LOST_S, 400.0])
        # Nothing is late for ever: the watch neither, where minutes pass.
        self.late = [one for one in self.late if one[0] >= self.now_s]
        for replica in self.replicas:
            while self.now_s > 300.0 and replica.seen < len(self.kube.log):
                replica.watch(self.now_s)

    def take_over(self) -> None:
        """All that the old leader began has ended (lease.py), then the other lists."""
        if self.rng.random() < 0.7 or any(one.replica is self.leader for one in self.running):
            return
        self.late.clear()
        self.leader = next(one for one in self.replicas if one is not self.leader)
        pods = tuple(map(PodInfo.of, self.kube.pods()))
        step(self.leader.view, TookOver(pods), self.now_s)

    def check(self) -> None:
        given_out: Counter[tuple[str, str]] = Counter()
        for info in map(PodInfo.of, self.kube.pods()):
            if info.node:
                names = list(info.gpus)
                for claim in info.claims:
                    count = max(1, claim.slots // 100)
                    for _ in range(count):
                        given_out[info.node, names.pop(0)] += claim.slots // count
                assert not names
        assert all(slots <= 100 for slots in given_out.values()), given_out
        assert all(gpu in ("0", "1") for _, gpu in given_out)


@pytest.mark.parametrize("first", range(0, 80, 20))
def test_no_gpu_is_given_twice(first: int) -> None:
    bound = 0
    for seed in range(first, first + 20):
        world = _World(random.Random(seed))
        for turn in range(150):
            try:
                world.turn()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, turn {turn}") from error
        bound += world.bound
    assert bound >= 100  # else this would be no test


@given(st.integers(0, 1 << 32))
def test_what_is_bound_finds_its_place_beside_pods_that_asked_nobody(seed: int) -> None:
    """Static pods, pods with nodeName, and GPUs that fail: the node has room where we say so."""
    rng = random.Random(seed)
    truth, ill = [100, 100, 100], set[int]()
    view = _view(node("n", gpus=3))
    lies: dict[str, tuple[dict[str, object], list[tuple[int, int]]]] = {}
    for number in range(40):
        usable = [0 if gpu in ill else have for gpu, have in enumerate(truth)]
        share = rng.choice([20, 30, 50, 60, 90, 100])
        match rng.choice(["bind", "bind", "bind", "static", "end", "end", "health"]):
            case "bind":
                body = pod(f"p{number}", share)
                (action,) = step(view, BindAsked(PodInfo.of(body), "n"), 0.0)
                if isinstance(action, Post):
                    named = action.annotations["harp.dev/gpu"]
                    gpus = (int(named),) if named else best(usable, 1, share)
                    assert gpus
                    assert usable[gpus[0]] >= share
                    body = pod(f"p{number}", share, on="n", gpu=named)
                    lies[f"p{number}"] = body, [(gpus[0], share)]
                    truth[gpus[0]] -= share
                    step(view, Posted(action.pod, Outcome.BOUND), 0.0)
                    step(view, PodSeen(PodInfo.of(body)), 0.0)
            case "static":
                if gpus := best(usable, 1, share):
                    body = pod(f"s{number}", share, on="n")
                    lies[f"s{number}"] = body, [(gpus[0], share)]
                    truth[gpus[0]] -= share
                    step(view, PodSeen(PodInfo.of(body)), 0.0)
            case "end" if lies:
                name = rng.choice(sorted(lies))
                for gpu, slots in lies.pop(name)[1]:
                    truth[gpu] += slots
                step(view, PodGone(f"uid-{name}"), 0.0)
            case "health":
                ill = set(rng.sample(range(3), rng.choice([0, 0, 1, 2])))
                step(view, NodeSeen(NodeInfo.of(node("n", gpus=3, ill=len(ill)))), 0.0)
