# SPDX-License-Identifier: Apache-2.0
"""The demo's arithmetic: shares from two ledger readings, and when losses are equal."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path

import pytest
from rich.console import Console

from harp.demo import reference, scene, table, truth
from harp.errors import ConfigError, NativeError


def use(pid: int, compute_ns: int, overrun_ns: int = 0) -> truth.Use:
    return truth.Use(pid, compute_ns, 0, compute_ns, overrun_ns, 1, 1, 1, 0)


def ledger(now_ns: int, *uses: truth.Use) -> truth.Truth:
    return truth.Truth(now_ns, "HARP Software GPU", 1 << 30, {one.pid: one for one in uses})


def test_shares_are_parts_of_what_was_used_in_the_window() -> None:
    begin = ledger(1000, use(1, 500), use(2, 100))
    end = ledger(2000, use(1, 800), use(2, 800), use(3, 9999))
    assert end.shares(begin, [1, 2]) == [0.3, 0.7]
    assert end.busy_ratio(begin, [1, 2]) == 1.0


def test_a_process_that_came_later_counts_from_zero() -> None:
    assert ledger(10, use(1, 5), use(2, 5)).shares(ledger(0, use(1, 0)), [1, 2]) == [0.5, 0.5]


def test_an_idle_window_gives_nobody_anything() -> None:
    same = ledger(10, use(1, 5))
    assert same.shares(same, [1]) == [0.0]
    assert same.overrun_ratio(same, [1]) == 0.0


def test_overrun_is_of_the_window_too() -> None:
    begin, end = ledger(0, use(1, 100, 90)), ledger(100, use(1, 200, 110))
    assert end.overrun_ratio(begin, [1]) == 0.2


def _program(folder: Path, body: str) -> Path:
    path = folder / "harp-soft-truth"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder


def test_ledger_is_read_from_the_program(tmp_path: Path) -> None:
    row = {
        "pid": 7,
        "name": "x",
        "device": 0,
        "state": "live",
        "busy_ns": {"compute": 11, "copy_in": 1, "copy_out": 2},
        "launches": 3,
        "instructions": 4,
        "modelled_ns": 5,
        "overrun_ns": 6,
        "mem_bytes": 0,
        "context_bytes": 2,
        "peak_bytes": 8,
    }
    device = {"name": "soft", "capacity_bytes": 77}
    data = {"now_ns": 99, "devices": [device], "processes": [row, {**row, "device": 1}]}
    read = truth.read(_program(tmp_path, f"echo '{json.dumps(data)}'"), {})
    assert (read.now_ns, read.device, read.capacity_bytes) == (99, "soft", 77)
    assert read.uses == {7: truth.Use(7, 11, 3, 5, 6, 3, 4, 8, 2)}


@pytest.mark.parametrize(
    ("body", "message"), [("echo no; exit 3", "failed"), ("echo no", "no ledger")]
)
def test_no_ledger_is_an_error(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(NativeError, match=message):
        truth.read(_program(tmp_path, body), {"PATH": "/usr/bin:/bin"})


def test_equal_losses_are_within_the_tolerance_stated() -> None:
    cpu = {1: 2.3, 6: 0.5}
    assert reference.difference(cpu, cpu) == 0
    assert reference.difference({1: 2.3, 6: 0.5 + 0.9 * (2e-4 + 0.0025)}, cpu) <= 1
    assert reference.difference({1: 2.3, 6: 0.5 + 1.1 * (2e-4 + 0.0025)}, cpu) > 1


@pytest.mark.parametrize("losses", [{1: float("nan")}, {7: 1.0}, {1: 9.9}])
def test_unequal_losses_are_seen(losses: dict[int, float]) -> None:
    assert reference.difference(losses, {1: 2.3, 6: 0.5}) > 1


@pytest.mark.parametrize("shares", [(), (0.5,), (0.5, 0.6), (0, 0.5), (-0.1, 0.5)])
def test_shares_that_cannot_be_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError):
        scene.run(shares)


def test_table_shows_every_tenant_and_says_software() -> None:
    row = {
        "name": "train-1-30",
        "pid": 5,
        "asked_share": 0.3,
        "achieved_share": 0.31,
        "mem_limit_bytes": 256 << 20,
        "mem_peak_bytes": 20 << 20,
        "steps": 81,
        "loss_first": 2.3,
        "loss_last": 0.2,
        "loss_cpu_last": 0.2,
        "loss_equal": True,
    }
    result = {
        "device": "HARP Software GPU (tiny)",
        "software": True,
        "seconds": 20.0,
        "engine_busy_ratio": 0.9,
        "overrun_ratio": 0.5,
        "tenants": [row, {**row, "name": "train-2-70", "loss_equal": False}],
    }
    out = io.StringIO()
    Console(file=out, width=80).print(table(result))
    text = out.getvalue()
    for part in (
        "software GPU",
        "train-1-30",
        "train-2-70",
        "31.0%",
        "20/256 MiB",
        "0.2000 =",
        "≠",
    ):
        assert part in text, part
