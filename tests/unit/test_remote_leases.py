# SPDX-License-Identifier: Apache-2.0
"""Leases of remote GPUs: their life, whose they are, and what any order of events leaves true."""

from __future__ import annotations

import contextlib
import copy
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harp.errors import (
    ConfigError,
    HarpError,
    NodeDraining,
    QuotaExceeded,
    Unauthenticated,
    UnknownLease,
)
from harp.remote import leases as core
from harp.remote.events import (
    Action,
    Attach,
    Caller,
    Detach,
    Drain,
    End,
    Ended,
    Event,
    GiveBack,
    NodeState,
    Release,
    Renew,
    Start,
    Take,
    Tell,
    Tick,
)
from harp.remote.leases import Leases, check, digest, holder, next_s, step

ANN, BOB = Caller("ann"), Caller("bob")


def take(state: Leases, name: str = "l", owner: str = "ann", **more: float) -> None:
    step(state, Take(name, owner, digest(f"{name}.secret"), **more), more.pop("at", 0.0))  # type: ignore[arg-type]


def attach(state: Leases, session: str, now_s: float = 0.0, lease: str = "l") -> list[Action]:
    return step(state, Attach(ANN, lease, session, digest(session)), now_s)


def test_a_lease_that_is_renewed_stays_and_one_that_is_not_goes_with_its_sessions() -> None:
    state = Leases()
    take(state)
    attach(state, "s")
    for now_s in (1.0, 2.9, 4.8):
        assert step(state, Renew(ANN, "l"), now_s) == []
    assert next_s(state) == pytest.approx(6.8)
    assert step(state, Tick(), 6.7) == []
    ended, given = step(state, Tick(), 6.8)
    assert isinstance(ended, End)
    assert ended.session.session_id == "s"
    assert "not renewed" in ended.reason
    assert given == GiveBack("l")
    with pytest.raises(UnknownLease):
        step(state, Renew(ANN, "l"), 6.8)
    assert next_s(state) == math.inf


def test_a_renewal_that_comes_late_is_refused_and_loses_no_action() -> None:
    state = Leases()
    take(state)
    attach(state, "s")
    with pytest.raises(UnknownLease, match="not renewed in time"):
        step(state, Renew(ANN, "l"), 2.0)
    assert [type(a) for a in step(state, Tick(), 2.0)] == [End, GiveBack]


@pytest.mark.parametrize("ttl_s", [-1.0, 0.1, 60.001, math.inf, math.nan])
def test_a_ttl_out_of_range_is_refused(ttl_s: float) -> None:
    with pytest.raises(ConfigError, match="ttl_s") as refused:
        take(Leases(), ttl_s=ttl_s)
    assert "200ms to 1min" in refused.value.hint


@pytest.mark.parametrize("ttl_s", [0.0, 0.2, 60.0])
def test_a_ttl_in_range_is_taken(ttl_s: float) -> None:
    state = Leases()
    take(state, ttl_s=ttl_s)
    assert next_s(state) == (ttl_s or 2.0)


def test_to_others_a_lease_does_not_exist() -> None:
    state = Leases()
    take(state)
    attach(state, "s")
    said = set()
    for caller in (BOB, Caller("ann", "another")):
        for event in (
            Renew(caller, "l"),
            Release(caller, "l"),
            Attach(caller, "l", "t", digest("t")),
        ):
            with pytest.raises(UnknownLease) as refused:
                step(state, event, 0.1)
            said.add(refused.value.message)
        assert step(state, Detach(caller, "s"), 0.1) == []
    with pytest.raises(UnknownLease) as never:
        step(state, Renew(BOB, "never"), 0.1)
    # What is another's is told apart from what never was by no word.
    assert {m.replace("'l'", "'never'") for m in said} == {never.value.message}
    assert [s.session_id for s in state.sessions()] == ["s"]


def test_a_token_stands_for_its_lease_alone_and_is_not_kept() -> None:
    state = Leases()
    take(state)
    take(state, "m")
    token = holder(state, "l.secret", 1.0)
    assert token == Caller("ann", "l")
    assert step(state, Renew(token, "l"), 1.0) == []
    with pytest.raises(UnknownLease):
        step(state, Renew(token, "m"), 1.0)
    for guess in ("l.secreT", "m.secret.", "l.", "l", "", ".", "x.secret"):
        with pytest.raises(Unauthenticated):
            holder(state, guess, 1.0)
    with pytest.raises(Unauthenticated, match="run out"):
        holder(state, "l.secret", 3.0)
    assert "secret" not in repr(state)


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def compare(left: bytes, right: bytes) -> bool:
        seen.append(len(left))
        return left == right

    monkeypatch.setattr(core.hmac, "compare_digest", compare)
    state = Leases()
    take(state)
    holder(state, "l.secret", 0.0)
    for guess in ("l.guess", "nobody.guess"):
        with pytest.raises(Unauthenticated):
            holder(state, guess, 0.0)
    assert seen == [32, 32, 32]


def test_sessions_are_counted() -> None:
    state = Leases()
    take(state, max_sessions=2)
    assert isinstance(attach(state, "a")[0], Start)
    attach(state, "b")
    with pytest.raises(QuotaExceeded, match="2 sessions"):
        attach(state, "c")
    (ended,) = step(state, Detach(ANN, "a"), 0.1)
    assert isinstance(ended, End)
    attach(state, "c", 0.1)
    assert step(state, Detach(ANN, "a"), 0.1) == []
    (ended,) = step(state, Ended("b"), 0.1)
    assert isinstance(ended, End)
    assert step(state, Ended("b"), 0.1) == []
    assert {s.session_id for s in state.sessions()} == {"c"}


def test_sixteen_sessions_unless_asked_otherwise() -> None:
    state = Leases()
    take(state)
    assert state.leases["l"].max_sessions == 16
    with pytest.raises(ConfigError, match="max_sessions"):
        take(state, "m", max_sessions=257)


def test_one_owner_cannot_have_all_leases() -> None:
    state = Leases()
    for number in range(64):
        take(state, f"l{number}")
    with pytest.raises(QuotaExceeded, match="64 leases"):
        take(state, "more")
    take(state, "other", "bob")
    # Those that have run out do not count, though nobody has looked since.
    step(state, Take("later", "ann", digest("x")), 2.0)


def test_one_owner_cannot_have_all_sessions() -> None:
    """harp-link has places for 256 connections, whoever they are."""
    state = Leases()
    take(state, max_sessions=256)
    take(state, "m", max_sessions=256)
    take(state, "b", "bob", max_sessions=256)
    for number in range(191):
        attach(state, f"s{number}", lease="lm"[number % 2])
    attach(state, "s191")
    with pytest.raises(QuotaExceeded, match=r"ann has 192 of this node's 192 sessions.* 128"):
        attach(state, "more", lease="m")
    for number in range(64):
        step(state, Attach(BOB, "b", f"b{number}", b""), 0.0)
    for number in range(64):
        step(state, Detach(ANN, f"s{number}"), 0.0)
    with pytest.raises(QuotaExceeded, match="ann has 128"):
        attach(state, "more")
    step(state, Detach(ANN, "s64"), 0.0)
    attach(state, "more")
    # Those that have run out do not count, though nobody has looked since.
    take(state, "late", ttl_s=60.0)
    step(state, Attach(ANN, "late", "late", b""), 2.0)


def test_release_ends_the_sessions_before_the_room_goes_to_others() -> None:
    state = Leases()
    take(state)
    attach(state, "a")
    attach(state, "b")
    actions = step(state, Release(ANN, "l"), 0.5)
    assert [type(a) for a in actions] == [End, End, GiveBack]
    assert state.leases == {}


def test_what_would_be_refused_is_refused_before_anything_is_done() -> None:
    state = Leases()
    take(state)
    for event, kind in (
        (Take("m", "ann", b"", ttl_s=99.0), ConfigError),
        (Renew(BOB, "l"), UnknownLease),
        (Renew(ANN, "l"), None),
        (Take("m", "ann", b""), None),
    ):
        before = copy.deepcopy(state)
        with pytest.raises(kind) if kind else contextlib.nullcontext():
            check(state, event, 0.1)
        assert state == before
    with pytest.raises(UnknownLease):
        check(state, Renew(ANN, "l"), 1000.0)  # over, and not yet seen to be
    assert "l" in state.leases


def test_a_draining_node_takes_nobody_and_ends_those_there_by_the_deadline() -> None:
    state = Leases()
    take(state, ttl_s=60.0)
    attach(state, "s")
    (told,) = step(state, Drain(5.0), 1.0)
    assert isinstance(told, Tell)
    assert (told.session.session_id, told.drain_s) == ("s", 5.0)
    for event in (Take("m", "ann", b""), Attach(ANN, "l", "t", b"")):
        with pytest.raises(NodeDraining):
            step(state, event, 1.0)
    assert step(state, Renew(ANN, "l"), 5.0) == []
    assert state.leases["l"].expires_s == 6.0  # not beyond the deadline
    assert state.drain_s(5.0) == 1.0
    ended, given = step(state, Tick(), 6.0)
    assert isinstance(ended, End)
    assert "drained" in ended.reason
    assert given == GiveBack("l")


def test_draining_without_a_deadline_ends_nobody_and_can_be_stopped() -> None:
    state = Leases()
    take(state, ttl_s=60.0)
    attach(state, "s")
    assert [type(a) for a in step(state, Drain(0.0), 1.0)] == [Tell]
    for now_s in (50.0, 100.0, 150.0):
        assert step(state, Renew(ANN, "l"), now_s) == []
    assert state.drain_s(150.0) == 0
    assert step(state, Drain(0.0, stop=True), 151.0) == []
    assert state.state is NodeState.READY
    attach(state, "t", 151.0)


def test_a_drain_that_is_stopped_gives_the_leases_their_time_back() -> None:
    state = Leases()
    take(state, ttl_s=60.0)
    step(state, Drain(5.0), 0.0)
    step(state, Drain(0.0, stop=True), 1.0)
    step(state, Renew(ANN, "l"), 2.0)
    assert state.leases["l"].expires_s == 62.0


@pytest.mark.parametrize("deadline_s", [-1.0, math.nan, math.inf, 86_401.0])
def test_a_deadline_out_of_range_changes_nothing(deadline_s: float) -> None:
    state = Leases()
    with pytest.raises(ConfigError, match="deadline_s"):
        step(state, Drain(deadline_s), 0.0)
    assert state == Leases()


NAMES = st.sampled_from("abc")
OWNERS = st.sampled_from([ANN, BOB, Caller("ann", "a")])
EVENTS = st.one_of(
    st.builds(
        Take,
        NAMES,
        st.sampled_from(["ann", "bob"]),
        st.just(digest("x")),
        ttl_s=st.sampled_from([0.0, 0.5, 60.0, 99.0]),
        max_sessions=st.sampled_from([0, 1, 2]),
    ),
    st.builds(Renew, OWNERS, NAMES),
    st.builds(Release, OWNERS, NAMES),
    st.builds(Attach, OWNERS, NAMES, st.sampled_from("rstuvw"), st.just(b"")),
    st.builds(Detach, OWNERS, st.sampled_from("rstuvw")),
    st.builds(Ended, st.sampled_from("rstuvw")),
    st.builds(Drain, st.sampled_from([0.0, 1.0]), stop=st.booleans()),
    st.just(Tick()),
)
STEPS = st.lists(st.tuples(EVENTS, st.sampled_from([0.0, 0.1, 0.5, 3.0])), max_size=60)


@settings(max_examples=300)
@given(STEPS)
def test_whatever_happens_the_invariants_hold(steps: list[tuple[Event, float]]) -> None:
    state = Leases()
    now_s = 0.0
    running: set[str] = set()
    taken: set[str] = set()
    for event, later_s in steps:
        now_s += later_s
        # Names are unique in use: a rim that mints them never offers one twice.
        if isinstance(event, Take) and event.lease_id in taken:
            continue
        if isinstance(event, Attach) and event.session_id in running:
            continue
        before = repr(state)
        try:
            actions = step(state, event, now_s)
        except HarpError:
            assert repr(state) == before
            continue
        if isinstance(event, Take):
            taken.add(event.lease_id)
        for action in actions:
            match action:
                case Start():
                    assert action.session.session_id not in running
                    running.add(action.session.session_id)
                case End():
                    running.remove(action.session.session_id)
                case GiveBack():
                    taken.remove(action.lease_id)
                    assert not any(
                        isinstance(a, End) and a.session.lease_id == action.lease_id
                        for a in actions[actions.index(action) :]
                    )
                case Tell():
                    assert action.session.session_id in running
        assert {s.session_id for s in state.sessions()} == running
        assert set(state.leases) == taken
        for lease in state.leases.values():
            assert len(lease.sessions) <= lease.max_sessions
            assert lease.expires_s > now_s
            assert lease.expires_s <= min(now_s + 60.0, state.drained_s)
            assert all(s.lease_id == lease.lease_id for s in lease.sessions.values())
    step(state, Tick(), now_s + 61.0)
    assert state.leases == {}
