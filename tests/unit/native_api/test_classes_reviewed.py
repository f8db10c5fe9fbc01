# SPDX-License-Identifier: Apache-2.0
"""What each call does to the device, against a list that was made by hand and apart."""

from __future__ import annotations

import re
from pathlib import Path

from header_facts import Header

from native.api import cuda
from native.api.model import JUMP_GATES, TIME_GATES, Cls, Gate

SUSPECT = re.compile(
    "Alloc|Create|Launch|Import|Map|Memcpy|Reserve|Register|Memset|Open|Prefetch|Decompress"
)
HERE = Path(__file__).parent


def reviewed() -> dict[str, tuple[str, str]]:
    out: dict[str, tuple[str, str]] = {}
    for line in (HERE / "reviewed_classes.txt").read_text().splitlines():
        words = line.split("#")[0].split()
        for name in words[2:]:
            assert name not in out, f"{name} is listed twice"
            out[name] = (words[0], words[1])
    return out


def suspects() -> dict[str, tuple[str, str]]:
    # "Unregister" and "Unmap" give back; the word is spelt in lower case there.
    return {r.name: (r.cls.value, r.gate.value) for r in cuda.FUNCTIONS if SUSPECT.search(r.name)}


def test_rows_agree_with_the_review() -> None:
    assert suspects() == reviewed()


def test_the_header_has_no_suspect_name_that_was_not_reviewed(header: Header) -> None:
    names = {name for name, _, _ in header.pfn() if SUSPECT.search(name)}
    assert names - reviewed().keys() == set()


def test_every_allocating_function_is_charged_or_listed_as_not_yet_charged() -> None:
    loose = [r.name for r in cuda.FUNCTIONS if r.cls is Cls.ALLOC and r.gate is Gate.NONE]
    assert loose == []


def test_everything_that_takes_device_time_passes_the_time_gate() -> None:
    host_only = {"cuLaunchHostFunc", "cuStreamAddCallback"}
    loose = {
        r.name
        for r in cuda.FUNCTIONS
        if r.cls in (Cls.LAUNCH, Cls.COPY) and r.gate not in TIME_GATES
    }
    assert loose == host_only


def test_no_query_is_intercepted_except_those_that_show_the_tenants_numbers() -> None:
    gated = {r.name for r in cuda.FUNCTIONS if r.cls is Cls.QUERY and r.gate not in JUMP_GATES}
    swap = {r.name for r in cuda.FUNCTIONS if r.gate in (Gate.SEEN, Gate.STAY)}
    assert gated - swap == {"cuGetProcAddress", "cuMemGetInfo", "cuDeviceTotalMem"}
