# SPDX-License-Identifier: Apache-2.0
"""What the plugin counts, and its page for Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Collection

from device_plugin.allocator import Reason
from harp.metrics import Family, Kind, Sample
from harp.metrics import families as f

__all__ = ["AMBIGUOUS", "UNKNOWN", "Counts"]

AMBIGUOUS = "ambiguous"
UNKNOWN = "unknown"


class Counts:
    """Counters of one plugin. Safe to use from several threads.

    Those that are known beforehand begin at 0: Prometheus sees no increase in a series that is new.

    Args:
        resource: whose slots; a label of all but the GPUs'.
        gpus: UUID and index of each.
    """

    def __init__(self, resource: str = "", gpus: Collection[tuple[str, int]] = ()) -> None:
        self._resource = resource
        self._gpu_of = {uuid: (str(index), uuid) for uuid, index in gpus}
        self._lock = threading.Lock()
        #: {(family, values of its labels): count}
        self._of: dict[tuple[Family, tuple[str, ...]], int] = {}
        for family in f.PLUGIN:
            if family.kind is Kind.COUNTER and family.labels == ("resource",):
                self.add(family, by=0)
        for reason in Reason:
            self.add(f.PLUGIN_REFUSED, reason.value, by=0)
        for word in (AMBIGUOUS, UNKNOWN):
            self.add(f.PLUGIN_UNRESOLVED, word, by=0)
        for uuid in self._gpu_of:
            self.add_gpu(f.PLUGIN_ILL, uuid, by=0)

    def add(self, family: Family, *labels: str, by: int = 1) -> None:
        """Count; `labels` after the resource."""
        self._add(family, (self._resource, *labels), by)

    def add_gpu(self, family: Family, uuid: str, *, by: int = 1) -> None:
        """Count of a GPU."""
        self._add(family, self._gpu_of[uuid], by)

    def value(self, family: Family, *labels: str) -> int:
        """What add() has counted so far."""
        with self._lock:
            return self._of.get((family, (self._resource, *labels)), 0)

    def samples(self, *, registered: bool, grants: int, ill: Collection[str]) -> list[Sample]:
        """All of the plugin's, with what is so now."""
        with self._lock:
            counted = [Sample(family, labels, n) for (family, labels), n in self._of.items()]
        return [
            *counted,
            Sample(f.PLUGIN_REGISTERED, (self._resource,), registered),
            Sample(f.PLUGIN_GRANTS, (self._resource,), grants),
            *(Sample(f.PLUGIN_HEALTHY, gpu, uuid not in ill) for uuid, gpu in self._gpu_of.items()),
        ]

    def _add(self, family: Family, labels: tuple[str, ...], by: int) -> None:
        with self._lock:
            self._of[family, labels] = self._of.get((family, labels), 0) + by
