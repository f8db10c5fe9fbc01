# SPDX-License-Identifier: Apache-2.0
"""The judge of the estimator by hand: who is told what and when, what is packed from the past."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from test_estimate_replay import case, jobs, pods, quiet, write

from harp.estimator import Estimate, Key
from harp.estimator.packing import BUFFERS, Load, buffer_for, overloaded, pack, packed
from harp.estimator.replay import run, tables
from harp.estimator.replay.baselines import BASELINES
from harp.estimator.replay.score import report
from harp.estimator.replay.tables import WINDOW_S, Case
from harp.estimator.replay.walk import Judged, walk

GB = 1e9


def test_who_is_not_scored_is_learned_from() -> None:
    (one,) = walk([], [case(0.0, 50.0, scored=False), case(20.0, 60.0)])
    assert (one.case.value, one.others["last"]) == (60.0, 50.0)


def test_a_case_nobody_is_like_is_given_its_request() -> None:
    (one,) = walk([], [case(0.0, 50.0)])
    assert (one.found.known, one.found.grant) == (False, 100.0)


class _Told:
    """An estimator that says the same of all, and keeps what it is told in its order."""

    heard: list[tuple[object, ...]]

    def __init__(self, _rule: object) -> None:
        pass

    def predict(self, keys: Sequence[Key], request: float | None) -> Estimate:
        del request
        self.heard.append(("predict", keys[0][1]))
        return Estimate(
            10.0, (10.0, 20.0), known=True, level=str(keys[0][1]), runs=1, base=1.0, reason=""
        )

    def exceeded(self, found: Estimate, index: int) -> None:
        self.heard.append(("exceeded", found.level, index))

    def observe(
        self,
        keys: Sequence[Key],
        value: float,
        at_s: float,
        *,
        request: float | None,
        found: Estimate,
    ) -> None:
        del request
        assert found.level == keys[0][1]
        self.heard.append(("observe", keys[0][1], value, at_s))


def _heard(
    monkeypatch: pytest.MonkeyPatch, target: str, rows: list[tuple[str, float, float]]
) -> list[tuple[object, ...]]:
    monkeypatch.setattr(_Told, "heard", [], raising=False)
    monkeypatch.setattr("harp.estimator.replay.walk.estimator_for", _Told)
    cases = [
        Case(target, name, begin_s, begin_s + value, (("job", name),), value, None)
        for name, begin_s, value in rows
    ]
    list(walk([], cases))
    return _Told.heard


def test_who_runs_beyond_a_bound_is_told_then_and_not_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [("a", 0.0, 15.0), ("b", 0.0, 30.0), *((f"{at}", at, 1.0) for at in (9.0, 12.0, 31.0))]
    assert _heard(monkeypatch, "duration_s", rows) == [
        *(("predict", name) for name in ("a", "b", "9.0")),
        *(("exceeded", "a", 0), ("exceeded", "b", 0), ("observe", "9.0", 1.0, 10.0)),
        ("predict", "12.0"),
        ("observe", "12.0", 1.0, 13.0),
        ("observe", "a", 15.0, 15.0),
        ("exceeded", "b", 1),
        ("observe", "b", 30.0, 30.0),
        ("predict", "31.0"),
    ]


def test_of_what_is_requested_nothing_is_seen_before_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard = _heard(monkeypatch, "gpu_mem_bytes", [("a", 0.0, 15.0), ("b", 40.0, 1.0)])
    assert heard == [("predict", "a"), ("observe", "a", 15.0, 15.0), ("predict", "b")]


def test_figures_of_durations_are_those_counted_by_hand() -> None:
    def one(value: float, typical: float | None) -> Judged:
        bounds = (None, None) if typical is None else (120.0, 200.0)
        known = typical is not None
        found = Estimate(typical, bounds, known=known, level="all", runs=3, base=None, reason="")
        made = Case("duration_s", "a", 0.0, value, (("all",),), value, None)
        return Judged(made, found, dict.fromkeys(BASELINES))

    values = (100.0, 140.0, 40.0, 210.0)
    said = [*(one(value, 100.0) for value in values), one(9.0, None)]
    found = report(said)["targets"]["duration_s"]  # type: ignore[index]
    assert found["unknown"] == 1
    assert found["within_25"] == 1 / 5  # unknown is not
    assert found["off_2x"] == 2 / 5  # too much, too little
    assert found["coverage_90"] == 2 / 4  # of those that are known
    assert found["coverage_95"] == 3 / 4
    assert found["median_error"] == pytest.approx((40 / 140 + 110 / 210) / 2)
    assert found["saved"] is None


def test_baselines_are_what_they_are_called() -> None:
    keys: list[Key] = [("job", "a"), ("all",)]
    said = {}
    for name, make in BASELINES.items():
        baseline = make()
        for value in (*range(1, 101), 50):
            baseline.observe(keys, float(value), 0.0)
        baseline.observe(keys[1:], 7.0, 0.0)  # another job
        said[name] = baseline.predict(keys, 200.0)
    assert said == {
        "request": 200.0,
        "last": 50.0,
        "running_max": 100.0,
        "vpa_p90": pytest.approx(90, rel=0.02),
        "vpa_p90_15": pytest.approx(90 * 1.15, rel=0.02),
        "vpa_p95": pytest.approx(95, rel=0.02),
        "vpa_p95_15": pytest.approx(95 * 1.15, rel=0.02),
    }


def test_equal_ones_are_packed_by_name() -> None:
    loads = [Load(name, mem, 0.0, ()) for name, mem in (("b", 60), ("a", 60), ("c", 40))]
    assert [[one.name for one in gpu] for gpu in pack(loads, 100, 100)] == [["a", "c"], ["b"]]


def test_every_moment_is_looked_at_and_the_buffer_may_be_used() -> None:
    assert overloaded([Load(name, 0, 0.0, (0, 0, 60)) for name in "ab"], 100)
    assert not overloaded([Load("a", 0, 0.0, (100,))], 100)
    assert packed([Load("a", 80, 0.0, (95,))], 100, 0.1, 1000).over == 0


def test_a_buffer_may_be_exceeded_as_often_as_is_allowed_of_gpus() -> None:
    # One of four, with whatever buffer: each has a GPU to itself.
    window = [Load(f"{at}", 90, 0.0, (101.0 if at == 0 else 50.0,)) for at in range(4)]
    assert buffer_for([window], 100, 1000, 0.25) == BUFFERS[0]
    assert buffer_for([window], 100, 1000, 0.24) == BUFFERS[-1]


def _pods(folder: Path, windows: dict[str, list[list[tuple[float, float]]]]) -> Path:
    """Samples (GB, utilization) by container and window, from the window's begin on."""
    rows = [
        f"{number * WINDOW_S + at * tables.SAMPLE_S},{pod},{gb * GB},{util},0.1"
        for pod, of in windows.items()
        for number, samples in enumerate(of)
        for at, (gb, util) in enumerate(samples)
    ]
    header = "t_s,pod,gpu_mem_bytes,gpu_util_pct,host_mem_frac"
    return write(folder, "pods_57s.csv.gz", header, rows)


def test_containers_are_packed_by_what_they_were_and_not_by_what_they_come_to(
    tmp_path: Path,
) -> None:
    a = [[(60.0, 10.0), (10.0, 10.0)], *([(10.0, 10.0)] * 2 for _ in range(4))]
    a.append([(75.0, 145.0), (10.0, 145.0)])
    folder = _pods(tmp_path / "p", {"a": a, "b": [[(30.0, 10.0)] * 2 for _ in a]})
    found = run.pack(None, folder, 100 * GB, begin_ratio=0.2, progress=quiet)
    beside = found["beside"]
    assert isinstance(beside, dict)
    # A warm-up of one window has none that says anything of a buffer: the middle, 82 GB remain.
    assert found["buffer_ratio"] == 0.18
    # 60 and 30 for as long as the first window is one of the last three, then 10 and 30.
    assert found["gpu_windows"] == 2 + 2 + 2 + 1 + 1
    assert found["overload_ratio"] == 1 / 8  # the last: 75 and 30 where 10 and 30 were expected
    assert beside["no_buffer"] == {"containers_per_gpu": 10 / 5, "overload_ratio": 1 / 5}
    assert beside["oracle"] == {"containers_per_gpu": 10 / 6, "overload_ratio": 0}
    # Too few to calibrate from: a whole device for each.
    assert beside["per_job_bounds"]["containers_per_gpu"] == 1.0


def test_bounds_of_single_containers_are_packed_too(tmp_path: Path) -> None:
    found = run.pack(None, pods(tmp_path / "p", 8, 20), 80e9, begin_ratio=0.6, progress=quiet)
    beside = found["beside"]
    assert isinstance(beside, dict)
    bounds, oracle = (beside[name]["containers_per_gpu"] for name in ("per_job_bounds", "oracle"))
    assert 1.5 < bounds <= oracle


def test_what_is_scored_comes_after_what_is_learned_from(tmp_path: Path) -> None:
    folder = jobs(tmp_path / "j", 400)

    def figures(warmup: Path | None, score: Path, begin_ratio: float) -> dict[str, object]:
        found = run.replay("philly", warmup, score, begin_ratio=begin_ratio, progress=quiet)
        of: dict[str, object] = found["targets"]["duration_s"]  # type: ignore[index]
        return of

    assert [figures(None, folder, part)["n"] for part in (0.0, 0.5, 0.75)] == [400, 200, 100]
    few = jobs(tmp_path / "few", 40, seed=2)
    alone, warm = figures(None, few, 0.0), figures(folder, few, 0.0)
    assert (alone["n"], alone["unknown"], warm["n"], warm["unknown"]) == (40, 40, 40, 0)


def test_who_ran_for_no_time_is_no_case(tmp_path: Path) -> None:
    header = "submit_s,vc,num_gpus,duration_s"
    folder = write(tmp_path, "philly_jobs.csv.gz", header, ["1,v,1,0", "2,v,1,", "3,v,1,4"])
    assert [one.value for one in tables.read(folder, "philly")] == [4.0]
