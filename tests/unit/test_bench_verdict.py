# SPDX-License-Identifier: Apache-2.0
"""The benches' verdict: what must fail does, and each failure names cell, figure and limit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harp.bench.cells import CASES, Cell, Plan, every_cell, plan
from harp.bench.figures import Measured
from harp.bench.share import ShareOutcome
from harp.bench.verdict import Case, control_fails, judge, targets, violations
from harp.errors import ConfigError

CELL = Cell((30, 70))
RIGHT = (0.3, 0.7)


def run(
    achieved: tuple[float, ...] = RIGHT,
    charged: tuple[float, ...] | None = RIGHT,
    counted: tuple[float, ...] | None = RIGHT,
    *,
    errors_pp: tuple[float, ...] = (0.1, 0.2),
    busy: float = 0.98,
    overrun: float = 0.0,
    arbiter: float | None = 0.01,
) -> Measured:
    return Measured(achieved, charged, counted, errors_pp, busy, overrun, 1.0, arbiter)


def case(cell: Cell = CELL, *runs: Measured, native: float = 0.98) -> Case:
    return judge(cell, list(runs) or [run()], [run(busy=native, charged=None)])


def figures(found: Case) -> list[str]:
    return [violation.figure for violation in violations(found)]


def test_a_right_cell_is_good() -> None:
    assert violations(case()) == []
    assert all(target.met for target in targets(case()))


def test_a_share_that_is_not_kept_fails() -> None:
    off = (0.325, 0.675)
    found = violations(case(CELL, run(off, off, off)))
    assert [one.figure for one in found] == ["achieved_off_pp", "charged_off_pp", "counted_off_pp"]
    assert found[0].cell == CELL.name
    assert found[0].value == pytest.approx(2.5)
    assert found[0].limit == 2
    assert CELL.name in str(found[0])


def test_a_wrong_meter_fails() -> None:
    assert figures(case(CELL, run(charged=(0.33, 0.67)))) == ["charged_off_pp", "meter_error_pp"]


def test_a_meter_that_stands_still_fails() -> None:
    assert figures(case(CELL, run(charged=(0.0, 0.0)))) == ["charged_off_pp", "meter_error_pp"]


def test_no_meter_at_all_fails() -> None:
    assert figures(case(CELL, run(charged=None))) == ["charged_off_pp", "meter_error_pp"]


def test_a_lying_client_fails() -> None:
    assert figures(case(CELL, run(counted=(0.35, 0.65)))) == ["counted_off_pp", "client_error_pp"]


def test_books_may_not_be_apart_on_two_sides_of_what_was_asked() -> None:
    found = figures(case(CELL, run((0.285, 0.715), (0.315, 0.685), (0.3, 0.7))))
    assert found == ["meter_error_pp"]


def test_a_host_that_is_too_slow_fails() -> None:
    assert figures(case(CELL, run(overrun=0.021))) == ["overrun_ratio"]
    slow = judge(CELL, [run()], [run(overrun=0.5, charged=None)])
    assert figures(slow) == ["overrun_ratio"]


def test_a_program_that_does_not_count_is_judged_by_the_other_books() -> None:
    assert figures(case(CELL, run(counted=None))) == []


def test_not_a_number_is_not_good() -> None:
    nan = float("nan")
    assert "achieved_off_pp" in figures(case(CELL, run((nan, nan))))


def test_long_kernels_have_three_points() -> None:
    long = Cell((30, 70), (50_000,))
    off = (0.328, 0.672)
    assert figures(case(long, run(off, off, off))) == []
    off = (0.331, 0.669)
    assert "achieved_off_pp" in figures(case(long, run(off, off, off)))


def test_a_control_is_judged_by_the_same_rule() -> None:
    equal = run((0.5, 0.5), None)
    assert control_fails(CELL, equal)
    assert not control_fails(Cell((50, 50)), equal)
    assert not control_fails(CELL, run())


def outcome(**more: object) -> ShareOutcome:
    return ShareOutcome(cases=[case()], can_tell=True, **more)  # type: ignore[arg-type]


def test_the_bench_fails_when_it_cannot_tell() -> None:
    found = outcome()
    assert found.ok
    found.can_tell = False
    assert not found.ok
    found.can_tell = None  # equal shares alone: there was nothing to notice
    assert found.ok


def test_the_bench_fails_when_nothing_was_measured() -> None:
    assert not ShareOutcome(can_tell=True).ok


def test_a_cell_that_broke_fails_all() -> None:
    assert not outcome(failed=["sync: a client ended with 1"]).ok


def test_one_wrong_cell_fails_all_and_is_the_worst() -> None:
    off = (0.34, 0.66)
    wrong = case(Cell((30, 70), (10,)), run(off, off, off))
    found = outcome()
    found.cases.append(wrong)
    assert not found.ok
    assert found.worst is wrong
    said = found.json(Plan((CELL,), 1, 1, ()))
    assert said["worst"] == wrong.cell.name
    assert said["worst_figure"] == "achieved_off_pp"
    assert said["ok"] is False
    assert "not evidence for hardware" in str(said["label"])


def test_a_wrong_meter_is_worse_than_a_share_within_limits() -> None:
    meter = case(Cell((10, 90)), run((0.1, 0.9), (0.15, 0.85), (0.1, 0.9)))
    share = case(CELL, run((0.315, 0.685), (0.315, 0.685), (0.315, 0.685)))
    assert ShareOutcome(cases=[share, meter]).worst is meter
    nan = case(CELL, run((float("nan"),) * 2))
    assert ShareOutcome(cases=[nan, meter]).worst is nan


def test_medians_over_runs_and_the_worst_overrun() -> None:
    runs = [run((0.2, 0.8), overrun=0.5), run((0.3, 0.7)), run((0.31, 0.69), errors_pp=(9.0,))]
    found = case(CELL, *runs)
    assert found.achieved == (0.3, 0.7)
    assert found.mean_error_pp == pytest.approx(0.15)
    assert found.spread["mean_error_pp"] == pytest.approx([0.15, 9])
    assert found.overrun_ratio == 0.5
    assert found.repeat == 3


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        (case(CELL, run(errors_pp=(0.6,))), ["mean_error_pp"]),
        (case(CELL, run(errors_pp=(0.0,) * 9 + (1.6,))), ["p95_error_pp"]),
        (case(CELL, run(busy=0.94)), ["aggregate_ratio"]),
        (case(Cell((50,)), run((1.0,), (1.0,), (1.0,), busy=0.965)), ["aggregate_ratio"]),
        (case(Cell((6,) * 16), run((1 / 16,) * 16, arbiter=0.03)), ["arbiter_cpu_ratio"]),
        (case(Cell((30, 70), (50_000,)), run((0.34, 0.66))), ["achieved_off_pp"]),
    ],
)
def test_stricter_figures_are_said_and_decide_nothing(found: Case, missed: list[str]) -> None:
    assert [target.figure for target in targets(found) if not target.met] == missed


def test_a_case_says_what_was_agreed() -> None:
    agreed = {
        "name",
        "requested",
        "achieved",
        "meter_error_pp",
        "client_error_pp",
        "mean_error_pp",
        "p95_error_pp",
        "aggregate_ratio",
    }
    assert agreed <= set(case().json())


def test_cells_are_all_there_and_have_names_of_their_own() -> None:
    cells = every_cell()
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names)
    assert len({replace(cell, label="") for cell in cells}) == len(cells)
    settings = {
        (c.slice_us, c.switch_us, c.kernels_us)
        for c in cells
        if (c.shares, c.mode, c.processes) == ((30, 70), "saturate", (1,))
    }
    assert {
        (slice_us, switch, (kernel,))
        for slice_us in (1000, 2000, 6000)
        for switch in (20, 100, 300)
        for kernel in (10, 200, 1000, 50_000)
    } <= settings
    asked = {cell.shares for cell in CASES}
    assert {(10, 90), (30, 70), (50, 50), (25,) * 4, (50,), (6,) * 16} <= asked
    assert {"saturate", "sync", "graph"} == {cell.mode for cell in CASES}
    assert any(max(cell.processes) > 1 for cell in CASES)
    assert Cell((25,) * 4).name == "saturate-4x25.200us.2000us.20us"


def test_shares_asked_for_add_up_and_can_be_promised() -> None:
    for cell in every_cell():
        assert sum(cell.requested) == pytest.approx(1)
        assert sum(cell.shares) <= 100


def test_cells_are_chosen_by_pattern() -> None:
    chosen = plan(["sync-*", "graph-*"], quick=False, seconds=None, repeat=None)
    assert {cell.mode for cell in chosen.cells} == {"sync", "graph"}
    assert (chosen.seconds, chosen.repeat) == (10, 3)
    with pytest.raises(ConfigError, match="no cell"):
        plan(["nosuch*"], quick=False, seconds=None, repeat=None)


def test_quick_has_a_budget_and_a_matrix_cell() -> None:
    chosen = plan([], quick=True, seconds=None, repeat=None)
    assert chosen.budget_s is not None
    assert chosen.budget_s < 50
    assert chosen.total_s <= chosen.budget_s
    assert any(cell.slice_us != 2000 for cell in chosen.cells)
    assert chosen.cells[0].is_unequal  # the controls run beside it


def test_all_of_it_is_said_to_take_long() -> None:
    assert plan([], quick=False, seconds=None, repeat=None).total_s > 1800
