# SPDX-License-Identifier: Apache-2.0
"""harp.estimator.gpu_windows: GPU-windows as they pass."""

from __future__ import annotations

import pytest

from harp.estimator.gpu_windows import Gpu, Windows
from harp.estimator.packing import Buffer

GIB = 1 << 30
DEVICE = 80 * GIB


class Told(Buffer):
    """A buffer that keeps what it is told: (jobs, what was needed beyond, in GiB)."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[int, float]] = []

    def see(self, jobs: int, typical_bytes: float, most_bytes: float, device_bytes: float) -> bool:
        self.told.append((jobs, (most_bytes - typical_bytes) / GIB))
        return super().see(jobs, typical_bytes, most_bytes, device_bytes)


def world() -> tuple[Windows, Told]:
    buffer = Told()
    return Windows(buffer, 100.0), buffer


def look(windows: Windows, now_s: float, held: float, **typical: float | None) -> Gpu:
    said = {int(n[1:]): None if t is None else int(t * GIB) for n, t in typical.items()}
    windows.see("u", DEVICE, said, int(held * GIB), now_s)
    return windows.of["u"]


def test_a_window_ends_after_its_time_with_the_most_that_all_had_at_once() -> None:
    windows, buffer = world()
    for now_s, held in ((0, 10), (50, 34), (90, 20), (100, 60), (199, 30), (200, 0)):
        gpu = look(windows, now_s, held, j1=10, j2=20)
    assert buffer.told == [(2, 4.0), (2, 30.0)]
    # 30 of 80 GiB are more than the 15 % that are kept free.
    assert (gpu.windows, gpu.over, gpu.typical_bytes, gpu.jobs) == (2, 1, 30 * GIB, 2)


def test_it_ends_when_a_job_comes_or_goes() -> None:
    windows, buffer = world()
    look(windows, 0, 10, j1=10)
    look(windows, 40, 32, j1=10, j2=20)
    look(windows, 80, 12, j1=10)
    look(windows, 85, 0)
    assert buffer.told == [(1, 0.0), (2, 2.0)]  # the last one was too short
    look(windows, 300, 10, j1=10)
    assert len(buffer.told) == 2  # nobody was there


def test_nothing_is_learned_while_one_is_not_known() -> None:
    windows, buffer = world()
    look(windows, 0, 10, j1=10)
    gpu = look(windows, 50, 70, j1=10, j2=None)
    assert gpu.typical_bytes is None
    look(windows, 250, 70, j1=10, j2=None)
    look(windows, 300, 10, j1=10)
    look(windows, 400, 10, j1=10)
    assert buffer.told == [(1, 0.0), (1, 0.0)]


def test_what_was_refused_was_needed() -> None:
    windows, buffer = world()
    windows.refused("u", GIB)  # nothing is known of it
    look(windows, 0, 30, j1=10, j2=20)
    windows.refused("u", 60 * GIB)
    gpu = look(windows, 100, 5, j1=10, j2=20)
    assert buffer.told == [(2, 60.0)]
    assert (gpu.full, gpu.over) == (1, 1)
    assert buffer.ratio(2) == pytest.approx(0.75)
