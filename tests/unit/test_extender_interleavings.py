# SPDX-License-Identifier: Apache-2.0
"""Random interleavings: no GPU is ever given twice, whatever is late, lost, or somebody else's.

Kubelet serves what is bound in any order and the plugin has but its hint, so what is checked is
what they have on the node, not what is written.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from extender_kubelet import Kubelet
from fake_kube import FakeKube, node, pod
from hypothesis import given
from hypothesis import strategies as st

from harp.extender.core import (
    BindAsked,
    Done,
    Event,
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
    Wait,
    Was,
    step,
)
from harp.extender.objects import NodeInfo, PodInfo
from harp.extender.room import best
from harp.extender.state import LOST_S, View
from harp.kube import watch

#: a request whose client has gone may still be done for so long
LATE_S = 60.0
#: so far behind is a watch that has died in silence, until its list has been read anew
BEHIND_S = watch._WATCH_S + watch._SLACK_S + 1.2 * watch._PAUSE_MAX_S + watch._LIST_S
NAMES = ("n1", "n2")


@dataclass
class _Binding:
    """One that has begun: its next event, when it is known."""

    replica: _Replica
    event: Event


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
        self.kubelet = Kubelet(self.kube, NAMES)
        self.replicas = [_Replica(self.kube), _Replica(self.kube)]
        for replica in self.replicas:
            replica.list()
        self.leader = self.replicas[0]
        self.now_s = 0.0
        self.running: list[_Binding] = []
        self.late: list[tuple[float, Post]] = []  #: until when it may be done
        self.marks: list[tuple[float, int]] = []  #: how long the log was, and when
        self.made = 0
        self.bound = 0
        self.known = 0

    def turn(self) -> None:
        moves = (
            *[self.make] * 2,
            *[self.ask] * 3,
            *[self.go_on] * 6,
            *[self.watch] * 3,
            *[self.serve] * 3,
            *[self.begin] * 3,
            self.arrive,
            self.delete,
            self.wait,
            self.take_over,
            self.relist,
        )
        self.rng.choice(moves)()
        self.check()

    def make(self) -> None:
        taken = {one["metadata"]["name"] for one in self.kube.pods()}
        if len(taken) < 8 and f"p{(self.made + 1) % 10}" not in taken:
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
            case Wait():
                if self.rng.random() < 0.2:  # it is given up
                    self.running.remove(binding)
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

    def serve(self) -> None:
        if pods := self.kubelet.unserved():
            self.kubelet.serve(self.rng.choice(pods))

    def begin(self) -> None:
        if pods := self.kubelet.untold():
            self.kube.begin(self.rng.choice(pods))

    def relist(self) -> None:
        self.rng.choice(self.replicas).list()

    def arrive(self) -> None:
        if self.late:
            _, post = self.late.pop(self.rng.randrange(len(self.late)))
            if self.rng.random() < 0.7:
                self.do(post)

    def delete(self) -> None:
        if pods := self.kube.pods():
            body = self.rng.choice(pods)
            self.kube.remove(body)
            self.kubelet.end(body["metadata"]["uid"])

    def wait(self) -> None:
        self.marks.append((self.now_s, len(self.kube.log)))
        self.now_s += self.rng.choice([1.0, 20.0, LATE_S, BEHIND_S, LOST_S, 400.0])
        self.kube.now_s = self.now_s
        # Nothing is late for ever: the watch neither.
        self.late = [one for one in self.late if one[0] >= self.now_s]
        due = max((at for when_s, at in self.marks if when_s + BEHIND_S < self.now_s), default=0)
        for replica in self.replicas:
            while replica.seen < due:
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
        assert not self.kubelet.refused
        for replica in self.replicas:
            believed = self.kubelet.believed(replica.view)
            assert all(self.kubelet.has[uid] == lies for uid, lies in believed.items())
            self.known += len(believed)


@pytest.mark.parametrize("first", range(0, 320, 80))
def test_no_gpu_is_given_twice(first: int) -> None:
    bound = known = 0
    for seed in range(first, first + 80):
        world = _World(random.Random(seed))
        for turn in range(150):
            try:
                world.turn()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, turn {turn}") from error
        bound += world.bound
        known += world.known
    assert bound >= 400  # else this would be no test
    assert known >= 4000


def test_a_lost_request_is_waited_for_until_the_watch_must_have_shown_it() -> None:
    assert LOST_S > LATE_S + BEHIND_S


@given(st.integers(0, 1 << 32))
def test_what_is_bound_finds_its_place_beside_pods_that_asked_nobody(seed: int) -> None:
    """Static pods, pods with nodeName, and GPUs that fail: the node has room where we say so."""
    rng = random.Random(seed)
    truth, ill = [100, 100, 100], set[int]()
    view = View()
    step(view, NodeSeen(NodeInfo.of(node("n", gpus=3))), 0.0)
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
