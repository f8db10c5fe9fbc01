# SPDX-License-Identifier: Apache-2.0
"""A pod's annotations lower what its share gives, and never raise it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_plugin.annotations import PREFIX, parse_quantity, refine
from harp.errors import UnitError
from harp.model import Limits, TenantClass

GIB = 1 << 30
SHARE = Limits(mem_bytes=20 * GIB, share_ppm=250_000, limit_ppm=250_000)


def refined(**said: str) -> tuple[Limits, list[str]]:
    named = {PREFIX + key.replace("_", "-"): text for key, text in said.items()}
    limits, problems = refine(SHARE, named | {"other.dev/memory": "1", "harp.dev": "x"})
    return limits, [problem.message for problem in problems]


def test_without_annotations_it_is_the_share() -> None:
    assert refined() == (SHARE, [])


@pytest.mark.parametrize(
    ("said", "field", "value"),
    [
        ({"memory": "18Gi"}, "mem_bytes", 18 * GIB),
        ({"memory": "20Gi"}, "mem_bytes", 20 * GIB),
        ({"memory": "2097153"}, "mem_bytes", 2 << 20),
        ({"compute": "10"}, "share_ppm", 100_000),
        ({"compute": "10%"}, "limit_ppm", 100_000),
        ({"compute": "25"}, "share_ppm", 250_000),
        ({"compute_burst": "true"}, "limit_ppm", 0),
        ({"compute_burst": "false"}, "limit_ppm", 250_000),
        ({"compute_burst": "true", "compute": "5"}, "limit_ppm", 0),
        ({"compute_burst": "true", "compute": "5"}, "share_ppm", 50_000),
        ({"class": "best-effort"}, "tenant_class", TenantClass.BEST_EFFORT),
        ({"class": "latency"}, "tenant_class", TenantClass.LATENCY),
        ({"oversubscribe": "true"}, "oversubscribe", True),
        ({"oversubscribe": "false"}, "oversubscribe", False),
        ({"estimate": "auto"}, "mem_bytes", 20 * GIB),
    ],
)
def test_what_they_do(said: dict[str, str], field: str, value: object) -> None:
    limits, problems = refined(**said)
    assert getattr(limits, field) == value
    assert problems == []


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"memory": "21Gi"}, "21Gi is more than the share has, 20GiB; it gets that"),
        ({"compute": "26"}, "26 is more than the share has, 25%; it gets that"),
        ({"remote": "required"}, "has a part of its own node's GPU"),
        ({"memory": "lots"}, "no quantity"),
        ({"memory": "-1Gi"}, "no quantity"),
        ({"memory": "0"}, "below 2MiB"),
        ({"memory": "1Mi"}, "below 2MiB"),
        ({"compute": "0"}, "outside"),
        ({"compute": "101"}, "outside"),
        ({"compute": "x"}, "not a percentage"),
        ({"compute_burst": "yes"}, "neither true nor false"),
        ({"oversubscribe": "1"}, "neither true nor false"),
        ({"class": "gold"}, "one of standard, latency, best-effort"),
        ({"mem": "1Gi"}, "did you mean harp.dev/memory?"),
        ({"zzz": "1"}, "unknown annotation harp.dev/zzz"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(said: dict[str, str], words: str) -> None:
    limits, problems = refined(**said)
    assert limits == SHARE
    assert len(problems) == 1
    assert words in problems[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("1", 1),
        ("18Gi", 18 * GIB),
        ("1.5Gi", 3 * GIB // 2),
        ("1G", 10**9),
        ("2e3", 2000),
        ("1E3", 1000),
        ("5M", 5_000_000),
        ("1k", 1000),
        ("1Ki", 1024),
        (" 1Mi ", 1 << 20),
        ("0.5", 0),
    ],
)
def test_quantities(text: str, value: int) -> None:
    assert parse_quantity(text) == value


def test_the_largest_quantities() -> None:
    assert (parse_quantity("1E"), parse_quantity("2Ei")) == (10**18, 2 << 60)
    assert parse_quantity("1E1") == 10


NONE = ["", "Gi", "1gi", "1KI", "1 Gi", "1e", "1e1Gi", "1m", "+1", "0x1", "\u0663"]


@pytest.mark.parametrize("text", NONE)
def test_other_texts_are_none(text: str) -> None:
    with pytest.raises(UnitError):
        parse_quantity(text)


ANY = st.one_of(
    st.sampled_from(["true", "false", "0", "1", "25", "100%", "99999Ti", "1e99", "standard", "-1"]),
    st.text("0123456789.eKMGTi%+- ", max_size=8),
    st.integers(0, 1 << 40).map(str),
)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["memory", "compute", "compute-burst", "class", "oversubscribe", "x"]), ANY
    )
)
def test_nothing_raises_a_share(said: dict[str, str]) -> None:
    limits, _ = refine(SHARE, {PREFIX + key: text for key, text in said.items()})
    assert 0 < limits.mem_bytes <= SHARE.mem_bytes
    assert 0 < limits.share_ppm <= SHARE.share_ppm
    burst = said.get("compute-burst") == "true"
    assert limits.limit_ppm == (0 if burst else limits.share_ppm)
