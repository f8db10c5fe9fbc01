# SPDX-License-Identifier: Apache-2.0
"""A trace of pods replayed through a placement policy. Pure; the clock comes in.

The published protocol: the pods come in random order and stay; then pods drawn from the same list,
with replacement, until what has come asks for 130 % of all GPUs. Who fits nowhere is dropped.

Source: Weng et al., "Beware of Fragmentation" (ATC'23), section 6.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from harp.errors import ConfigError
from harp.scheduler import Node, Placement, Pod

__all__ = ["DEMAND_PCT", "Point", "Replay", "arrivals", "as_json", "as_text", "replay"]

#: demand at which the figures are taken, in percent of all GPUs
DEMAND_PCT = tuple(range(10, 131, 10))
#: those that --json names by themselves
_NAMED_PCT = (100, 130)
#: pods that may come in one run; at 0.3 ms each, 10 minutes
_ARRIVALS_MAX = 2_000_000


@dataclass(frozen=True, slots=True)
class Point:
    """The cluster once pods have come that ask for `demand_pct` of all GPUs, or a bit more."""

    demand_pct: int
    allocation_pct: float  #: GPU parts that pods have, of all
    fragmentation_pct: float  #: GPU parts that are free and of no use to a typical pod, of all
    fragmentation_of_free_pct: float  #: the same, of those that are free
    arrived: int  #: pods that have come
    failures: int  #: of these, who fitted nowhere


@dataclass(frozen=True, slots=True)
class Replay:
    """What a run showed."""

    policy: str
    seed: int
    nodes: int
    gpus: int
    pods: int  #: in the list, before it is drawn from
    points: tuple[Point, ...]  #: by demand
    ms_per_decision: (
        float  #: mean of feasible nodes, scores, GPUs and taking them; depends on the machine
    )
    ms_per_decision_p99: float


def arrivals(pods: Sequence[Pod], seed: int) -> Iterator[Pod]:
    """The pods in random order, then without end some of them again, by the name `NAME+N`.

    The order is that of `random.Random("harp-place/SEED")`: first shuffle(), then choice().
    """
    rng = random.Random(f"harp-place/{seed}")  # noqa: S311 - a model
    order = list(pods)
    rng.shuffle(order)
    yield from order
    number = 0
    while True:
        number += 1
        again = rng.choice(pods)
        yield dataclasses.replace(again, name=f"{again.name}+{number}")


def replay(
    nodes: Sequence[Node],
    pods: Sequence[Pod],
    *,
    policy: str,
    seed: int,
    clock_s: Callable[[], float],
    progress: Callable[[Point], None] = lambda _: None,
    demand_pct: Sequence[int] = DEMAND_PCT,
) -> Replay:
    """Place pods until as much is asked for as the last of `demand_pct` says.

    Args:
        nodes: at least one GPU among them.
        pods: at least one that asks for a GPU; they are also the typical workload.
        policy: a name in POLICIES.
        seed: of the order of arrival, and of the policy `random`.
        clock_s: seconds, ascending.
        progress: told of each point as it is reached.
        demand_pct: where the points are, ascending, percent of all GPUs.

    Raises:
        ConfigError: no GPU, nobody who asks for one, or as Placement.of().
    """
    placement = Placement.of(nodes, pods, policy=policy, seed=seed)
    capacity = placement.cluster.gpu_total_milli
    _check(pods, demand_pct[-1] * capacity // 100)
    points: list[Point] = []
    took_s: list[float] = []
    asked = failures = 0
    for pod in arrivals(pods, seed):
        began = clock_s()
        placed = placement.place(pod)
        took_s.append(clock_s() - began)
        asked += pod.gpu_total_milli
        failures += placed is None
        # One large pod on a small cluster may reach several at once.
        reached = sum(100 * asked >= at * capacity for at in demand_pct)
        for at in demand_pct[len(points) : reached]:
            points.append(_point(placement, at, len(took_s), failures))
            progress(points[-1])
        if reached == len(demand_pct):
            break
    took_s.sort()
    return Replay(
        policy=policy,
        seed=seed,
        nodes=len(nodes),
        gpus=sum(len(node.gpu_milli) for node in nodes),
        pods=len(pods),
        points=tuple(points),
        ms_per_decision=1000 * sum(took_s) / len(took_s),
        ms_per_decision_p99=1000 * took_s[-1 - len(took_s) // 100],
    )


def _check(pods: Sequence[Pod], wanted_milli: int) -> None:
    demand_milli = sum(pod.gpu_total_milli for pod in pods)
    if not wanted_milli:
        raise ConfigError("none of the nodes has a GPU", "list nodes with GPUs")
    if not demand_milli:
        raise ConfigError(
            f"none of {len(pods)} pods asks for a GPU, so no demand is ever reached",
            "list pods with num_gpu and gpu_milli above 0",
        )
    expected = len(pods) * wanted_milli // demand_milli
    if expected > _ARRIVALS_MAX:
        raise ConfigError(
            f"some {expected} pods must come before they ask for {wanted_milli // 1000} GPUs, at"
            f" most {_ARRIVALS_MAX}",
            "list fewer nodes, or fewer pods that ask for no GPU",
        )


def _point(placement: Placement, demand_pct: int, arrived: int, failures: int) -> Point:
    cluster = placement.cluster
    capacity = cluster.gpu_total_milli
    free = int(cluster.gpu_free.sum())
    fragments = placement.fragmentation.of_cluster(cluster) / placement.fragmentation.weight
    return Point(
        demand_pct=demand_pct,
        allocation_pct=100 * (capacity - free) / capacity,
        fragmentation_pct=100 * fragments / capacity,
        fragmentation_of_free_pct=100 * fragments / free if free else 0.0,
        arrived=arrived,
        failures=failures,
    )


def as_json(found: Replay) -> dict[str, object]:
    """As `harp sim place --json` prints it."""
    named = [point for point in found.points if point.demand_pct in _NAMED_PCT]
    by_demand = {
        name: {str(point.demand_pct): _rounded(getattr(point, name)) for point in named}
        for name in (
            "allocation_pct",
            "fragmentation_pct",
            "fragmentation_of_free_pct",
            "failures",
        )
    }
    points = [
        {name: _rounded(value) for name, value in dataclasses.asdict(point).items()}
        for point in found.points
    ]
    return {
        "policy": found.policy,
        "seed": found.seed,
        "nodes": found.nodes,
        "gpus": found.gpus,
        "pods": found.pods,
        **by_demand,
        "ms_per_decision": _rounded(found.ms_per_decision),
        "ms_per_decision_p99": _rounded(found.ms_per_decision_p99),
        "points": points,
    }


def as_text(found: Replay) -> list[str]:
    """Lines for people."""
    head = f"{'DEMAND':>6} {'ALLOCATED':>9} {'FRAGMENTS':>9} {'OF FREE':>8}"
    lines = [head + f" {'ARRIVED':>8} {'FAILED':>7}"]
    lines += [
        f"{point.demand_pct:5}% {point.allocation_pct:8.2f}% {point.fragmentation_pct:8.2f}%"
        f" {point.fragmentation_of_free_pct:7.2f}% {point.arrived:8} {point.failures:7}"
        for point in found.points
    ]
    lines.append(
        f"policy {found.policy}, seed {found.seed}: {found.nodes} nodes, {found.gpus} GPUs,"
        f" {found.pods} pods in the list; {found.ms_per_decision:.2f} ms a decision, p99"
        f" {found.ms_per_decision_p99:.2f} ms"
    )
    return lines


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else round(value, 6)
