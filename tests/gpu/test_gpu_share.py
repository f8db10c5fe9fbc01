# SPDX-License-Identifier: Apache-2.0
"""30 beside 70 on a real GPU, by what each program counted.

A share is launches completed times what one launch takes alone, over the window. The kernel does
arithmetic: it gets on only while it has the device, so the count cannot flatter.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from counting import count

if TYPE_CHECKING:
    from conftest import Gpu

pytestmark = pytest.mark.gpu

SHARES = (30, 70)
TOLERANCE = 0.05
KERNEL_US = 200
SECONDS = 10.0
Record = Callable[[str, object], None]


def _divide(gpu: Gpu, **env: str) -> dict[str, object]:
    kind = "sleep" if gpu.software else "work"
    alone = json.loads(gpu.ask("alone", kind, KERNEL_US, run=None))
    children = []
    for share in SHARES:
        run = ("--name", f"busy-{share}", "--mem", "256MiB", "--share", f"{share}%")
        children.append(gpu.start("busy", kind, alone["rounds"], run=run, **env))
    counted = count(children, SECONDS)
    took = [n * alone["kernel_us"] / 1e6 for n in counted]
    got = [t / sum(took) for t in took]
    return {
        "kernel": kind,
        "kernel_us": alone["kernel_us"],
        "seconds": SECONDS,
        "launches": counted,
        "achieved": got,
        "off": max(abs(g - s / 100) for g, s in zip(got, SHARES, strict=True)),
        "busy_ratio": sum(took) / SECONDS,
    }


def test_30_beside_70(gpu: Gpu, record_property: Record) -> None:
    result = _divide(gpu)
    record_property("share", result)
    print(result)
    off, busy = result["off"], result["busy_ratio"]
    assert isinstance(off, float)
    assert isinstance(busy, float)
    assert off <= TOLERANCE
    assert busy > 0.7, "shares of an idle device would say nothing"


def test_the_check_fails_without_the_gate(gpu: Gpu, record_property: Record) -> None:
    result = _divide(gpu, HARP_GATE="off")
    record_property("share", result)
    print(result)
    off = result["off"]
    assert isinstance(off, float)
    assert off > TOLERANCE
