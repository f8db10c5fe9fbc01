# SPDX-License-Identifier: Apache-2.0
"""Folders in, figures out: what `harp estimate replay` and `harp estimate pack` do."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from harp.errors import ConfigError
from harp.estimator.replay import tables
from harp.estimator.replay.pack import pack_report
from harp.estimator.replay.score import report
from harp.estimator.replay.tables import WINDOW_S
from harp.estimator.replay.walk import later, walk

__all__ = ["pack", "replay"]

_Row = TypeVar("_Row")


def replay(
    table: str,
    warmup: Path | None,
    score: Path,
    *,
    begin_ratio: float,
    progress: Callable[[str], None],
) -> dict[str, object]:
    """Estimate each row of a table before it is known, and say how good that was.

    Args:
        table: one of tables.TABLES.
        warmup: folder to learn from first; None: the first part of `score`.
        score: folder whose rows are scored.
        begin_ratio: without `warmup`, the part of its time that is only learned from, 0..1.
        progress: told what goes on.

    Raises:
        ConfigError: a table cannot be read, is empty, or one folder is to be both.
    """
    before, after = _split(
        table,
        warmup,
        score,
        begin_ratio=begin_ratio,
        read=lambda folder: tables.read(folder, table),
        at_s=lambda case: case.begin_s,
    )
    progress(f"{len(before)} cases to learn from, {len(after)} to score")
    total = len(before) + len(after)
    judged = walk(before, later(before, after), lambda at: progress(f"{at} of {total} cases"))
    return {"table": table, **report(judged)}


def pack(
    warmup: Path | None,
    score: Path,
    device_bytes: float,
    *,
    begin_ratio: float,
    progress: Callable[[str], None],
) -> dict[str, object]:
    """Pack the containers of table pods onto GPUs, window by window.

    Args:
        warmup: as replay().
        score: likewise.
        device_bytes: of a GPU.
        begin_ratio: as replay().
        progress: told what goes on.

    Raises:
        ConfigError: as replay(), or the device is smaller than the trace's whole one.
    """
    if device_bytes < tables.WHOLE_DEVICE_BYTES:
        raise ConfigError(
            f"a device of {device_bytes:.0f} bytes is smaller than the trace's,"
            f" {tables.WHOLE_DEVICE_BYTES:.0f}: some containers fit on none",
            f"--device-bytes {tables.WHOLE_DEVICE_BYTES:.0f} or more",
        )
    before, after = _split(
        "pods",
        warmup,
        score,
        begin_ratio=begin_ratio,
        read=tables.samples,
        at_s=lambda sample: sample.at_s,
    )
    progress(f"{len(before)} samples to learn from, {len(after)} to score")
    cases = [sorted(tables.cases_of(part), key=lambda c: c.begin_s) for part in (before, after)]
    return pack_report(before, after, (cases[0], later(cases[0], cases[1])), device_bytes, progress)


def _split(
    table: str,
    warmup: Path | None,
    score: Path,
    *,
    begin_ratio: float,
    read: Callable[[Path], Sequence[_Row]],
    at_s: Callable[[_Row], float],
) -> tuple[list[_Row], list[_Row]]:
    if warmup is not None and os.path.realpath(warmup) == os.path.realpath(score):
        raise ConfigError(
            f"--warmup and --score are the same folder, {score}: it would be scored on what it was"
            " told",
            "leave out --warmup: the first part of its time is then learned from (--from)",
        )
    rows = list(read(score))
    if not rows:
        raise ConfigError(f"table {table} in {score} has no row that can be scored")
    if warmup is not None:
        return list(read(warmup)), rows
    first, last = min(map(at_s, rows)), max(map(at_s, rows))
    if table == "pods":  # in whole windows, of which the last has only begun
        windows = last // WINDOW_S + 1 - first // WINDOW_S
        cut_s = (first // WINDOW_S + round(begin_ratio * windows)) * WINDOW_S
    else:
        cut_s = first + begin_ratio * (last - first)
    return [row for row in rows if at_s(row) < cut_s], [row for row in rows if at_s(row) >= cut_s]
