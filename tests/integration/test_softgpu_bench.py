# SPDX-License-Identifier: Apache-2.0
"""`harp bench softgpu` from its kernels to its figures, as little as it can do."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from harp.bench.softgpu import Effort, run_softgpu
from tests.conftest import ROOT


def test_results_are_numpys_and_a_cached_kernel_is_not_compiled_again() -> None:
    said: list[str] = []
    effort = Effort(rounds=1, processes=1, starts=1)
    outcome = run_softgpu(os.environ, effort, progress=said.append)
    assert outcome.ok, outcome.wrong
    assert len(said) == 3
    # CPU time, and far from the mark: a compile alone takes thirty times what a warm start does.
    assert outcome.median("warm_cpu_ms") * 3 < outcome.median("cold_cpu_ms")
    assert all(min(values) > 0 for values in outcome.readings.values())


@pytest.mark.parametrize(("instruction", "right"), [("add.f32", True), ("sub.f32", False)])
def test_a_kernel_that_computes_another_thing_is_seen(
    soft_env: dict[str, str], instruction: str, right: bool
) -> None:
    code = f"""
import runpy, sys
from harp.bench import softgpu_kernels
softgpu_kernels.ADD = softgpu_kernels.ADD.replace("add.f32", "{instruction}")
sys.argv = ["softgpu_step", "start", "add"]
runpy.run_module("harp.bench.softgpu_step", run_name="__main__")
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=soft_env, cwd=ROOT, capture_output=True, check=True)
    assert json.loads(done.stdout)["right"] is right
