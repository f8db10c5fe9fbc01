# SPDX-License-Identifier: Apache-2.0
"""What the extender tells Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from harp.extender.core import Outcome
from harp.extender.state import View

__all__ = ["Meter"]

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Meter:
    """Counters, and what is so at the moment of a scrape.

    Args:
        view: the cluster.
        lock: of the view.
        synced: whether the cluster is seen.
        leads: whether this replica leads.
    """

    def __init__(
        self,
        view: View,
        lock: threading.Condition,
        *,
        synced: Callable[[], bool],
        leads: Callable[[], bool],
    ) -> None:
        self._registry = CollectorRegistry()
        self._seconds = Histogram(
            "harp_scheduler_call_duration_seconds",
            "Time to answer kube-scheduler, by its call.",
            ["call"],
            registry=self._registry,
            buckets=_SECONDS,
        )
        self._decisions = Counter(
            "harp_scheduler_decisions",
            "Bindings asked for: bound, refused, or lost (nobody knows).",
            ["result"],
            registry=self._registry,
        )
        self._nodes = Counter(
            "harp_scheduler_filtered_nodes",
            "Nodes judged for pods: fitting, full now, or never fit for the pod.",
            ["result"],
            registry=self._registry,
        )
        # Prometheus sees no increase in a series that is new: all are there from the start.
        for result in ("bound", "refused", "lost"):
            self._decisions.labels(result)
        for result in ("fitting", "full", "never"):
            self._nodes.labels(result)
        for call in ("filter", "prioritize", "bind"):
            self._seconds.labels(call)
        self._registry.register(_Now(view, lock, synced, leads))

    def timed(self, call: str) -> AbstractContextManager[object]:
        """Measures a call."""
        return self._seconds.labels(call).time()

    def filtered(self, fitting: int, full: int, never: int) -> None:
        """Nodes were judged."""
        for result, count in (("fitting", fitting), ("full", full), ("never", never)):
            self._nodes.labels(result).inc(count)

    def bound(self, outcome: Outcome) -> None:
        """A binding was asked for."""
        words = {Outcome.BOUND: "bound", Outcome.LOST: "lost"}
        self._decisions.labels(words.get(outcome, "refused")).inc()

    def page(self, accept: str = "") -> tuple[bytes, str]:
        """All of it, and its content type, as HTTP's Accept wants it."""
        encode, kind = choose_encoder(accept)
        return encode(self._registry), kind


class _Now(Collector):
    """Gauges that are read from the view."""

    def __init__(
        self,
        view: View,
        lock: threading.Condition,
        synced: Callable[[], bool],
        leads: Callable[[], bool],
    ) -> None:
        self._view = view
        self._lock = lock
        self._synced = synced
        self._leads = leads

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            nodes = [node for node in self._view.nodes.values() if node.gpus]
            rooms = [self._view.room(node.name) for node in nodes]
            assumed = len(self._view.assumed())
        parts = {
            "total": sum(node.gpus for node in nodes),
            "free": sum(sum(room.free) / room.per_gpu for room in rooms),
            "free_whole": sum(room.free.count(room.per_gpu) for room in rooms),
            "not_located": sum(sum(room.adrift) / room.per_gpu for room in rooms),
        }
        yield _gauge("leader", "1: this replica leads.", self._leads())
        yield _gauge("synced", "1: this replica sees the cluster.", self._synced())
        yield _gauge("nodes", "Nodes with shares.", len(nodes))
        yield _gauge(
            "assumed_pods", "Pods bound, or perhaps bound, that no watch shows yet.", assumed
        )
        family = GaugeMetricFamily(
            "harp_scheduler_gpus",
            "GPUs of the cluster: total; free, whole and in parts; free as a whole; and in shares"
            " of which nobody says where they lie (these are in `free` too).",
            labels=["state"],
        )
        for state, value in parts.items():
            family.add_metric([state], value)
        yield family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"harp_scheduler_{name}", text, value=float(value))
