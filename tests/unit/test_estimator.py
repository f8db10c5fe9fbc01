# SPDX-License-Identifier: Apache-2.0
"""harp.estimator: quantiles that forget, bounds that hold as often as they say, reasons."""

from __future__ import annotations

import dataclasses
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harp.estimator import RULES, Estimate, Estimator
from harp.estimator.calibration import Residuals
from harp.estimator.sketch import Decayed

DEVICE = 80e9
MEMORY, HOST, UTIL, DURATION = (
    RULES[name] for name in ("gpu_mem_bytes", "host_mem_frac", "gpu_util_pct", "duration_s")
)


def test_a_quantile_is_within_a_percent() -> None:
    sketch = Decayed(1e9)
    values = [float(v) for v in range(1, 1001)]
    for at, value in enumerate(values):
        sketch.add(value, at)
    for q in (0.1, 0.5, 0.9, 0.99):
        assert sketch.quantile(q) == pytest.approx(1000 * q, rel=0.015)


@pytest.mark.parametrize("before", [100, 600, 650, 701, 750, 1350])
def test_what_is_older_weighs_less(before: int) -> None:
    """Also while a young sketch is fed (from 600 on) and after it has taken over (from 700 on)."""
    sketch = Decayed(10.0)
    for at in range(before):
        sketch.add(100.0, at)
    for at in range(before, before + 20):
        sketch.add(1.0, at)
    # 20 values of two half-lives hold three quarters of the weight.
    assert sketch.quantile(0.7) == pytest.approx(1.0, rel=0.02)
    assert sketch.quantile(0.8) == pytest.approx(100.0, rel=0.02)


@pytest.mark.parametrize("gap", [1.0, 7.0, 300.0])
def test_nothing_overflows_however_long_it_goes_on(gap: float) -> None:
    sketch = Decayed(1.0)
    for at in range(5000):
        sketch.add(5.0, at * gap)
        assert sketch.quantile(0.5) == pytest.approx(5.0, rel=0.02)
    sketch.add(9.0, 5000 * gap + 200)
    assert sketch.quantile(0.5) == pytest.approx(9.0, rel=0.02)


def test_the_young_sketch_knows_what_the_old_one_did() -> None:
    # Around the change from one to the other a quantile may not jump.
    sketch = Decayed(1.0)
    rng = random.Random(5)
    for step in range(20 * 100):
        sketch.add(rng.uniform(90, 110), step / 20)
        if step > 100:
            assert 95 < (sketch.quantile(0.5) or 0) < 105, step


def test_an_empty_sketch_says_nothing() -> None:
    assert Decayed(1.0).quantile(0.5) is None


def test_too_few_residuals_say_nothing() -> None:
    pool = Residuals(0.9, size=100, enough=10, gain=0)
    for value in range(9):
        pool.add(float(value))
    assert pool.bound() is None
    pool.add(9.0)
    assert pool.bound() == 9.0  # rank ceil(11 * 0.9) = 10


def test_the_rank_is_that_of_a_finite_sample() -> None:
    pool = Residuals(0.8, size=1000, enough=1, gain=0)
    for value in range(1, 100):
        pool.add(float(value))
    assert pool.bound() == 80.0  # ceil(100 * 0.8)


def test_the_oldest_residual_goes() -> None:
    pool = Residuals(0.5, size=3, enough=1, gain=0)
    first = pool.add(1000.0)
    for value in (1.0, 2.0, 3.0):
        pool.add(value)
    assert len(pool) == 3
    assert pool.bound() == 2.0
    pool.change(first, 5.0)  # it has gone, and stays gone
    assert pool.bound() == 2.0
    assert len(pool) == 3


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=60), st.integers(1, 20), st.data())
def test_a_pool_is_its_last_residuals_whatever_was_changed(
    values: list[float], size: int, data: st.DataObject
) -> None:
    pool = Residuals(0.5, size=size, enough=1, gain=0)
    model: list[list[object]] = []
    for value in values:
        model.append([pool.add(value), value])
        if data.draw(st.booleans()):
            one = model[data.draw(st.integers(0, len(model) - 1))]
            one[1] = data.draw(st.floats(-5, 5))
            pool.change(one[0], one[1])  # type: ignore[arg-type]
        kept = model[-size:]
        assert pool._sorted == sorted(
            v
            for r, v in kept
            if r.kept  # type: ignore[union-attr]
        )
        assert len(pool) == len(kept)


def test_misses_raise_the_bound_and_hits_lower_it() -> None:
    pool = Residuals(0.9, size=1000, enough=1, gain=0.02)
    for value in range(1000):
        pool.add(float(value))
    before = pool.bound()
    pool.judge(held=False)
    missed = pool.bound()
    for _ in range(20):
        pool.judge(held=True)
    assert before is not None
    assert missed is not None
    assert missed > before
    assert (pool.bound() or 0) < missed


@pytest.mark.parametrize("held", [True, False])
def test_what_is_aimed_at_stays_near_what_is_wanted(held: bool) -> None:
    pool = Residuals(0.9, size=1000, enough=1, gain=0.05)
    for value in range(1000):
        pool.add(float(value))
    for _ in range(1000):
        pool.judge(held=held)
    assert pool.bound() == (800.0 if held else 990.0)


def test_nobody_like_it_is_granted_its_request() -> None:
    found = Estimator(MEMORY).predict([("container", "a")], DEVICE)
    assert (found.grant, found.known, found.level) == (DEVICE, False, "request")
    assert "no run of a job like it" in found.reason


def test_without_a_request_unknown_is_unknown() -> None:
    found = Estimator(DURATION).predict([("user", "a")])
    assert found.grant is None
    assert found.typical is None
    assert not found.known


def test_too_few_to_calibrate_from_is_the_request_too() -> None:
    estimator = Estimator(MEMORY)
    estimator.observe([("container", "a")], 1e9, 0.0, request=DEVICE)
    found = estimator.predict([("container", "a")], DEVICE)
    assert found.grant == DEVICE
    assert "50 needed" in found.reason


def _steady(estimator: Estimator, keys: int = 30, rounds: int = 8) -> None:
    rng = random.Random(1)
    for at in range(rounds):
        for key in range(keys):
            request, name = DEVICE, [("container", key)]
            found = estimator.predict(name, request)
            value = (20e9 + key * 1e9) * rng.uniform(0.97, 1.03)
            estimator.observe(name, value, at * 3600.0, request=request, found=found)


def test_steady_containers_are_granted_little_more_than_they_need() -> None:
    estimator = Estimator(MEMORY)
    _steady(estimator)
    found = estimator.predict([("container", 3)], DEVICE)
    assert found.known
    assert found.grant is not None
    assert 23e9 < found.grant < 30e9
    assert found.typical == pytest.approx(23e9, rel=0.05)
    assert "last value" in found.reason
    assert "8 runs" in found.reason


def test_a_request_is_never_exceeded() -> None:
    estimator = Estimator(MEMORY)
    _steady(estimator)
    found = estimator.predict([("container", 29)], 45e9)
    assert found.grant == 45e9
    assert "the request at most" in found.reason


def test_the_most_alike_with_enough_runs_answers() -> None:
    estimator = Estimator(dataclasses.replace(DURATION, pool_min=5))
    everybody = ("all",)
    for at in range(20):
        estimator.observe([("user", "b"), everybody], 100.0, float(at))
    for at in range(2):
        estimator.observe([("user", "a"), everybody], 5.0, 30.0 + at)
    few = estimator.predict([("user", "a"), everybody])
    assert (few.level, few.runs) == ("all", 22)
    estimator.observe([("user", "a"), everybody], 5.0, 40.0)
    enough = estimator.predict([("user", "a"), everybody])
    assert (enough.level, enough.runs) == ("user", 3)
    assert enough.typical == pytest.approx(5.0, rel=0.02)


def test_a_fixed_margin_is_in_parts_of_the_request() -> None:
    host = Estimator(HOST)
    for at, value in enumerate((0.30, 0.30, 0.50)):
        host.observe([("container", "a")], value, at * 3600.0, request=1.0)
    # The last value was the larger.
    assert host.predict([("container", "a")], 1.0).grant == pytest.approx(0.54, rel=0.02)
    util = Estimator(UTIL)
    for at, value in enumerate((90.0, 20.0, 30.0, 25.0)):
        util.observe([("container", "a")], value, at * 3600.0, request=100.0)
    assert util.predict([("container", "a")], 100.0).grant == pytest.approx(34.0)


@pytest.mark.parametrize("confidence", [0.90, 0.95])
def test_bounds_hold_as_often_as_they_say(confidence: float) -> None:
    index = DURATION.confidences.index(confidence)
    estimator, rng = Estimator(DURATION), random.Random(7)
    held = []
    for at in range(4000):
        keys = [("user", rng.randrange(20)), ("all",)]
        value = rng.lognormvariate(3 + keys[0][1] / 10, 1.0)  # type: ignore[operator]
        found = estimator.predict(keys)
        if at > 1000 and found.known:
            held.append(value <= (found.bounds[index] or 0))
        estimator.observe(keys, value, float(at), found=found)
    assert len(held) > 2900
    assert sum(held) / len(held) == pytest.approx(confidence, abs=0.015)


def test_after_a_step_bounds_hold_again() -> None:
    estimator = Estimator(DURATION)
    rng = random.Random(3)
    held = []
    for at in range(3000):
        found = estimator.predict([("all",)])
        value = rng.uniform(90, 110) * (2 if at >= 1500 else 1)
        if at >= 1600:
            held.append(value <= (found.bounds[0] or 0))
        estimator.observe([("all",)], value, float(at), found=found)
    assert sum(held) / len(held) > 0.88


def test_one_that_runs_beyond_its_bound_counts_before_it_ends() -> None:
    estimator = Estimator(dataclasses.replace(DURATION, pool_min=5, gain=0.0, pool=50))
    for at in range(60):
        found = estimator.predict([("all",)])
        estimator.observe([("all",)], 10.0, float(at), found=found)
    before = estimator.predict([("all",)])
    running = [estimator.predict([("all",)]) for _ in range(20)]
    for one in running:
        estimator.exceeded(one, 0)
    beyond = estimator.predict([("all",)])
    assert (beyond.bounds[0] or 0) > 2.5 * (before.bounds[0] or 0)
    assert beyond.bounds[1] == pytest.approx(before.bounds[1])  # that one was not exceeded
    # Once they end, what they came to stands for them: here little more than the bound.
    for one in running:
        estimator.observe([("other",)], (one.bounds[0] or 0) * 1.01, 70.0, found=one)
    after = estimator.predict([("all",)])
    assert (after.bounds[0] or 0) == pytest.approx((before.bounds[0] or 0) * 1.01, rel=0.02)


def _residuals(found: Estimate) -> list[int]:
    """By confidence, as the reason says."""
    return [int(count) for count in re.findall(r"(\d+) residuals", found.reason)]


def test_one_beyond_its_bound_is_one_residual_and_a_miss_of_every_pool() -> None:
    estimator = Estimator(dataclasses.replace(DURATION, pool_min=5, gain=0.02, runs_min=1))
    everybody, rng = [("all",)], random.Random(2)
    for at in range(1001):
        found = estimator.predict(everybody)
        estimator.observe(everybody, rng.uniform(10, 100), float(at), found=found)
    estimator.observe([("new",)], 10.0, 1001.0)  # a level without residuals of its own
    levels = (everybody, [("new",)])
    before = [estimator.predict(keys) for keys in levels]
    running = [estimator.predict(everybody) for _ in range(4)]
    for one in running:
        estimator.exceeded(one, 0)
    beyond = [estimator.predict(keys) for keys in levels]
    for old, new in zip(before, beyond, strict=True):
        assert _residuals(new) == [_residuals(old)[0] + 4, _residuals(old)[1]]
        # Four misses move the rank by 72 of 1000, four more residuals by less than four.
        assert (new.bounds[0] or 0) > 1.02 * (old.bounds[0] or 0)
        assert new.bounds[1] == old.bounds[1]
    for one in running:
        estimator.observe([("other",)], (one.bounds[0] or 0) * 1.01, 1002.0, found=one)
    after = [estimator.predict(keys) for keys in levels]
    for old, new in zip(before, after, strict=True):
        assert _residuals(new) == [count + 4 for count in _residuals(old)]


def test_a_level_has_residuals_of_its_own() -> None:
    """Who is known well is not bounded by how badly others are."""
    estimator = Estimator(dataclasses.replace(DURATION, gain=0.0))
    for at in range(200):
        keys = [("user", at % 20), ("all",)]
        found = estimator.predict(keys)
        estimator.observe(keys, 10.0 * 1.5 ** (at % 20), float(at), found=found)
    found = estimator.predict([("user", 7), ("all",)])
    assert found.level == "user"
    assert found.bounds[0] == pytest.approx(10.0 * 1.5**7, rel=0.03)
    assert (estimator.predict([("all",)]).bounds[0] or 0) > 10.0 * 1.5**15


def test_a_bound_is_never_below_nothing() -> None:
    estimator = Estimator(MEMORY)
    for key in range(60):  # each needs much once, and hardly anything then
        name = [("container", key)]
        for at, value in enumerate((50e9, 1e9)):
            found = estimator.predict(name, DEVICE)
            estimator.observe(name, value, at * 3600.0, request=DEVICE, found=found)
    found = estimator.predict([("container", 3)], DEVICE)
    assert (found.known, found.grant) == (True, 0.0)


def test_the_same_history_gives_the_same_answers() -> None:
    def run() -> list[object]:
        estimator, rng = Estimator(MEMORY), random.Random(11)
        said: list[object] = []
        for at in range(200):
            keys = [("container", rng.randrange(9))]
            found = estimator.predict(keys, DEVICE)
            said.append(found)
            estimator.observe(keys, rng.uniform(1e9, 60e9), at * 60.0, request=DEVICE, found=found)
        return said

    assert run() == run()
