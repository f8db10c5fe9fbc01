# SPDX-License-Identifier: Apache-2.0
"""Pods that kubelet has not begun: the plugin may give one what another was promised."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from extender_kubelet import Kubelet
from fake_kube import Body, FakeKube, container, node, pod, stamp
from hypothesis import given
from hypothesis import strategies as st

from harp.extender.core import (
    BindAsked,
    Done,
    NodeSeen,
    NodesListed,
    Outcome,
    PodGone,
    PodSeen,
    PodsListed,
    Post,
    Posted,
    TookOver,
    Wait,
    step,
)
from harp.extender.decide import filter_nodes
from harp.extender.objects import SLOW_S, NodeInfo, PodInfo
from harp.extender.state import View
from harp.extender.waiting import START_S, STUCK_S


def _view(*pods: Body, nodes: tuple[Body, ...] = (node("n"),), now_s: float = 0.0) -> View:
    view = View()
    step(view, NodesListed(tuple(map(NodeInfo.of, nodes))), now_s)
    step(view, PodsListed(tuple(map(PodInfo.of, pods))), now_s)
    return view


def _ask(view: View, body: Body, now_s: float = 0.0, on: str = "n") -> Post | Wait:
    action = step(view, BindAsked(PodInfo.of(body), on), now_s)[-1]
    assert isinstance(action, Post | Wait), action
    return action


def _bind(view: View, body: Body, now_s: float = 0.0) -> str:
    """The GPU that is written."""
    post = _ask(view, body, now_s)
    assert isinstance(post, Post)
    step(view, Posted(post.pod, Outcome.BOUND), now_s)
    return post.annotations["harp.dev/gpu"]


def _seen(view: View, *bodies: Body, now_s: float = 0.0) -> None:
    for body in bodies:
        step(view, PodSeen(PodInfo.of(body)), now_s)


def test_one_that_could_be_taken_for_another_waits_until_that_has_begun() -> None:
    view = _view()
    assert _bind(view, pod("a", 60)) == "0"
    wait = _ask(view, pod("b", 60), 1.0)
    assert isinstance(wait, Wait)
    assert wait.for_s == START_S - 1.0
    assert "ns/b is not bound to n yet: ns/a may be mixed up with it" in wait.why
    _seen(view, pod("a", 60, on="n", gpu="0", begun=False))  # bound is not begun
    assert isinstance(_ask(view, pod("b", 60), 1.0), Wait)
    _seen(view, pod("a", 60, on="n", gpu="0"))
    assert _bind(view, pod("b", 60), 1.0) == "1"
    assert view.room("n").free == (40, 40)


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, None])
def test_one_that_is_not_bound_after_all_is_waited_for_no_more(outcome: Outcome | None) -> None:
    view = _view()
    post = _ask(view, pod("a", 60))
    assert isinstance(post, Post)
    step(view, Posted(post.pod, outcome) if outcome else PodGone("uid-a"), 0.0)
    assert _bind(view, pod("b", 60)) == "0"


@pytest.mark.parametrize(
    ("first", "second", "gpus"),
    [
        ((60,), (50,), "1"),  # the plugin tells them apart by what they ask for
        ((30,), (30,), "0"),  # both are promised the same
        ((60,), (30, 50), "0,1"),
        ((30, 30), (30,), "0"),
    ],
)
def test_others_do_not_wait(first: tuple[int, ...], second: tuple[int, ...], gpus: str) -> None:
    view = _view()
    _bind(view, pod("a", *first))
    assert _bind(view, pod("b", *second)) == gpus


@pytest.mark.parametrize(
    ("first", "second"), [((60,), (60, 20)), ((60, 60), (40,)), ((60, 60), (60,))]
)
def test_of_several_containers_one_is_enough(
    first: tuple[int, ...], second: tuple[int, ...]
) -> None:
    """A pod with two of one size, each on its own GPU, leaves the plugin to choose for both."""
    view = _view(nodes=(node("n", gpus=3),))
    _bind(view, pod("a", *first))
    waits = isinstance(_ask(view, pod("b", *second)), Wait)
    assert waits == bool(set(first) & set(second))


def test_an_init_container_is_asked_for_too() -> None:
    view = _view()
    _bind(view, pod("a", 60, init=(container("i", 20),)))
    assert isinstance(_ask(view, pod("b", 20, 60)), Wait)  # the plugin sees 20 of a, told nothing
    _seen(view, pod("a", 60, on="n", gpu="0", init=(container("i", 20),)))
    assert _bind(view, pod("b", 20, 60)) == "0,1"


def test_where_there_is_one_gpu_nothing_is_mixed_up() -> None:
    view = _view(nodes=(node("n", gpus=1),))
    assert _bind(view, pod("a", 30)) == "0"
    _seen(view, pod("pinned", 30, on="n", begun=False))
    assert _bind(view, pod("b", 30)) == ""
    step(view, NodeSeen(NodeInfo.of(node("n", gpus=1))), START_S)
    assert view.room("n").free == (70,)


def test_one_that_never_begins_counts_on_every_gpu_and_holds_up_nobody() -> None:
    view = _view()
    assert _bind(view, pod("a", 60)) == "0"
    assert isinstance(_ask(view, pod("b", 60), START_S - 0.1), Wait)
    assert _bind(view, pod("b", 40), START_S) == ""  # a may be here or there
    assert (view.room("n").free, view.room("n").adrift) == ((100, 100), (60, 40))
    # so it stays, however late kubelet comes: it may have been given the other's GPU
    _seen(view, pod("a", 60, on="n", gpu="0"), now_s=START_S + 1)
    assert view.room("n").adrift == (60, 40)
    done = step(view, BindAsked(PodInfo.of(pod("c", 70)), "n"), START_S + 1)[-1]
    assert isinstance(done, Done)
    assert "the GPU of 2 shares is not known" in done.why


def test_a_start_that_was_late_is_known_to_be_after_a_restart() -> None:
    def begun(after_s: float) -> PodInfo:
        body = pod("a", 60, on="n", gpu="0")
        scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(1000)}
        body["status"] |= {"conditions": [scheduled], "startTime": stamp(1000 + after_s)}
        return PodInfo.of(body)

    assert begun(SLOW_S).gpus == ("0",)
    assert begun(SLOW_S + 1).gpus == ()
    assert SLOW_S < START_S  # by two machines' clocks


def test_who_waited_too_long_is_doubted_though_the_extender_has_restarted_meanwhile() -> None:
    """A fresh extender counts from when it first sees a pod; what is written says more."""
    waits = _waited("a", 60, 1000, 1000 + START_S + 5, "0")
    began = dict(waits["status"])
    del waits["status"]["startTime"]
    view = _view(waits)
    waits["status"] = began
    _seen(view, waits, now_s=1.0)
    assert (view.room("n").free, view.room("n").adrift) == ((100, 100), (60,))


def _waited(name: str, size: int, since_s: float, until_s: float, gpu: str = "") -> Body:
    """A pod that was bound and begun at these times; without a GPU: it came with nodeName."""
    body = pod(name, size, on="n", gpu=gpu)
    body["metadata"]["creationTimestamp"] = stamp(since_s - 500 if gpu else since_s)
    bound = {"type": "PodScheduled", "status": "True"}
    bound["lastTransitionTime"] = stamp(since_s if gpu else until_s)
    body["status"] |= {"conditions": [bound], "startTime": stamp(until_s)}
    return body


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("since_s", "until_s", "doubted"),
    [
        (1005, 1007, True),  # within
        (990, 1001, True),  # kubelet took both at the end of its restart
        (1009, 1040, True),
        (1011, 1012, True),  # by another clock
        (990, 996, False),
        (1014, 1015, False),
    ],
)
def test_who_waited_beside_one_that_asked_nobody_is_known_after_a_restart(
    since_s: float, until_s: float, doubted: bool, order: int
) -> None:
    """The plugin may have given the one's GPU to the other; it is written when each waited."""
    bodies = [_waited("a", 60, 1000, 1010, "0"), _waited("pinned", 30, since_s, until_s)]
    bodies += [_waited("later", 40, 1100, 1101, "1")]
    view = _view(*bodies[::order])
    assert view.room("n").free == ((100, 60) if doubted else (40, 60))
    assert sorted(view.room("n").adrift) == ([30, 60] if doubted else [30])
    step(view, PodGone("uid-pinned"), 0.0)
    assert view.room("n").adrift == ((60,) if doubted else ())  # for good


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(("since_s", "doubted"), [(1005, True), (1014, False)])
def test_one_that_waits_still_is_asked_about_after_a_restart(
    since_s: float, doubted: bool, order: int
) -> None:
    """Kubelet has served it, perhaps before the other, and has not said so yet."""
    pinned = _waited("pinned", 60, since_s, since_s)
    del pinned["status"]["startTime"], pinned["status"]["conditions"]
    view = _view(*[_waited("a", 60, 1000, 1010, "0"), pinned][::order])
    assert view.room("n").free == ((100, 100) if doubted else (40, 100))


def test_two_that_were_bound_one_after_the_other_are_believed_after_a_restart() -> None:
    """The extender has let them wait for each other; within a second, or by a fast clock."""
    view = _view(_waited("a", 60, 1000, 1003, "0"), _waited("b", 60, 1001, 1004, "1"))
    assert view.room("n").free == (40, 40)


def test_one_that_kubelet_took_at_once_has_not_waited_since_it_was_made() -> None:
    """It was in the scheduler's queue until it was bound; it began in the same second."""
    bodies = [_waited("a", 60, 1000, 1000, "0"), _waited("pinned", 30, 700, 701)]
    assert _view(*bodies).room("n").free == (40, 100)


def test_who_has_no_share_mixes_up_nobody() -> None:
    view = _view(_waited("a", 60, 1000, 1010, "0"), _waited("plain", 0, 1000, 1010))
    assert (view.room("n").free, view.room("n").adrift) == ((40, 100), ())


def test_pods_that_asked_nobody_are_not_mixed_up_unseen() -> None:
    view = _view()
    assert _bind(view, pod("a", 60)) == "0"
    _seen(view, pod("pinned", 60, on="n", begun=False))
    assert view.room("n").adrift == (60, 60)
    _seen(view, pod("a", 60, on="n", gpu="0"), pod("pinned", 60, on="n"))
    assert view.room("n").adrift == (60, 60)  # for good
    step(view, PodGone("uid-a"), 0.0)
    step(view, PodGone("uid-pinned"), 0.0)
    assert _bind(view, pod("b", 60)) == "0"


def test_a_list_that_shows_both_after_the_first_has_begun_is_no_mixup() -> None:
    """The new leader's watch is behind the list, or a watch begins anew: b came after a."""
    bodies = pod("b", 60, on="n", gpu="1", begun=False), pod("a", 60, on="n", gpu="0")
    for event in (
        PodsListed(tuple(map(PodInfo.of, bodies))),
        TookOver((*map(PodInfo.of, bodies),)),
    ):
        view = _view(pod("a", 60, on="n", gpu="0", begun=False))
        step(view, event, 0.0)
        assert view.room("n").free == (40, 40)


def _refused(gpu: str | None, at_s: float = 100.0) -> PodInfo:
    body = pod("x", 100, on="n", phase="Failed")
    body["status"] |= {"reason": "UnexpectedAdmissionError", "startTime": stamp(at_s)}
    if gpu is not None:
        body["metadata"]["annotations"]["harp.dev/gpu"] = gpu
    return PodInfo.of(body)


def _since(body: Body, at_s: float) -> Body:
    body["status"]["startTime"] = stamp(at_s)
    return body


@pytest.mark.parametrize(("gpu", "doubted"), [("1", True), ("", True), (None, False)])
def test_a_refusal_where_we_saw_room_shows_that_pods_lie_otherwise(
    gpu: str | None, doubted: bool
) -> None:
    """Not one of a pod with nodeName: nobody had said that it had room."""
    before, after = pod("a", 60, on="n", gpu="0"), pod("b", 30, on="n", gpu="0")
    bodies = _since(before, 99), _since(after, 101)
    for listed in (False, True):
        view = View()
        step(view, NodesListed((NodeInfo.of(node("n")),)), 0.0)
        infos = list(map(PodInfo.of, bodies))
        if listed:
            step(view, PodsListed((_refused(gpu), *infos)), 0.0)
        else:
            for info in (infos[0], _refused(gpu), infos[1]):
                step(view, PodSeen(info), 0.0)
        room = view.room("n")
        assert (room.free, room.adrift) == (((70, 100), (60,)) if doubted else ((10, 100), ()))
        # it is told of again as long as it lies about
        step(view, PodSeen(replace(_refused(gpu), started_s=1e9)), 0.0)
        assert view.room("n") == room


def test_a_pod_that_kubelet_refused_has_nothing() -> None:
    view = _view()
    assert _bind(view, pod("x", 100)) == "0"
    _seen(view, pod("x", 100, on="n", gpu="0", begun=False))
    step(view, PodSeen(_refused("0")), 0.0)
    assert view.room("n").free == (100, 100)
    assert _bind(view, pod("y", 100)) == "0"


def test_what_is_written_later_counts_for_nothing() -> None:
    view = _view(pod("seen", 30, on="n", gpu="0"))
    _seen(view, pod("seen", 30, on="n", gpu="1"))
    assert view.room("n").free == (70, 100)
    assert _bind(view, pod("ours", 60)) == "0"
    edited = PodInfo.of(pod("ours", 60, on="n", gpu="1"))
    for event in (TookOver((edited,)), PodSeen(edited)):  # before our watch saw it
        step(view, event, 0.0)
        assert view.room("n").free == (10, 100)
    # what is not bound yet says nothing
    step(view, PodSeen(PodInfo.of(pod("new", 10, gpu="1"))), 0.0)
    assert _bind(view, pod("new", 10, gpu="1")) == "0"


def test_what_we_knew_of_a_binding_that_was_not_ours_is_not_kept() -> None:
    """Ours is on its way, and the watch shows that another was taken."""
    view = _view()
    post = _ask(view, pod("a", 60))
    assert isinstance(post, Post)
    _seen(view, pod("a", 60, on="n", gpu="1"))
    assert view.room("n").free == (100, 40)


def test_a_node_whose_kubelet_is_silent_is_left_alone_while_another_fits() -> None:
    view = _view(nodes=(node("n"), node("m")))
    _bind(view, pod("a", 60))
    asked = PodInfo.of(pod("b", 60))
    view.now_s = STUCK_S - 0.1
    assert filter_nodes(view, asked, ["n", "m"]).fitting == ("n", "m")  # it is a moment
    view.now_s = STUCK_S
    found = filter_nodes(view, asked, ["n", "m"])
    assert (found.fitting, list(found.full)) == (("m",), ["n"])
    assert "ns/a may be mixed up" in found.full["n"]
    assert filter_nodes(view, asked, ["n"]).fitting == ("n",)
    assert filter_nodes(view, PodInfo.of(pod("c", 50)), ["n", "m"]).fitting == ("n", "m")


def test_two_that_begin_in_the_other_order_and_the_whole_gpu_after_them() -> None:
    """Seen before the mend: a and b have each other's GPU, and d is refused again and again."""
    kube, view = FakeKube(), _view()
    kubelet = Kubelet(kube, ("n",))
    a, b, c, d = pod("a", 60), pod("b", 60), pod("c", 40), pod("d", 100)

    def bind(body: Body) -> bool:
        action = step(view, BindAsked(PodInfo.of(body), "n"), 0.0)[-1]
        if isinstance(action, Post):
            meta = body["metadata"]["annotations"] | action.annotations
            body["metadata"]["annotations"], body["spec"]["nodeName"] = meta, "n"
            kube.put(body)
            _seen(view, body)
        return isinstance(action, Post)

    def serve(*bodies: Body) -> None:
        for body in bodies:
            kubelet.serve(body)
            kube.begin(body)
        _seen(view, *kube.pods())

    assert bind(a)
    serve(*((b, a) if bind(b) else (a,)))
    if "nodeName" not in b["spec"]:
        assert bind(b)
        serve(b)
    kube.remove(a)
    kubelet.end("uid-a")
    step(view, PodGone("uid-a"), 0.0)
    assert bind(c)
    serve(c)
    if bind(d):
        serve(d)
    assert kubelet.refused == []


@given(st.integers(0, 1 << 32), st.booleans())
def test_what_is_believed_is_so(seed: int, restarts: bool) -> None:
    """Beside pods with nodeName, which ask nobody and may be refused.

    After restarts as well, as far as pods can tell of it that are there still.
    """
    rng = random.Random(seed)
    kube, now_s, seen = FakeKube(), 0.0, 0
    kube.put(node("n", gpus=3))
    kubelet, view = Kubelet(kube, ("n",), gpus=3), _view(nodes=(node("n", gpus=3),))
    for number in range(60):
        body = pod(f"p{number}", *rng.choice([(30,), (30,), (60,), (60,), (100,), (30, 60)]))
        body["metadata"]["creationTimestamp"] = stamp(now_s)
        living = [] if restarts else kube.pods()
        match rng.choice(
            ["bind", "bind", "pin", "serve", "serve", "begin", "begin", "end", "time"]
        ):
            case "bind":
                post = step(view, BindAsked(PodInfo.of(body), "n"), now_s)[-1]
                if isinstance(post, Post):
                    body["metadata"]["annotations"] = dict(post.annotations)
                    body["spec"]["nodeName"] = "n"
                    bound = {"type": "PodScheduled", "lastTransitionTime": stamp(now_s)}
                    body["status"]["conditions"] = [bound]
                    kube.put(body)
            case "pin" if rng.random() < 0.5:
                body["spec"]["nodeName"] = "n"
                kube.put(body)
            case "serve" if pods := kubelet.unserved():
                kubelet.serve(rng.choice(pods))
            case "begin" if pods := kubelet.untold():
                kube.begin(rng.choice(pods))
            case "end" if living:
                body = rng.choice(living)
                kube.remove(body)
                kubelet.end(body["metadata"]["uid"])
            case "time":
                now_s += rng.choice([1.0, START_S])
                kube.now_s = now_s
        for _, kind, where, one in kube.log[seen:]:
            if where.endswith("pods"):
                info = PodInfo.of(one)
                step(view, PodGone(info.uid) if kind == "DELETED" else PodSeen(info), now_s)
        seen = len(kube.log)
        if restarts and rng.random() < 0.1:
            view = _view(*kube.pods(), nodes=(node("n", gpus=3),), now_s=now_s)
        believed = kubelet.believed(view)
        assert all(kubelet.has[uid] == lies for uid, lies in believed.items())
