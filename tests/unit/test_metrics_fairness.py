# SPDX-License-Identifier: Apache-2.0
"""The share error: what a tenant that wants the GPU got, less what was due."""

from __future__ import annotations

import pytest

from harp.metrics.fairness import WINDOW_S, Fairness
from harp.model import Standing, Use

S = 1_000_000_000
GPU = "GPU-0"


class _World:
    """Pictures of one tenant, a second apart."""

    def __init__(self) -> None:
        self.fairness = Fairness()
        self.now_s, self.used, self.waited = 1000.0, 0.0, 0.0

    def see(self, weight: float | None = 0.25) -> None:
        standing = None if weight is None else Standing(weight_ratio=weight)
        use = Use(used_ns=int(self.used * S), wait_ns=int(self.waited * S), standing=standing)
        self.fairness.see({(1, GPU): use}, self.now_s)

    def run(
        self, seconds: int, used: float, waited: float, weight: float | None = 0.25, per_s: int = 1
    ) -> None:
        for _ in range(seconds * per_s):
            self.now_s += 1 / per_s
            self.used += used / per_s
            self.waited += waited / per_s
            self.see(weight)

    def error(self, limit: float = 1.0) -> float | None:
        return self.fairness.error(1, GPU, limit)


@pytest.mark.parametrize(
    ("used", "waited", "error"),
    [(0.25, 0.75, 0.0), (0.1, 0.9, -0.15), (0.6, 0.4, 0.35), (1.0, 0.0, 0.75)],
)
def test_what_it_got_less_what_was_due(used: float, waited: float, error: float) -> None:
    world = _World()
    world.run(60, used, waited)
    assert world.error() == pytest.approx(error)


@pytest.mark.parametrize(("used", "waited"), [(0.1, 0.1), (0.5, 0.0), (0.0, 0.0), (0.4, 0.45)])
def test_who_left_the_gpu_idle_is_owed_nothing(used: float, waited: float) -> None:
    world = _World()
    world.run(60, used, waited)
    assert world.error() is None


def test_it_is_of_the_last_window_alone() -> None:
    world = _World()
    world.run(100, 0.05, 0.95)
    assert world.error() == pytest.approx(-0.2)
    world.run(15, 0.25, 0.75)
    half = world.error()
    assert half is not None
    assert -0.15 < half < -0.05
    world.run(int(WINDOW_S), 0.25, 0.75)
    assert world.error() == pytest.approx(0, abs=0.01)
    world.run(60, 0.0, 0.0)
    assert world.error() is None


def test_a_tenant_that_has_just_come_is_not_judged_yet() -> None:
    world = _World()
    world.see()
    world.run(10, 0.0, 1.0)
    assert world.error() is None
    world.run(10, 0.0, 1.0)
    assert world.error() == pytest.approx(-0.25)


def test_weights_count_for_as_long_as_they_held() -> None:
    world = _World()
    world.see(0.5)
    world.run(15, 0.3, 0.7, weight=0.5)
    world.run(15, 0.3, 0.7, weight=0.1)
    assert world.error() == pytest.approx(0.3 - 0.3, abs=0.03)


def test_a_weight_holds_until_the_next_picture() -> None:
    world = _World()
    for weight in (0.5, 0.5, 0.2, 0.2):
        world.see(weight)
        world.now_s += 10
        world.used += 3
        world.waited += 7
    assert world.error() == pytest.approx(0.3 - 0.4)


def test_rare_pictures_make_the_window_longer_and_not_shorter() -> None:
    world = _World()
    for used in (0.05, 0.25, 0.0):
        world.see()
        world.now_s += 20
        world.used += 20 * used
        world.waited += 20 * (1 - used)
    assert world.error() == pytest.approx(0.15 - 0.25)


def test_no_more_is_due_than_its_limit() -> None:
    world = _World()
    world.run(40, 0.1, 0.9)
    assert world.error(limit=0.1) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("counter", ["used", "waited"])
def test_another_arbiter_begins_a_new_window(counter: str) -> None:
    """By either count: the other may be as large as before."""
    world = _World()
    world.run(40, 0.1, 0.9)
    setattr(world, counter, 0.0)
    world.run(10, 0.25, 0.75)
    assert world.error() is None
    world.run(10, 0.25, 0.75)
    assert world.error() == pytest.approx(0, abs=1e-6)


def test_an_arbiter_without_weights_and_an_ended_tenant_have_none() -> None:
    world = _World()
    world.run(40, 0.1, 0.9, weight=None)
    assert world.error() is None
    world.run(40, 0.1, 0.9)
    assert world.error() is not None
    world.fairness.forget(2)
    assert world.error() is not None, "another tenant's end"
    world.fairness.forget(1)
    assert world.error() is None
    world.run(40, 0.1, 0.9)
    world.fairness.see({}, world.now_s)
    assert world.error() is None


def test_many_pictures_cost_no_memory() -> None:
    world = _World()
    world.run(60, 0.1, 0.9, per_s=100)
    assert world.error() == pytest.approx(-0.15, abs=0.001)
    assert len(world.fairness._points[1, GPU]) <= WINDOW_S / 2 + 3
