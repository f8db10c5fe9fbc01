# SPDX-License-Identifier: Apache-2.0
"""`harp bench oversub`: its bound, what fails it, what is only said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harp.bench.oversub_figures import Control, Job, OversubOutcome, Pair, Side
from tests.bench import tables

S = 1_000_000_000
BURSTY = Job(rounds=3, host_s=1.0, burst_s=1.0)
STEADY = Job(rounds=1, host_s=0.0, burst_s=6.0)


def side(took_s: float = 6.0, *, begun_s: float = 0.0, **changed: Any) -> Side:
    said: dict[str, Any] = {"result": 0, "wrong": 0, "made_ns": 0, "longest_ns": S}
    said |= {"checked_ns": 0, "copy_ns": 50_000_000, "busy_ns": 100, "overrun_ns": 10}
    said |= {"begun_ns": int(begun_s * S), "ended_ns": int((begun_s + took_s) * S)}
    return Side(**(said | changed))


def pair(**changed: Any) -> Pair:
    good: dict[str, Any] = {
        "device": "small",
        "job": BURSTY,
        "memory_bytes": 100,
        "each_bytes": 80,
        "alone": (side(), side()),
        "together": (side(7.5, copy_ns=200_000_000), side(8.0, copy_ns=200_000_000)),
        "one_way_s": 0.05,
        "swapping_s": 0.4,
        "swaps": 6,
        "peak_bytes": 100,
        "hz": 400.0,
    }
    return Pair(**(good | changed))


def outcome(*pairs: Pair, refused: int = 1, found_wrong: int = 1) -> OversubOutcome:
    return OversubOutcome(list(pairs or [pair()]), Control(refused, found_wrong))


def test_a_good_one_is_good() -> None:
    found = outcome()
    assert found.ok
    assert all(target.met for target in found.targets)
    said = found.json(load_1min=0.0, label="software")
    assert said["speedup_vs_sequential"] == 1.5
    assert said["swap_ratio"] == 0.05
    assert said["longest_wait_s"] == 0.0
    assert said["software"] is True


def test_the_bound_hides_all_host_times_but_the_first() -> None:
    # H0 then six bursts and five hand-overs: 1 + 6 + 5 x 0.1 s
    assert pair().bound == pytest.approx(12 / 7.5)
    # without a swap's cost, and for ever: two
    forever = replace(BURSTY, rounds=1000)
    each = side(2000.0)
    assert pair(job=forever, alone=(each, each), one_way_s=0.0).bound == pytest.approx(2, rel=1e-3)


def test_the_bound_of_those_that_never_rest_is_one_swap() -> None:
    assert pair(job=STEADY).bound == pytest.approx(12 / 12.1)


def test_where_swaps_take_longer_than_they_hide_one_after_the_other_is_best() -> None:
    assert pair(one_way_s=0.75).bound == pytest.approx(12 / 13.5)


def test_the_bound_is_never_more_than_the_longer_one_allows() -> None:
    rests = Job(rounds=3, host_s=1.9, burst_s=0.1)
    assert pair(job=rests).bound == pytest.approx(12 / 6.2)


def test_the_wait_is_beyond_what_a_burst_takes_alone() -> None:
    waited = pair(together=(side(8.0), side(8.0, longest_ns=3 * S)))
    assert waited.longest_wait_s == pytest.approx(2.0)
    for name in ("made_ns", "checked_ns"):
        waited = pair(together=(side(8.0, **{name: 3 * S}), side(8.0, longest_ns=2 * S)))
        assert waited.longest_wait_s == pytest.approx(3.0)


def test_what_the_engine_copied_counts_where_harp_says_less() -> None:
    assert pair(swapping_s=0.1).swap_ratio == pytest.approx(0.3 / 8)
    assert pair(swapping_s=0.5).swap_ratio == pytest.approx(0.5 / 8)


@pytest.mark.parametrize(
    ("figure", "changed"),
    [
        ("refused", {"together": (side(8.0), side(8.0, result=2))}),
        ("wrong_words", {"together": (side(8.0, wrong=1), side(8.0))}),
        ("wrong_words", {"alone": (side(), side(wrong=1))}),
        ("over_device_bytes", {"peak_bytes": 101}),
        ("never_swapped", {"swaps": 0}),
        ("overrun_ratio", {"together": (side(8.0, overrun_ns=11), side(8.0))}),
        ("sample_ms", {"hz": 199.0}),
    ],
)
def test_what_is_lost_or_not_to_be_believed_fails_it(figure: str, changed: dict[str, Any]) -> None:
    found = outcome(pair(**changed))
    assert not found.ok
    assert [one.figure for one in found.violations] == [figure]


@pytest.mark.parametrize(
    ("figure", "changed"),
    [
        ("speedup_vs_sequential", {"together": (side(9.0), side(9.0))}),
        ("speedup_vs_sequential", {"job": STEADY, "together": (side(13.5), side(13.5))}),
        ("swap_ratio", {"swapping_s": 0.81}),
    ],
)
def test_what_is_slow_is_said(figure: str, changed: dict[str, Any]) -> None:
    found = outcome(pair(**changed))
    assert found.ok
    assert [target.figure for target in found.targets if not target.met] == [figure]


@pytest.mark.parametrize("control", [{"refused": 0}, {"found_wrong": 0}])
def test_controls_that_pass_fail_it(control: dict[str, int]) -> None:
    found = outcome(**control)
    assert not found.can_tell
    assert not found.ok


def test_nothing_measured_is_not_good() -> None:
    assert not OversubOutcome(control=Control(1, 1)).ok
    assert not OversubOutcome([pair()]).ok


def test_the_gain_is_the_worst_bursty_pairs_and_the_rest_is_of_all() -> None:
    steady = pair(job=STEADY, swapping_s=0.7)
    worse = pair(together=(side(8.4), side(8.4)))
    said = outcome(pair(), worse, steady).json(load_1min=0.0, label="software")
    assert said["speedup_vs_sequential"] == round(12 / 8.4, 4)
    assert said["swap_ratio"] == round(0.7 / 8.0, 4)


def test_the_readme_has_it_in_a_table() -> None:
    late = pair(job=STEADY, together=(side(13.5, overrun_ns=20), side(13.5)))
    result = {
        "command": "harp bench oversub --json",
        "date": "today",
        "result": outcome(pair(), late).json(load_1min=0.5, label="software GPU"),
    }
    lines = tables.oversub(result)
    assert "| bursty.small | 1.50 | 1.60 | 5.0% | 0.0 s | 10.0% |" in lines
    assert any(line.startswith("| steady.small **not to be believed** | 0.89 |") for line in lines)
    assert "Controls, without HARP and with a word changed: refused, as they must be." in lines
    assert "- steady.small: speedup_vs_sequential 0.889, held to 0.9" in lines
