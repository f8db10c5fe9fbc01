# SPDX-License-Identifier: Apache-2.0
"""Placement: what holds for every policy, whatever comes and goes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_cases import GIB, clusters, node, pod, pods, workload

from harp.errors import ConfigError
from harp.scheduler import POLICIES, Assignment, Cluster, Node, Placement, Pod, make
from harp.scheduler.fragmentation import Fragmentation

EVERY = pytest.mark.parametrize("policy", POLICIES)


def empty(nodes: list[Node], policy: str = "hybrid", seed: int = 0) -> Placement:
    return Placement.of(nodes, workload(), policy=policy, seed=seed)


def free(placement: Placement) -> list[object]:
    cluster = placement.cluster
    arrays = (cluster.cpu_free, cluster.memory_free, cluster.gpu_free)
    return [array.tolist() for array in arrays]


def check(placement: Placement) -> None:
    """Nobody has what is not there, and what is free is what nobody has."""
    by_node = {kind.name: [] for kind in placement.cluster.nodes}
    for one in placement.held():
        assert len(set(one.gpus)) == one.pod.num_gpu
        by_node[one.node].append(one)
    for row, kind in enumerate(placement.cluster.nodes):
        here = by_node[kind.name]
        assert sum(a.pod.cpu_milli for a in here) + placement.cluster.cpu_free[row] == (
            kind.cpu_milli
        )
        assert sum(a.pod.memory_bytes for a in here) + placement.cluster.memory_free[row] == (
            kind.memory_bytes
        )
        assert placement.cluster.cpu_free[row] >= 0
        assert placement.cluster.memory_free[row] >= 0
        for gpu, capacity in enumerate(kind.gpu_milli):
            users = [a.pod for a in here if gpu in a.gpus]
            used = sum(p.gpu_milli for p in users)
            assert used <= capacity
            assert used + placement.cluster.gpu_free[row, gpu] == capacity
            if any(p.gpu_milli == 1000 for p in users):
                assert len(users) == 1  # whole is whole
        assert all(gpu < len(kind.gpu_milli) for a in here for gpu in a.gpus)
        for one in here:
            assert not one.pod.num_gpu or not one.pod.gpu_spec or kind.model in one.pod.gpu_spec


@EVERY
@settings(deadline=None, max_examples=40)
@given(nodes=clusters(), arriving=pods(), leaving=st.randoms(use_true_random=False))
def test_capacity_holds_and_removing_is_exact(
    policy: str, nodes: list[Node], arriving: list[Pod], leaving: object
) -> None:
    placement = empty(nodes, policy, seed=5)
    start = free(placement)
    for one in arriving:
        before = free(placement)
        fits = bool(len(placement.cluster.feasible(one)))
        assigned = placement.place(one)
        assert (assigned is not None) == fits
        check(placement)
        if assigned is not None and leaving.random() < 0.3:
            assert placement.remove(one.name) == assigned
            assert free(placement) == before
    names = [a.pod.name for a in placement.held()]
    leaving.shuffle(names)
    for name in names:
        placement.remove(name)
        check(placement)
    assert free(placement) == start


@EVERY
@settings(deadline=None, max_examples=30)
@given(nodes=clusters(), arriving=pods(), data=st.data())
def test_the_same_pods_get_the_same_places_whatever_the_order_of_nodes(
    policy: str, nodes: list[Node], arriving: list[Pod], data: st.DataObject
) -> None:
    runs = []
    for listed in (nodes, data.draw(st.permutations(nodes))):
        placement = empty(listed, policy, seed=7)
        runs.append([placement.place(one) for one in arriving])
    assert runs[0] == runs[1]


@EVERY
@settings(deadline=None, max_examples=30)
@given(nodes=clusters(), arriving=pods(), asking=pods(most=5))
def test_choosing_changes_nothing_and_agrees_with_scores_and_refusals(
    policy: str, nodes: list[Node], arriving: list[Pod], asking: list[Pod]
) -> None:
    placement = empty(nodes, policy)
    for one in arriving:
        placement.place(one)
    before = free(placement)
    for one in asking:
        chosen, again = placement.choose(one), placement.choose(one)
        scores, refused = placement.scores(one), placement.refusals(one)
        assert chosen == again
        assert free(placement) == before
        assert sorted([*scores, *refused]) == sorted(kind.name for kind in nodes)
        assert (chosen is None) == (not scores)
        if chosen is not None:
            best = max(scores.values())
            assert chosen.node == min(name for name, score in scores.items() if score == best)


@settings(deadline=None, max_examples=30)
@given(nodes=clusters(), arriving=pods())
def test_what_was_placed_can_be_held_again_after_a_restart(
    nodes: list[Node], arriving: list[Pod]
) -> None:
    first, second = empty(nodes), empty(nodes)
    for one in arriving:
        first.place(one)
    for assignment in first.held():
        second.hold(assignment)
    assert free(first) == free(second)
    assert first.choose(pod("next", 330)) == second.choose(pod("next", 330))


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "random"])
def test_alike_nodes_are_taken_by_name(policy: str) -> None:
    placement = empty([node("b"), node("c"), node("a")], policy)
    chosen = placement.place(pod("p", 1000))
    assert chosen is not None
    assert (chosen.node, chosen.gpus) == ("a", (0,))


def test_random_depends_on_seed_and_name_alone() -> None:
    def places(seed: int, order: list[int]) -> dict[int, Assignment]:
        placement = empty([node(f"n{n}") for n in range(20)], "random", seed)
        found = {n: placement.place(pod(f"p{n}", 100)) for n in order}
        return {n: assigned for n, assigned in found.items() if assigned}

    here, there = places(1, list(range(30))), places(2, list(range(30)))
    assert here == places(1, list(reversed(range(30))))
    for drawn in ("node", "gpus"):
        first = [getattr(here[n], drawn) for n in range(30)]
        assert first != [getattr(there[n], drawn) for n in range(30)]
        assert len(set(first)) > 5


def test_each_policy_decides_as_its_name_says() -> None:
    """Three nodes: a is empty and large, b is half full, c nearly full."""

    def chosen(policy: str, asked: Pod) -> tuple[str, tuple[int, ...]]:
        placement = empty([node("a", 8), node("b", 2), node("c", 2)], policy)
        for name, gpu, milli in (("b", 0, 600), ("c", 0, 300), ("c", 1, 700)):
            held = pod(f"{name}{gpu}", milli, cpus=40 if name == "c" else 0)
            placement.hold(Assignment(held, name, (gpu,)))
        found = placement.choose(asked)
        assert found is not None
        return found.node, found.gpus

    asked = pod("p", 300)
    assert chosen("first-fit", asked) == ("a", (0,))
    assert chosen("best-fit", asked) == ("c", (1,))
    assert chosen("dot-product", asked) == ("c", (1,))
    assert chosen("fgd", asked)[0] in {"b", "c"}
    assert chosen("hybrid", asked) == ("c", (1,))
    assert chosen("first-fit", pod("q", 1000)) == ("a", (0,))
    assert chosen("best-fit", pod("q", 1000)) == ("b", (1,))


def test_only_the_named_nodes_are_considered() -> None:
    placement = empty([node("a"), node("b"), node("c", 1)])
    chosen = placement.choose(pod("p", 500), among=("c", "b"))
    assert chosen is not None
    assert chosen.node in {"b", "c"}
    assert set(placement.scores(pod("p", 500), among=("b",))) == {"b"}
    assert set(placement.refusals(pod("p", 1000, gpus=2), among=("b", "c"))) == {"c"}
    assert placement.choose(pod("p", 500), among=()) is None
    with pytest.raises(ConfigError, match="node d is not in this cluster of 3"):
        placement.choose(pod("p", 500), among=("d",))


def test_a_refusal_names_what_is_free_and_what_is_asked() -> None:
    small = Node("small", 4000, 8 * GIB, (1000, 1000), "T4")
    placement = empty([small])
    for gpu, milli in ((0, 700), (1, 600)):
        placement.hold(Assignment(pod(f"p{gpu}", milli), "small", (gpu,)))
    assert placement.refusals(pod("q", 400)) == {}
    for asked, said in (
        (pod("q", 600), "largest free share on one GPU is 40, need 60"),
        (pod("q", 1000, gpus=2), "0 whole GPUs are free, need 2"),
        (pod("q", 500, gpus=2), "0 GPUs with 50 are free, need 2"),
        (pod("q", 400, spec="A100|H100"), "GPU model is T4, need A100 or H100"),
        (pod("q", 400, cpus=3), "2 CPUs are free, need 3"),
        (Pod("q", 0, 9 * GIB), "6GiB of memory are free, need 9GiB"),
    ):
        assert placement.refusals(asked) == {"small": said}
        assert placement.choose(asked) is None


def test_holding_what_is_not_free_is_refused_and_changes_nothing() -> None:
    placement = empty([node("a", 2, cpus=4)])
    placement.hold(Assignment(pod("p", 600), "a", (0,)))
    before = free(placement)
    for wrong, says in (
        (Assignment(pod("p", 100), "a", (1,)), "pod p is on node a already"),
        (Assignment(pod("q", 600), "a", (0,)), r"does not fit on GPUs \[0\] of node a"),
        (Assignment(pod("q", 100), "a", ()), "does not fit"),
        (Assignment(pod("q", 100, gpus=2), "a", (1, 1)), "does not fit"),
        (Assignment(pod("q", 100), "a", (2,)), "does not fit"),
        (Assignment(pod("q", 100), "a", (-1,)), "does not fit"),
        (Assignment(pod("q", 100, cpus=4), "a", (1,)), "does not fit"),
        (Assignment(Pod("q", 0, 512 * GIB), "a", ()), "does not fit"),
    ):
        with pytest.raises(ConfigError, match=says):
            placement.hold(wrong)
        assert free(placement) == before
    with pytest.raises(ConfigError, match="pod q is on no node"):
        placement.remove("q")


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([], "no node"),
        ([node("a"), node("b"), node("a")], "node a is there twice"),
        ([Node("a", 1, 1, (1001,))], "GPU 0 of node a is 1001"),
        ([Node("a", -1, 1)], "cpu_milli of node a is -1"),
    ],
)
def test_a_wrong_cluster_is_an_error(nodes: list[Node], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Cluster(nodes)


@pytest.mark.parametrize(
    ("gpus", "milli"), [*itertools.product((0, 1), (-1, 1001)), (0, 1), (1, 0), (-1, 5)]
)
def test_a_wrong_pod_is_an_error(gpus: int, milli: int) -> None:
    with pytest.raises(ConfigError, match="pod p"):
        Pod("p", 0, 0, gpus, milli)


def test_an_unknown_policy_names_the_nearest() -> None:
    cluster = Cluster([node("a")])
    with pytest.raises(ConfigError, match="unknown policy fdg") as error:
        make("fdg", cluster, Fragmentation({}, cluster.models, 8), 0)
    assert error.value.hint == "did you mean fgd?"


def test_the_arrays_hold_64_bit_integers() -> None:
    cluster = Cluster([node("a")])
    for array in (cluster.cpu_free, cluster.memory_free, cluster.gpu_free, cluster.model):
        assert array.dtype == np.int64


def test_what_is_free_may_be_said_by_who_keeps_count() -> None:
    cluster = Cluster([node("a", 2), node("b", 3)])
    cluster.set_free(1, 5, 7, [0, 400, 1000])
    assert cluster.gpu_free.tolist() == [[1000, 1000, 0], [0, 400, 1000]]
    assert (cluster.cpu_free[1], cluster.memory_free[1]) == (5, 7)
    for milli in ([-1, 0, 0], [1001, 0, 0]):
        with pytest.raises(ConfigError, match="free milli of GPU 0 of node b"):
            cluster.set_free(1, 0, 0, milli)
    with pytest.raises(ConfigError, match="free cpu_milli of node b"):
        cluster.set_free(1, 1 << 40, 0, [0, 0, 0])
