# SPDX-License-Identifier: Apache-2.0
"""The verdict of `harp bench crash`: what is lost fails it, what is slow is said."""

from __future__ import annotations

from typing import Any

import pytest

from harp.bench.crash import CrashOutcome, Death

MS = 1_000_000


def death(detect_ms: int = 5, regrant_ms: int = 20, result: int = 0) -> Death:
    back = 1_000 * MS
    return Death(
        killed_ns=0,
        heard_ns=detect_ms * MS,
        back_ns=back,
        got_ns=back + regrant_ms * MS,
        result=result,
    )


def outcome(**changed: Any) -> CrashOutcome:
    good: dict[str, Any] = {
        "deaths": [death()],
        "upgrades": 10,
        "calls": 200_000,
        "longest_stall_ms": 50.0,
        "host_stall_ms": 5.0,
        "samples_per_s": 300.0,
    }
    return CrashOutcome(**{**good, **changed})


def test_a_good_one_is_good() -> None:
    found = outcome()
    assert found.ok
    assert all(target.met for target in found.targets)
    said = found.json()
    assert (said["detect_ms_p99"], said["regrant_ms_p99"]) == (5.0, 20.0)
    assert (said["software"], said["failed_calls"]) == (True, 0)


@pytest.mark.parametrize(
    ("figure", "changed"),
    [
        ("neighbour_oom", {"deaths": [death(), death(result=2)]}),
        ("failed_calls", {"failed_calls": 1}),
        ("over_limit_bytes", {"over_limit_bytes": 1}),
        ("samples_per_s_missing", {"samples_per_s": 199.0}),
        ("host_stall_ms", {"host_stall_ms": 501.0}),
    ],
)
def test_what_is_lost_or_not_to_be_believed_fails_it(figure: str, changed: dict[str, Any]) -> None:
    found = outcome(**changed)
    assert not found.ok
    assert [one.figure for one in found.violations] == [figure]


@pytest.mark.parametrize(
    ("figure", "changed"),
    [
        ("detect_ms_p99", {"deaths": [*[death()] * 50, death(detect_ms=101)]}),
        ("regrant_ms_p99", {"deaths": [*[death()] * 50, death(regrant_ms=101)]}),
        ("longest_stall_ms", {"longest_stall_ms": 1001.0}),
        ("upgrades", {"upgrades": 9}),
        ("calls", {"calls": 99_999}),
    ],
)
def test_what_is_slow_or_too_little_is_said(figure: str, changed: dict[str, Any]) -> None:
    found = outcome(**changed)
    assert found.ok
    assert [target.figure for target in found.targets if not target.met] == [figure]


def test_nothing_measured_is_not_good() -> None:
    assert not outcome(deaths=[]).violations
    assert not outcome(deaths=[]).ok
    assert not outcome(upgrades=0).ok


def test_an_heir_faster_than_the_samples_waited_for_nothing() -> None:
    assert Death(0, 1, 1_000 * MS, 999 * MS, 0).regrant_ms == 0
