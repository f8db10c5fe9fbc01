# SPDX-License-Identifier: Apache-2.0
"""The policies everybody knows, to compare with: none of them knows the workload."""

from __future__ import annotations

import random

import numpy as np

from harp.scheduler.cluster import Cluster, Ints, Pod
from harp.scheduler.policy import Floats, least_free_gpus

__all__ = ["BestFit", "DotProduct", "FirstFit", "Random"]


class BestFit:
    """The node with least left afterwards: mean of CPUs and GPUs, in parts of the largest node's.

    Source: Weng et al. (ATC'23), section 6.1.
    """

    def score(self, cluster: Cluster, pod: Pod, rows: Ints) -> Floats:
        """As Policy.score; 0 to -1."""
        cpu, gpu = _parts(cluster, rows)
        asked_cpu, asked_gpu = _asked(cluster, pod)
        return -0.5 * ((cpu - asked_cpu) + (gpu - asked_gpu))

    def gpus(self, cluster: Cluster, pod: Pod, row: int) -> tuple[int, ...]:
        """As Policy.gpus."""
        return least_free_gpus(cluster, pod, row)


class FirstFit:
    """The first node by name, and its first GPUs by index."""

    def score(self, cluster: Cluster, pod: Pod, rows: Ints) -> Floats:  # noqa: ARG002 - as Policy
        """As Policy.score: all alike, so the tie decides."""
        return np.zeros(len(rows))

    def gpus(self, cluster: Cluster, pod: Pod, row: int) -> tuple[int, ...]:
        """As Policy.gpus."""
        return _fitting(cluster, pod, row)[: pod.num_gpu]


class DotProduct:
    """The node with the smallest dot product of what is free and what is asked.

    Source: Weng et al. (ATC'23), section 6.1, after Tetris (Grandl et al., SIGCOMM'14), which takes
    the largest: on a cluster that fills up for good, keeping large nodes empty is the better half.
    """

    def score(self, cluster: Cluster, pod: Pod, rows: Ints) -> Floats:
        """As Policy.score; 0 to -1."""
        cpu, gpu = _parts(cluster, rows)
        asked_cpu, asked_gpu = _asked(cluster, pod)
        return -0.5 * (cpu * asked_cpu + gpu * asked_gpu)

    def gpus(self, cluster: Cluster, pod: Pod, row: int) -> tuple[int, ...]:
        """As Policy.gpus."""
        return least_free_gpus(cluster, pod, row)


class Random:
    """Any node, any GPUs: drawn from the seed and the pod's name, so that it is no state."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def score(self, cluster: Cluster, pod: Pod, rows: Ints) -> Floats:  # noqa: ARG002 - as Policy
        """As Policy.score; 0 to 1."""
        rng = random.Random(f"harp-place/{self._seed}/{pod.name}")  # noqa: S311 - no secret
        return np.array([rng.random() for _ in range(len(rows))])

    def gpus(self, cluster: Cluster, pod: Pod, row: int) -> tuple[int, ...]:
        """As Policy.gpus."""
        rng = random.Random(f"harp-place/{self._seed}/{pod.name}/gpus")  # noqa: S311 - no secret
        return tuple(sorted(rng.sample(_fitting(cluster, pod, row), pod.num_gpu)))


def _parts(cluster: Cluster, rows: Ints) -> tuple[Floats, Floats]:
    """Free CPUs and GPUs of these nodes, as parts of the most that any node has."""
    cpu, gpu = _largest(cluster)
    return cluster.cpu_free[rows] / cpu, cluster.gpu_free[rows].sum(axis=1) / gpu


def _asked(cluster: Cluster, pod: Pod) -> tuple[float, float]:
    cpu, gpu = _largest(cluster)
    return pod.cpu_milli / cpu, pod.gpu_total_milli / gpu


def _largest(cluster: Cluster) -> tuple[int, int]:
    cpu, gpu = cluster.cpu_milli.max(), cluster.gpu_milli.sum(axis=1).max()
    return max(1, int(cpu)), max(1, int(gpu))


def _fitting(cluster: Cluster, pod: Pod, row: int) -> tuple[int, ...]:
    free = cluster.gpu_free[row].tolist()
    return tuple(gpu for gpu, milli in enumerate(free) if milli >= pod.gpu_milli)
