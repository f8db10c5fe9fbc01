# SPDX-License-Identifier: Apache-2.0
"""What Prometheus reads: the whole text, its rules, and that the library's parser takes it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from metrics_cases import device, everything, grant, of_pod, seen, tenant
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from harp.metrics import (
    DAEMON,
    PLUGIN,
    REMOTE,
    SERVED,
    Distribution,
    Family,
    Kind,
    Sample,
    Seen,
    expose,
    parse,
    samples,
    series,
)
from harp.metrics.samples import pod_of
from harp.model import DeviceKind, Use

GOLDEN = Path(__file__).with_name("metrics_golden.txt")
SERIES = Path(series.__file__).with_name("SERIES.md")
#: what is no base unit, as promtool's lint knows them, and what a name must not say
NOT_BASE = re.compile(
    r"_(ms|us|ns|milliseconds|microseconds|nanoseconds|minutes|hours|days|kb|mb|gb|kib|mib|gib"
    r"|kilobytes|megabytes|gigabytes|bits|percent|pct|ppm|count|gauge|counter|in)(_|$)"
)
#: the dimension that a name speaks of -> the unit that it must end in
UNITS = {"memory": "bytes", "swap_away": "bytes", "compute": "seconds|ratio"}


def text_of(what: Seen, accept: str = "") -> str:
    return expose(DAEMON, samples(what), accept)[0].decode()


def parsed(text: str) -> list[Metric]:
    return list(text_string_to_metric_families(text))


def lint(families: list[Family], text: str) -> list[str]:
    """What promtool would say, and more: of names, HELP, duplicates."""
    found = []
    for family in families:
        name = family.name
        plain = name.removesuffix("_total")
        if not re.fullmatch(r"harp_[a-z0-9]+(_[a-z0-9]+)*", name):
            found.append(f"{name}: no name of ours")
        if (family.kind is Kind.COUNTER) != name.endswith("_total"):
            found.append(f"{name}: _total is for counters, for all of them")
        if NOT_BASE.search(plain):
            found.append(f"{name}: not a base unit, or a word too much")
        for word, units in UNITS.items():
            if f"_{word}_" in name and not re.search(f"_({units})$", plain):
                found.append(f"{name}: speaks of {word} without its unit")
        if f"# HELP {name} {family.text}\n" not in text or not family.text.endswith("."):
            found.append(f"{name}: no HELP")
        if f"# TYPE {name} {family.kind.value}\n" not in text:
            found.append(f"{name}: no TYPE")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    keys = Counter(line.rpartition(" ")[0] for line in lines)
    found += [f"{key}: {count} times" for key, count in keys.items() if count > 1]
    heads = Counter(line.split(" ")[2] for line in text.splitlines() if line.startswith("# HELP"))
    found += [f"{name}: HELP {count} times" for name, count in heads.items() if count > 1]
    return found


def test_the_whole_text_is_the_kept_one() -> None:
    assert text_of(everything()) == GOLDEN.read_text()


def test_names_units_help_and_duplicates_are_as_promtool_wants_them() -> None:
    assert lint(list(DAEMON), text_of(everything())) == []
    assert lint(list(PLUGIN), expose(PLUGIN, [])[0].decode()) == []
    for one in (REMOTE, SERVED):
        assert lint(list(one), expose(one, [])[0].decode()) == []


@pytest.mark.parametrize(
    ("family", "says"),
    [
        (Family("harp_x", Kind.COUNTER, "A text."), "_total"),
        (Family("harp_x_total", Kind.GAUGE, "A text."), "_total"),
        (Family("harp_wait_milliseconds", Kind.GAUGE, "A text."), "base unit"),
        (Family("harp_share_percent", Kind.GAUGE, "A text."), "base unit"),
        (Family("harp_grant_memory_limit", Kind.GAUGE, "A text."), "without its unit"),
        (Family("harp_grantMemory_bytes", Kind.GAUGE, "A text."), "no name"),
        (Family("harp_x", Kind.GAUGE, ""), "no HELP"),
    ],
    ids=lambda value: value.name if isinstance(value, Family) else "",
)
def test_the_rules_find_what_breaks_them(family: Family, says: str) -> None:
    found = lint([family], expose([family], [])[0].decode())
    assert any(says in one for one in found), found


def test_a_series_that_comes_twice_is_found() -> None:
    family = Family("harp_x", Kind.GAUGE, "A text.", ("a",))
    twice = [Sample(family, ("1",), 1), Sample(family, ("1",), 2)]
    assert lint([family], expose([family], twice)[0].decode()) == ['harp_x{a="1"}: 2 times']


def test_the_librarys_parser_reads_every_sample_back() -> None:
    given = samples(everything())
    read = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in parsed(text_of(everything()))
        for sample in metric.samples
    }
    assert len(read) == len(given)
    for one in given:
        labels = tuple(sorted(zip(one.family.labels, one.labels, strict=True)))
        assert read[one.family.name, labels] == one.value


class _Made(Collector):
    def __init__(self, made: Iterable[Metric]) -> None:
        self._made = made

    def collect(self) -> Iterable[Metric]:
        return self._made


def by_the_library(
    families: Iterable[Family], given: Iterable[Sample], accept: str
) -> tuple[bytes, str]:
    """The same by its own families and its own writer."""
    made: dict[str, Any] = {}
    for family in families:
        kind = {
            Kind.GAUGE: GaugeMetricFamily,
            Kind.COUNTER: CounterMetricFamily,
            Kind.HISTOGRAM: HistogramMetricFamily,
        }[family.kind]
        made[family.name] = kind(family.name, family.text, labels=family.labels)
    for sample in given:
        value = sample.value
        if isinstance(value, Distribution):
            bounds = (*map(floatToGoString, sample.family.bounds), "+Inf")
            buckets = list(zip(bounds, map(float, value.counts), strict=True))
            made[sample.family.name].add_metric(sample.labels, buckets, value.total)
        else:
            of = sample.exemplar
            told = Exemplar(dict(of.labels), of.value, of.at_s) if of else None
            more = {"exemplar": told} if told else {}
            made[sample.family.name].add_metric(sample.labels, float(value), **more)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Made(made.values()))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


#: as Prometheus 2.42 asks
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75"
    ",text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
ACCEPTS = ("", "text/html", "application/openmetrics-text; version=1.0.0", PROMETHEUS)


@pytest.mark.parametrize("accept", ACCEPTS)
def test_every_byte_is_the_librarys(accept: str) -> None:
    odd = 'a"b\\c\nd{e}=é'
    families = [
        *DAEMON,
        Family("harp_x_seconds", Kind.HISTOGRAM, "A text.", ("a", "z"), (0.0005, 1, 30)),
        Family("harp_odd_total", Kind.COUNTER, f"What {odd} is.", ("b", "a")),
    ]
    given = [
        *samples(everything()),
        Sample(families[-2], ("1", odd), Distribution((2, 5, 5, 6), 40.5)),
        Sample(families[-2], ("", ""), Distribution((0, 0, 0, 0), 0)),
        *(
            Sample(families[-1], (str(value), odd), value)
            for value in (
                0,
                1e-9,
                1 / 3,
                999999,
                1e6,
                123456789.125,
                1e21,
                float("inf"),
                float("nan"),
            )
        ),
    ]
    assert expose(families, given, accept) == by_the_library(families, given, accept)


def test_a_sample_of_no_family_is_an_error_and_never_left_out() -> None:
    other = Family("harp_x", Kind.GAUGE, "A text.")
    with pytest.raises(KeyError):
        expose(DAEMON, [Sample(other, (), 1)])


def test_openmetrics_is_there_for_who_asks() -> None:
    body, kind = expose(
        DAEMON, samples(everything()), "application/openmetrics-text; version=1.0.0"
    )
    assert kind.startswith("application/openmetrics-text")
    text = body.decode()
    assert text.endswith("# EOF\n")
    assert "_created" not in text
    assert sum(len(m.samples) for m in parse_openmetrics(text)) == len(samples(everything()))
    assert expose(DAEMON, [], "text/html")[1].startswith("text/plain; version=0.0.4")


def test_a_name_can_say_anything() -> None:
    odd = 'a"b\\c\nd{e}=é'
    read = {
        sample.labels["tenant"]
        for metric in parsed(text_of(seen(grant(tenant(1, odd), 0, (device(), Use())))))
        for sample in metric.samples
        if "tenant" in sample.labels
    }
    assert read == {odd}


def test_a_pods_tenant_has_its_pods_labels_and_its_name_says_nothing() -> None:
    """A user of the machine may call a job what they like."""
    named = tenant(1, "ns/pod/main")
    assert pod_of(of_pod(named)) == ("ns", "pod", "main")
    assert pod_of(named) == ("", "", "")
    assert pod_of(replace(named, labels=(("pod", "p"), ("team", "t")))) == ("", "p", "")


def test_a_tenants_series_begin_at_its_grant_and_go_with_it() -> None:
    one = grant(tenant(1, "t"), 0, (device(), Use()))
    text = text_of(seen(one))
    lines = [line for line in text.splitlines() if 'tenant="t"' in line]
    zero = [line for line in lines if line.startswith("harp_grant_compute_seconds_total{")]
    assert [line.rpartition(" ")[2] for line in zero] == ["0.0"]
    assert 'tenant="t"' not in text_of(seen())


def test_so_many_series_and_no_more_for_a_tenant() -> None:
    """256 tenants are 255 more than one, whatever they do."""

    def count(tenants: int) -> int:
        grants = [grant(tenant(n, f"t{n}"), 1, (device(), Use(used_ns=n))) for n in range(tenants)]
        return len(samples(seen(*grants)))

    each = count(1) - count(0)
    assert 10 < each < 22
    assert count(256) - count(0) == 256 * each


def test_tenants_beyond_the_budget_are_counted_and_who_came_first_has_series() -> None:
    grants = [
        grant(tenant(1, "two"), 0, (device(0), Use()), (device(1), Use())),
        grant(tenant(2, "one"), 0, (device(0), Use())),
        grant(tenant(3, "late"), 0, (device(0), Use())),
        grant(tenant(4, "later"), 0, (device(0), Use()), (device(1), Use())),
    ]

    def told(most: int) -> tuple[set[str], float]:
        """Tenants of the text, and how many of their GPUs it says are left out."""
        found = [s for m in parsed(text_of(seen(*grants, most=most))) for s in m.samples]
        (left,) = (s.value for s in found if s.name == "harp_metrics_grants_left_out")
        return {s.labels["tenant"] for s in found if "tenant" in s.labels}, left

    assert told(6) == ({"two", "one", "late", "later"}, 0)
    assert told(5) == ({"two", "one", "late"}, 2)
    assert told(3) == ({"two", "one"}, 3)
    assert told(2) == ({"two"}, 4)


def test_a_tenant_whose_gpus_are_gone_is_still_one_of_the_budget() -> None:
    assert 'tenant="a"' in text_of(seen(grant(tenant(1, "a"), 0), most=1))
    both = text_of(seen(grant(tenant(1, "a"), 0), grant(tenant(2, "b"), 0), most=1))
    assert 'tenant="b"' not in both


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_a_histogram_is_told_by_its_buckets(accept: str) -> None:
    family = Family("harp_x_seconds", Kind.HISTOGRAM, "A text.", ("a",), (0.0005, 1, 30))
    one = Sample(family, ("1",), Distribution((2, 5, 5, 6), 40.5))
    text = expose([family], [one], accept)[0].decode()
    parse_ = parse_openmetrics if accept else text_string_to_metric_families
    (metric,) = parse_(text)
    assert metric.type == "histogram"
    assert {(s.name, s.labels.get("le", "")): s.value for s in metric.samples} == {
        ("harp_x_seconds_bucket", "0.0005"): 2,
        ("harp_x_seconds_bucket", "1.0"): 5,
        ("harp_x_seconds_bucket", "30.0"): 5,
        ("harp_x_seconds_bucket", "+Inf"): 6,
        ("harp_x_seconds_count", ""): 6,
        ("harp_x_seconds_sum", ""): 40.5,
    }
    assert lint([family], expose([family], [one])[0].decode()) == []


def test_the_text_as_data_is_every_sample_of_it() -> None:
    text = text_of(everything())
    found = parse(text)
    assert len(found) == len(DAEMON)
    counted: Any = next(f for f in found if f["name"] == "harp_grant_compute_seconds_total")
    assert counted["kind"] == "counter"
    assert counted["help"] == "GPU time the tenant used; its rate is its share."
    assert [s["value"] for s in counted["samples"] if s["labels"]["tenant"] != "big"] == [0, 1.5]


def test_every_figure_says_what_it_was_measured_on() -> None:
    nvidia = replace(device(), kind=DeviceKind.NVIDIA)
    for gpu, kind in ((device(), "software"), (nvidia, "nvidia")):
        for sample in samples(seen(grant(tenant(1, "t"), 0, (gpu, Use())))):
            labels = dict(zip(sample.family.labels, sample.labels, strict=True))
            if labels.get("tenant") == "t" and "uuid" in labels:
                assert labels["kind"] == kind


def test_the_written_table_is_that_of_the_code() -> None:
    assert SERIES.read_text() == series.table(), "python -m harp.metrics > harp/metrics/SERIES.md"
