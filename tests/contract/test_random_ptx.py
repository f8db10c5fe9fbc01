# SPDX-License-Identifier: Apache-2.0
"""Random small PTX kernels through the driver API, against NumPy.

HARP_TEST_SEED repeats a run; HARP_TEST_KERNELS makes it longer. The seed is always printed.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SEED = int(os.environ.get("HARP_TEST_SEED", secrets.randbelow(1_000_000)))
RUN = Path(__file__).with_name("random_ptx_run.py")


def _run(  # noqa: PLR0917
    env: dict[str, str], folder: Path, count: int, steps: int, seed: int = SEED, first: int = 0
) -> dict[str, object]:
    print(f"HARP_TEST_SEED={seed}")
    args = [str(v) for v in (seed, first, count, steps, folder)]
    done = subprocess.run(
        [sys.executable, "-B", str(RUN), *args],
        env=env,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"seed {seed}\n{done.stdout}{done.stderr[-4000:]}"
    told: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_random_kernels_compute_what_numpy_says(soft_env: dict[str, str], tmp_path: Path) -> None:
    count = int(os.environ.get("HARP_TEST_KERNELS", "12"))
    told = _run(soft_env, tmp_path, count, 40)
    assert told["ran"] == count
    assert told["failed"] == [], f"HARP_TEST_SEED={SEED}"


@pytest.mark.slow
def test_more_random_kernels(soft_env: dict[str, str], tmp_path: Path) -> None:
    told = _run(soft_env, tmp_path, 150, 60)
    assert told["failed"] == [], f"HARP_TEST_SEED={SEED}"


def test_a_float_made_from_an_integer_has_no_negative_zero(
    soft_env: dict[str, str], tmp_path: Path
) -> None:
    """gcc -fno-trapping-math took (double)(int64_t)ceilf(-0.3f) for a ceil, whose zero is -0."""
    told = _run(soft_env, tmp_path, 1, 60, seed=708138, first=58)
    assert told["ran"] == 1
    assert told["failed"] == []


def test_kernels_are_a_function_of_the_seed() -> None:
    from random_ptx import Kernel

    first, again, other = (Kernel(np.random.default_rng([SEED, i]), 30) for i in (0, 0, 1))
    assert first.ptx == again.ptx
    assert first.ptx != other.ptx
