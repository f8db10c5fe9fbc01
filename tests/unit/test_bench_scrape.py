# SPDX-License-Identifier: Apache-2.0
"""The figures of `harp bench scrape`, and which of them are judged."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harp.bench.scrape import LIMIT_MS, ScrapeOutcome

FOUND = ScrapeOutcome(200, 200, 4000, 600_000, [30.0, 10.0, 20.0, 400.0], 21.5, 0.5)


def test_figures_are_those_of_the_scrapes() -> None:
    said = FOUND.json(load_1min=1.0)
    assert json.loads(json.dumps(said)) == said
    figures = [said[f"scrape_ms_{name}"] for name in ("min", "p50", "p99")]
    assert figures == [10.0, 20.0, 400.0]
    assert (said["scrape_cpu_ms"], said["harpd_cpu_ms"], said["tenants"]) == (22.0, 21.5, 200)
    assert said["software"] is True
    assert (said["n"], said["ok"]) == (4, True)


def test_a_tenant_that_is_left_out_fails_it() -> None:
    assert FOUND.ok
    less = replace(FOUND, seen=199)
    assert (less.ok, less.json(load_1min=1.0)["ok"]) == (False, False)


@pytest.mark.parametrize(("cpu_ms", "met"), [(LIMIT_MS - 1, True), (LIMIT_MS + 1, False)])
def test_it_is_held_to_its_cpu_time_and_its_median(cpu_ms: float, *, met: bool) -> None:
    cpu, median = replace(FOUND, harpd_cpu_ms=cpu_ms).targets()
    assert (cpu.figure, cpu.met) == ("scrape_cpu_ms", met)
    assert median.met
    assert not replace(FOUND, took_ms=[60.0] * 3).targets()[1].met


def test_its_table_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "bench"))
    import tables

    result = FOUND.json(load_1min=2.0)
    kept = {"command": "harp bench scrape --json", "date": "2026-11-27", "result": result}
    assert tables._scrape(kept)[-1] == "| 22.0 ms | 20.0 ms | 400.0 ms |"
    sys.modules.pop("tables", None)
