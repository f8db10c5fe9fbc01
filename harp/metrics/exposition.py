# SPDX-License-Identifier: Apache-2.0
"""Samples as Prometheus's text, or as OpenMetrics where it is asked for: all the library's work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from harp.metrics.families import Distribution, Family, Kind, Sample

__all__ = ["expose", "parse"]

_Filled = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


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
        _add(filled[sample.family], sample)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Ready(filled.values()))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def parse(text: str) -> list[dict[str, object]]:
    """Prometheus's text as data: each family with its samples, for `--json`."""
    return [
        {
            "name": f"{metric.name}_total" if metric.type == "counter" else metric.name,
            "kind": metric.type,
            "help": metric.documentation,
            "samples": [
                {"name": sample.name, "labels": sample.labels, "value": sample.value}
                for sample in metric.samples
            ],
        }
        for metric in text_string_to_metric_families(text)
    ]


def _empty(family: Family) -> _Filled:
    match family.kind:
        case Kind.COUNTER:
            return CounterMetricFamily(family.name, family.text, labels=family.labels)
        case Kind.GAUGE:
            return GaugeMetricFamily(family.name, family.text, labels=family.labels)
        case Kind.HISTOGRAM:
            return HistogramMetricFamily(family.name, family.text, labels=family.labels)


def _add(filled: _Filled, sample: Sample) -> None:
    value = sample.value
    if isinstance(filled, HistogramMetricFamily):
        assert isinstance(value, Distribution)
        bounds = (*map(floatToGoString, sample.family.bounds), "+Inf")
        buckets = list(zip(bounds, map(float, value.counts), strict=True))
        filled.add_metric(sample.labels, buckets, value.total)
    else:
        assert not isinstance(value, Distribution)
        filled.add_metric(sample.labels, float(value))
