# SPDX-License-Identifier: Apache-2.0
"""What sessions carry, by what harp-link says of them."""

from __future__ import annotations

import pytest

from harp.metrics import Carried, RemoteSeen, remote_samples
from harp.metrics.families import Distribution
from harp.metrics.remote import LEASE_SENT, ROUND_TRIP, ROUND_TRIP_S
from harp.remote.traffic import Traffic


def test_a_session_says_totals_and_they_add_up_over_sessions() -> None:
    traffic = Traffic()
    for words in ("a 10 1 0", "b 5 5 0", "a 30 2 0", "a 30 2 0"):
        assert traffic.heard(words)
    assert traffic.seen().carried == Carried(35, 7)
    traffic.ended("a")
    assert traffic.heard("c 1 1 0")
    assert traffic.seen().carried == Carried(36, 8)
    for session in ("b", "c"):
        traffic.ended(session)
    assert not traffic._sessions, "nothing is kept of those that ended"


def test_a_lease_has_what_its_sessions_carried_until_it_ends() -> None:
    traffic = Traffic()
    traffic.begin("a", "train", {"train"})
    traffic.heard("a 10 1 0")
    traffic.ended("a")
    traffic.begin("b", "train", {"train", "play"})
    traffic.begin("c", "play", {"train", "play"})
    traffic.heard("b 10 2 0")
    traffic.heard("c 1 1 0")
    both = {"train": Carried(20, 3), "play": Carried(1, 1)}
    assert traffic.seen({"train", "play"}).by_tenant == both
    assert traffic.seen({"play"}).by_tenant == {"play": Carried(1, 1)}
    traffic.begin("d", "play", {"play"})
    assert traffic.seen({"train", "play"}).by_tenant == {"play": Carried(1, 1)}
    assert traffic.seen().carried == Carried(21, 4)


def test_what_a_session_of_a_lease_that_is_over_still_says_is_in_the_sum() -> None:
    traffic = Traffic()
    traffic.begin("a", "train", {"train"})
    traffic.begin("b", "play", {"play"})
    traffic.heard("a 10 1 0")
    seen = traffic.seen({"play"})
    assert (seen.carried, seen.by_tenant) == (Carried(10, 1), {"play": Carried()})


@pytest.mark.parametrize("words", ["", "a", "a 1 2", "a 1 2 3 4", "a 1 -2 3", "a 1 x 3", "a ² 1 1"])
def test_what_is_no_such_line_counts_nowhere(words: str) -> None:
    traffic = Traffic()
    assert not traffic.heard(words)
    assert traffic.seen().carried == Carried()


def test_bytes_never_go_back() -> None:
    traffic = Traffic()
    traffic.heard("a 10 10 0")
    assert not traffic.heard("a 9 20 0")
    assert not traffic.heard("a 20 9 0")
    assert traffic.seen().carried == Carried(10, 10)


def test_round_trips_are_a_histogram_and_an_unknown_one_is_none() -> None:
    traffic = Traffic()
    for number, rtt_us in enumerate((50, 51, 0, 1000, 2_000_000)):
        traffic.heard(f"a {number} 1 {rtt_us}")
    seen = RemoteSeen(traffic=traffic.seen())
    (value,) = (s.value for s in remote_samples(seen) if s.family is ROUND_TRIP)
    assert isinstance(value, Distribution)
    assert value.total == pytest.approx(2.001101)
    by_bound = dict(zip((*ROUND_TRIP_S, float("inf")), value.counts, strict=True))
    assert [by_bound[b] for b in (0.00005, 0.0001, 0.0005, 0.001, 1, float("inf"))] == [
        *(1, 2, 2, 3, 3, 4)
    ]


def test_a_leases_series_have_its_tenants_name() -> None:
    traffic = Traffic()
    traffic.begin("a", "train-0123", {"train-0123"})
    traffic.heard("a 1 7 0")
    told = remote_samples(RemoteSeen(traffic=traffic.seen({"train-0123"})))
    assert [(s.labels, s.value) for s in told if s.family is LEASE_SENT] == [(("train-0123",), 7)]
