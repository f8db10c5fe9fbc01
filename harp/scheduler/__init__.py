# SPDX-License-Identifier: Apache-2.0
"""Where a pod goes: which node, which GPUs. Pure."""

from __future__ import annotations

from harp.scheduler.cluster import WHOLE_MILLI, Cluster, Node, Pod
from harp.scheduler.fragmentation import Fragmentation
from harp.scheduler.placement import Assignment, Placement
from harp.scheduler.policies import POLICIES, make
from harp.scheduler.policy import Policy
from harp.scheduler.workload import Shape, typical

__all__ = [
    "POLICIES",
    "WHOLE_MILLI",
    "Assignment",
    "Cluster",
    "Fragmentation",
    "Node",
    "Placement",
    "Pod",
    "Policy",
    "Shape",
    "make",
    "typical",
]
