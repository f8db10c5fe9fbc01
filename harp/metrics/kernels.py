# SPDX-License-Identifier: Apache-2.0
"""Series of tenants' kernels, by name, and of their copies. Pure.

Names are a program's, so they are bounded: of a tenant the largest few have series of their own,
all others are "(other)". Who has one keeps it until another has twice its time. What goes to
"(other)" is what a name does while it has none: so each series only grows, and whoever comes to
have one begins with all it did before. And over a tenant's life so many names had series at most:
one that makes up new ones for ever has no more of them, and all later ones are "(other)".
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from harp.metrics.families import TENANT_LABELS, Exemplar, Family, Kind, Sample
from harp.profile import OTHER, Kernel, Profile, largest

__all__ = ["KERNELS", "KernelsSeen", "Tops", "kernel_samples"]

_NS = 1e9
#: names of a tenant's that may have a series at some time; no setting of how many at once is larger
_EVER = 64
_NAMED = (*TENANT_LABELS, "kernel")


def _counter(name: str, text: str, labels: tuple[str, ...]) -> Family:
    return Family(f"harp_grant_{name}", Kind.COUNTER, text, labels)


SECONDS = _counter(
    "kernel_seconds_total",
    "GPU time of the tenant's kernels: measured, or predicted by the mean of what was measured.",
    (*_NAMED, "source"),
)
RUNS = _counter("kernel_runs_total", "Launches of the tenant's kernels.", _NAMED)
OCCUPANCY = Family(
    "harp_grant_kernel_occupancy_ratio",
    Kind.GAUGE,
    "How much of a multiprocessor's threads the kernel's blocks can fill, as the driver says.",
    _NAMED,
)
COPIED = _counter(
    "copy_bytes_total",
    "Bytes that the tenant asked to copy or fill; of batches and prefetches none.",
    (*TENANT_LABELS, "direction"),
)
#: of harpd, as well
KERNELS = (SECONDS, RUNS, OCCUPANCY, COPIED)


@dataclass(frozen=True, slots=True)
class KernelsSeen:
    """Of a tenant."""

    kernels: tuple[Kernel, ...] = ()
    copied_bytes: Mapping[str, int] = field(default_factory=dict)
    exemplar: Exemplar | None = None  #: the trace that is being made of it


_NONE = Kernel(OTHER)


@dataclass(slots=True)
class _Top:
    named: list[str] = field(default_factory=list)
    seen: dict[str, Kernel] = field(default_factory=dict)
    other: Kernel = _NONE
    shown: set[str] = field(default_factory=set)  #: had a series at some time


class Tops:
    """Which kernels have series.

    Args:
        most: of a tenant; 0: none, and no series of theirs at all.
        ever: of a tenant, over its life.
    """

    def __init__(self, most: int, ever: int = _EVER) -> None:
        self._most = most
        self._ever = ever
        self._of: dict[str, _Top] = {}

    def keep(self, keys: Iterable[str]) -> None:
        """Forget all tenants but these."""
        left = set(keys)
        self._of = {key: top for key, top in self._of.items() if key in left}

    def see(self, key: str, profile: Profile) -> tuple[Kernel, ...]:
        """A tenant's kernels that have series, largest first, and the others as one."""
        if not self._most or not profile.kernels:
            return ()
        top = self._of.setdefault(key, _Top())
        now = {kernel.name: kernel for kernel in profile.kernels}
        own = [kernel for kernel in profile.kernels if kernel.name != OTHER]
        named = sorted((now[name] for name in top.named if name in now), key=largest)
        for kernel in sorted((k for k in own if k.name not in top.named), key=largest):
            if kernel.name not in top.shown and len(top.shown) >= self._ever:
                continue
            if len(named) == self._most:
                if kernel.ns <= 2 * named[-1].ns:
                    break
                named.pop()
            named.append(kernel)
            named.sort(key=largest)
            top.shown.add(kernel.name)
        top.named = [kernel.name for kernel in named]
        for name, kernel in now.items():
            before = top.seen.get(name)
            if kernel != before and name not in top.named:
                top.other = _grown(top.other, kernel, before or Kernel(name))
        top.seen = now
        return (*named, top.other) if top.other != _NONE else tuple(named)


def _grown(other: Kernel, now: Kernel, before: Kernel) -> Kernel:
    more = (max(0, a - b) for a, b in zip(now.counts, before.counts, strict=True))
    return Kernel(OTHER, *map(operator.add, other.counts, more))


def kernel_samples(who: tuple[str, ...], seen: KernelsSeen) -> Iterator[Sample]:
    """Every sample of a tenant's."""
    for kernel in seen.kernels:
        labels = (*who, kernel.name)
        for source, ns in (("measured", kernel.measured_ns), ("predicted", kernel.predicted_ns)):
            if ns:
                yield Sample(SECONDS, (*labels, source), ns / _NS, seen.exemplar)
        yield Sample(RUNS, labels, kernel.launches)
        if kernel.occupancy_ratio is not None:
            yield Sample(OCCUPANCY, labels, kernel.occupancy_ratio)
    for way, copied in seen.copied_bytes.items():
        yield Sample(COPIED, (*who, way), copied)
