# SPDX-License-Identifier: Apache-2.0
"""harp.estimator.windows: own past or all others', new keys, few runs."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import pytest

from harp.estimator import RULES, Estimator, Key
from harp.estimator.replay.tables import Case
from harp.estimator.replay.walk import walk
from harp.estimator.windows import Window, Windows, estimator_for

DEVICE = 100.0
MEMORY, UTIL = RULES["gpu_mem_bytes"], RULES["gpu_util_pct"]
NEW: list[Key] = [("container", "new")]


def _fed(need: Callable[[random.Random, int], float], rounds: int = 20, keys: int = 40) -> Windows:
    """All keys' windows begin and end together."""
    windows, rng = Windows(MEMORY), random.Random(4)
    for at in range(rounds):
        found = [windows.predict([("container", key)], DEVICE) for key in range(keys)]
        for key, one in enumerate(found):
            value = need(rng, key)
            windows.observe([("container", key)], value, float(at), request=DEVICE, found=one)
    return windows


def _any(rng: random.Random, key: int) -> float:
    """A key is no more like itself than like any other."""
    del key
    return rng.uniform(10, 60)


def _own(rng: random.Random, key: int) -> float:
    return (10 + key) * rng.uniform(0.97, 1.03)


def test_keys_that_keep_to_what_they_were_are_bounded_by_it() -> None:
    windows = _fed(_own)
    for key in (0, 20, 39):
        found = windows.predict([("container", key)], DEVICE)
        assert (found.level, found.runs) == ("container", 20)
        assert found.grant == pytest.approx(10 + key, abs=5)


def test_keys_that_do_not_are_bounded_by_what_all_need() -> None:
    windows = _fed(_any)
    for key in (0, 20, 39):
        found = windows.predict([("container", key)], DEVICE)
        assert found.level == "others"
        assert found.grant == pytest.approx(59, abs=1)  # the 98 % quantile, whatever it had last
        assert found.runs == 20
        assert "600 of all" in found.reason


def test_a_key_is_not_granted_less_than_it_just_needed() -> None:
    windows = _fed(_any)
    large = [("container", 7)]
    for at, (value, grant) in enumerate(((90.0, 59.0), (20.0, 90.0), (20.0, 90.0), (20.0, 59.0))):
        found = windows.predict(large, DEVICE)
        assert found.level == "others"
        assert found.grant == pytest.approx(grant, abs=1.0), at
        windows.observe(large, value, 30.0 + at, request=DEVICE, found=found)


def _more(
    windows: Windows, need: Callable[[random.Random, int], float], rounds: range, keys: int = 40
) -> None:
    rng = random.Random(1)
    for at in rounds:
        found = [windows.predict([("container", key)], DEVICE) for key in range(keys)]
        for key, one in enumerate(found):
            value = need(rng, key)
            windows.observe([("container", key)], value, float(at), request=DEVICE, found=one)


def test_what_was_closer_long_ago_does_not_count() -> None:
    windows = _fed(_any)
    _more(windows, _any, range(20, 100))
    assert windows.predict([("container", 5)], DEVICE).level == "others"
    _more(windows, _own, range(100, 125))
    assert windows.predict([("container", 5)], DEVICE).level == "container"


@pytest.mark.parametrize("need", [_own, _any])
def test_misses_raise_the_bounds_of_all(need: Callable[[random.Random, int], float]) -> None:
    def after(*, told: bool) -> float | None:
        windows = _fed(need)
        for key in range(8):
            name: list[Key] = [("container", key)]
            found = windows.predict(name, DEVICE)
            assert found.grant is not None
            said = found if told else None
            windows.observe(name, found.grant + 0.001, 50.0, request=DEVICE, found=said)
        return windows.predict([("container", 30)], DEVICE).grant

    assert (after(told=True) or 0) > (after(told=False) or 0) + 0.05


def test_no_more_than_the_request_is_granted() -> None:
    windows = Windows(MEMORY)
    for key in range(60):
        windows.observe([("container", key)], DEVICE * 1.2, 0.0, request=DEVICE)
    found = windows.predict(NEW, DEVICE)
    assert (found.level, found.grant) == ("others", DEVICE)


@pytest.mark.parametrize("need", [_own, _any])
def test_a_new_key_is_granted_what_others_needed(
    need: Callable[[random.Random, int], float],
) -> None:
    windows = _fed(need)
    found = windows.predict(NEW, DEVICE)
    assert (found.known, found.level, found.runs) == (True, "others", 0)
    every = sorted(need(random.Random(seed), seed % 40) for seed in range(1000))
    assert found.grant == pytest.approx(every[980], rel=0.06)
    # In parts of what is asked for.
    half = windows.predict(NEW, DEVICE / 2)
    assert half.grant == pytest.approx((found.grant or 0) / 2)


def test_nobody_known_is_the_request() -> None:
    found = Windows(MEMORY).predict(NEW, DEVICE)
    assert (found.known, found.grant) == (False, DEVICE)


def test_bounds_hold_as_often_as_they_say() -> None:
    windows, rng = Windows(MEMORY), random.Random(8)
    held = []
    for at in range(120):
        found = [windows.predict([("container", key)], DEVICE) for key in range(40)]
        for key, one in enumerate(found):
            value = min(DEVICE, rng.lognormvariate(3 + key / 60, 0.3))
            if at >= 20:
                held.append(value <= (one.grant or 0))
            windows.observe([("container", key)], value, float(at), request=DEVICE, found=one)
    assert sum(held) / len(held) == pytest.approx(0.98, abs=0.005)


def _growing(keys: int = 70, rounds: int = 6) -> Windows:
    """The second run of each is 20 above its first, later ones as the second."""
    windows = Windows(UTIL)
    for at in range(rounds):
        for key in range(keys):
            name = [("container", key)]
            found = windows.predict(name, DEVICE)
            value = 10.0 + key / 10 + (20.0 if at else 0.0)
            windows.observe(name, value, float(at), request=DEVICE, found=found)
    return windows


def test_few_runs_are_topped_by_what_came_on_top_of_so_few() -> None:
    windows = _growing()
    # None: the request. One: 20 came on top, of others. Two: nothing did, so the margin is more.
    for at, grant in enumerate((DEVICE, 40.0, 24.0, 24.0)):
        found = windows.predict(NEW, DEVICE)
        assert found.grant == pytest.approx(grant), (at, found.reason)
        windows.observe(NEW, 20.0, float(at), request=DEVICE, found=found)


def test_misses_after_few_runs_raise_what_is_put_on_top_of_so_few() -> None:
    def top(windows: Windows, runs: int) -> float:
        """Of a key of so many equal runs."""
        name: list[Key] = [("container", "new", runs)]
        for at in range(runs):
            windows.observe(name, 5.0, float(at), request=DEVICE)
        return (windows.predict(name, DEVICE).grant or 0) - 5.0

    def fed(missed: int) -> Windows:
        windows = Windows(UTIL)
        for at in range(3):
            for key in range(300):
                value = 10.0 + at * key / 10
                windows.observe([("container", key)], value, float(at), request=DEVICE)
        for key in range(2):
            name: list[Key] = [("container", "more", key)]
            for at in range(missed):
                windows.observe(name, 5.0, float(at), request=DEVICE)
            found = windows.predict(name, DEVICE)
            assert found.few == missed
            value = (found.grant or 0) + 0.001
            windows.observe(name, value, 9.0, request=DEVICE, found=found)
        return windows

    one, two = fed(1), fed(2)
    assert top(one, 1) > top(two, 1) + 0.05
    assert top(two, 2) > top(one, 2) + 0.05


def test_a_rule_that_asks_for_neither_is_an_estimator() -> None:
    assert isinstance(estimator_for(RULES["duration_s"]), Estimator)
    assert isinstance(estimator_for(RULES["host_mem_frac"]), Estimator)
    assert isinstance(estimator_for(MEMORY), Windows)
    assert isinstance(estimator_for(UTIL), Windows)


def test_more_confidences_than_one_are_refused() -> None:
    with pytest.raises(ValueError, match="too many values"):
        Windows(dataclasses.replace(MEMORY, confidences=(0.9, 0.95)))


def test_what_runs_beyond_its_bound_counts_for_its_own_past() -> None:
    windows = _fed(_own)
    before = windows.predict([("container", 3)], DEVICE)
    running = [windows.predict([("container", 3)], DEVICE) for _ in range(30)]
    for one in running:
        windows.exceeded(one, 0)
    beyond = windows.predict([("container", 3)], DEVICE)
    assert (beyond.own.grant if beyond.own else 0) > (before.grant or 0) + 5  # type: ignore[operator]


@pytest.mark.parametrize("target", ["gpu_mem_bytes", "gpu_util_pct"])
def test_what_comes_later_changes_nothing_said_before(target: str) -> None:
    rng = random.Random(6)
    cases = [
        Case(
            target,
            f"{key}",
            at * 10.0,
            at * 10.0 + 10,
            (("container", f"{key}"),),
            rng.uniform(5, 60),
            DEVICE,
        )
        for at in range(12)
        # One key is new each time.
        for key in range(30 + at)
    ]
    cut = sum(30 + at for at in range(8))
    whole = [one.found for one in walk([], cases)]
    assert all(isinstance(one, Window) for one in whole)
    assert len({one.level for one in whole}) >= 2
    changed = [dataclasses.replace(c, value=rng.uniform(5, 99)) for c in cases[cut:]]
    again = [one.found for one in walk([], cases[:cut] + changed)]
    # What is said of a window does not follow from it, either.
    same = cut + 30 + 8
    assert again[:same] == whole[:same]
    assert again[same:] != whole[same:]
