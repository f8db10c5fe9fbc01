# SPDX-License-Identifier: Apache-2.0
"""The page that says which series were asked for: those that it says are there are."""

from __future__ import annotations

import re
import threading
from pathlib import Path

from harp.extender.metrics import Meter
from harp.extender.state import View
from harp.metrics import PLUGIN, REMOTE, SERVED, series

PAGE = Path(series.__file__).with_name("COVERAGE.md")


def rows() -> list[list[str]]:
    lines = [one for one in PAGE.read_text().splitlines() if one.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def exposed() -> set[str]:
    lock = threading.Condition()
    meter = Meter(View(), lock, synced=lambda: True, leads=lambda: True)
    text = meter.page()[0].decode()
    ours = {family.name for family in (*series.DAEMON, *PLUGIN, *REMOTE, *SERVED)}
    scheduler = {name.removesuffix("_total") for name in re.findall(r"# TYPE (\S+)", text)}
    return ours | scheduler


def test_each_series_that_is_said_to_be_there_is_exposed() -> None:
    known = exposed()
    names = [name for row in rows() for name in re.findall(r"`(harp_\w+)`", row[1])]
    assert len(names) > 40
    assert [name for name in names if name not in known] == []


def test_what_is_not_there_has_its_reason() -> None:
    for asked, there, why in rows():
        assert why, asked
        assert there == "-" or "`harp_" in there, asked
