# SPDX-License-Identifier: Apache-2.0
"""Which nodes a pod may go to, and which of them is best."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest
from fake_kube import container, node, pod

from harp.cli.sim_place import POLICY_NAMES
from harp.errors import ConfigError
from harp.extender.calls import Patience
from harp.extender.core import BindAsked, NodesListed, PodSeen, PodsListed, Post, step
from harp.extender.decide import HIGHEST, Scorer, filter_nodes
from harp.extender.objects import NodeInfo, PodInfo
from harp.extender.state import View
from harp.scheduler import WHOLE_MILLI, Assignment, Node, Placement, Pod


def _view(nodes: list[dict[str, object]], *pods: dict[str, object]) -> View:
    view = View()
    step(view, NodesListed(tuple(map(NodeInfo.of, nodes))), 0.0)
    step(view, PodsListed(tuple(map(PodInfo.of, pods))), 0.0)
    return view


def test_nodes_are_sorted_into_three() -> None:
    view = _view(
        [node("free"), node("full"), node("small", gpus=1), node("none", gpus=0)],
        pod("x", 60, on="full", gpu="0"),
        pod("y", 60, on="full", gpu="1"),
    )
    found = filter_nodes(view, PodInfo.of(pod("p", 60)), ["full", "new", "none", "free"])
    assert found.fitting == ("free",)
    assert found.full == {
        "full": "largest free share on one GPU is 40, need 60",
        "new": "HARP's extender does not know the node yet",
    }
    assert found.never == {"none": "the node has no harp.dev/gpu-share"}
    whole = filter_nodes(view, PodInfo.of(pod("p", 200)), ["small", "free"])
    assert (whole.fitting, whole.never) == (("free",), {"small": "the node has 1 GPUs, need 2"})


def test_a_pod_without_shares_is_not_ours_to_judge() -> None:
    view = _view([node("n", gpus=0)])
    info = PodInfo.of(pod("p", 0))
    assert filter_nodes(view, info, ["n", "unknown"]).fitting == ("n", "unknown")
    assert Scorer("hybrid").scores(view, info, ["n", "unknown"]) == {"n": 0, "unknown": 0}


@pytest.mark.parametrize("per_gpu", [100, 400])
@pytest.mark.parametrize("policy", ["hybrid", "fgd", "best-fit", "first-fit", "dot-product"])
def test_the_placement_core_has_the_say(policy: str, per_gpu: int) -> None:
    """The one node with 10 is the one that the core would choose, pods by pods."""
    rng = random.Random(3)
    names = [f"n{at}" for at in range(5)]
    times = per_gpu // 100
    nodes = [node(name, gpus=(2 + int(name[1]) % 3) * times) for name in names]
    for one in nodes:
        one["metadata"]["labels"] = {"harp.dev/slots-per-gpu": str(per_gpu)}
    view = _view(nodes)
    core = [Node(n, 64000, 256 << 30, (WHOLE_MILLI,) * (2 + int(n[1]) % 3)) for n in names]
    placed: list[tuple[Pod, str, tuple[int, ...]]] = []
    for number in range(12):
        body = pod(f"p{number}", rng.choice([20, 30, 50, 100]) * times)
        body["spec"]["containers"][0]["resources"]["requests"]["cpu"] = str(rng.choice([1, 8]))
        info = PodInfo.of(body)
        asked = Pod(info.key, info.cpu_milli, 0, 1, info.claims[0].slots // times * 10)
        workload = [one for one, _, _ in placed]
        placement = Placement.of(core, workload, policy=policy)
        for one, at, gpus in placed:
            placement.hold(Assignment(one, at, gpus))
        scorer = Scorer(policy)  # counts the typical pods anew, as the core does
        fitting = filter_nodes(view, info, names).fitting
        scores = scorer.scores(view, info, fitting)
        chosen = placement.choose(asked)
        assert chosen is not None
        assert [n for n, score in scores.items() if score == HIGHEST] == [chosen.node]
        assert all(score <= 8 for n, score in scores.items() if n != chosen.node)
        (post,) = step(view, BindAsked(info, chosen.node), 0.0)
        assert isinstance(post, Post)
        step(view, PodSeen(replace(post.pod, started_s=0.0)), 0.0)
        placed.append((asked, chosen.node, tuple(map(int, post.pod.gpus))))


def test_ties_go_to_the_smaller_name() -> None:
    view = _view([node(name) for name in "cab"])
    for names in (["c", "a", "b"], ["b", "a", "c"]):
        found = Scorer("hybrid").scores(view, PodInfo.of(pod("p", 50)), names)
        assert [name for name, score in found.items() if score == HIGHEST] == ["a"]


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_every_policy_scores_any_cluster(policy: str) -> None:
    rng = random.Random(7)
    nodes = [node(f"n{at}", gpus=at % 5, ill=int(at > 6)) for at in range(9)]
    nodes[0]["metadata"]["labels"] = {"harp.dev/slots-per-gpu": "200"}
    pods = [
        pod(
            f"p{at}",
            rng.choice([10, 40, 100]),
            on=f"n{rng.randrange(9)}",
            gpu=rng.choice(["", "0"]),
        )
        for at in range(30)
    ]
    view, scorer = _view(nodes, *pods), Scorer(policy)
    for shares in [(30,), (100,), (200,), (30, 60)]:
        found = scorer.scores(view, PodInfo.of(pod("p", *shares)), [f"n{at}" for at in range(9)])
        assert len(found) == 9
        assert set(found.values()) <= set(range(HIGHEST + 1))
        assert list(found.values()).count(HIGHEST) == 1


def test_an_unknown_policy() -> None:
    with pytest.raises(ConfigError, match="unknown policy x"):
        Scorer("x").scores(_view([node("n")]), PodInfo.of(pod("p", 1)), ["n"])


def test_cpus_that_are_short_by_our_count_are_kube_schedulers_matter() -> None:
    body = pod("p", 50)
    body["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "100"
    assert Scorer("hybrid").scores(_view([node("n")]), PodInfo.of(body), ["n"]) == {"n": HIGHEST}


@pytest.mark.parametrize(
    ("text", "milli"),
    [("1", 1000), ("500m", 500), ("0.5", 500), ("1e3", 1000000), ("x", 0), ("-1", 0), ("1n", 1),
     ("1e999999999", (1 << 50) * 1000), ("NaN", 0), ("", 0)],
)  # fmt: skip
def test_quantities_of_cpus(text: str, milli: int) -> None:
    body = pod("p")
    body["spec"]["containers"] = [container("c") | {"resources": {"requests": {"cpu": text}}}]
    assert PodInfo.of(body).cpu_milli == milli


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "1e9", "", "inf"])
def test_slots_that_are_none(text: str) -> None:
    body = pod("p", 1)
    body["spec"]["containers"][0]["resources"] = {"limits": {"harp.dev/gpu-share": text}}
    with pytest.raises(ConfigError, match="gpu-share of container c0"):
        PodInfo.of(body)


def test_a_decision_on_a_large_cluster_takes_milliseconds() -> None:
    rng = random.Random(1)
    names = [f"n{at:04}" for at in range(1200)]
    pods = [
        pod(f"p{at}", rng.choice([10, 30, 50]), on=rng.choice(names), gpu=str(rng.randrange(8)))
        for at in range(4000)
    ]
    view, scorer = _view([node(name, gpus=8) for name in names], *pods), Scorer("hybrid")
    asked = PodInfo.of(pod("p", 30))
    scorer.scores(view, asked, names)
    began_s = time.process_time()
    for _ in range(3):
        fitting = filter_nodes(view, asked, names).fitting
        scorer.scores(view, asked, fitting)
    print("ms per decision", (time.process_time() - began_s) / 3 * 1000)
    assert time.process_time() - began_s < 3 * 0.5  # kube-scheduler waits 5 s


def test_patience_is_for_all_pods_together() -> None:
    patience = Patience()
    assert not patience.is_over(7, 100.0)
    patience.end(7, 100.0)
    assert patience.is_over(7, 100.9)
    assert not patience.is_over(8, 100.9)  # something has changed since
    assert not patience.is_over(7, 101.0)
