# SPDX-License-Identifier: Apache-2.0
"""What is free where: nodes with CPUs, memory and shareable GPUs, and the pods that ask. Pure.

Nodes are kept in the order of their names, so that a lower row is a smaller name: where this
package says "first", it says which node, whatever order the caller listed them in.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harp.errors import ConfigError

__all__ = ["WHOLE_MILLI", "Cluster", "Ints", "Node", "Pod"]

Ints = npt.NDArray[np.int64]
#: one GPU, in thousandths
WHOLE_MILLI = 1000
#: what a row may hold: enough for any machine, and sums stay far from 2**63
_MOST = 2**50


@dataclass(frozen=True, slots=True)
class Node:
    """A machine as it is when nothing runs on it."""

    name: str
    cpu_milli: int
    memory_bytes: int
    gpu_milli: tuple[
        int, ...
    ] = ()  #: of each GPU by index: 1000, or less where HARP may not have all
    model: str = ""  #: of its GPUs


@dataclass(frozen=True, slots=True)
class Pod:
    """What a pod asks for: no GPU, a part of one, or several."""

    name: str
    cpu_milli: int
    memory_bytes: int
    num_gpu: int = 0
    gpu_milli: int = 0  #: of each of them; 0 exactly where num_gpu is
    gpu_spec: tuple[str, ...] = ()  #: models it accepts; empty: any

    def __post_init__(self) -> None:
        for name in ("cpu_milli", "memory_bytes", "num_gpu"):
            _within(f"{name} of pod {self.name}", getattr(self, name), _MOST)
        low, high = (1, WHOLE_MILLI) if self.num_gpu else (0, 0)
        if not low <= self.gpu_milli <= high:
            raise ConfigError(
                f"pod {self.name} asks for {self.num_gpu} GPUs of {self.gpu_milli} milli each",
                f"1 to {WHOLE_MILLI} of each GPU, or 0 GPUs of 0; more is a larger num_gpu",
            )

    @property
    def gpu_total_milli(self) -> int:
        """All it asks of GPUs."""
        return self.num_gpu * self.gpu_milli


class Cluster:
    """The free resources of all nodes, as arrays whose row is the node.

    The arrays are written by take(), give() and set_free() alone; policies read them.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        """Everything is free.

        Raises:
            ConfigError: no node, a name that is there twice, or a capacity out of range.
        """
        #: by name
        self.nodes = tuple(sorted(nodes, key=lambda node: node.name))
        #: {name: row}
        self.rows = {node.name: row for row, node in enumerate(self.nodes)}
        _check(self.nodes)
        width = max(1, *(len(node.gpu_milli) for node in self.nodes))
        #: capacity; (n, g) for GPUs, where a node with fewer than g has GPUs of 0
        self.gpu_milli = np.zeros((len(self.nodes), width), np.int64)
        for row, node in enumerate(self.nodes):
            self.gpu_milli[row, : len(node.gpu_milli)] = node.gpu_milli
        self.cpu_milli = np.array([node.cpu_milli for node in self.nodes], np.int64)
        self.memory_bytes = np.array([node.memory_bytes for node in self.nodes], np.int64)
        #: what is left of it; 0 <= free <= capacity
        self.gpu_free = self.gpu_milli.copy()
        self.cpu_free = self.cpu_milli.copy()
        self.memory_free = self.memory_bytes.copy()
        #: names of the models, and each node's by its place in them
        self.models = tuple(sorted({node.model for node in self.nodes}))
        places = {model: place for place, model in enumerate(self.models)}
        self.model = np.array([places[node.model] for node in self.nodes], np.int64)
        #: {gpu_spec: rows that have such GPUs}, filled as specs come
        self._having: dict[tuple[str, ...], npt.NDArray[np.bool_]] = {}

    @property
    def gpu_total_milli(self) -> int:
        """Capacity of all GPUs."""
        return int(self.gpu_milli.sum())

    def has_model(self, pod: Pod) -> npt.NDArray[np.bool_]:
        """Per node: a model the pod accepts; (n,) bool."""
        known = self._having.get(pod.gpu_spec)
        if known is None:
            accepted = [not pod.gpu_spec or model in pod.gpu_spec for model in self.models]
            known = self._having[pod.gpu_spec] = np.array(accepted)[self.model]
        return known

    def gpus_that_fit(self, pod: Pod) -> Ints:
        """Per node: how many GPUs have as much left as the pod asks of one; (n,)."""
        count: Ints = np.count_nonzero(self.gpu_free >= pod.gpu_milli, axis=1)
        return count

    def feasible(self, pod: Pod) -> Ints:
        """Rows of the nodes where the pod fits now, ascending."""
        fits = (self.cpu_free >= pod.cpu_milli) & (self.memory_free >= pod.memory_bytes)
        if pod.num_gpu:
            fits &= self.has_model(pod)
            fits &= self.gpus_that_fit(pod) >= pod.num_gpu
        return np.flatnonzero(fits)

    def take(self, pod: Pod, row: int, gpus: tuple[int, ...]) -> None:
        """Take the pod's resources on this node, of these GPUs.

        Raises:
            ConfigError: they are not free, or the GPUs are not as many as the pod asks for.
        """
        free = self.gpu_free[row]
        good = len(set(gpus)) == len(gpus) == pod.num_gpu and all(
            0 <= gpu < len(free) and free[gpu] >= pod.gpu_milli for gpu in gpus
        )
        good &= bool(self.cpu_free[row] >= pod.cpu_milli)
        good &= bool(self.memory_free[row] >= pod.memory_bytes)
        if not good:
            raise ConfigError(
                f"pod {pod.name} does not fit on GPUs {list(gpus)} of node {self.nodes[row].name}",
                "ask feasible() and a policy first",
            )
        self._add(pod, row, gpus, -1)

    def give(self, pod: Pod, row: int, gpus: tuple[int, ...]) -> None:
        """Give back exactly what take() took: integers, so nothing is lost on the way."""
        self._add(pod, row, gpus, 1)

    def set_free(
        self, row: int, cpu_milli: int, memory_bytes: int, gpu_milli: Sequence[int]
    ) -> None:
        """What is free on a node, where somebody else keeps count of who has what.

        Raises:
            ConfigError: below nothing, or above what the node has.
        """
        node = self.nodes[row]
        _within(f"free cpu_milli of node {node.name}", cpu_milli, node.cpu_milli)
        _within(f"free memory_bytes of node {node.name}", memory_bytes, node.memory_bytes)
        for gpu, (milli, most) in enumerate(zip(gpu_milli, node.gpu_milli, strict=True)):
            _within(f"free milli of GPU {gpu} of node {node.name}", milli, most)
        self.cpu_free[row], self.memory_free[row] = cpu_milli, memory_bytes
        self.gpu_free[row, : len(gpu_milli)] = gpu_milli

    def _add(self, pod: Pod, row: int, gpus: tuple[int, ...], sign: int) -> None:
        self.cpu_free[row] += sign * pod.cpu_milli
        self.memory_free[row] += sign * pod.memory_bytes
        for gpu in gpus:
            self.gpu_free[row, gpu] += sign * pod.gpu_milli


def _check(nodes: tuple[Node, ...]) -> None:
    if not nodes:
        raise ConfigError("there is no node to place on", "list at least one")
    for node, following in itertools.pairwise(nodes):
        if node.name == following.name:
            raise ConfigError(f"node {node.name} is there twice", "give each its own name")
    for node in nodes:
        _within(f"cpu_milli of node {node.name}", node.cpu_milli, _MOST)
        _within(f"memory_bytes of node {node.name}", node.memory_bytes, _MOST)
        for gpu, milli in enumerate(node.gpu_milli):
            _within(f"GPU {gpu} of node {node.name}", milli, WHOLE_MILLI)


def _within(what: str, value: int, most: int) -> None:
    if not 0 <= value <= most:
        raise ConfigError(f"{what} is {value}", f"0 to {most}")
