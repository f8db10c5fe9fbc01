# SPDX-License-Identifier: Apache-2.0
"""30 beside 70 on a real GPU, by what each program counted.

A share is launches completed times what one launch takes alone, over the window. The kernel does
arithmetic: it gets on only while it has the device, so the count cannot flatter.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Gpu

pytestmark = pytest.mark.gpu

SHARES = (30, 70)
TOLERANCE = 0.05
KERNEL_US = 200
SECONDS = 10.0
Record = Callable[[str, object], None]
Marks = list[tuple[float, int]]


def _at(marks: Marks, t: float) -> float:
    """Launches completed at a time, between the two nearest counts."""
    for (t0, n0), (t1, n1) in pairwise(marks):
        if t0 <= t <= t1:
            return n0 + (n1 - n0) * (t - t0) / (t1 - t0)
    raise AssertionError(f"no counts around {t}: {marks[:1]} to {marks[-1:]}")


def _divide(gpu: Gpu, **env: str) -> dict[str, object]:
    kind = "sleep" if gpu.software else "work"
    alone = json.loads(gpu.ask("alone", kind, KERNEL_US, run=None))
    marks: list[Marks] = [[] for _ in SHARES]

    def read(number: int, stream: object) -> None:
        for line in stream:  # type: ignore[attr-defined]
            said = json.loads(line)
            marks[number].append((said["t"], said["done"]))

    threads = []
    for number, share in enumerate(SHARES):
        run = ("--name", f"busy-{share}", "--mem", "256MiB", "--share", f"{share}%")
        child = gpu.start("busy", kind, alone["rounds"], run=run, **env)
        threads.append(threading.Thread(target=read, args=(number, child.stdout), daemon=True))
        threads[-1].start()
    deadline_s = time.monotonic() + 60
    while not all(marks) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert all(marks), "a program did not begin"
    begin_s = time.monotonic() + 1
    time.sleep(SECONDS + 2.5)
    alive = [child.poll() for child in gpu.children] == [None] * len(SHARES)
    for child in gpu.children:
        child.kill()
    for thread in threads:
        thread.join()
    assert alive, "a program ended too early"
    counted = [_at(m, begin_s + SECONDS) - _at(m, begin_s) for m in marks]
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
