# SPDX-License-Identifier: Apache-2.0
"""harp.bench.estimate: a history as large as is said, and what questions cost."""

from __future__ import annotations

import pytest

from harp.bench.estimate import Effort, history, run_estimate
from harp.estimator.advise import Adviser

_SMALL = Effort(keys=500, runs=500, asks=100)


def test_a_history_has_about_as_many_keys_as_was_asked_for() -> None:
    adviser = Adviser()
    for run in history(Effort(keys=500, runs=1_500)):
        adviser.learn(run)
    assert len(adviser) == pytest.approx(500, rel=0.25)


def test_the_same_history_comes_again() -> None:
    effort = Effort(keys=100, runs=50)
    assert list(history(effort)) == list(history(effort))


def test_what_is_promised_is_measured() -> None:
    found = run_estimate(_SMALL, lambda _: None)
    assert found["runs"] == 500
    assert found["asks"] == 100
    assert isinstance(found["targets"], list)
    assert [one["figure"] for one in found["targets"]] == [
        "ask_ms_p99",
        "learn_ms_mean",
        "rss_bytes",
        "start_s",
    ]
    assert "rss_bytes" in found
    for name in ("learn_ms_mean", "ask_ms_p50", "ask_cpu_ms_p99", "file_bytes", "start_s"):
        assert found[name] > 0, name  # type: ignore[operator]


@pytest.mark.slow
def test_a_question_takes_no_longer_than_is_promised() -> None:
    """Of CPU time: what else the machine does is no matter of ours. Nor does size matter."""
    found = run_estimate(Effort(keys=20_000, runs=40_000, asks=5_000), lambda _: None)
    assert found["ask_cpu_ms_p99"] <= 2.0  # type: ignore[operator]
    assert found["learn_ms_mean"] <= 1.0  # type: ignore[operator]
