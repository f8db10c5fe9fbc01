# SPDX-License-Identifier: Apache-2.0
"""How much programs that say how much they have `done` got done side by side."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import IO

Marks = list[tuple[float, int]]  #: time of the monotonic clock, and what was done by then


def _at(marks: Marks, t: float) -> float:
    """What was done at a time, between the two nearest counts."""
    for (t0, n0), (t1, n1) in pairwise(marks):
        if t0 <= t <= t1:
            return n0 + (n1 - n0) * (t - t0) / (t1 - t0)
    raise AssertionError(f"no counts around {t}: {marks[:1]} to {marks[-1:]}")


def count(children: Sequence[subprocess.Popen[str]], seconds: float) -> list[float]:
    """What each got done in one window once all have begun; they are killed then."""
    marks: list[Marks] = [[] for _ in children]

    def read(into: Marks, stream: IO[str] | None) -> None:
        for line in stream or ():
            if line.startswith("{"):
                said = json.loads(line)
                into.append((said["t"], said["done"]))

    threads = [
        threading.Thread(target=read, args=(into, child.stdout), daemon=True)
        for into, child in zip(marks, children, strict=True)
    ]
    for thread in threads:
        thread.start()
    deadline_s = time.monotonic() + 60
    while not all(marks) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert all(marks), "a program did not begin"
    begin_s = time.monotonic() + 1
    time.sleep(seconds + 2.5)
    alive = [child.poll() for child in children] == [None] * len(children)
    for child in children:
        child.kill()
    for thread in threads:
        thread.join()
    assert alive, "a program ended too early"
    return [_at(m, begin_s + seconds) - _at(m, begin_s) for m in marks]
