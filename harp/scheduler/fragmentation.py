# SPDX-License-Identifier: Apache-2.0
"""How much of what is free is of no use to the pods that are typical here. Pure.

A free GPU part is a fragment for a shape if a pod of that shape could not use it: because the node
lacks CPUs, GPUs of its model or enough GPUs, or because this GPU has less left than the pod asks
of one. F of a node is the sum over shapes of (how frequent) x (milli that are fragments for it).

Source: Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation
Gradient Descent" (ATC'23), section 4. tests/unit/test_fragmentation.py has it word by word.

Here it is a table lookup. For a shape m that the node's CPUs and model suit, with x = m.gpu_milli,
fragments are the GPUs with less than x left, and also all others if they are fewer than m asks for:

    F(m) = sum_g R[g] [R[g] < x]  +  [#{R[g] >= x} < m.num_gpu] * sum_g R[g] [R[g] >= x]

(1) The first sum, and the whole node for a shape that is not suited, are sums over single GPUs:
    with the shapes added up beforehand, one value per (suited shapes, R). One lookup per GPU.
(2) The second is empty for num_gpu = 1. For more, its first factor depends on the count alone: one
    lookup per x.

"Suited shapes" is the node's model and how many of the shapes' CPU requests it can meet. Counts
are kept as integers, so equal nodes have equal F, and F - F' has no rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harp.scheduler.cluster import WHOLE_MILLI, Cluster, Ints
from harp.scheduler.workload import Shape

__all__ = ["Fragmentation"]

_VALUES = WHOLE_MILLI + 1


class Fragmentation:
    """Tables for one workload and one set of models; read only."""

    def __init__(self, shapes: Mapping[Shape, int], models: Sequence[str], width: int) -> None:
        """Tables for nodes of at most `width` GPUs of these models."""
        #: {typical shape: how many pods it stands for}
        self.shapes = dict(shapes)
        #: what F is to be divided by for milli-GPUs: the pods that `shapes` stands for
        self.weight = max(1, sum(shapes.values()))
        with_gpu = {shape: count for shape, count in shapes.items() if shape.num_gpu}
        #: CPU requests that make a difference, ascending; a node's level is how many it can meet
        self._levels = np.array(sorted({s.cpu_milli for s in with_gpu}), np.int64)
        self._rows_per_model = len(self._levels) + 1
        #: gpu_milli of shapes of several GPUs
        self._several = tuple(sorted({s.gpu_milli for s in with_gpu if s.num_gpu > 1}))
        rows = len(models) * self._rows_per_model
        values = np.arange(_VALUES, dtype=np.int64)
        single = np.full((rows, _VALUES), self.weight, np.int64)  # (1), before times R
        counted = np.zeros((len(self._several), rows, width + 1), np.int64)  # (2)
        for place, model in enumerate(models):
            for shape, count in with_gpu.items():
                if shape.gpu_spec and model not in shape.gpu_spec:
                    continue
                least = int(np.searchsorted(self._levels, shape.cpu_milli)) + 1
                first = place * self._rows_per_model
                suited = slice(first + least, first + self._rows_per_model)
                single[suited, shape.gpu_milli :] -= count
                if shape.num_gpu > 1:
                    x = self._several.index(shape.gpu_milli)
                    counted[x, suited, : shape.num_gpu] += count
        self._single = (single * values).reshape(-1)
        self._counted = counted.reshape(len(self._several), rows * (width + 1))
        self._width = width

    def of(self, cpu_free: Ints, gpu_free: Ints, model: Ints) -> Ints:
        """F of each node, times `weight`; (n,) of (n,), (n, g), (n,)."""
        row = self._row(cpu_free, model)
        total: Ints = self._single[(row * _VALUES)[:, None] + gpu_free].sum(axis=1)
        for x, milli in enumerate(self._several):
            has = gpu_free >= milli
            count = np.count_nonzero(has, axis=1)
            usable = (gpu_free * has).sum(axis=1)
            total += self._counted[x][row * (self._width + 1) + count] * usable
        return total

    def of_cluster(self, cluster: Cluster) -> int:
        """F of all nodes together, times `weight`."""
        return int(self.of(cluster.cpu_free, cluster.gpu_free, cluster.model).sum())

    def after_one(self, cpu_free: Ints, gpu_free: Ints, model: Ints, milli: int) -> Ints:
        """F of each node once `milli` is taken from its GPU g, for every g; (n, g).

        `cpu_free` is what is then left of CPUs. Where GPU g has less than `milli`, the value
        means nothing.
        """
        row = self._row(cpu_free, model)
        start = (row * _VALUES)[:, None]
        left = np.maximum(gpu_free - milli, 0)
        before = self._single[start + gpu_free]
        found: Ints = before.sum(axis=1)[:, None] - before + self._single[start + left]
        for x, wanted in enumerate(self._several):
            has, keeps = gpu_free >= wanted, left >= wanted
            usable = gpu_free * has
            count = np.count_nonzero(has, axis=1)[:, None] - has + keeps
            rest = usable.sum(axis=1)[:, None] - usable + left * keeps
            found += self._counted[x][(row * (self._width + 1))[:, None] + count] * rest
        return found

    def _row(self, cpu_free: Ints, model: Ints) -> Ints:
        """Which suited shapes each node has: its row in both tables."""
        level: Ints = np.searchsorted(self._levels, cpu_free, side="right")
        return model * self._rows_per_model + level
