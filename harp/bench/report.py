# SPDX-License-Identifier: Apache-2.0
"""What the benches say to people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from harp.bench.cells import Plan
from harp.bench.crash import CrashOutcome
from harp.bench.latency import LatencyOutcome
from harp.bench.machine import LABEL
from harp.bench.memory_figures import MemoryOutcome
from harp.bench.oversub_figures import OversubOutcome
from harp.bench.remote_figures import RemoteOutcome
from harp.bench.share import ShareOutcome
from harp.bench.verdict import Case, Target, Violation, worst_figure

__all__ = [
    "expected",
    "show_crash",
    "show_latency",
    "show_memory",
    "show_oversub",
    "show_share",
]


_LEAST_WIDTH = 120  #: names of cells are long, and not to be cut


def _console() -> Console:
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, _LEAST_WIDTH)
    return console


def expected(plan: Plan) -> str:
    """How long it will take."""
    total_s = min(plan.total_s, plan.budget_s or plan.total_s)
    long = f"{total_s / 60:.0f} min" if total_s >= 120 else f"{total_s:.0f} s"
    return (
        f"{len(plan.cells)} cells, {plan.repeat} runs of {plan.seconds:g} s with HARP and without:"
        f" some {long} ({LABEL})"
    )


def show_share(outcome: ShareOutcome) -> None:
    """Tables and the verdict, on stdout."""
    console = _console()
    console.print(f"{outcome.device} ({LABEL})")
    table = Table(box=None, pad_edge=False)
    for heading in ("cell", "got %", "meter", "client", "mean err", "p95 err", "of native", ""):
        table.add_column(heading, no_wrap=True)
    wrong = {one.cell for one in outcome.violations}
    for case in outcome.cases:
        table.add_row(*_row(case), "WRONG" if case.cell.name in wrong else "ok")
    console.print(table)
    for control in outcome.controls:
        verdict = "fails, as it must" if control["fails"] else "PASSES: the rule cannot tell"
        console.print(f"control {control['kind']}: {control['name']} {verdict}")
    for name in outcome.native_kept:
        console.print(f"{name}: right without HARP as well, which says little of HARP")
    for reason in outcome.not_run:
        console.print(f"not run: {reason}")
    _judged(console, outcome.targets, outcome.violations)
    for broken in outcome.failed:
        console.print(f"WRONG {broken}")
    worst = outcome.worst
    if worst is not None:
        console.print(f"worst: {worst_figure(worst)}")
    if outcome.can_tell is False:
        console.print("The gates were off and the rule did not notice: this bench cannot tell.")
    console.print("verdict: " + ("good" if outcome.ok else "NOT GOOD"))


def _judged(console: Console, targets: Sequence[Target], violations: Sequence[Violation]) -> None:
    for target in targets:
        sign = "met   " if target.met else "MISSED"
        console.print(
            f"{sign} {target.cell}: {target.figure} {target.value:.3f} (limit {target.limit:g})"
        )
    for violation in violations:
        console.print(f"WRONG {violation}")


def _row(case: Case) -> list[str]:
    got = "/".join(f"{part * 100:.1f}" for part in case.achieved[:4])
    more = "..." if len(case.achieved) > 4 else ""
    figures = (
        case.meter_error_pp,
        case.client_error_pp,
        case.mean_error_pp,
        case.p95_error_pp,
        case.aggregate_ratio,
    )
    return [case.cell.name, got + more, *("-" if f is None else f"{f:.2f}" for f in figures)]


def show_latency(outcome: LatencyOutcome) -> None:
    """Tables and the verdict, on stdout."""
    console = _console()
    console.print(f"{outcome.device} ({LABEL})")
    table = Table(box=None, pad_edge=False)
    for heading in ("beside", "p99 alone", "native", "HARP, ms", "inflation", "of the rest"):
        table.add_column(heading, no_wrap=True)
    for row in outcome.rows:
        figures = (row.p99_solo_ms, row.p99_native_ms, row.p99_harp_ms)
        ratios = (row.inflation, row.best_effort_ratio)
        cells = [*(f"{f:.1f}" for f in figures), *(f"{r:.2f}" for r in ratios)]
        table.add_row(row.name, *cells)
    console.print(table)
    _judged(console, outcome.targets, outcome.violations)
    if not outcome.can_tell:
        console.print("Requests are in time without HARP as well: this bench cannot tell.")


def show_crash(outcome: CrashOutcome) -> None:
    """The figures and the verdict, on stdout."""
    console = _console()
    console.print(f"{outcome.device} ({LABEL})")
    console.print(
        f"{len(outcome.deaths)} deaths: told within {outcome.detect_ms_p99:.1f} ms, given on within"
        f" {outcome.regrant_ms_p99:.1f} ms (p99), {outcome.neighbour_oom} neighbours refused"
    )
    console.print(
        f"{outcome.upgrades} upgrades under {outcome.calls} calls: {outcome.failed_calls} failed,"
        f" longest {outcome.longest_stall_ms:.1f} ms, {outcome.over_limit_bytes} bytes over a limit"
    )
    _judged(console, outcome.targets, outcome.violations)
    console.print("verdict: " + ("good" if outcome.ok else "NOT GOOD"))


def show_memory(outcome: MemoryOutcome) -> None:
    """Tables and the verdict, on stdout."""
    console = _console()
    console.print(f"{outcome.device} ({LABEL})")
    for race in outcome.races:
        console.print(
            f"{race.processes} processes race for {race.limit_bytes >> 20} MiB:"
            f" {race.over_limit_bytes} bytes over it in {race.samples} samples"
            f" ({race.hz:.0f} a second), {race.denied} denied"
        )
    table = Table(box=None, pad_edge=False)
    for heading in ("", "bare", "added", "added p99", ""):
        table.add_column(heading, no_wrap=True)
    for calls in outcome.calls:
        figures = (calls.bare_us_p50, calls.added_us_p50, calls.added_us_p99)
        name = f"alloc and free beside {calls.live}"
        table.add_row(name, *(f"{f:.2f}" for f in figures), "us")
    for start in outcome.starts:
        bare = sorted(start.bare_ms)[len(start.bare_ms) // 2]
        figures = (bare, start.added_ms_p50, start.added_ms_p99)
        table.add_row(start.name, *(f"{f:.2f}" for f in figures), "ms")
    console.print(table)
    _judged(console, outcome.targets, outcome.violations)
    if not outcome.can_tell:
        console.print("Without HARP the limit was kept as well: this bench cannot tell.")
    console.print("verdict: " + ("good" if outcome.ok else "NOT GOOD"))


def show_oversub(outcome: OversubOutcome) -> None:
    """Tables and the verdict, on stdout."""
    console = _console()
    console.print(LABEL)
    table = Table(box=None, pad_edge=False)
    for heading in ("pair", "sequential", "together", "gain", "bound", "swapping", "longest wait"):
        table.add_column(heading, no_wrap=True)
    for pair in outcome.pairs:
        table.add_row(
            pair.name,
            f"{pair.sequential_s:.1f} s",
            f"{pair.wall_s:.1f} s",
            f"x{pair.speedup:.2f}",
            f"x{pair.bound:.2f}",
            f"{pair.swap_ratio:.1%}",
            f"{pair.longest_wait_s:.1f} s",
        )
    console.print(table)
    _judged(console, outcome.targets, outcome.violations)
    if not outcome.can_tell:
        console.print("Without HARP both had room, or a changed word was not seen: cannot tell.")
    console.print("verdict: " + ("good" if outcome.ok else "NOT GOOD"))


def show_remote(outcome: RemoteOutcome) -> None:
    """Tables and the verdict, on stdout."""
    console = _console()
    console.print(LABEL)
    there, back = outcome.frame_bytes
    console.print(f"a call that waits: {there} bytes there, {back} back; p50 and p99 in us")
    table = Table(box=None, pad_edge=False)
    for heading in ("", "raw", "raw p99", "HARP", "HARP p99", "ratio", "least", "most"):
        table.add_column(heading, no_wrap=True)
    for one in outcome.compared:
        times = [one.us(side, percent) for side in ("raw", "harp") for percent in (50, 99)]
        ratios = [one.ratio(), min(one.ratios()), max(one.ratios())]
        table.add_row(one.name, *(f"{f:.1f}" for f in times), *(f"{r:.2f}" for r in ratios))
    console.print(table)
    for step in outcome.steps:
        said = step.json()
        console.print(
            f"a step of {step.program}, {step.delay_ms:g} ms each way: here {said['local_ms']} ms,"
            f" there {said['remote_ms']} ms (x{step.ratio:.2f})"
        )
    for reason in outcome.not_run:
        console.print(f"not run: {reason}")
    _judged(console, outcome.targets, outcome.violations)
    if not outcome.can_tell:
        console.print("Where every call must wait none was seen to: this bench cannot tell.")
    console.print("verdict: " + ("good" if outcome.ok else "NOT GOOD"))
