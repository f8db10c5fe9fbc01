# SPDX-License-Identifier: Apache-2.0
"""Binding, step by step."""

from __future__ import annotations

import pytest
from fake_kube import container, node, pod

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
from harp.extender.state import CONFIRMED_S, LOST_S, View


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
    second = _post(view, pod("b", 50), "n")
    assert (first.annotations, second.annotations) == ({"harp.dev/gpu": "0"}, {"harp.dev/gpu": "1"})
    assert _refused(view, pod("c", 60), "n") == (
        "node n: largest free share on one GPU is 50, need 60"
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


def test_what_was_read_before_it_was_bound_does_not_undo_that() -> None:
    """Two requests about one pod have read it, and the watch shows nothing of the first yet."""
    view = _view(node("n", gpus=1), node("m"))
    post = _post(view, pod("a", 60), "n")
    assert _done(view, Posted(post.pod, Outcome.BOUND)).outcome is Outcome.BOUND
    assert _done(view, BindAsked(PodInfo.of(pod("a", 60)), "n")).outcome is Outcome.BOUND
    assert _refused(view, pod("a", 60), "m") == "ns/a is bound to node n already"
    assert view.room("n").free == (40,)


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
    step(view, TookOver((PodInfo.of(pod("x", 30, on="n", gpu="0", phase="Failed")),)), 0.0)
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


def test_a_pod_that_is_none_of_ours_is_not_bound() -> None:
    """kube-scheduler never asks for it: who does wants a pod past taints and quotas."""
    view = _view(node("n"))
    assert "asks for no harp.dev/gpu-share" in _refused(view, pod("a", 0), "n")
    none = pod("none")
    none["spec"]["containers"] = [container("c", 0)]
    none["spec"]["containers"][0]["resources"]["limits"] = {"harp.dev/gpu-share": "0"}
    assert _post(view, none, "n").annotations == {}  # kube-scheduler does ask for this one


def test_unknown_nodes() -> None:
    assert "does not know the node" in _refused(_view(node("n")), pod("a", 1), "m")
