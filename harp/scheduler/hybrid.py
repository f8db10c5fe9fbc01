# SPDX-License-Identifier: Apache-2.0
"""Packing and balance on top of the fragmentation gradient: HARP's own score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harp.scheduler.cluster import WHOLE_MILLI, Cluster, Ints, Pod
from harp.scheduler.fgd import Descent
from harp.scheduler.fragmentation import Fragmentation
from harp.scheduler.policy import Floats
from harp.scheduler.scarcity import scarcity

__all__ = ["Hybrid", "Weights"]


@dataclass(frozen=True, slots=True)
class Weights:
    """What each term is worth, in milli-GPUs of fragments.

    The first four were found by random search on the public default trace with seeds 100 to 103 and
    rounded by hand: 30, 80, 80, 60 where CPUs are parts of 128 cores and GPUs parts of 8. The last
    on variants of it in which 10, 15, 20 and 33 % of the GPU pods accept few models, seeds 200 and
    201. What is judged are seeds 42 to 51. Absolute, so that what other machines there are does not
    change a node's score.
    """

    core_left: float = 30 / 128  #: per core that stays free on the node
    gpu_left: float = 80 / 8  #: per GPU, or parts of one, that stays free
    imbalance: float = 80.0  #: for 100 % of one and 0 % of the other of CPUs and GPUs
    whole_left: float = 60 / 8  #: per GPU that stays free as a whole
    scarcity: float = 100.0  #: per GPU taken of a model that is all spoken for


class Hybrid:
    """Fewer fragments; then fuller nodes, CPUs and GPUs used evenly, whole and scarce GPUs kept.

    Unlike Fgd's, the score is not rounded: two nodes tie only if they are alike.
    """

    def __init__(
        self, cluster: Cluster, fragmentation: Fragmentation, weights: Weights | None = None
    ) -> None:
        """A policy for this cluster's models and `fragmentation`'s workload."""
        self._descent = Descent(fragmentation)
        self._weights = weights or Weights()
        self._scarcity = scarcity(cluster, fragmentation.shapes)
        #: as Policy.gpus
        self.gpus = self._descent.gpus

    def score(self, cluster: Cluster, pod: Pod, rows: Ints) -> Floats:
        """As Policy.score, in milli-GPUs."""
        w = self._weights
        gain, taken = self._descent.gain(cluster, pod, rows)
        cpu = cluster.cpu_free[rows] - pod.cpu_milli
        gpu = taken.sum(axis=1)
        # A node without GPUs, or without CPUs, has 0 % of them left.
        cpu_part = cpu / np.maximum(1, cluster.cpu_milli[rows])
        gpu_part = gpu / np.maximum(1, cluster.gpu_milli[rows].sum(axis=1))
        whole = np.count_nonzero(taken == WHOLE_MILLI, axis=1)
        score: Floats = (
            gain
            - w.core_left * (cpu / 1000)
            - w.gpu_left * (gpu / WHOLE_MILLI)
            - w.imbalance * np.abs(cpu_part - gpu_part)
            + w.whole_left * whole
            - w.scarcity * (pod.gpu_total_milli / WHOLE_MILLI) * self._scarcity[cluster.model[rows]]
        )
        return score
