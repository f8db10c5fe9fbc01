# SPDX-License-Identifier: Apache-2.0
"""Every form of the instruction table is tested, what is refused is refused; hints do nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import ptx_coverage
import ptx_refused
import pytest
from ptx_harness import DONE, HEAD, TRAP, Device, entry, load, pointers, ptxc

UNSUPPORTED = 3


def test_every_form_has_a_test() -> None:
    found = ptx_coverage.tested()
    assert len(found) > 150
    missing = [
        f"{f.op} {f.types} {f.mods}" for f, count, places in found if not count and not places
    ]
    assert missing == []


@pytest.mark.parametrize("group", ptx_refused.GROUPS)
def test_what_the_page_says_is_refused(group: str) -> None:
    wrong = []
    for instruction in ptx_refused.GROUPS[group]:
        text = HEAD.replace("8.0", "8.4") + entry("k", 0, instruction)
        out = ptxc("emit", "--kernel", "k", text=text)
        name = instruction.split(maxsplit=1)[0].rstrip(";")
        if out.returncode != UNSUPPORTED or f"`{name}" not in out.stderr:
            wrong.append(f"{instruction} exit {out.returncode}: {out.stderr}")
    assert not wrong, "\n".join(wrong)


def test_hints_change_nothing(tmp_path: Path) -> None:
    body = """
.reg .b64 %policy;
createpolicy.fractional.L2::evict_last.b64 %policy, 1.0;
prefetch.global.L2 [%p0]; prefetch.L1 [%p0]; prefetchu.L1 [%p0];
applypriority.global.L2::evict_normal [%p0], 128; discard.global.L2 [%p0+16], 128;
pmevent 3; pmevent.mask 7;
griddepcontrol.wait; griddepcontrol.launch_dependents;
setmaxnreg.inc.sync.aligned.u32 64;
ldu.global.u32 %r1, [%p0];
ld.global.L1::no_allocate.L2::cache_hint.L2::128B.u32 %r2, [%p0+4], %policy;
ld.global.nc.L1::evict_last.v2.u32 {%r3, %r4}, [%p0];
add.u32 %r1, %r1, %r2; add.u32 %r1, %r1, %r4;
st.global.cs.u32 [%p0+8], %r1;
"""
    device = Device()
    cells = device.put(np.array([5, 60, 0, 0], np.uint32))
    text = HEAD.replace("sm_90", "sm_90a") + entry("k", 1, body)
    result = load(text, "k", tmp_path).run(device, pointers(cells))
    assert result.stop == DONE, result
    assert list(device.view(cells, np.uint32, 4)) == [5, 60, 125, 0]


def test_a_breakpoint_stops_as_a_trap_does(tmp_path: Path) -> None:
    result = load(HEAD + entry("k", 0, "brkpt;"), "k", tmp_path).run(Device())
    assert result.stop == TRAP
