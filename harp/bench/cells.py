# SPDX-License-Identifier: Apache-2.0
"""What `harp bench share` runs: cells as data, which of them, and how long they take. Pure."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from harp.errors import ConfigError

__all__ = [
    "DEFAULT_SLICE_US",
    "DEFAULT_SWITCH_US",
    "Cell",
    "Plan",
    "every_cell",
    "plan",
]

DEFAULT_SLICE_US, DEFAULT_SWITCH_US = 2000, 20  #: as the software GPU's profiles have it
SLICES_US = (1000, 2000, 6000)
SWITCHES_US = (20, 100, 300)
KERNELS_US = (10, 200, 1000, 50_000)
#: a kernel longer than a quantum cannot be stopped in: what it took too much is owed and repaid
LONG_KERNEL_US = 5000
TOLERANCE_PP, LONG_TOLERANCE_PP = 2.0, 3.0

#: seconds until a native client is ready, one under HARP, a machine with harpd
_NATIVE_START_S, _HARP_START_S, _MACHINE_S = 0.3, 0.6, 2.0
#: let go by before anything is measured; debt of long kernels is carried for a second
_WARM_UP_S, _LONG_WARM_UP_S = 1.0, 3.0
QUICK_BUDGET_S = 46.0  #: of 50: what is left is for taking things down


@dataclass(frozen=True, slots=True)
class Cell:
    """Some tenants that saturate one device."""

    shares: tuple[int, ...]  #: percent, one a tenant
    kernels_us: tuple[int, ...] = (200,)  #: one a tenant, or one for all
    mode: str = "saturate"  #: of harp-bench-busy; "client": a program of the user's
    processes: tuple[int, ...] = (1,)  #: one a tenant, or one for all
    slice_us: int = DEFAULT_SLICE_US
    switch_us: int = DEFAULT_SWITCH_US
    label: str = ""  #: first part of the name, instead of the mode

    @property
    def name(self) -> str:
        """Such as saturate-30/70.200us.2000us.20us: shares, kernel, slice, switch."""
        if len(self.shares) > 2 and len(set(self.shares)) == 1:
            shares = f"{len(self.shares)}x{self.shares[0]}"
        else:
            shares = "/".join(str(share) for share in self.shares)
        kernels = "own" if self.mode == "client" else "+".join(str(k) for k in self.kernels_us)
        unit = "" if self.mode == "client" else "us"
        label = self.label or self.mode
        return f"{label}-{shares}.{kernels}{unit}.{self.slice_us}us.{self.switch_us}us"

    @property
    def requested(self) -> tuple[float, ...]:
        """Parts of the device's busy time, 0..1, 1 in sum."""
        return tuple(share / sum(self.shares) for share in self.shares)

    def kernel_us(self, tenant: int) -> int:
        """Length of this tenant's kernels."""
        return self.kernels_us[tenant if len(self.kernels_us) > 1 else 0]

    def process_count(self, tenant: int) -> int:
        """Processes of this tenant."""
        return self.processes[tenant if len(self.processes) > 1 else 0]

    @property
    def is_long(self) -> bool:
        """Whether a kernel is longer than a quantum."""
        return max(self.kernels_us) > LONG_KERNEL_US

    @property
    def warm_up_s(self) -> float:
        """Between the start of the work and the first reading."""
        return _LONG_WARM_UP_S if self.is_long else _WARM_UP_S

    @property
    def tolerance_pp(self) -> float:
        """Largest distance of a figure from the requested share, in points."""
        return LONG_TOLERANCE_PP if self.is_long else TOLERANCE_PP

    @property
    def is_unequal(self) -> bool:
        """Whether equal parts would be wrong: only then can a control fail."""
        return len(set(self.shares)) > 1


CASES = (
    Cell((10, 90)),
    Cell((30, 70)),
    Cell((50, 50)),
    Cell((25, 25, 25, 25)),
    Cell((30, 70), (10,), label="tiny"),
    Cell((30, 70), (50_000,), label="huge"),
    Cell((50, 50), (50_000, 10), label="mixed"),
    Cell((30, 70), mode="sync"),
    Cell((30, 70), mode="graph"),
    Cell((30, 70), processes=(4, 1), label="processes"),
    Cell((50,), label="alone"),
    Cell((6,) * 16, label="arbiter"),
)
_QUICK = (
    Cell((30, 70)),
    Cell((30, 70), (10,), slice_us=6000, switch_us=300),
    Cell((10, 90), (1000,)),
    Cell((30, 70), mode="sync"),
    Cell((30, 70), mode="graph"),
)


def every_cell() -> tuple[Cell, ...]:
    """The cases, and the matrix of slice x switch x kernel for 30/70."""
    matrix = (
        Cell((30, 70), (kernel,), slice_us=slice_us, switch_us=switch)
        for slice_us, switch, kernel in product(SLICES_US, SWITCHES_US, KERNELS_US)
    )
    known = {replace(cell, label="") for cell in CASES}
    return (*CASES, *(cell for cell in matrix if cell not in known))


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be run."""

    cells: tuple[Cell, ...]
    seconds: float  #: measured in each run
    repeat: int  #: runs of each cell on each side
    controls: tuple[str, ...]  #: beside the first cell of unequal shares: gate-off, fifo
    budget_s: float | None = None  #: cells that would end later are left out

    def cell_s(self, cell: Cell) -> float:
        """Expected time of one cell, both sides and all repeats."""
        count = len(cell.shares)
        start = _NATIVE_START_S + _HARP_START_S + 0.35 * count
        return self.repeat * (start + 2 * (cell.warm_up_s + self.seconds))

    @property
    def total_s(self) -> float:
        """Expected time of all."""
        machines = len({(cell.slice_us, cell.switch_us) for cell in self.cells})
        controls = len(self.controls) * (_HARP_START_S + _WARM_UP_S + self.seconds)
        return sum(map(self.cell_s, self.cells)) + machines * _MACHINE_S + controls


def plan(
    patterns: Sequence[str],
    *,
    quick: bool,
    seconds: float | None,
    repeat: int | None,
    own: Cell | None = None,
) -> Plan:
    """Decide what to run.

    Args:
        patterns: names of cells, with * and ?; none: all (or quick's few).
        quick: a few cells, short windows, to be over within 50 s.
        seconds: measured in each run; None: 10, or 2 when quick.
        repeat: None: 3, or 1 when quick.
        own: run this one alone.

    Raises:
        ConfigError: a pattern that names no cell.
    """
    if own is not None:
        chosen: tuple[Cell, ...] = (own,)
    elif patterns:
        everything = every_cell()
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(cell.name, pattern) for cell in everything):
                raise ConfigError(f"no cell is called {pattern}", "see `harp bench share --list`")
        chosen = tuple(
            cell
            for cell in everything
            if any(fnmatch.fnmatchcase(cell.name, pattern) for pattern in patterns)
        )
    else:
        chosen = _QUICK if quick else every_cell()
    return Plan(
        chosen,
        seconds if seconds is not None else 2.0 if quick else 10.0,
        repeat if repeat is not None else 1 if quick else 3,
        ("gate-off",) if quick else ("gate-off", "fifo"),
        QUICK_BUDGET_S if quick else None,
    )
