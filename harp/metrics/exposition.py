# SPDX-License-Identifier: Apache-2.0
"""Samples as Prometheus's text, or as OpenMetrics where it is asked for.

Written here, since the library's own writer takes four times as long, and there are thousands of
lines to a scrape: a tenant's labels are the same on all of its lines. The tests hold every byte
against the library's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString

from harp.metrics.families import Distribution, Exemplar, Family, Kind, Sample

__all__ = ["expose", "parse"]

_TOTAL = "_total"
#: as Go writes it
_go_number: Callable[[float], str] = floatToGoString


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

    Raises:
        KeyError: a sample of another family.
    """
    _, content_type = choose_encoder(accept)
    openmetrics = content_type.startswith("application/openmetrics-text")
    #: {name: lines}
    lines = {family.name: [*_head(family, openmetrics=openmetrics)] for family in families}
    #: {(names, values): text}
    known: dict[tuple[tuple[str, ...], tuple[str, ...]], str] = {}
    for sample in samples:
        family = sample.family
        key = (family.labels, sample.labels)
        labels = known.get(key)
        if labels is None:
            labels = known[key] = _labels(*key)
        if isinstance(sample.value, Distribution):
            lines[family.name].extend(_distribution(sample, sample.value, labels))
        else:
            value = _number(float(sample.value))
            example = ""
            if openmetrics and sample.exemplar is not None:
                example = _exemplar(sample.exemplar)
            lines[family.name].append(f"{family.name}{labels} {value}{example}\n")
    end = ("# EOF\n",) if openmetrics else ()
    return "".join((*(line for of in lines.values() for line in of), *end)).encode(), content_type


def _number(value: float) -> str:
    """As Go writes it; below a million Python writes the same, in a fifth of the time."""
    return repr(value) if -1e6 < value < 1e6 else _go_number(value)


def parse(text: str) -> list[dict[str, object]]:
    """Prometheus's text as data: each family with its samples, for `--json`."""
    return [
        {
            "name": f"{metric.name}{_TOTAL}" if metric.type == "counter" else metric.name,
            "kind": metric.type,
            "help": metric.documentation,
            "samples": [
                {"name": sample.name, "labels": sample.labels, "value": sample.value}
                for sample in metric.samples
            ],
        }
        for metric in text_string_to_metric_families(text)
    ]


def _head(family: Family, *, openmetrics: bool) -> Iterator[str]:
    name, text = family.name, family.text.replace("\\", r"\\").replace("\n", r"\n")
    if openmetrics:  # there the family of a counter is called without the ending
        name = name.removesuffix(_TOTAL) if family.kind is Kind.COUNTER else name
        text = text.replace('"', r"\"")
    yield f"# HELP {name} {text}\n"
    yield f"# TYPE {name} {family.kind.value}\n"


def _distribution(sample: Sample, value: Distribution, labels: str) -> Iterator[str]:
    family = sample.family
    bounds = (*(_number(float(bound)) for bound in family.bounds), "+Inf")
    for bound, count in zip(bounds, value.counts, strict=True):
        bucket = _labels((*family.labels, "le"), (*sample.labels, bound))
        yield f"{family.name}_bucket{bucket} {_number(float(count))}\n"
    yield f"{family.name}_count{labels} {_number(float(value.counts[-1]))}\n"
    yield f"{family.name}_sum{labels} {_number(float(value.total))}\n"


def _exemplar(one: Exemplar) -> str:
    labels = _labels(*zip(*one.labels, strict=True)) if one.labels else "{}"
    return f" # {labels} {_number(one.value)} {one.at_s}"


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    pairs = sorted(zip(names, values, strict=True))
    text = ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs)
    return f"{{{text}}}" if text else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
