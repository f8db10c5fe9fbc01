# SPDX-License-Identifier: Apache-2.0
"""Which nodes a pod may go to, and how good each is. Pure.

Whether it fits is counted in slots, of what is sure (room.py). How good a node is says the
placement core, in thousandths of what is likely: a share whose GPU is not known is taken to be
where the plugin would have put it. Nodes of different slots per GPU are scored apart and compared
as they are.

kube-scheduler adds our 0 to 10, times the extender's weight, to its own scores, and breaks ties by
chance. So the winner alone has 10 and the others at most 8.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from harp.extender.objects import NodeInfo, PodInfo
from harp.extender.room import Fit, Room, best, fit, misfit
from harp.extender.state import View
from harp.extender.waiting import clash
from harp.scheduler import WHOLE_MILLI, Cluster, Fragmentation, Node, Pod, Shape, make, typical

__all__ = ["HIGHEST", "Filtered", "Scorer", "filter_nodes"]

#: of the extender's protocol
HIGHEST = 10
_SECOND = 8
#: the typical pods are counted anew after so many changes of pods
_RECOUNT = 256
#: where no node says it
_PER_GPU = 100


@dataclass(frozen=True, slots=True)
class Filtered:
    """Nodes, sorted into three."""

    fitting: tuple[str, ...]  #: in the order asked
    full: Mapping[str, str]  #: {node: why not now}; somebody may leave
    never: Mapping[str, str]  #: {node: why not at all}


def filter_nodes(view: View, pod: PodInfo, names: Iterable[str]) -> Filtered:
    """Sort these nodes. A pod without shares fits everywhere: others judge it."""
    fitting: list[str] = []
    full: dict[str, str] = {}
    never: dict[str, str] = {}
    later: dict[str, str] = {}  #: of those that fit
    assumed = view.assumption(pod.uid)
    stuck = view.stuck()
    for name in names:
        node = view.nodes.get(name)
        if not pod.claims:
            fitting.append(name)
        elif assumed is not None:
            # An answer was lost (core.py): there or nowhere, and its slots are set aside there.
            if name == assumed.pod.node:
                fitting.append(name)
            else:
                full[name] = f"the pod may be bound to node {assumed.pod.node} already"
        elif node is None:
            full[name] = "HARP's extender does not know the node yet"
        elif why := misfit(pod.claims, node):
            never[name] = why
        elif isinstance(found := fit(view.room(name), pod.claims), str):
            full[name] = found
        else:
            fitting.append(name)
            if name in stuck and (why := _delay(view, replace(pod, node=name), found)):
                later[name] = why
    if len(later) < len(fitting):  # else it is bound where it can be, be it later
        fitting = [name for name in fitting if name not in later]
        full |= later
    return Filtered(tuple(fitting), full, never)


def _delay(view: View, pod: PodInfo, found: Fit) -> str:
    """Why its binding would have to wait (waiting.py); empty: it would not."""
    node = view.nodes[pod.node]
    named = replace(pod, gpus=tuple(map(node.name_of, found.gpus)))
    other = clash(node, named, view.waiting(node.name))
    return f"{other.key} may be mixed up with it, and kubelet has not begun it" if other else ""


@dataclass(slots=True)
class Scorer:
    """How good nodes are, under one policy."""

    policy: str
    seed: int = 0
    #: pods as they come here, and at which count of changes that was
    _shapes: dict[Shape, int] = field(default_factory=dict)
    _counted: int = -_RECOUNT

    def scores(self, view: View, pod: PodInfo, names: Iterable[str]) -> dict[str, int]:
        """{node: 0 to 10}, all that were asked for; a pod without shares leaves it to others.

        Raises:
            ConfigError: no such policy.
        """
        wanted = dict.fromkeys(names, 0)
        raw: dict[str, float] = {}
        if pod.claims:
            self._count(view)
            nodes = [view.nodes[name] for name in wanted if name in view.nodes]
            for per_gpu in sorted({node.per_gpu for node in nodes if node.gpus}):
                alike = [node for node in nodes if node.per_gpu == per_gpu and node.gpus]
                raw |= self._raw(view, pod, alike)
        return wanted | _ranked(raw)

    def _count(self, view: View) -> None:
        if view.changes - self._counted >= _RECOUNT:
            self._counted = view.changes
            its = {name: node.per_gpu for name, node in view.nodes.items() if node.gpus}
            # Of a pod that is on no node yet, a slot is what it is on most nodes.
            usual = statistics.mode(its.values()) if its else _PER_GPU
            pods = view.pods.values()
            self._shapes = typical(_as_pod(pod, its.get(pod.node, usual)) for pod in pods)

    def _raw(self, view: View, pod: PodInfo, nodes: list[NodeInfo]) -> dict[str, float]:
        """The policy's word on the nodes of one number of slots where the pod likely fits."""
        asked = _as_pod(pod, nodes[0].per_gpu)
        cluster = Cluster(_as_node(node, asked) for node in nodes)
        for row, node in enumerate(cluster.nodes):
            known, usage = view.nodes[node.name], view.usage(node.name)
            free = _likely(view.room(node.name))
            # kube-scheduler has judged CPUs and memory; by our count they may just not be there.
            cpu = min(node.cpu_milli, max(asked.cpu_milli, known.cpu_milli - usage.cpu_milli))
            memory = min(
                node.memory_bytes,
                max(asked.memory_bytes, known.memory_bytes - usage.memory_bytes),
            )
            cluster.set_free(row, cpu, memory, [_milli(have, known.per_gpu) for have in free])
        rows = cluster.feasible(asked)
        if not len(rows):
            return {}
        tables = Fragmentation(self._shapes, cluster.models, cluster.gpu_milli.shape[1])
        found = make(self.policy, cluster, tables, self.seed).score(cluster, asked, rows)
        at = [cluster.nodes[row].name for row in rows.tolist()]
        return dict(zip(at, found.tolist(), strict=True))


def _ranked(raw: Mapping[str, float]) -> dict[str, int]:
    """10 for the highest, of equal ones for the smallest name; 0 to 8 for the others."""
    if not raw:
        return {}
    low, high = min(raw.values()), max(raw.values())
    winner = min(name for name, score in raw.items() if score == high)
    span = (high - low) or 1.0
    ranks = {name: int(_SECOND * (score - low) / span) for name, score in raw.items()}
    return ranks | {winner: HIGHEST}


def _likely(room: Room) -> list[int]:
    """Free slots, if the shares adrift lie where the plugin would have put them."""
    free = list(room.free)
    for each in sorted(room.adrift, reverse=True):
        # One that fits nowhere lies on more than one GPU's rest; that of the freest is closest.
        (at,) = best(free, 1, each) or (free.index(max(free)),)
        free[at] = max(0, free[at] - each)
    for gpu in sorted(range(len(free)), key=lambda gpu: -free[gpu])[: room.ill]:
        free[gpu] = 0
    return free


def _as_node(node: NodeInfo, asked: Pod) -> Node:
    cpu, memory = max(node.cpu_milli, asked.cpu_milli), max(node.memory_bytes, asked.memory_bytes)
    return Node(node.name, cpu, memory, (WHOLE_MILLI,) * node.gpus, node.model)


def _as_pod(pod: PodInfo, per_gpu: int) -> Pod:
    """As the placement core has it: of several containers, the one that asks for most."""
    slots = max((claim.slots for claim in pod.claims), default=0)
    if not slots:
        return Pod(pod.key, pod.cpu_milli, pod.memory_bytes)
    count = max(1, -(-slots // per_gpu))
    return Pod(
        pod.key, pod.cpu_milli, pod.memory_bytes, count, _milli(min(slots, per_gpu), per_gpu)
    )


def _milli(slots: int, per_gpu: int) -> int:
    return max(1, slots * WHOLE_MILLI // per_gpu) if slots else 0
