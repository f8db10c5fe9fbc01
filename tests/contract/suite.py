# SPDX-License-Identifier: Apache-2.0
"""One suite, several backends: which there are, which cases run on which, and how one is run.

A case is a function of a `soft_mod_cases_<area>.py`; what it says in its decorator about backends
is all there is to know, so README.md's table is made from it (`table.py`), not from a run.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import remote_waivers

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Backend:
    """A thing that answers the driver API."""

    name: str
    what: str


BACKENDS = (
    Backend("soft", "the bare software GPU"),
    Backend("local", "the software GPU under libharp: a tenant with a memory limit and a share"),
    Backend(
        "gpu", "the real driver; `tests/gpu/test_gpu_contract.py`, skipped where there is none"
    ),
    Backend("remote", "the software GPU behind a harp-worker: libharp has no driver below it"),
    Backend("remote-local", "the same, and the worker is a tenant as in local"),
)
NAMES = tuple(backend.name for backend in BACKENDS)
#: what `only="soft"` and the like say of another backend
RUNS, WAIVED, ELSEWHERE = "runs", "waived", "elsewhere"
#: cases that hold the device's times from above: nothing runs beside them (tests/conftest.py)
ALONE = {
    "context.events_of_whole_contexts",
    "graph2.branches_overlap_in_device_time",
    "graph2.events_of_branches",
    "graph2.nodes_go_by_their_own_priority_if_asked",
    "launch.a_sleeping_kernel_lasts_as_long_as_its_waves",
    "launch.an_urgent_kernel_goes_first",
    "limits.what_waits_goes_by_priority",
}


@dataclass(frozen=True)
class Standing:
    """What becomes of one case on one backend."""

    kind: str
    why: str = ""


def cases() -> list[Any]:
    """All cases, areas and names in order."""
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    for path in sorted(FOLDER.glob("soft_mod_cases_*.py")):
        importlib.import_module(path.stem)
    found: dict[Any, Any] = importlib.import_module("soft_mod_driver").CASES
    for one in found.values():
        unknown = {*one.only, *one.waived} - set(NAMES)
        assert not unknown, f"{one.area}.{one.name} names no backend: {sorted(unknown)}"
    return sorted(found.values(), key=lambda one: one.area)


def standing(one: Any, backend: str) -> Standing:
    """Whether the case runs on the backend, and if not, why."""
    if backend == "remote-local":  # lacks what either lacks, and no more
        remote = standing(one, "remote")
        return remote if remote.kind != RUNS else standing(one, "local")
    if one.only and backend not in one.only:
        return Standing(ELSEWHERE, one.why)
    if backend in one.waived:
        return Standing(WAIVED, one.waived[backend])
    if backend == "remote" and f"{one.area}.{one.name}" in remote_waivers.WAIVED:
        return Standing(WAIVED, remote_waivers.WAIVED[f"{one.area}.{one.name}"])
    return Standing(RUNS)


def params(*backends: str) -> list[Any]:
    """Parameters (backend, area, name); what does not run is a skip that says why."""
    rows = []
    for backend in backends:
        for one in cases():
            stands = standing(one, backend)
            marks = [pytest.mark.alone] if f"{one.area}.{one.name}" in ALONE else []
            if stands.kind != RUNS:
                label = {WAIVED: "WAIVED", ELSEWHERE: f"only {'/'.join(one.only)}"}
                reason = f"{label[stands.kind]} ({backend}): {stands.why}"
                marks.append(pytest.mark.skip(reason=reason))
            ident = f"{backend}-{one.area}-{one.name}"
            rows.append(pytest.param(backend, one.area, one.name, marks=marks, id=ident))
    return rows


def run(area: str, name: str, env: Mapping[str, str]) -> str:
    """Runs one case in a process of its own; it must pass. Its standard error."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"soft_mod_cases_{area}.py"), name],
        env=dict(env),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-6000:])
    assert done.stdout.splitlines()[-1] == "passed"
    return done.stderr
