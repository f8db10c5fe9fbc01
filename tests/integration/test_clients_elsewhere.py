# SPDX-License-Identifier: Apache-2.0
"""tinygrad and cuda-python, unmodified, with their GPU behind a harp-worker: the same bits.

Equal bits can be asked for: each kernel adds in one order. tinygrad's reductions (the kernels
r_...) are loops and barriers: tiny.py looks for atomic operations in all that it launches. Those
of bindings.py (kernels.ptx) add whole numbers with them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.remote_world import Serving, serving
from tests.integration.test_clients_under_harp import (
    BINDINGS,
    PROGRAMS,
    TINY_CASES,
    TINYGRAD,
)

pytestmark = pytest.mark.slow

#: all but what maps this machine's memory for kernels, which is refused: none elsewhere reaches it
CASES = [case for case in BINDINGS if case != "host_memory"]


@pytest.fixture
def bare(soft_env: dict[str, str]) -> dict[str, str]:
    return {**soft_env, "HARP_SOFT_DEVICES": "h100-80g", "HARP_SOFT_TEARDOWN_MS": "0"}


@pytest.fixture
def served(native_dir: Path, tmp_path: Path, bare: dict[str, str]) -> Iterator[Serving]:
    with serving(native_dir, tmp_path, bare) as found:
        yield found


@pytest.fixture
def elsewhere(served: Serving) -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_", "CUDA_"))}
    return served.client_env(plain)


def lines(env: dict[str, str], program: str, *args: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / program), *args],
        env={**env, **TINYGRAD},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def tinygrad(env: dict[str, str], out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Its arrays, and what it says of each case."""
    told = json.loads(lines(env, "tiny.py", str(out), *TINY_CASES)[-1])
    with np.load(out) as got:
        return dict(got), told["cases"]


def test_tinygrad_trains_to_the_same_bits(
    bare: dict[str, str], elsewhere: dict[str, str], served: Serving, tmp_path: Path
) -> None:
    expected, here = tinygrad(bare, tmp_path / "bare.npz")
    got, there = tinygrad(elsewhere, tmp_path / "remote.npz")
    assert served.workers
    assert {case: told["kernels"] for case, told in there.items()} == {
        case: told["kernels"] for case, told in here.items()
    }
    assert any(name.startswith("r_") for name in here["train_mlp_sgd"]["kernels"])
    assert all(told["launches"] for told in here.values())
    assert not any(told["launches"] for told in there.values())  # nothing to count with
    assert sorted(got) == sorted(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(got[key], value, err_msg=key)


@pytest.mark.parametrize("case", CASES)
def test_cuda_python_reads_the_same_bits(
    case: str, bare: dict[str, str], elsewhere: dict[str, str], served: Serving
) -> None:
    assert lines(elsewhere, "bindings.py", case) == lines(bare, "bindings.py", case)
    served.settle()
