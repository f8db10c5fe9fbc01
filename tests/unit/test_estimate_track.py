# SPDX-License-Identifier: Apache-2.0
"""harp.estimator.track: a figure of coverage that does not flatter."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harp.estimator.job import TARGETS, Job, Need, Outcome, Run
from harp.estimator.track import WINDOW_S, Sums, Track, judge

GIB = 1 << 30
JOB = Job(program="p", asked_mem_bytes=10 * GIB, device_mem_bytes=80 * GIB)


def need(bound: float | None, *, known: bool = True, target: str = "gpu_mem_bytes") -> Need:
    return Need(target, None, bound, 0.98, known, "signature" if known else "request", 5, "why")


def ended(used: float, **more: object) -> Run:
    run = Run(JOB, ended_s=100.0, used={"gpu_mem_bytes": used, "duration_s": used})
    return replace(run, **more)  # type: ignore[arg-type]


def held(said: Need, run: Run) -> bool | None:
    (verdict,) = judge(JOB, {said.target: said}, run)
    return verdict.held


@pytest.mark.parametrize(
    ("description", "said", "run", "expected"),
    [
        ("below the bound", need(4.0), ended(3.0), True),
        ("just the bound", need(4.0), ended(4.0), True),
        ("above it", need(4.0), ended(4.1), False),
        ("failed: it may need more", need(4.0), ended(3.0, outcome=Outcome.FAILED), None),
        ("failed above it", need(4.0), ended(5.0, outcome=Outcome.FAILED), False),
        ("killed below it", need(4.0), ended(3.0, outcome=Outcome.KILLED), None),
        ("lost above it", need(4.0), ended(5.0, outcome=Outcome.LOST), False),
        ("refused above it", need(4.0), ended(3.0, outcome=Outcome.OOM, attempted_bytes=6), False),
        ("refused below it", need(9.0), ended(3.0, outcome=Outcome.OOM, attempted_bytes=6), None),
        ("takes all it is given", need(4.0), ended(9.0, elastic=True), None),
        ("nobody knew", need(4.0, known=False), ended(9.0), None),
        ("no bound", need(None), ended(9.0), None),
        ("elastic in memory", need(4.0, target="duration_s"), ended(9.0, elastic=True), False),
        ("not seen", need(4.0, target="host_mem_bytes"), ended(9.0), None),
    ],
)  # fmt: skip
def test_what_counts_as_a_hit(
    description: str, said: Need, run: Run, expected: bool | None
) -> None:
    assert held(said, run) is expected, description


def test_who_came_back_for_more_and_was_given_it_is_judged_by_what_it_had() -> None:
    """Refused once, it went on: what it asked for was needed."""
    assert held(need(4.0), ended(3.0, attempted_bytes=5)) is False


def test_savings_are_of_the_request_and_unknown_saves_nothing() -> None:
    track = Track()
    track.count(judge(JOB, {"gpu_mem_bytes": need(4.0 * GIB)}, ended(3.0 * GIB)))
    total = track.of["gpu_mem_bytes"].total
    assert (total.asked, total.bound, total.used) == (10 * GIB, 4 * GIB, 3 * GIB)
    assert total.saved_ratio == pytest.approx(0.6)
    unknown = need(None, known=False)
    track.count(judge(JOB, {"gpu_mem_bytes": unknown}, ended(3.0 * GIB)))
    total = track.of["gpu_mem_bytes"].total
    assert total.saved_ratio == pytest.approx(0.3)
    assert total.judged == 1
    # Above the request nothing is granted, so nothing is lost.
    track.count(judge(JOB, {"gpu_mem_bytes": need(90.0 * GIB)}, ended(3.0 * GIB)))
    assert track.of["gpu_mem_bytes"].total.bound == 24 * GIB


def test_where_nobody_asked_the_device_was_his() -> None:
    job = replace(JOB, asked_mem_bytes=0)
    (verdict,) = judge(job, {"gpu_mem_bytes": need(8.0 * GIB)}, ended(1.0))
    assert verdict.asked == 80 * GIB


def test_the_window_forgets_and_the_total_does_not() -> None:
    track = Track()
    for at in range(10):
        run = ended(3.0 if at < 4 else 5.0, ended_s=at * 86400.0)
        track.count(judge(JOB, {"gpu_mem_bytes": need(4.0)}, run))
    one = track.at(9 * 86400.0)["gpu_mem_bytes"]
    assert (one.total.judged, one.total.held) == (10, 4)
    assert (one.recent.judged, one.recent.held) == (7, 1)
    assert one.recent.coverage_ratio == pytest.approx(1 / 7)
    assert one.recent.confidence_ratio == pytest.approx(0.98)
    assert track.at(9 * 86400.0 + WINDOW_S)["gpu_mem_bytes"].recent == Sums()
    assert one.recent.coverage_ratio is one.recent.saved_ratio is None


def test_the_window_is_bounded() -> None:
    track = Track()
    for at in range(10_050):
        said = need(4.0 * GIB if at % 2 else 2.0 * GIB)
        track.count(judge(JOB, {"gpu_mem_bytes": said}, ended(3.0 * GIB, ended_s=float(at))))
    recent = track.at(10_050.0)["gpu_mem_bytes"].recent
    assert (recent.judged, recent.held, recent.bound) == (10_000, 5000, 30_000 * GIB)


def test_answers_are_counted_by_whether_somebody_knew() -> None:
    track = Track()
    said = {target: need(1.0, known=target == "cpu_cores", target=target) for target in TARGETS}
    track.answered(said)
    track.answered(said)
    assert track.answers["cpu_cores", True] == 2
    assert track.answers["duration_s", False] == 2
    assert len(track.answers) == len(TARGETS)
