# SPDX-License-Identifier: Apache-2.0
"""`harp bench share`: does each tenant get its share of the device?

Every cell runs natively and under HARP in turn, on a machine of its own; beside the first cell of
unequal shares run the controls: the gates off, and the arbiter's fifo policy.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from harp.bench.cells import Cell, Plan
from harp.bench.clients import Client, asked, calibrate, running
from harp.bench.figures import Mark, Measured, measure
from harp.bench.machine import LABEL, Machine, machine
from harp.bench.verdict import (
    Case,
    Target,
    Violation,
    as_json,
    control_fails,
    judge,
    severity,
    targets,
    violations,
    worst_figure,
)
from harp.bench.watch import Raw, Watch, device_name
from harp.config import all_keys
from harp.errors import ConfigError, HarpError
from harp.native import find

__all__ = ["ShareOutcome", "run_share"]

_LAUNCH_TIMEOUT_S = 60.0
_GATE_OFF = {"HARP_GATE": "off"}
_FIFO = {key.env: "fifo" for key in all_keys() if key.name == "time.policy"}


@dataclass
class ShareOutcome:
    """All of it."""

    device: str = ""
    cases: list[Case] = field(default_factory=list)
    controls: list[dict[str, object]] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)  #: names, with the reason
    failed: list[str] = field(default_factory=list)  #: cells in which something broke, and what
    can_tell: bool | None = None  #: the gates off were noticed; None: there was nothing to notice
    native_kept: list[str] = field(default_factory=list)  #: cells that were right without HARP too

    @property
    def violations(self) -> list[Violation]:
        """Of all cases."""
        return [one for case in self.cases for one in violations(case)]

    @property
    def targets(self) -> list[Target]:
        """Of all cases."""
        return [one for case in self.cases for one in targets(case)]

    @property
    def ok(self) -> bool:
        """The bench's verdict."""
        good = bool(self.cases) and not self.violations and not self.failed
        return good and self.can_tell is not False

    @property
    def worst(self) -> Case | None:
        """The cell that is nearest to a limit, or furthest past it: it decides."""
        return max(self.cases, key=severity, default=None)

    def json(self, plan: Plan) -> dict[str, object]:
        """As `--json` prints it."""
        worst = self.worst
        return {
            "bench": "share",
            "label": LABEL,
            "software": True,
            "device": self.device,
            "ok": self.ok,
            "can_tell": self.can_tell,
            "cases": [case.json() for case in self.cases],
            "worst": worst.cell.name if worst is not None else None,
            "worst_figure": worst_figure(worst).figure if worst is not None else None,
            "violations": as_json(self.violations),
            "targets": as_json(self.targets),
            "controls": self.controls,
            "native_kept": self.native_kept,
            "not_run": self.not_run,
            "failed": self.failed,
            "seconds": plan.seconds,
            "repeat": plan.repeat,
            "load_1min": round(os.getloadavg()[0], 2),
        }


def run_share(
    env: Mapping[str, str],
    plan: Plan,
    *,
    command: str | None,
    raw: Path | None,
    progress: Callable[[str], None],
) -> ShareOutcome:
    """Run the plan.

    Args:
        env: the environment to measure in.
        plan: what to run.
        command: a user's own program instead of ours, "{share}" in it being the percent.
        raw: file for every sample.
        progress: called with a line per run.

    Raises:
        HarpError: something did not run.
    """
    with closing(Raw(raw)) as samples:
        return _Bench(env, plan, command, samples, progress).run()


class _Bench:
    def __init__(
        self,
        env: Mapping[str, str],
        plan: Plan,
        command: str | None,
        raw: Raw,
        progress: Callable[[str], None],
    ) -> None:
        self._env, self._plan, self._command = env, plan, command
        self._raw, self._progress = raw, progress
        self._kernel_ns: dict[tuple[str, int], float] = {}  #: {(mode, kernel us): calibrated}
        self._begin_s = time.monotonic()
        self._tenants = 0  #: made so far: names are unique
        self._outcome = ShareOutcome()

    def run(self) -> ShareOutcome:
        cells = list(self._plan.cells)
        controlled = next((cell for cell in cells if cell.is_unequal), None)
        while cells:
            first = cells[0]
            with ExitStack() as stack:
                native, harp = (
                    stack.enter_context(self._machine(first, has_harp=has_harp))
                    for has_harp in (False, True)
                )
                self._outcome.device = device_name(native)
                alike = [
                    c
                    for c in cells
                    if (c.slice_us, c.switch_us) == (first.slice_us, first.switch_us)
                ]
                for cell in alike:
                    cells.remove(cell)
                    if not self._has_time(cell):
                        continue
                    try:
                        self._cell(cell, native, harp)
                        if cell is controlled:
                            self._controls(cell, native, harp)
                    except HarpError as error:
                        if len(self._plan.cells) == 1:
                            raise
                        # The others need not be run again because of this one.
                        self._outcome.failed.append(f"{cell.name}: {error.message}")
                        self._progress(f"{cell.name}: {error.message}")
        return self._outcome

    def _machine(
        self, cell: Cell, *, has_harp: bool, extra: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Machine]:
        return machine(
            self._env,
            harp=has_harp,
            slice_us=cell.slice_us,
            switch_us=cell.switch_us,
            extra=extra,
        )

    def _has_time(self, cell: Cell) -> bool:
        budget = self._plan.budget_s
        spent = time.monotonic() - self._begin_s
        if budget is None or spent + self._plan.cell_s(cell) <= budget:
            return True
        self._outcome.not_run.append(f"{cell.name}: {spent:.0f} s of {budget:g} s were spent")
        self._progress(f"{cell.name}: left out, no time")
        return False

    def _cell(self, cell: Cell, native: Machine, harp: Machine) -> None:
        sides: dict[str, list[Measured]] = {"native": [], "harp": []}
        for number in range(self._plan.repeat):
            for side, box in (("native", native), ("harp", harp)):
                marks = self._one(cell, box, native)
                sides[side].append(self._keep(cell, side, number, marks))
        case = judge(cell, sides["harp"], sides["native"])
        if cell.is_unequal and not all(control_fails(cell, run) for run in sides["native"]):
            self._outcome.native_kept.append(cell.name)
        self._outcome.cases.append(case)

    def _controls(self, cell: Cell, native: Machine, harp: Machine) -> None:
        for kind in self._plan.controls:
            if kind == "fifo":
                with self._machine(cell, has_harp=True, extra=_FIFO) as box:
                    marks = self._one(cell, box, native)
            else:
                marks = self._one(cell, harp, native, extra=_GATE_OFF)
            run = self._keep(cell, kind, 0, marks)
            fails = control_fails(cell, run)
            if kind == "gate-off":
                self._outcome.can_tell = fails
            self._outcome.controls.append(
                {
                    "name": cell.name,
                    "kind": kind,
                    "achieved": [round(part, 4) for part in run.achieved],
                    "fails": fails,
                }
            )

    def _keep(self, cell: Cell, side: str, number: int, marks: list[Mark]) -> Measured:
        for mark in marks:
            self._raw.write(
                {
                    "cell": cell.name,
                    "side": side,
                    "run": number,
                    "t_ns": mark.t_ns,
                    "compute_ns": mark.compute_ns,
                    "overrun_ns": mark.overrun_ns,
                    "charged_ns": mark.charged_ns,
                    "counted_ns": mark.counted_ns,
                    "arbiter_cpu_s": mark.arbiter_cpu_s,
                }
            )
        run = measure(marks, cell.requested)
        got = "/".join(f"{part * 100:.2f}" for part in run.achieved[:4])
        more = "..." if len(run.achieved) > 4 else ""
        self._progress(
            f"{cell.name} {side}: {got}{more} %, mean error {run.mean_error_pp:.2f} points,"
            f" busy {run.busy_ratio * 100:.1f} %, overrun {run.overrun_ratio * 100:.2f} %"
        )
        return run

    def _one(
        self,
        cell: Cell,
        box: Machine,
        native: Machine,
        *,
        extra: Mapping[str, str] | None = None,
    ) -> list[Mark]:
        """One run of a cell on one machine."""
        ours = self._command is None
        kernel_ns: list[float] | None = None
        if ours:
            kernel_ns = [self._calibrated(cell, i, native) for i in range(len(cell.shares))]
        clients: list[Client] = []
        with running(clients):
            for number, share in enumerate(cell.shares):
                self._tenants += 1
                tenant = f"tenant-{self._tenants}"
                command = self._client(cell, number, share)
                command = box.under_harp(command, *asked(tenant, share))
                clients.append(Client(command, {**box.env, **(extra or {})}, tenant))
            with closing(Watch(box, clients)) as watch:
                if ours:
                    for number, client in enumerate(clients):
                        client.wait_ready(cell.process_count(number))
                    for number, client in enumerate(clients):
                        client.go(cell.process_count(number))
                else:
                    watch.wait_launches(_LAUNCH_TIMEOUT_S)
                time.sleep(cell.warm_up_s)
                if not ours:
                    kernel_ns = _told(clients)
                return watch.take(self._plan.seconds, kernel_ns)

    def _client(self, cell: Cell, number: int, share: int) -> list[str]:
        if self._command is not None:
            words = shlex.split(self._command.replace("{share}", str(share)))
            if not words:
                raise ConfigError("--client names no program", "such as --client 'my_job {share}'")
            return words
        processes = cell.process_count(number)
        return [*self._busy(cell, number), "--processes", str(processes), "--go"]

    def _busy(self, cell: Cell, number: int) -> list[str]:
        program = find(self._env).file("harp-bench-busy")
        return [str(program), "--mode", cell.mode, "--kernel-us", str(cell.kernel_us(number))]

    def _calibrated(self, cell: Cell, number: int, native: Machine) -> float:
        key = (cell.mode, cell.kernel_us(number))
        if key not in self._kernel_ns:
            self._kernel_ns[key] = calibrate(self._busy(cell, number), native.env)
        return self._kernel_ns[key]


def _told(clients: Sequence[Client]) -> list[float] | None:
    """Length of an iteration as users' programs say it themselves; None: not all count."""
    known = [c.calibration_ns for c in clients if c.calibration_ns is not None and c.counts]
    return known if len(known) == len(clients) else None
