# SPDX-License-Identifier: Apache-2.0
"""Who is where, and where the next one goes. Pure: no clock, no I/O, no chance.

    pod ── feasible nodes ── policy's scores ── highest, then smallest name ── policy's GPUs ── held

Everything is decided on what is free at this moment; a held pod is never moved.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

from harp.errors import ConfigError
from harp.scheduler.cluster import Cluster, Ints, Node, Pod
from harp.scheduler.fragmentation import Fragmentation
from harp.scheduler.policies import make
from harp.scheduler.policy import Policy
from harp.scheduler.refusal import refusal
from harp.scheduler.workload import typical

__all__ = ["Assignment", "Placement"]


@dataclass(frozen=True, slots=True)
class Assignment:
    """A pod, the node it is on and the GPUs it has there."""

    pod: Pod
    node: str
    gpus: tuple[int, ...]


class Placement:
    """A cluster and the pods on it."""

    def __init__(self, cluster: Cluster, policy: Policy, fragmentation: Fragmentation) -> None:
        self.cluster = cluster
        #: how fragments are counted; the policy may use the same
        self.fragmentation = fragmentation
        self._policy = policy
        #: {pod's name: where it is}; with `cluster`, written by hold() and remove() alone
        self._held: dict[str, Assignment] = {}

    @classmethod
    def of(
        cls, nodes: Iterable[Node], workload: Iterable[Pod], *, policy: str, seed: int = 0
    ) -> Placement:
        """An empty cluster under the policy of that name; `workload`: pods as they come here.

        Raises:
            ConfigError: as Cluster and policies.make().
        """
        cluster = Cluster(nodes)
        width = cluster.gpu_milli.shape[1]
        fragmentation = Fragmentation(typical(workload), cluster.models, width)
        return cls(cluster, make(policy, cluster, fragmentation, seed), fragmentation)

    def held(self) -> tuple[Assignment, ...]:
        """All pods that are placed, in the order in which they came."""
        return tuple(self._held.values())

    def choose(self, pod: Pod, among: Collection[str] | None = None) -> Assignment | None:
        """Where the pod would go now, of these nodes or of all; None: it fits on none.

        Raises:
            ConfigError: `among` names a node that is not there.
        """
        rows = self._feasible(pod, among)
        if not len(rows):
            return None
        # argmax takes the first of equal ones, and rows are in the order of names.
        row = int(rows[np.argmax(self._policy.score(self.cluster, pod, rows))])
        gpus = self._policy.gpus(self.cluster, pod, row)
        return Assignment(pod, self.cluster.nodes[row].name, gpus)

    def scores(self, pod: Pod, among: Collection[str] | None = None) -> dict[str, float]:
        """{node on which the pod fits: the policy's score}, by name; nodes without it are left out.

        Raises:
            ConfigError: as choose().
        """
        rows = self._feasible(pod, among)
        found = self._policy.score(self.cluster, pod, rows)
        names = (self.cluster.nodes[row].name for row in rows.tolist())
        return dict(zip(names, found.tolist(), strict=True))

    def refusals(self, pod: Pod, among: Collection[str] | None = None) -> dict[str, str]:
        """{node on which the pod does not fit: why}, by name.

        Raises:
            ConfigError: as choose().
        """
        rows = range(len(self.cluster.nodes)) if among is None else self._rows(among).tolist()
        said = {self.cluster.nodes[row].name: refusal(self.cluster, pod, row) for row in rows}
        return {name: why for name, why in said.items() if why}

    def place(self, pod: Pod, among: Collection[str] | None = None) -> Assignment | None:
        """Choose and hold.

        Raises:
            ConfigError: as choose() and hold().
        """
        chosen = self.choose(pod, among)
        if chosen is not None:
            self.hold(chosen)
        return chosen

    def hold(self, assignment: Assignment) -> None:
        """Take what an assignment says, wherever it comes from: a restart repeats what was.

        Raises:
            ConfigError: the pod is placed already, or the resources are not free.
        """
        name = assignment.pod.name
        if name in self._held:
            raise ConfigError(
                f"pod {name} is on node {self._held[name].node} already", "remove it there first"
            )
        self.cluster.take(assignment.pod, self._row(assignment.node), assignment.gpus)
        self._held[name] = assignment

    def remove(self, name: str) -> Assignment:
        """The pod is gone; what it had is free as before.

        Raises:
            ConfigError: no such pod is placed.
        """
        if name not in self._held:
            raise ConfigError(f"pod {name} is on no node", "held() lists those that are")
        was = self._held.pop(name)
        self.cluster.give(was.pod, self._row(was.node), was.gpus)
        return was

    def _feasible(self, pod: Pod, among: Collection[str] | None) -> Ints:
        rows = self.cluster.feasible(pod)
        return rows if among is None else np.intersect1d(rows, self._rows(among))

    def _rows(self, names: Collection[str]) -> Ints:
        return np.array(sorted({self._row(name) for name in names}), np.int64)

    def _row(self, name: str) -> int:
        row = self.cluster.rows.get(name)
        if row is None:
            raise ConfigError(
                f"node {name} is not in this cluster of {len(self.cluster.nodes)}",
                "make a Cluster of the nodes that are there now, and hold() what was placed",
            )
        return row
