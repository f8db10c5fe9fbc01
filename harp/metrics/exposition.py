# SPDX-License-Identifier: Apache-2.0
"""Samples as Prometheus's text, or as OpenMetrics where it is asked for: all the library's work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from harp.metrics.families import Family, Kind, Sample

__all__ = ["expose"]


class _Ready(Collector):
    """Families that are filled already."""

    def __init__(self, filled: Iterable[Metric]) -> None:
        self._filled = filled

    def collect(self) -> Iterable[Metric]:
        return self._filled


def expose(
    families: Sequence[Family], samples: Iterable[Sample], accept: str = ""
) -> tuple[bytes, str]:
    """The text of these samples.

    Args:
        families: in whose order they come; one without samples is there by name.
        samples: of these families alone.
        accept: what the client takes (HTTP's Accept).

    Returns:
        The body and its content type.
    """
    filled = {family: _empty(family) for family in families}
    for sample in samples:
        filled[sample.family].add_metric(sample.labels, float(sample.value))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Ready(filled.values()))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def _empty(family: Family) -> CounterMetricFamily | GaugeMetricFamily:
    make = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
    return make(family.name, family.text, labels=family.labels)
