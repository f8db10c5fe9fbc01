# SPDX-License-Identifier: Apache-2.0
"""Who is above its limit by memory nobody leased: refused, given time, then the offender alone."""

from __future__ import annotations

from harp.daemon.overdraft import Charge, Overdrafts, step

GRACE = 30.0
LIMIT = 1000


def charge(leased: int, *, limit: int = LIMIT, **counted: int) -> Charge:
    return Charge(7, "GPU-a", limit, leased, {int(k[1:]): v for k, v in counted.items()})


def play(*looks: tuple[float, Charge]) -> list[tuple[float, int]]:
    """(when, client) of those to end."""
    state, ended = Overdrafts(), []
    for now, one in looks:
        state, offenders = step(state, [one], now, GRACE)
        ended += [(now, o.client_id) for o in offenders]
    return ended


WITHIN = charge(900, c1=50)
ABOVE = charge(900, c1=150, c2=20)


def test_who_stays_above_its_limit_loses_the_process_that_holds_most() -> None:
    assert play((0, WITHIN), (1, ABOVE), (30, ABOVE), (31, ABOVE)) == [(31, 1)]


def test_the_next_one_has_a_time_of_grace_of_its_own() -> None:
    left = charge(900, c2=120)
    assert play((0, WITHIN), (1, ABOVE), (31, ABOVE), (32, left), (60, left), (61, left)) == [
        (31, 1),
        (61, 2),
    ]


def test_who_goes_back_below_in_time_is_left_alone() -> None:
    assert play((0, WITHIN), (1, ABOVE), (20, WITHIN), (21, ABOVE), (40, ABOVE)) == []


def test_a_lowered_limit_costs_nobody_its_life() -> None:
    low = charge(900, limit=500, c1=50)
    between = charge(480, limit=500, c1=50)
    assert play((0, WITHIN), (1, low), (100, low), (200, between), (300, between)) == []
    freed = charge(400, limit=500, c1=50)
    assert play((0, WITHIN), (1, low), (2, freed), (3, between), (33, between)) == [(33, 1)]
    unlimited = charge(900, limit=0, c1=500)
    assert play((0, unlimited), (1, charge(900, limit=1000, c1=500)), (99, ABOVE)) == []


def test_leases_above_the_limit_are_nobodys_offence() -> None:
    """They were granted: only the limit can have gone."""
    lease = charge(1200, c1=50)
    assert play((0, WITHIN), (1, lease), (100, lease)) == []


def test_who_was_above_when_harpd_came_is_excused() -> None:
    assert play((0, ABOVE), (100, ABOVE)) == []
    assert play((0, ABOVE), (1, WITHIN), (2, ABOVE), (32, ABOVE)) == [(32, 1)]


def test_without_a_limit_nobody_is_above_it() -> None:
    free = charge(10**12, limit=0, c1=10**9)
    assert free.over_bytes == 0
    assert play((0, free), (100, free)) == []
