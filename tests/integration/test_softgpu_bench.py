# SPDX-License-Identifier: Apache-2.0
"""`harp bench softgpu` from its kernels to its figures, as little as it can do."""

from __future__ import annotations

import os

from harp.bench.softgpu import Effort, run_softgpu


def test_results_are_numpys_and_a_cached_kernel_is_not_compiled_again() -> None:
    said: list[str] = []
    effort = Effort(rounds=1, processes=1, starts=1)
    outcome = run_softgpu(os.environ, effort, progress=said.append)
    assert outcome.ok, outcome.wrong
    assert len(said) == 3
    # CPU time, and far from the mark: a compile alone takes thirty times what a warm start does.
    assert outcome.median("warm_cpu_ms") * 3 < outcome.median("cold_cpu_ms")
    assert all(min(values) > 0 for values in outcome.readings.values())
