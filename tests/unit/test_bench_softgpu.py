# SPDX-License-Identifier: Apache-2.0
"""harp.bench.softgpu: what its readings come to."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harp.bench import softgpu
from harp.bench.softgpu import Effort, SoftgpuOutcome

_GOOD = {"add_ratio": 1.5, "matmul_ratio": 6.0, "cold_ms": 90.0, "warm_ms": 1.5}


def _outcome(**more: float) -> SoftgpuOutcome:
    outcome = SoftgpuOutcome()
    for name, value in (_GOOD | more).items():
        outcome.add(name, value, value / 2, value * 40)
    return outcome


def test_the_median_is_judged_and_the_spread_is_told() -> None:
    found: dict[str, Any] = _outcome().json(load_1min=0.5)
    assert found["figures"]["add_ratio"] == {"median": 1.5, "least": 0.75, "most": 60.0}
    assert all(target["met"] for target in found["targets"])
    assert found["software"] is True


@pytest.mark.parametrize(
    ("name", "limit"), [("add_ratio", 2), ("matmul_ratio", 20), ("cold_ms", 150), ("warm_ms", 2)]
)
def test_a_figure_past_its_mark_is_missed_and_nothing_else(name: str, limit: float) -> None:
    targets = _outcome(**{name: limit * 1.01}).targets
    assert [target.figure for target in targets if not target.met] == [name]
    assert next(t.limit for t in targets if t.figure == name) == limit


@pytest.mark.parametrize(
    ("name", "limit"), [("add_ratio", 2), ("matmul_ratio", 20), ("cold_ms", 150), ("warm_ms", 2)]
)
def test_a_figure_at_its_mark_is_met(name: str, limit: float) -> None:
    assert all(target.met for target in _outcome(**{name: limit}).targets)


@pytest.mark.parametrize(("right", "wrong"), [(True, []), (False, ["run add 5"])])
def test_a_step_that_is_not_right_is_noted(
    right: bool, wrong: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(softgpu, "_output", lambda *_: json.dumps({"right": right}))
    outcome = SoftgpuOutcome()
    softgpu._step(cast("Any", SimpleNamespace(env={})), ["run", "add", "5"], outcome)
    assert outcome.wrong == wrong


def test_a_wrong_result_fails_the_bench_a_slow_one_does_not() -> None:
    slow, wrong = _outcome(add_ratio=99), _outcome()
    wrong.wrong.append("run add 5")
    assert slow.ok
    assert not wrong.ok
    assert Effort.quick().starts < Effort().starts


def test_a_program_that_saw_a_wrong_result_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, box = SoftgpuOutcome(), SimpleNamespace(env={})
    for right in ("true", "false"):
        monkeypatch.setattr(softgpu, "_output", lambda *_, right=right: f'{{"right": {right}}}')
        softgpu._step(box, ["run", f"add {right}"], outcome)  # type: ignore[arg-type]
    assert outcome.wrong == ["run add false"]
