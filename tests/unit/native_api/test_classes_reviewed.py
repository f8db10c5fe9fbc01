# SPDX-License-Identifier: Apache-2.0
"""What each call does to the device, against a list that was made by hand and apart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from header_facts import Header

from native.api import cuda
from native.api.charges import RULES
from native.api.model import TIME_GATES, Charge, Cls, Gate, fn

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


#: Rules whose memory is charged by a hook of the function itself.
CHARGING = frozenset(Charge) - {Charge.MAPPING, Charge.FOREIGN, Charge.NOTHING, Charge.GRAPH}


def test_every_allocating_function_is_charged_or_says_why_not() -> None:
    for row in cuda.FUNCTIONS:
        if row.cls is not Cls.ALLOC and row.gate is not Gate.CTX_CREATE:
            assert row.charge is None, f"{row.name} does not allocate"
            continue
        assert row.charge in RULES, row.name
        hooked = row.gate is not Gate.NONE
        assert hooked or len(row.why) > 20, f"{row.name}: a jump, and no reason"
        assert hooked or row.charge not in CHARGING, f"{row.name}: its rule needs a hook"
        charging = hooked and row.gate not in (Gate.TRACK, Gate.REFUSE)
        assert not (charging and row.why), f"{row.name} is charged: there is nothing to excuse"


def test_a_row_that_allocates_has_a_charge_rule() -> None:
    with pytest.raises(ValueError, match=r"cuNew allocates .* remedy: charge=Charge"):
        fn("cuNew", Cls.ALLOC, Gate.MEM_ALLOC, "cuNew 13000 (void **p)")
    with pytest.raises(ValueError, match=r"cuNew allocates .* remedy: charge=Charge"):
        fn("cuNew", Cls.CTX, Gate.CTX_CREATE, "cuNew 13000 (CUcontext *p)")
    with pytest.raises(ValueError, match=r"cuNew allocates and nothing hooks it; remedy: why="):
        fn("cuNew", Cls.ALLOC, Gate.NONE, "cuNew 13000 (void **p)", charge=Charge.NOTHING)
    assert fn("cuNew", Cls.QUERY, Gate.NONE, "cuNew 13000 (void **p)").charge is None


def test_every_rule_says_how_much_from_when_and_until_when() -> None:
    assert RULES.keys() == set(Charge)
    used = {row.charge for row in cuda.FUNCTIONS}
    assert set(Charge) - used == set()


def test_everything_that_takes_device_time_passes_the_time_gate() -> None:
    host_only = {"cuLaunchHostFunc", "cuStreamAddCallback"}
    loose = {
        r.name
        for r in cuda.FUNCTIONS
        if r.cls in (Cls.LAUNCH, Cls.COPY) and r.gate not in TIME_GATES
    }
    assert loose == host_only


def test_no_query_is_intercepted_without_a_reason() -> None:
    gated = {r.name for r in cuda.FUNCTIONS if r.cls is Cls.QUERY and r.gate is not Gate.NONE}
    numbers = {"cuMemGetInfo", "cuDeviceTotalMem"}  # the tenant's own
    pools = {"cuDeviceGetDefaultMemPool", "cuDeviceGetMemPool"}  # what they are is known from here
    pools |= {"cuMemGetDefaultMemPool", "cuMemGetMemPool"}
    swap = {r.name for r in cuda.FUNCTIONS if r.gate in (Gate.SEEN, Gate.STAY)}
    assert gated - swap - pools == {"cuGetProcAddress"} | numbers
