# SPDX-License-Identifier: Apache-2.0
"""Which GPU models are spoken for by pods that cannot go elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harp.scheduler.cluster import Cluster
from harp.scheduler.policy import Floats
from harp.scheduler.workload import Shape

__all__ = ["scarcity"]


def scarcity(cluster: Cluster, shapes: Mapping[Shape, int]) -> Floats:
    """Per model of `cluster.models` the part of its GPUs that such pods will want, 0 to 1.

    It is taken that as much is asked for as there are GPUs. A shape that accepts several models
    wants of each in proportion to its GPUs; one that accepts any wants none in particular.
    """
    capacity = np.bincount(
        cluster.model, weights=cluster.gpu_milli.sum(axis=1), minlength=len(cluster.models)
    )
    wanted = np.zeros(len(cluster.models))
    demand = {shape: n * shape.num_gpu * shape.gpu_milli for shape, n in shapes.items()}
    for shape, milli in demand.items():
        accepted = np.array([model in shape.gpu_spec for model in cluster.models])
        there = float(capacity[accepted].sum())
        if milli and there:
            # Per GPU of each accepted model the same, since it is spread in proportion.
            wanted[accepted] += milli / sum(demand.values()) * float(capacity.sum()) / there
    return np.minimum(wanted, 1.0)
