# SPDX-License-Identifier: Apache-2.0
"""What a placement policy is: it says how good a node is for a pod, and which GPUs it would take.

Two rules hold for all of them. The highest score wins, and of equal ones the node whose name is
smallest: a policy that leaves ties to chance is another policy (kubernetes' own scheduler does, and
FGD then loses 5 points of allocation). And a policy keeps no state: asked twice, it answers twice
the same.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from harp.scheduler.cluster import Cluster, Ints, Pod

__all__ = ["Floats", "Policy", "least_free_gpus", "with_gpus_taken"]

Floats = npt.NDArray[np.float64]


class Policy(Protocol):
    """One way to choose."""

    def score(self, cluster: Cluster, pod: Pod, rows: Ints) -> Floats:
        """How good each of these nodes is, on all of which the pod fits; (len(rows),)."""
        ...

    def gpus(self, cluster: Cluster, pod: Pod, row: int) -> tuple[int, ...]:
        """The GPUs to take on this node, on which the pod fits; as many as the pod asks for."""
        ...


def least_free_gpus(cluster: Cluster, pod: Pod, row: int) -> tuple[int, ...]:
    """Those with least left that still fit; of equal ones, the lower index."""
    free = cluster.gpu_free[row].tolist()
    fitting = [gpu for gpu, milli in enumerate(free) if milli >= pod.gpu_milli]
    fitting.sort(key=lambda gpu: (free[gpu], gpu))
    return tuple(fitting[: pod.num_gpu])


def with_gpus_taken(cluster: Cluster, pod: Pod, rows: Ints) -> Ints:
    """gpu_free of these nodes with the pod on what least_free_gpus() would choose; (n, g)."""
    free = cluster.gpu_free[rows]
    if not pod.num_gpu:
        return free
    # What does not fit is sorted behind everything that does.
    order = np.argsort(np.where(free < pod.gpu_milli, 2**30, free), axis=1, kind="stable")
    chosen = order[:, : pod.num_gpu]
    np.put_along_axis(
        free, chosen, np.take_along_axis(free, chosen, axis=1) - pod.gpu_milli, axis=1
    )
    return free
