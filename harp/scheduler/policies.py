# SPDX-License-Identifier: Apache-2.0
"""The policies by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from harp.errors import ConfigError
from harp.scheduler.baselines import BestFit, DotProduct, FirstFit, Random
from harp.scheduler.cluster import Cluster
from harp.scheduler.fgd import Fgd
from harp.scheduler.fragmentation import Fragmentation
from harp.scheduler.hybrid import Hybrid
from harp.scheduler.policy import Policy

__all__ = ["POLICIES", "make"]

#: {name: made of the nodes, what the workload says and a seed}; the first is the default
POLICIES: dict[str, Callable[[Cluster, Fragmentation, int], Policy]] = {
    "hybrid": lambda cluster, fragmentation, _: Hybrid(cluster, fragmentation),
    "fgd": lambda _cluster, fragmentation, _seed: Fgd(fragmentation),
    "best-fit": lambda *_: BestFit(),
    "first-fit": lambda *_: FirstFit(),
    "dot-product": lambda *_: DotProduct(),
    "random": lambda _cluster, _fragmentation, seed: Random(seed),
}


def make(name: str, cluster: Cluster, fragmentation: Fragmentation, seed: int) -> Policy:
    """The policy of that name; only `random` draws from the seed.

    Raises:
        ConfigError: no such policy.
    """
    if name not in POLICIES:
        near = difflib.get_close_matches(name, POLICIES, n=1, cutoff=0.0)
        raise ConfigError(f"unknown policy {name}", f"did you mean {near[0]}?")
    return POLICIES[name](cluster, fragmentation, seed)
