# SPDX-License-Identifier: Apache-2.0
"""harp.estimator.packing, online: one buffer a GPU for what nobody foresees."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harp.estimator.packing import Buffer, Member, fits, reserve_bytes

GIB = 1 << 30
DEVICE = 80 * GIB


def job(typical: float, bound: float, fixed: float = 0) -> Member:
    return Member(int(typical * GIB), int(bound * GIB), int(fixed * GIB))


@pytest.mark.parametrize(
    ("description", "jobs", "reserve"),
    [
        ("nobody", [], 0),
        ("what is typical and the buffer", [job(20, 24), job(30, 36)], 62),
        ("one that may need more than the buffer", [job(20, 24), job(30, 50)], 70),
        ("contexts beside", [job(20, 24, 1), job(30, 36, 2)], 65),
        ("one that holds more than its limit by now", [job(40, 30)], 52),
    ],
)
def test_the_reserve_is_of_the_sum(description: str, jobs: list[Member], reserve: int) -> None:
    assert reserve_bytes(jobs, DEVICE, 0.15) == reserve * GIB, description


def test_bounds_of_each_would_not_fit_and_the_sum_does() -> None:
    three = [job(22, 30)] * 3
    assert sum(one.bound_bytes for one in three) > DEVICE
    assert fits(three, DEVICE, 0.15)
    assert not fits([*three, job(3, 4)], DEVICE, 0.15)
    assert not fits(three, DEVICE, 0.18)


@given(st.lists(st.tuples(st.floats(0, 80), st.floats(0, 40)), max_size=6), st.floats(0, 1))
def test_in_what_fits_each_reaches_its_limit_while_the_others_are_as_usual(
    sizes: list[tuple[float, float]], buffer: float
) -> None:
    jobs = [job(typical, typical + more) for typical, more in sizes]
    if not fits(jobs, DEVICE, buffer):
        return
    for one in jobs:
        others = sum(o.typical_bytes for o in jobs) - one.typical_bytes
        assert one.bound_bytes + others <= DEVICE


def windows(buffer: Buffer, jobs: int, beyond: list[float]) -> int:
    return sum(buffer.see(jobs, 40.0, 40.0 + 80 * part, 80.0) for part in beyond)


def test_it_begins_at_fifteen_and_more_where_more_was_seen() -> None:
    buffer = Buffer()
    assert buffer.ratio(2) == 0.15
    windows(buffer, 2, [0.01] * 150)
    assert buffer.ratio(2) == 0.15  # too few to know
    windows(buffer, 2, [0.25])
    assert buffer.ratio(2) == pytest.approx(0.25)


def test_once_there_are_enough_it_is_the_quantile_and_ten_at_least() -> None:
    buffer = Buffer()
    windows(buffer, 2, [0.01] * 200)
    assert buffer.ratio(2) == 0.10
    assert buffer.ratio(3) == 0.10  # all windows answer for numbers of jobs that are new
    windows(buffer, 3, [0.2] * 200)
    assert buffer.ratio(3) == pytest.approx(0.2)
    assert buffer.ratio(2) == 0.10
    assert buffer.ratio(4) == pytest.approx(0.2)


def test_it_is_exceeded_as_seldom_as_it_says() -> None:
    chance = random.Random(7)
    buffer = Buffer()
    drawn = [chance.gauss(0.0, 0.07) for _ in range(6000)]
    windows(buffer, 2, drawn[:1000])
    over = windows(buffer, 2, drawn[1000:])
    # 0.5 % of 5000 are 25, give or take 5; the pool of 1000 is itself drawn by chance
    assert 8 <= over <= 45
    assert 0.15 < buffer.ratio(2) < 0.25


def test_jobs_that_come_to_need_more_are_followed() -> None:
    buffer = Buffer()
    windows(buffer, 2, [0.05] * 1000)
    assert windows(buffer, 2, [0.3] * 200) <= 20  # until 0.5 % of what is kept are such
    assert buffer.ratio(2) == pytest.approx(0.3)
