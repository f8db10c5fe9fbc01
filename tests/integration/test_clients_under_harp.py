# SPDX-License-Identifier: Apache-2.0
"""The clients of tests/clients under `harp run`: the same output bare, without limits, limited."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.integration.machine import ROOT, Machine, machine

PROGRAMS = ROOT / "tests" / "clients" / "programs"
#: tinygrad's launches of all kinds: plain, graphs, graphs with changed arguments, training
TINY_CASES = ("matmul_f32", "softmax", "jit_inputs", "jit_long", "jit_variable", "train_mlp_sgd")
#: all of cuda-python's but `skipped_kernel`, which needs the software GPU's own export
BINDINGS = (
    *("context", "memory", "host_memory", "streams", "events", "host_function", "launch"),
    *("launch_extra", "module", "jit_log", "faults", "graph_explicit", "graph_captured"),
)
TINYGRAD = {"DEV": "CUDA:PTX", "CC": "false", "CACHELEVEL": "0", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def box(native_dir: Path) -> Iterator[Machine]:
    with machine(native_dir, HARP_SOFT_DEVICES="h100-80g", HARP_SOFT_TEARDOWN_MS="0") as found:
        yield found


def _bare(box: Machine, *command: str) -> None:
    env = {**box.env, **TINYGRAD, "LD_LIBRARY_PATH": str(box.native_dir / "soft")}
    subprocess.run([sys.executable, *command], env=env, check=True, timeout=120)


def _under_harp(box: Machine, options: tuple[str, ...], *command: str) -> None:
    child = box.tenant(*options, command=[sys.executable, *command], **TINYGRAD)
    stdout, stderr = child.communicate(timeout=120)
    assert child.returncode == 0, stdout + stderr


@pytest.mark.slow
def test_tinygrad_computes_the_same_bits(box: Machine, tmp_path: Path) -> None:
    program = str(PROGRAMS / "tiny.py")
    _bare(box, program, str(tmp_path / "bare.npz"), *TINY_CASES)
    with np.load(tmp_path / "bare.npz") as bare:
        expected = dict(bare)
    assert len(expected) >= len(TINY_CASES)
    for name, options in (("free", ()), ("limited", ("--mem", "256MiB", "--share", "30%"))):
        out = tmp_path / f"{name}.npz"
        _under_harp(box, options, program, str(out), *TINY_CASES)
        with np.load(out) as got:
            assert sorted(got.files) == sorted(expected)
            for key, value in expected.items():
                np.testing.assert_array_equal(got[key], value, err_msg=f"{name} {key}")


@pytest.mark.slow
@pytest.mark.parametrize("case", BINDINGS)
def test_cuda_python_sees_no_difference(box: Machine, case: str) -> None:
    _under_harp(box, (), str(PROGRAMS / "bindings.py"), case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in BINDINGS if c not in ("context", "memory")])
def test_cuda_python_works_within_limits(box: Machine, case: str) -> None:
    _under_harp(box, ("--mem", "64MiB", "--share", "50%"), str(PROGRAMS / "bindings.py"), case)


@pytest.mark.slow
def test_pynvml_and_the_driver_agree_under_harp(box: Machine) -> None:
    assert os.environ.get("HARP_GRANT") is None
    _under_harp(box, (), str(PROGRAMS / "management.py"))
