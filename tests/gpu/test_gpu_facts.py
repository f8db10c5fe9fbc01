# SPDX-License-Identifier: Apache-2.0
"""Facts of the real driver that the ledger and the software GPU build on: recorded, not judged."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Gpu

pytestmark = pytest.mark.gpu

PROGRAM = Path(__file__).with_name("gpu_facts.py")
WHAT = (
    "sizes",
    "arrays",
    "pools",
    "graphs",
    "code_memory",
    "host_memory",
    "vmm",
    "alloc_cost",
    "checkpoint",
)
Record = Callable[[str, object], None]


def ask(gpu: Gpu, what: str, *run: str) -> dict[str, object]:
    """One kind of fact, from a process of its own; `run`: under `harp run` with these options."""
    said = gpu.finish([sys.executable, str(PROGRAM), what], run or None)
    found = json.loads(said.splitlines()[-1])
    assert found
    return dict(found)


@pytest.mark.parametrize("what", WHAT)
def test_facts(gpu: Gpu, record_property: Record, what: str) -> None:
    record_property("bare", ask(gpu, what))


def test_what_an_allocation_costs_more(gpu: Gpu, record_property: Record) -> None:
    """Bare and limited by turns, three times each: only recorded."""
    for turn in range(3):
        record_property(f"bare {turn}", ask(gpu, "alloc_cost"))
        record_property(f"limited {turn}", ask(gpu, "alloc_cost", "--mem", "4GiB"))
