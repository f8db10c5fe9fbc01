# SPDX-License-Identifier: Apache-2.0
"""A GPU goes out of service at once and comes back by itself, slowly."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_plugin.health import (
    APPLICATION_XIDS,
    CLEAN_PROBES,
    CLEAN_S,
    Event,
    Health,
    Lost,
    Probe,
    Xid,
    step,
)

GOOD, BAD = Probe(good=True), Probe(good=False)


def after(*events: tuple[float, Event]) -> Health:
    health = Health()
    for at, event in events:
        health = step(health, event, at)
    return health


@pytest.mark.parametrize("code", sorted(APPLICATION_XIDS))
def test_errors_of_programs_are_ignored(code: int) -> None:
    assert after((1, Xid(code))) == Health()
    # and do not keep one out that is on its way back
    assert after((0, Lost()), (20, GOOD), (40, GOOD), (50, Xid(code)), (60, GOOD)).healthy


@pytest.mark.parametrize("code", [48, 63, 74, 79, 94, 95, 119])
def test_errors_of_the_gpu_put_it_out_at_once(code: int) -> None:
    health = after((1, Xid(code)))
    assert not health.healthy
    assert str(code) in health.why


def test_a_lost_gpu_is_out_at_once() -> None:
    assert not after((1, Lost())).healthy


def test_one_failed_probe_is_not_enough() -> None:
    assert after((1, BAD)).healthy
    assert after((1, BAD), (2, GOOD), (3, BAD)).healthy
    assert not after((1, BAD), (2, BAD)).healthy


@pytest.mark.parametrize(
    ("probes", "healthy"),
    [
        ([61, 62], False),  # two
        ([61, 62, 63], True),
        ([1, 2, 3, 59], False),  # too soon
        ([1, 2, 60], True),
        ([1, 2, 3, 60], True),
    ],
)
def test_it_comes_back_after_three_good_probes_and_a_minute(
    probes: list[float], healthy: bool
) -> None:
    health = after((0, Xid(79)), *((at, GOOD) for at in probes))
    assert health.healthy is healthy
    if healthy:
        assert health.why == ""


def test_trouble_on_the_way_begins_the_minute_anew() -> None:
    way = [(0.0, Xid(79)), (20.0, GOOD), (40.0, GOOD)]
    for trouble in (BAD, Xid(79), Lost()):
        health = after(*way, (50, trouble), (70, GOOD), (90, GOOD), (109, GOOD))
        assert not health.healthy
        assert step(health, GOOD, 110).healthy


def test_one_bad_probe_puts_a_gpu_on_its_way_back_out_but_says_why_it_was_out() -> None:
    assert "79" in after((0, Xid(79)), (10, BAD), (20, BAD)).why


def test_another_time_without_trouble_may_be_said() -> None:
    ill = step(Health(), Xid(79), 0.0, 10.0)
    for at_s in (1.0, 2.0, 9.0):
        ill = step(ill, GOOD, at_s, 10.0)
        assert not ill.healthy
    assert step(ill, GOOD, 10.0, 10.0).healthy
    assert not step(ill, GOOD, 10.0).healthy


EVENTS = st.sampled_from([GOOD, GOOD, GOOD, BAD, Lost(), Xid(13), Xid(79)])


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 40), EVENTS), max_size=60))
def test_it_is_never_back_too_soon(events: list[tuple[float, Event]]) -> None:
    health, now, good, trouble = Health(), 0.0, 0, -1e9
    for pause, event in events:
        now += pause
        before, health = health, step(health, event, now)
        match event:
            case Probe(good=True):
                good += 1
            case Xid(13):
                assert health == before
            case _:
                good, trouble = 0, now
                assert not health.healthy or event == BAD
        if health.healthy and not before.healthy:
            assert good >= CLEAN_PROBES
            assert now - trouble >= CLEAN_S
