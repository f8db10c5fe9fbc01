# SPDX-License-Identifier: Apache-2.0
"""The tables of harp/scheduler/fragmentation.py against the paper's definition, word by word."""

from __future__ import annotations

import collections
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_cases import clusters, node, pod, pods, workload

from harp.scheduler import Assignment, Cluster, Fragmentation, Node, Placement, Pod, Shape, typical
from harp.scheduler.hybrid import Hybrid, Weights
from harp.scheduler.scarcity import scarcity

Free = tuple[int, list[int], str]  #: CPUs (milli), GPUs (milli), model


def f_literal(free: Free, shapes: dict[Shape, int]) -> Fraction:
    """F_n(M): expected milli-GPUs that a typical pod cannot use."""
    cpu, gpus, model = free
    total = Fraction(0)
    for shape, count in shapes.items():
        popularity = Fraction(count, sum(shapes.values()))
        useless = (
            shape.num_gpu == 0
            or bool(shape.gpu_spec and model not in shape.gpu_spec)
            or cpu < shape.cpu_milli
            or sum(gpu >= shape.gpu_milli for gpu in gpus) < shape.num_gpu
        )
        if useless:
            total += popularity * sum(gpus)
        else:
            total += popularity * sum(gpu for gpu in gpus if gpu < shape.gpu_milli)
    return total


def row_of(cluster: Cluster, row: int) -> Free:
    gpus = cluster.gpu_free[row, : len(cluster.nodes[row].gpu_milli)].tolist()
    return int(cluster.cpu_free[row]), gpus, cluster.nodes[row].model


def best_literal(free: Free, one: Pod, shapes: dict[Shape, int]) -> tuple[Fraction, list[int]]:
    """The gain on a node where the pod fits, and its GPUs afterwards."""
    cpu, gpus, model = free
    fitting = [g for g, milli in enumerate(gpus) if milli >= one.gpu_milli]
    fitting.sort(key=lambda g: (gpus[g], g))
    if one.num_gpu == 1 and one.gpu_milli < 1000:
        choices = [[g] for g in fitting]
    else:
        choices = [fitting[: one.num_gpu]]
    found = []
    for chosen in choices:
        left = [milli - one.gpu_milli * (g in chosen) for g, milli in enumerate(gpus)]
        after = f_literal((cpu - one.cpu_milli, left, model), shapes)
        found.append((f_literal(free, shapes) - after, left))
    return max(found, key=lambda item: item[0])  # the first of equal ones: least free, lowest index


def scarcity_literal(nodes: list[Node], shapes: dict[Shape, int]) -> dict[str, float]:
    """{model: expected milli that only some models can serve, per milli of it, at most 1}."""
    capacity = collections.Counter()
    for one in nodes:
        capacity[one.model] += sum(one.gpu_milli)
    asked = sum(count * s.num_gpu * s.gpu_milli for s, count in shapes.items())
    found = {}
    for model, there in capacity.items():
        wanted = Fraction(0)
        for shape, count in shapes.items():
            if model in shape.gpu_spec and there:
                part = Fraction(there, sum(capacity[m] for m in shape.gpu_spec))
                demand = Fraction(count * shape.num_gpu * shape.gpu_milli, asked)
                wanted += part * demand * capacity.total() / there
        found[model] = float(min(Fraction(1), wanted))
    return found


def filled(nodes: list[Node], arriving: list[Pod], policy: str) -> Placement:
    placement = Placement.of(nodes, workload() + arriving, policy=policy, seed=3)
    for one in arriving:
        placement.place(one)
    return placement


def shapes_of(arriving: list[Pod]) -> dict[Shape, int]:
    return typical(workload() + arriving)


@settings(deadline=None, max_examples=60)
@given(clusters(), pods())
def test_f_of_every_node_is_the_definition_exactly(nodes: list[Node], arriving: list[Pod]) -> None:
    placement = filled(nodes, arriving, "random")
    cluster, f = placement.cluster, placement.fragmentation
    found = f.of(cluster.cpu_free, cluster.gpu_free, cluster.model).tolist()
    shapes = shapes_of(arriving)
    wanted = [f_literal(row_of(cluster, row), shapes) for row in range(len(nodes))]
    assert [Fraction(value, f.weight) for value in found] == wanted
    assert Fraction(f.of_cluster(cluster), f.weight) == sum(wanted)


@settings(deadline=None, max_examples=60)
@given(clusters(), pods(), st.sampled_from((1, 50, 330, 500, 999, 1000)))
def test_f_after_one_gpu_is_taken_is_the_definition_exactly(
    nodes: list[Node], arriving: list[Pod], milli: int
) -> None:
    placement = filled(nodes, arriving, "first-fit")
    cluster, f = placement.cluster, placement.fragmentation
    shapes = shapes_of(arriving)
    after = f.after_one(cluster.cpu_free, cluster.gpu_free, cluster.model, milli)
    for row in range(len(nodes)):
        cpu, gpus, model = row_of(cluster, row)
        for gpu in (g for g, free in enumerate(gpus) if free >= milli):
            left = [free - milli * (g == gpu) for g, free in enumerate(gpus)]
            wanted = f_literal((cpu, left, model), shapes)
            assert Fraction(int(after[row, gpu]), f.weight) == wanted


@settings(deadline=None, max_examples=60)
@given(clusters(), pods(), pods(most=3))
def test_fgd_places_as_its_definition_does(
    nodes: list[Node], arriving: list[Pod], asking: list[Pod]
) -> None:
    placement = filled(nodes, arriving, "fgd")
    cluster, shapes = placement.cluster, shapes_of(arriving)
    for one in asking:
        scores = {}
        left = {}
        for row in cluster.feasible(one).tolist():
            gain, left[row] = best_literal(row_of(cluster, row), one, shapes)
            scores[row] = int(100 / (1 + math.exp(-gain / 1000)))
        chosen = placement.choose(one)
        if not scores:
            assert chosen is None
            continue
        assert chosen is not None
        names = {cluster.nodes[row].name: score for row, score in scores.items()}
        assert placement.scores(one) == names
        best = min(row for row, score in scores.items() if score == max(scores.values()))
        assert chosen.node == cluster.nodes[best].name
        taken = row_of(cluster, best)[1]
        for gpu in chosen.gpus:
            taken[gpu] -= one.gpu_milli
        assert taken == left[best]


@settings(deadline=None, max_examples=60)
@given(clusters(), pods(), pods(most=3))
def test_hybrid_scores_as_its_formula_says(
    nodes: list[Node], arriving: list[Pod], asking: list[Pod]
) -> None:
    placement = filled(nodes, arriving, "hybrid")
    cluster, shapes, w = placement.cluster, shapes_of(arriving), Weights()
    scarce = scarcity_literal(nodes, shapes)
    for one in asking:
        wanted = {}
        for row in cluster.feasible(one).tolist():
            free, kind = row_of(cluster, row), cluster.nodes[row]
            gain, gpus = best_literal(free, one, shapes)
            cpu, most = free[0] - one.cpu_milli, sum(kind.gpu_milli)
            uneven = (cpu / kind.cpu_milli if kind.cpu_milli else 0) - (
                sum(gpus) / most if most else 0
            )
            wanted[kind.name] = (
                float(gain)
                - w.core_left * cpu / 1000
                - w.gpu_left * sum(gpus) / 1000
                - w.imbalance * abs(uneven)
                + w.whole_left * gpus.count(1000)
                - w.scarcity * one.gpu_total_milli / 1000 * scarce[kind.model]
            )
        assert placement.scores(one) == pytest.approx(wanted, rel=1e-9, abs=1e-6)


def test_without_weights_the_hybrid_is_the_gradient_itself() -> None:
    cluster = Cluster([node("a"), node("b", 4, cpus=8)])
    f = Fragmentation(typical(workload()), cluster.models, cluster.gpu_milli.shape[1])
    one, rows = pod("p", 500), np.array([0, 1])
    bare = Hybrid(cluster, f, Weights(0, 0, 0, 0, 0)).score(cluster, one, rows)
    before = f.of(cluster.cpu_free, cluster.gpu_free, cluster.model)
    for row in (0, 1):
        cluster.take(one, row, (0,))
    after = f.of(cluster.cpu_free, cluster.gpu_free, cluster.model)
    assert bare.tolist() == ((before - after) / f.weight).tolist()


def test_typical_shapes_cover_95_percent_and_ties_go_to_the_smaller() -> None:
    many = [pod(f"m{n}", 500) for n in range(90)]
    few = [pod(f"f{n}", 250) for n in range(4)]
    rare = [pod("r1", 700), pod("r2", 600)]
    found = typical([*rare, *few, *many, *(pod(f"c{n}") for n in range(4))])
    assert list(found.items()) == [
        (Shape(1000, 1, 500), 90),
        (Shape(1000, 0, 0), 4),
        (Shape(1000, 1, 250), 4),
    ]
    assert list(typical(rare)) == [Shape(1000, 1, 600), Shape(1000, 1, 700)]


def test_a_workload_that_asks_for_no_gpu_makes_all_of_them_fragments() -> None:
    placement = Placement.of([node("a", 2)], [pod("c")], policy="fgd")
    f = placement.fragmentation
    assert f.of_cluster(placement.cluster) / f.weight == 2000
    assert placement.place(pod("p", 500)) is not None


def test_gpus_that_others_need_are_left_to_them() -> None:
    """Half of the demand accepts B alone: who accepts any goes to A, though B's node is fuller."""
    nodes = [node("a", 4, model="A"), node("b", 4, model="B")]
    choosy = [pod(f"b{n}", 500, cpus=12, spec="B") for n in range(20)]
    easy = [pod(f"e{n}", 500, cpus=12) for n in range(20)]
    placements = [Placement.of(nodes, w, policy="hybrid") for w in (easy, easy + choosy)]
    for placement in placements:
        placement.hold(Assignment(pod("first", 500, cpus=12), "b", (0,)))
    chosen = [placement.choose(pod("next", 500, cpus=12)) for placement in placements]
    assert [c.node for c in chosen if c] == ["b", "a"]
    last = placements[1].choose(pod("choosy", 500, cpus=12, spec="B"))
    assert last is not None
    assert (last.node, last.gpus) == ("b", (0,))


def test_scarcity_is_what_cannot_go_elsewhere() -> None:
    nodes = [node("a", 6, model="A"), node("b", 2, model="B"), node("c", 0, model="C")]
    cluster = Cluster(nodes)
    for asked, wanted in (
        ({Shape(0, 1, 500): 10}, [0, 0, 0]),
        ({Shape(0, 1, 500): 9, Shape(0, 1, 500, ("B",)): 1}, [0, 0.4, 0]),
        ({Shape(0, 1, 500): 1, Shape(0, 1, 500, ("B",)): 1}, [0, 1, 0]),
        ({Shape(0, 1, 500): 1, Shape(0, 1, 500, ("A", "B")): 1}, [0.5, 0.5, 0]),
        ({Shape(0, 1, 500): 1, Shape(0, 1, 500, ("C", "nowhere")): 1}, [0, 0, 0]),
        ({Shape(0, 0, 0, ("A",)): 5}, [0, 0, 0]),
        ({}, [0, 0, 0]),
    ):
        assert scarcity(cluster, asked).tolist() == pytest.approx(wanted)
