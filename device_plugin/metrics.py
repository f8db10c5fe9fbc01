# SPDX-License-Identifier: Apache-2.0
"""What the plugin counts, for its page (device_plugin.pages)."""

from __future__ import annotations

import bisect
import contextlib
import enum
import itertools
import threading
import time
from collections.abc import Collection, Iterator

from device_plugin.allocator import Reason
from harp.metrics import Distribution, Family, Kind, Sample
from harp.metrics import families as f

__all__ = ["AMBIGUOUS", "UNKNOWN", "Counts", "Part"]

AMBIGUOUS = "ambiguous"
UNKNOWN = "unknown"


class Part(enum.Enum):
    """What may fail and is tried again; the values are label values of a metric."""

    LIST = "list"  #: kubelet's, asked at a scrape
    SWEEP = "sweep"  #: of grants
    HEALTH = "health"  #: of GPUs
    REGISTRATION = "registration"


class Counts:
    """Counters of one plugin. Safe to use from several threads.

    Those that are known beforehand begin at 0: Prometheus sees no increase in a series that is new.

    Args:
        resource: whose slots; a label of all but the GPUs'.
        gpus: UUID and index of each.
    """

    def __init__(self, resource: str = "", gpus: Collection[tuple[str, int]] = ()) -> None:
        self.resource = resource
        self._gpu_of = {uuid: (str(index), uuid) for uuid, index in gpus}
        self._lock = threading.Lock()
        #: {(family, values of its labels): count}
        self._of: dict[tuple[Family, tuple[str, ...]], int] = {}
        #: {histogram: observations by bucket, the last beyond all bounds}
        self._buckets = {h: [0] * (len(h.bounds) + 1) for h in f.PLUGIN if h.bounds}
        #: {histogram: sum of its observations}
        self._totals = dict.fromkeys(self._buckets, 0.0)
        for family in f.PLUGIN:
            if family.kind is Kind.COUNTER and family.labels == ("resource",):
                self.add(family, by=0)
        for reason in Reason:
            self.add(f.PLUGIN_REFUSED, reason.value, by=0)
        for word in (AMBIGUOUS, UNKNOWN):
            self.add(f.PLUGIN_UNRESOLVED, word, by=0)
        for part in Part:
            self.add(f.PLUGIN_ERRORS, part.value, by=0)
        for uuid in self._gpu_of:
            self.add_gpu(f.PLUGIN_ILL, uuid, by=0)

    def add(self, family: Family, *labels: str, by: int = 1) -> None:
        """Count; `labels` after the resource."""
        self._add(family, (self.resource, *labels), by)

    def add_gpu(self, family: Family, uuid: str, *labels: str, by: int = 1) -> None:
        """Count of a GPU; `labels` after its own."""
        self._add(family, (*self._gpu_of[uuid], *labels), by)

    def failed(self, part: Part) -> None:
        """Count a look that failed."""
        self.add(f.PLUGIN_ERRORS, part.value)

    def observe(self, family: Family, seconds: float) -> None:
        """Count a time in a histogram."""
        bucket = bisect.bisect_left(family.bounds, seconds)
        with self._lock:
            self._buckets[family][bucket] += 1
            self._totals[family] += seconds

    @contextlib.contextmanager
    def timing(self, family: Family) -> Iterator[None]:
        """Count how long this takes, however it ends."""
        began_s = time.monotonic()
        try:
            yield
        finally:
            self.observe(family, time.monotonic() - began_s)

    def value(self, family: Family, *labels: str) -> int:
        """What add() has counted so far."""
        with self._lock:
            return self._of.get((family, (self.resource, *labels)), 0)

    def samples(self, *, registered: bool, grants: int, ill: Collection[str]) -> list[Sample]:
        """All of the plugin's that are counted, with what is so now."""
        resource = (self.resource,)
        with self._lock:
            counted = [Sample(family, labels, n) for (family, labels), n in self._of.items()]
            timed = [
                Sample(family, resource, Distribution(_upto(buckets), self._totals[family]))
                for family, buckets in self._buckets.items()
            ]
        return [
            *counted,
            *timed,
            Sample(f.PLUGIN_REGISTERED, resource, registered),
            Sample(f.PLUGIN_GRANTS, resource, grants),
            *(Sample(f.PLUGIN_HEALTHY, gpu, uuid not in ill) for uuid, gpu in self._gpu_of.items()),
        ]

    def _add(self, family: Family, labels: tuple[str, ...], by: int) -> None:
        with self._lock:
            self._of[family, labels] = self._of.get((family, labels), 0) + by


def _upto(buckets: Collection[int]) -> tuple[int, ...]:
    return tuple(itertools.accumulate(buckets))
