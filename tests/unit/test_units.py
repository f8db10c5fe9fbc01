# SPDX-License-Identifier: Apache-2.0
"""Sizes, percentages, durations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harp.errors import UnitError
from harp.units import (
    PPM,
    SIZE_MAX_BYTES,
    format_duration,
    format_percent,
    format_size,
    parse_duration,
    parse_percent,
    parse_size,
)


@given(st.integers(0, SIZE_MAX_BYTES))
def test_size_reads_back_as_written(value: int) -> None:
    assert parse_size(format_size(value)) == value


@given(st.integers(1, PPM))
def test_percent_reads_back_as_written(value: int) -> None:
    assert parse_percent(format_percent(value)) == value


@given(st.floats(0, 3e7, allow_nan=False, allow_subnormal=False))
def test_duration_reads_back_as_written(value: float) -> None:
    assert parse_duration(format_duration(value)) == value


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("8GiB", 8 << 30),
        ("256MiB", 256 << 20),
        ("256 mib", 256 << 20),
        ("1.5g", 3 << 29),
        ("4096", 4096),
        ("0", 0),
        ("0.5KiB", 512),
    ],
)
def test_sizes_as_people_write_them(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("8GB", "8GiB"),
        ("lots", "not a size"),
        ("-1MiB", "not a size"),
        ("1.5", "whole number"),
        ("0.3KiB", "whole number"),
        ("3QiB", "QiB"),
        ("5000000TiB", "more than"),
        ("1e3", "not a size"),
        ("", "not a size"),
    ],
)
def test_a_wrong_size_says_why_and_what_to_write(text: str, says: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse_size(text)
    assert says in f"{caught.value.message} {caught.value.hint}"
    assert text in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(("text", "ppm"), [("30%", 300_000), ("30", 300_000), ("12.5 %", 125_000)])
def test_percentages_as_people_write_them(text: str, ppm: int) -> None:
    assert parse_percent(text) == ppm


@pytest.mark.parametrize("text", ["0%", "101%", "30x", "0.00001%", "-3%", "many"])
def test_a_wrong_percentage_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse_percent(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("10", 10.0), ("2min", 120.0), ("1h", 3600.0)]
)
def test_durations_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["soon", "3d", "9000h"])
def test_a_wrong_duration_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse_duration(text)
    assert caught.value.hint
