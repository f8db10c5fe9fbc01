# SPDX-License-Identifier: Apache-2.0
"""The benches' arithmetic: windows, shares, errors, percentiles, medians."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harp.bench.clients import Request
from harp.bench.figures import Mark, interpolate, measure, percentile, shares
from harp.bench.latency import LatencyOutcome, LatencyRun, inside, latency_row

S = 1_000_000_000


def mark(t_s: float, *compute_s: float, **more: object) -> Mark:
    compute = tuple(int(one * S) for one in compute_s)
    overrun = more.pop("overrun_ns", (0,) * len(compute))
    return Mark(int(t_s * S), compute, overrun, **more)  # type: ignore[arg-type]


def test_shares_are_of_what_was_used() -> None:
    assert shares([3, 7]) == (0.3, 0.7)
    assert shares([0, 0]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("values", "percent", "found"),
    [
        ([5.0], 95, 5.0),
        (list(range(1, 101)), 95, 95),
        (list(range(1, 101)), 99, 99),
        ([3, 1, 2], 50, 2),
        ([1, 2, 3, 4], 95, 4),
    ],
)
def test_a_percentile_is_a_value_that_was_seen(
    values: list[float], percent: float, found: float
) -> None:
    assert percentile(values, percent) == found


def test_a_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 95)


def test_counts_are_straight_between_reports_and_still_beyond() -> None:
    points = [(100, 10.0), (200, 20.0), (400, 20.0)]
    assert [interpolate(points, t) for t in (50, 100, 150, 200, 300, 999)] == [
        10,
        10,
        15,
        20,
        20,
        20,
    ]
    assert interpolate([], 5) == 0


def test_errors_are_taken_over_windows_and_tenants() -> None:
    # 30/70 in sum, but 20/80 in the first second and 40/60 in the other
    marks = [mark(0, 0, 0), mark(1, 0.2, 0.8), mark(2, 0.6, 1.4)]
    run = measure(marks, (0.3, 0.7))
    assert run.achieved == pytest.approx((0.3, 0.7))
    assert run.errors_pp == pytest.approx((10, 10, 10, 10))
    assert run.mean_error_pp == pytest.approx(10)
    assert run.busy_ratio == pytest.approx(1)


def test_a_short_rest_is_no_window_of_its_own() -> None:
    marks = [mark(0, 0, 0), mark(1, 0.3, 0.7), mark(1.2, 0.5, 0.7)]
    assert measure(marks, (0.3, 0.7)).errors_pp == pytest.approx((0, 0))


def test_a_run_shorter_than_a_window_is_one() -> None:
    assert measure([mark(0, 0, 0), mark(0.2, 0.1, 0.1)], (0.3, 0.7)).errors_pp == pytest.approx(
        (20, 20)
    )


def test_one_reading_is_no_run() -> None:
    with pytest.raises(ValueError, match="no window"):
        measure([mark(0, 0)], (1.0,))


def test_all_books_are_read_over_the_same_window() -> None:
    first = mark(10, 1, 1, charged_ns=(5 * S, 0), counted_ns=(2.0 * S, 1.0 * S), arbiter_cpu_s=1.0)
    last = mark(
        12,
        1.5,
        2,
        overrun_ns=(0, 30_000_000),
        charged_ns=(int(5.6 * S), int(0.9 * S)),
        counted_ns=(2.5 * S, 1.5 * S),
        arbiter_cpu_s=1.1,
    )
    run = measure([first, last], (0.5, 0.5))
    assert run.achieved == pytest.approx((1 / 3, 2 / 3))
    assert run.charged == pytest.approx((0.4, 0.6))
    assert run.counted == pytest.approx((0.5, 0.5))
    assert run.charge_ratio == pytest.approx(1.0)
    assert run.busy_ratio == pytest.approx(0.75)
    assert run.overrun_ratio == pytest.approx(0.02)
    assert run.arbiter_cpu_ratio == pytest.approx(0.05)


def test_what_nobody_kept_is_not_made_up() -> None:
    run = measure([mark(0, 0), mark(1, 1)], (1.0,))
    assert (run.charged, run.counted, run.charge_ratio, run.arbiter_cpu_ratio) == (None,) * 4


def test_a_request_counts_by_its_arrival() -> None:
    ms = 1_000_000
    heard = [Request(90 * ms, 105 * ms), Request(100 * ms, 130 * ms), Request(200 * ms, 201 * ms)]
    assert inside(heard, 100 * ms, 200 * ms) == (30.0,)


def latency_run(p99_ms: float, *, rest: float = 0.6, overrun: float = 0.0) -> LatencyRun:
    return LatencyRun((10.0,) * 99 + (p99_ms,) * 2, 0.3, rest * 0.7, overrun)


def outcome(harp_ms: float, native_ms: float = 40, **more: float) -> LatencyOutcome:
    row = latency_row(
        200,
        {
            "solo": [latency_run(20)],
            "native": [latency_run(native_ms)],
            "harp": [latency_run(harp_ms, **more)],
        },
    )
    return LatencyOutcome("D", [row])


def test_inflation_is_under_harp_against_alone() -> None:
    found = outcome(22, rest=0.8)
    row = found.rows[0]
    assert (row.inflation, row.native_inflation) == pytest.approx((1.1, 2.0))
    assert row.best_effort_ratio == pytest.approx(0.8)
    assert found.ok
    assert all(target.met for target in found.targets)


def test_medians_are_of_runs() -> None:
    runs = [latency_run(p99) for p99 in (20, 100, 22)]
    row = latency_row(200, {"solo": [latency_run(20)], "native": runs, "harp": runs})
    assert row.p99_harp_ms == 22
    assert row.spread["p99_harp_ms"] == [20, 100]


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        (outcome(24), ["inflation"]),
        (outcome(22, rest=0.5), ["best_effort_ratio"]),
        (outcome(30, rest=0.1), ["inflation", "best_effort_ratio"]),
    ],
)
def test_a_missed_figure_of_latency_is_said(found: LatencyOutcome, missed: list[str]) -> None:
    assert [target.figure for target in found.targets if not target.met] == missed


def test_requests_in_time_without_harp_prove_nothing() -> None:
    found = outcome(20, native_ms=21)
    assert not found.can_tell
    assert not found.ok


def test_a_host_that_is_too_slow_spoils_latency() -> None:
    assert not outcome(20, overrun=0.03).ok
    found = outcome(20)
    found.rows[0] = replace(found.rows[0], p50_solo_ms=11.1)
    assert [violation.figure for violation in found.violations] == ["solo_p50_ratio"]
    assert not found.ok
