# SPDX-License-Identifier: Apache-2.0
"""`harp bench remote`: what makes it fail, what its figures are of, how small its baseline is."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from harp.bench.remote_figures import Compared, Counted, RemoteOutcome, Step, mismatches
from harp.bench.remote_path import Counts, Halves
from tests.bench import tables

ROOT = Path(__file__).resolve().parents[2]
#: of a baseline, without its heading, includes and blank lines
RAW_LINES = 40


def runs(us: float, slower: float = 1.0, n: int = 3) -> tuple[tuple[int, ...], ...]:
    """Runs of 100 rounds; the last round of each is ten times slower, each run by 1 us."""
    return tuple(
        (*(int(1000 * (us * slower + i)) for _ in range(99)), int(10_000 * us)) for i in range(n)
    )


def compared(name: str, ratio: float) -> Compared:
    return Compared(name, runs(100), runs(100, ratio))


def outcome() -> RemoteOutcome:
    names = {"rtt": 1.5, "shm": 0.4, "bulk": 1.05, "rtt_tls": 2.0, "bulk_tls": 1.1}
    return RemoteOutcome(
        compared=[compared(name, ratio) for name, ratio in names.items()],
        async_us=[0.5, 0.6, 0.9],
        trips=[1, 1, 1],
        strict_trips=1001,
        frame_bytes=(40, 30),
        init_ms=[5.0, 6.0, 30.0],
        init_plain_ms=[4.0],
        init_local_ms=[1.0],
        first_module_bytes=4 << 20,
        second_module_bytes=100,
        module_bytes=4 << 20,
        back_s=[0.1, 0.2],
        steps=[
            Step("tinygrad", delay_ms, (10.0, 11.0, 12.0), (11.0, 12.0, 13.0), 400.0)
            for delay_ms in (0.0, 0.2, 1.0)
        ],
    )


def test_figures_are_medians_and_worst_cases() -> None:
    good = outcome()
    assert good.ok
    assert [t.figure for t in good.targets if not t.met] == []
    said = good.json(load_1min=0.5, label="software GPU")
    assert said["rtt_ratio"] == pytest.approx(1.5, rel=0.01)
    assert said["rtt_p99_ratio"] == pytest.approx(1.5, rel=0.01)
    assert said["bulk_ratio"] == pytest.approx(1 / 1.05, rel=0.01)  # of throughput, not of time
    assert said["async_us"] == 0.6
    assert said["init_ms"] == 6.0
    assert said["back_s"] == 0.2
    assert said["step_ratio_0.2ms"] == pytest.approx(12 / 11, abs=1e-3)
    json.dumps(said)


def test_ratios_are_of_neighbouring_runs() -> None:
    """A host that becomes slower half-way does not change them."""
    raw = runs(100, n=2) + runs(300, n=2)
    ours = runs(150, n=2) + runs(450, n=2)
    one = Compared("rtt", raw, ours)
    assert one.ratio() == pytest.approx(1.5, rel=0.02)
    assert one.raw_spread == pytest.approx(3, rel=0.02)


@pytest.mark.parametrize(
    ("figure", "changes"),
    [
        ("rtt_ratio", {"rtt": 1.7}),
        ("rtt_tls_ratio", {"rtt_tls": 2.2}),
        ("shm_ratio", {"shm": 0.6}),
        ("bulk_ratio", {"bulk": 1.2}),
        ("bulk_tls_ratio", {"bulk_tls": 1.25}),
    ],
)
def test_a_ratio_beyond_its_limit_is_missed(figure: str, changes: dict[str, float]) -> None:
    worse = outcome()
    worse.compared = [
        compared(one.name, changes[one.name]) if one.name in changes else one
        for one in worse.compared
    ]
    assert [t.figure for t in worse.targets if not t.met] == [figure]
    assert worse.ok  # the figures are not good, but to be believed


@pytest.mark.parametrize(
    ("figure", "changes"),
    [
        ("async_us", {"async_us": [2.5]}),
        ("launches_1000_rt", {"trips": [1, 2, 1]}),
        ("init_ms", {"init_ms": [11.0]}),
        ("back_s", {"back_s": [0.1, 3.5]}),
        ("second_module_bytes", {"second_module_bytes": 4 << 20}),
        ("step_ratio_0.2ms", {"steps": [Step("c", 0.2, (10.0,), (14.0,), 400.0)]}),
    ],
)
def test_a_figure_beyond_its_limit_is_missed(figure: str, changes: dict[str, object]) -> None:
    worse = dataclasses.replace(outcome(), **changes)  # type: ignore[arg-type]
    assert [t.figure for t in worse.targets if not t.met] == [figure]


@pytest.mark.parametrize("delay_ms", [0.0, 1.0])
def test_only_one_delay_is_judged(delay_ms: float) -> None:
    slow = dataclasses.replace(outcome(), steps=[Step("c", delay_ms, (10.0,), (90.0,), 400.0)])
    assert all(t.met for t in slow.targets)
    assert slow.figures[f"step_ratio_{delay_ms:g}ms"] == 9


@pytest.mark.parametrize(
    "changes",
    [
        {"strict_trips": 1},  # the counter does not count
        {"first_module_bytes": 0},  # nor does the relay
    ],
)
def test_what_cannot_tell_is_not_believed(changes: dict[str, int]) -> None:
    blind = dataclasses.replace(outcome(), **changes)  # type: ignore[arg-type]
    assert not blind.can_tell
    assert not blind.ok


def test_a_busy_host_is_not_believed() -> None:
    busy = outcome()
    busy.compared[0] = Compared("rtt", runs(100, n=2) + runs(250, n=1), runs(150))
    (violation,) = busy.violations
    assert (violation.cell, violation.figure) == ("rtt", "raw_spread")
    assert not busy.ok


def test_a_step_that_is_slower_here_now_and_then_is_not_believed() -> None:
    busy = outcome()
    busy.steps[1] = Step("tinygrad", 0.2, (25.0,), (26.0,), 400.0)
    (violation,) = busy.violations
    assert (violation.cell, violation.figure) == ("steps", "local_spread")
    assert not busy.ok


def test_other_counts_are_named() -> None:
    asked = Counted(syncs=10, launches=5, copied_bytes=4096, sum=7)
    assert mismatches(asked, asked) == []
    for name in ("syncs", "launches", "copied_bytes", "sum"):
        (said,) = mismatches(asked, dataclasses.replace(asked, **{name: 1}))
        assert said.startswith(f"{name}: ")


def test_counts_are_in_the_drivers_order() -> None:
    header = (ROOT / "native/bench/counting.h").read_text()
    fields = re.search(r"struct counts \{\s*uint64_t ([^;]+);", header)
    assert fields is not None
    names = [name.strip() for name in fields[1].split(",")]
    assert names == [f.name for f in dataclasses.fields(Counts)]


def test_a_half_is_where_it_runs() -> None:
    cpus = Halves((0, 1), (2, 3))
    assert cpus.command(["x"]) == ["taskset", "-c", "0,1", "x"]
    assert cpus.command(["x"], far=True) == ["taskset", "-c", "2,3", "x"]


@pytest.mark.parametrize("name", ["raw_tcp.c", "raw_tls.c"])
def test_the_baseline_stays_small_enough_to_be_read(name: str) -> None:
    lines = (ROOT / "native/bench" / name).read_text().splitlines()
    code = [line for line in lines if line and not line.startswith(("/*", " *", "#include"))]
    assert len(code) <= RAW_LINES


def test_the_readme_says_what_was_missed_and_not_run() -> None:
    found = dataclasses.replace(outcome(), init_ms=[11.0], steps=[], not_run=["no tc"])
    taken = {
        "bench": "remote",
        "command": "harp bench remote --json",
        "date": "2026-01-01",
        "result": found.json(load_1min=0.5, label="x"),
    }
    text = "\n".join(tables.remote(taken))
    assert "remote: init_ms 11.000, held to 10" in text
    assert "Not run: no tc." in text
    assert "| a call that waits, TCP | 101.0 µs | 151.0 µs |" in text
