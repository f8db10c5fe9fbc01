# SPDX-License-Identifier: Apache-2.0
"""A lease as its holder keeps it: renewed in time, one session ahead, over when it is over."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harp.remote.hold import (
    Admit,
    Attach,
    Attached,
    Deny,
    Detach,
    Detached,
    Ended,
    Event,
    Hold,
    Lose,
    Move,
    NotAttached,
    NotOffered,
    NotRenewed,
    Offer,
    Renew,
    Renewed,
    Say,
    Taken,
    Tick,
    held,
    next_s,
    step,
)

TTL_S = 2.0


def begun() -> Hold:
    """At 100.0; the first session is being made."""
    hold = held(TTL_S, 100.0, 100.0)
    assert step(hold, Tick(), 100.1) == [Attach()]
    return hold


def test_it_is_renewed_before_half_of_its_ttl() -> None:
    hold = begun()
    assert 100.0 < next_s(hold) < 101.0
    (renew,) = step(hold, Tick(), next_s(hold))
    assert isinstance(renew, Renew)
    assert next_s(hold) == 102.0, "one at a time"
    assert step(hold, Renewed(TTL_S, 100.9), 101.5) == []
    assert hold.expires_s == 102.9, "from when it was asked, not from when it was answered"


def test_a_lease_that_took_long_to_be_granted_is_renewed_at_once() -> None:
    hold = held(TTL_S, 100.0, 103.0)
    assert [type(a) for a in step(hold, Tick(), 103.0)] == [Renew, Attach]
    step(hold, Renewed(TTL_S, 103.0), 103.1)
    assert hold.expires_s == 105.0


def test_a_short_loss_is_survived_and_a_long_one_is_not() -> None:
    hold = begun()
    now_s, asked = 100.0, 0
    while not hold.over:
        now_s = next_s(hold)
        actions = step(hold, Tick(), now_s)
        if any(isinstance(a, Renew) for a in actions):
            asked += 1
            step(hold, NotRenewed("no answer", final=False), now_s + 0.01)
    assert now_s == 102.0
    assert 4 <= asked <= 12
    assert actions == [Lose("it could not be renewed within 2 s", 0)]
    assert next_s(hold) == float("inf")


def test_a_lease_that_the_node_does_not_know_is_lost_at_once() -> None:
    hold = begun()
    step(hold, Attached("a"), 100.2)
    step(hold, Taken("a"), 100.3)
    assert step(hold, NotRenewed("unknown", final=True), 100.9) == [Lose("unknown", 1)]
    assert step(hold, Attached("late"), 101.0) == [Detach("late")]
    assert step(hold, Tick(), 200.0) == []


def test_one_session_is_ahead() -> None:
    hold = begun()
    assert step(hold, Attached("a"), 100.2) == [Offer("a")]
    assert step(hold, Tick(), 100.3) == []
    assert step(hold, Taken("a"), 100.4) == [Attach()]
    assert step(hold, Attached("b"), 100.5) == [Offer("b")]
    assert step(hold, Ended("a"), 100.6) == [Detach("a")]
    assert (hold.offered, hold.running) == ({"b"}, set())


def test_why_there_is_none_is_told_until_there_may_be_one() -> None:
    hold = begun()
    step(hold, Attached("a"), 100.2)
    step(hold, Taken("a"), 100.3)
    assert step(hold, NotAttached("full"), 100.4) == [Deny("full")]
    assert step(hold, Tick(), 100.5) == [], "not at once"
    assert step(hold, Ended("a"), 100.6) == [Detach("a"), Admit()]
    assert step(hold, Detached(), 100.7) == [Attach()]
    assert step(hold, Attached("b"), 100.75) == [Offer("b")]


def test_after_a_refusal_it_is_tried_again_and_admits() -> None:
    hold = begun()
    assert step(hold, NotAttached("full"), 100.4) == [Deny("full")]
    step(hold, Tick(), 100.8)
    step(hold, Renewed(TTL_S, 100.8), 100.9)
    assert step(hold, Tick(), 101.4) == [Attach()]
    assert step(hold, Attached("a"), 101.45) == [Admit(), Offer("a")]


def test_a_session_that_cannot_be_offered_is_detached_and_not_made_again_at_once() -> None:
    hold = begun()
    step(hold, Attached("a"), 100.2)
    assert step(hold, NotOffered("a", "full"), 100.2) == [Detach("a"), Deny("full")]
    assert step(hold, Detached(), 100.3) == []
    step(hold, Tick(), 100.8)
    step(hold, Renewed(TTL_S, 100.8), 100.9)
    assert step(hold, Tick(), 101.3) == [Attach()]
    assert step(hold, Attached("b"), 101.4) == [Admit(), Offer("b")]


def test_a_node_that_drains_is_left_when_nothing_runs_there() -> None:
    hold = begun()
    step(hold, Attached("a"), 100.2)
    step(hold, Taken("a"), 100.3)
    step(hold, Attached("b"), 100.4)
    drains = Renewed(TTL_S, 100.8, draining=True, drain_s=30.0)
    (said,) = step(hold, drains, 100.9)
    assert isinstance(said, Say)
    assert "ends its sessions in 30 s" in said.text
    assert step(hold, Ended("a"), 101.0) == [Detach("a"), Move()]
    assert step(hold, Renewed(TTL_S, 101.1, draining=True), 101.2) == [Move()]


EVENTS = st.one_of(
    st.just(Tick()),
    st.builds(NotRenewed, st.just("no answer"), st.booleans()),
    st.booleans().map(lambda draining: Renewed(TTL_S, -1.0, draining)),
    st.sampled_from("abc").map(Attached),
    st.just(NotAttached("full")),
    st.sampled_from("abc").map(lambda name: NotOffered(name, "full")),
    st.sampled_from("abc").map(Taken),
    st.sampled_from("abc").map(Ended),
    st.just(Detached()),
)


@given(st.lists(st.tuples(EVENTS, st.floats(0, 1.5))))
def test_whatever_comes(story: list[tuple[Event, float]]) -> None:
    """(2) one session ahead, and one Renew, Attach and loss at a time."""
    hold, now_s = held(TTL_S, 0.0, 0.0), 0.0
    attaching = renewing = False
    lost = 0
    for event, wait_s in story:
        now_s += wait_s
        # An answer comes only to what was asked.
        if isinstance(event, Attached | NotAttached):
            if not attaching:
                continue
            attaching = False
        if isinstance(event, Renewed | NotRenewed):
            if not renewing:
                continue
            renewing = False
        draining = isinstance(event, Renewed) and event.draining
        heard = Renewed(TTL_S, now_s, draining) if isinstance(event, Renewed) else event
        for action in step(hold, heard, now_s):
            assert not (lost and not isinstance(action, Detach))
            if isinstance(action, Attach):
                assert not attaching
                assert not hold.offered
                attaching = True
            if isinstance(action, Renew):
                assert not renewing
                renewing = True
                assert 0 < action.timeout_s <= TTL_S
            lost += isinstance(action, Lose)
        assert len(hold.offered) <= 1
        assert lost == hold.over
        assert hold.over or next_s(hold) <= hold.expires_s
