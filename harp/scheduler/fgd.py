# SPDX-License-Identifier: Apache-2.0
"""Fragmentation Gradient Descent: place where it makes least new fragments."""

from __future__ import annotations

import math

import numpy as np

from harp.scheduler.cluster import WHOLE_MILLI, Cluster, Ints, Pod
from harp.scheduler.fragmentation import Fragmentation
from harp.scheduler.policy import Floats, least_free_gpus, with_gpus_taken

__all__ = ["Descent", "Fgd", "shares_one"]

#: gain from which the score is k: where 100 / (1 + exp(-gain / 1000)) reaches k, for k = 1 ... 99.
#: Comparing with these, no processor's own exp() decides what is tied.
_STEPS = np.array([WHOLE_MILLI * math.log(k / (100 - k)) for k in range(1, 100)])


class Descent:
    """What a placement does to F of a node, by the GPU it takes."""

    def __init__(self, fragmentation: Fragmentation) -> None:
        self._fragmentation = fragmentation

    def gain(self, cluster: Cluster, pod: Pod, rows: Ints) -> tuple[Floats, Ints]:
        """F less F' in milli-GPUs for the best choice of GPUs, and gpu_free after it.

        A pod that shares one GPU tries each; of equal ones it takes the least free, then the
        lower index. Others take the least free that fit: for whole GPUs all are alike.

        Returns:
            (n,) milli-GPUs, positive where fragments become fewer; (n, g).
        """
        f = self._fragmentation
        cpu, free, model = cluster.cpu_free[rows], cluster.gpu_free[rows], cluster.model[rows]
        before = f.of(cpu, free, model)
        if not shares_one(pod):
            taken = with_gpus_taken(cluster, pod, rows)
            after = f.of(cpu - pod.cpu_milli, taken, model)
            return (before - after) / f.weight, taken
        each = f.after_one(cpu - pod.cpu_milli, free, model, pod.gpu_milli)
        chosen = _best_gpu(each, free, pod.gpu_milli)
        at = np.arange(len(rows)), chosen
        taken = free.copy()
        taken[at] -= pod.gpu_milli
        return (before - each[at]) / f.weight, taken

    def gpus(self, cluster: Cluster, pod: Pod, row: int) -> tuple[int, ...]:
        """The GPUs that gain() chose on this node."""
        if not shares_one(pod):
            return least_free_gpus(cluster, pod, row)
        rows = np.array([row])
        cpu, free = cluster.cpu_free[rows] - pod.cpu_milli, cluster.gpu_free[rows]
        each = self._fragmentation.after_one(cpu, free, cluster.model[rows], pod.gpu_milli)
        return (int(_best_gpu(each, free, pod.gpu_milli)[0]),)


class Fgd:
    """The published score: the gain through a sigmoid, in whole percent.

    int(100 * sigmoid(gain / 1000)). The rounding makes ties of most nodes, which go to the smallest
    name; both are part of what was published.

    Source: Weng et al. (ATC'23), section 4; the rounding and the tie are those of its simulator
    (hkust-adsl/kubernetes-scheduler-simulator, fgd_score.go and its copy of generic_scheduler.go).
    """

    def __init__(self, fragmentation: Fragmentation) -> None:
        self._descent = Descent(fragmentation)
        #: as Policy.gpus
        self.gpus = self._descent.gpus

    def score(self, cluster: Cluster, pod: Pod, rows: Ints) -> Floats:
        """As Policy.score; 0 to 100."""
        gain, _ = self._descent.gain(cluster, pod, rows)
        return np.searchsorted(_STEPS, gain, side="right").astype(np.float64)


def shares_one(pod: Pod) -> bool:
    """Whether it asks for a part of one GPU."""
    return pod.num_gpu == 1 and pod.gpu_milli < WHOLE_MILLI


def _best_gpu(each: Ints, free: Ints, milli: int) -> Ints:
    """Per node the GPU with the least F after it, then the least free, then the lowest index."""
    after = np.where(free >= milli, each, np.iinfo(np.int64).max)
    tied = after == after.min(axis=1, keepdims=True)
    chosen: Ints = np.where(tied, free, WHOLE_MILLI + 1).argmin(axis=1)
    return chosen
