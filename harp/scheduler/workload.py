# SPDX-License-Identifier: Apache-2.0
"""The pods that are typical here: what free GPUs are worth depends on who will ask for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from harp.scheduler.cluster import Pod

__all__ = ["COVERAGE", "Shape", "typical"]

#: part of all pods that the typical shapes stand for
COVERAGE = Fraction(95, 100)


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """One kind of request. Memory is no part of it: fragments are of GPUs, for want of CPUs."""

    cpu_milli: int
    num_gpu: int
    gpu_milli: int
    gpu_spec: tuple[str, ...] = ()


def typical(pods: Iterable[Pod], coverage: Fraction = COVERAGE) -> dict[Shape, int]:
    """The most frequent shapes until they are `coverage` of the pods, with their counts.

    Pods without a GPU count too: they use up the CPUs beside GPUs. Of equally frequent shapes
    the smaller one (by its fields in order) comes first.

    Source: Weng et al., "Beware of Fragmentation" (ATC'23), section 4.2: the target workload.
    """
    counts = Counter(Shape(p.cpu_milli, p.num_gpu, p.gpu_milli, p.gpu_spec) for p in pods)
    wanted = coverage * counts.total()
    found: dict[Shape, int] = {}
    covered = 0
    for shape, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if covered >= wanted:
            break
        found[shape] = count
        covered += count
    return found
