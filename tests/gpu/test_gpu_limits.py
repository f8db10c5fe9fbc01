# SPDX-License-Identifier: Apache-2.0
"""A limited program on a real GPU: what it sees, what it can have, that it computes the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Gpu

pytestmark = pytest.mark.gpu

GIB = 1 << 30
Record = Callable[[str, object], None]


def test_limit_is_shown_and_kept(gpu: Gpu, record_property: Record) -> None:
    seen = json.loads(gpu.ask("memory", run=("--mem", "1GiB")))
    record_property("limited", seen)
    assert seen["total"] == seen["nvml_total"] == GIB
    assert 0 < seen["nvml_free"] <= GIB
    assert GIB - seen["free"] < 64 << 20  # what the program itself has not asked for
    assert seen["all_code"] == 0
    assert seen["more_code"] == 2
    assert seen["free_after"] < 2 << 20


def test_without_a_limit_the_device_is_seen(gpu: Gpu, record_property: Record) -> None:
    """The counterpart: what the test above sees is the limit's doing."""
    seen = json.loads(gpu.ask("memory", run=None))
    record_property("bare", seen)
    assert seen["total"] > 2 * GIB
    assert seen["nvml_total"] > 2 * GIB


def test_output_is_the_same_bare_shimmed_and_limited(gpu: Gpu, record_property: Record) -> None:
    bare = gpu.ask("output", run=None)
    assert len(bare.splitlines()) == 6, bare
    assert json.loads(bare.splitlines()[-1])["bad"] != 0
    record_property("bare", bare.splitlines()[0])
    assert gpu.ask("output", run=()) == bare
    assert gpu.ask("output", run=("--mem", "1GiB", "--share", "40%")) == bare


def test_bench_overhead_runs(gpu: Gpu, record_property: Record) -> None:
    done = gpu.harp("bench", "overhead", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    record_property("overhead", result)
    assert result["software"] is gpu.software
    assert result["launch_ns_bare"] > 0
