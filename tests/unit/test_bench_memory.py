# SPDX-License-Identifier: Apache-2.0
"""`harp bench memory`: what makes it fail, and what its figures are of."""

from __future__ import annotations

import dataclasses
import json

import pytest

from harp.bench.memory_figures import Calls, MemoryOutcome, Race, Start
from tests.bench import tables

MIB = 1 << 20

RACE = Race(
    processes=8,
    limit_bytes=256 * MIB,
    peak_bytes=256 * MIB,
    allocated=1000,
    denied=10,
    wrong_codes=0,
    samples=2000,
    hz=400.0,
    longest_gap_ms=9.0,
)
CONTROL = dataclasses.replace(RACE, peak_bytes=300 * MIB, denied=0)


def start(processes: int, at_once: int, added_ms: float) -> Start:
    bare = tuple(1 + i / 100 for i in range(100))
    harp = tuple(ms + added_ms for ms in bare)
    wall = processes * 1.0
    return Start(processes, at_once, bare, harp, wall, wall + processes * added_ms, 50.0)


def outcome(**changes: object) -> MemoryOutcome:
    race = dataclasses.replace(RACE, **changes)  # type: ignore[arg-type]
    calls = [Calls(0, 100, 10, 20, 10.5, 22), Calls(500, 100, 10, 20, 10.7, 21)]
    starts = [start(1, 1, 0.25), start(32, 32, 0.25), start(256, 2, 1), start(64, 64, 0.25)]
    starts.append(start(256, 256, 0.5))
    return MemoryOutcome("tiny", calls, starts, [race], CONTROL)


def test_a_good_outcome_says_the_worst_of_its_cells() -> None:
    good = outcome()
    assert good.ok
    said = good.json(load_1min=0.5, label="software GPU")
    assert said["alloc_added_us_p50"] == pytest.approx(0.7)
    assert said["alloc_added_us_p99"] == pytest.approx(2)
    assert said["init_ms_p99_1"] == pytest.approx(0.25)
    assert said["init_ms_p99_256"] == pytest.approx(1)
    assert said["over_limit_bytes"] == 0
    assert said["growth_from_64"] == pytest.approx(2)
    missed = [t.figure for t in good.targets if not t.met]
    assert missed == ["growth_from_64"]
    json.dumps(said)


@pytest.mark.parametrize(
    ("changes", "figure"),
    [
        ({"peak_bytes": 258 * MIB}, "over_limit_bytes"),
        ({"wrong_codes": 1}, "wrong_codes"),
        ({"left_bytes": 2 * MIB}, "left_bytes"),
        ({"hz": 150.0}, "sample_ms"),
        ({"hz": 0.0}, "sample_ms"),
        ({"denied": 0}, "nobody_met_the_limit"),
        ({"peak_bytes": 60 * MIB}, "nobody_met_the_limit"),
    ],
    ids=str,
)
def test_what_makes_it_fail(changes: dict[str, object], figure: str) -> None:
    bad = outcome(**changes)
    assert not bad.ok
    assert [one.figure for one in bad.violations] == [figure]


def test_it_cannot_tell_if_the_limit_holds_without_harp() -> None:
    blind = outcome()
    blind.control = dataclasses.replace(CONTROL, peak_bytes=256 * MIB)
    assert not blind.can_tell
    assert not blind.ok
    blind.control = None
    assert not blind.ok


def test_late_starts_are_missed_targets_and_no_failure() -> None:
    slow = outcome()
    slow.starts[2] = start(256, 2, 6)
    assert slow.ok
    assert ("start.256.2-at-once", "added_ms_p99") in [
        (t.cell, t.figure) for t in slow.targets if not t.met
    ]


def test_the_readme_has_it_in_a_table() -> None:
    result = {
        "command": "harp bench memory --json",
        "date": "today",
        "result": outcome().json(load_1min=0.5, label="software GPU"),
    }
    lines = " ".join(tables.memory(result))
    assert "| alloc and free beside 500 | 10.00 µs | 0.70 µs | 1.00 µs | 100 |" in lines
    assert "8 processes: 0 bytes over in 2000 samples" in lines
    assert "44 MiB over, refused, as it must be." in lines
