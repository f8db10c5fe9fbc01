# SPDX-License-Identifier: Apache-2.0
"""tinygrad on the software GPU against tinygrad's own CPU backend: values and executed kernels."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client_process import PROGRAMS, run_program

TINY = "tiny.py"


def _case_names() -> list[tuple[str, list[float]]]:
    """Names and tolerances; the cases import tinygrad, which must not be in this process."""
    code = (
        "import json\nfrom tiny_cases import CASES\n"
        "print(json.dumps({name: tolerance for name, (_, tolerance) in CASES.items()}))"
    )
    env = {**os.environ, "DEV": "CPU"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROGRAMS,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    return list(json.loads(done.stdout).items())


CASES = dict(_case_names())


@pytest.fixture(scope="module")
def machine(native_dir: Path) -> Iterator[dict[str, str]]:
    """As soft_env, for the whole module: all cases run in one process on each side."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = tempfile.mkdtemp(prefix="harp-test-", dir=base)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_", "CUDA_"))}
    env |= {"HARP_SOFT_DIR": folder, "LD_LIBRARY_PATH": str(native_dir / "soft"), "CACHELEVEL": "0"}
    yield env
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def clang(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One word that is clang, which tinygrad's CPU backend calls."""
    script = tmp_path_factory.mktemp("clang") / "clang"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ziglang clang "$@"\n')
    script.chmod(0o755)
    return str(script)


@pytest.fixture(scope="module")
def on_gpu(machine: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """What the software GPU computed. CC=false: the CPU backend cannot stand in unnoticed."""
    out = tmp_path_factory.mktemp("gpu") / "gpu.npz"
    told = run_program(
        {**machine, "DEV": "CUDA:PTX", "CC": "false"}, TINY, str(out), timeout_s=1500
    )
    with np.load(out) as arrays:
        return dict(arrays), told


@pytest.fixture(scope="module")
def on_cpu(
    machine: dict[str, str], clang: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Any]:
    """What tinygrad's CPU backend computed."""
    out = tmp_path_factory.mktemp("cpu") / "cpu.npz"
    env = {k: v for k, v in machine.items() if k != "LD_LIBRARY_PATH"}
    told = run_program({**env, "DEV": "CPU", "CC": clang}, TINY, str(out))
    with np.load(out) as arrays:
        return dict(arrays), told


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CASES)
def test_case_equals_cpu(name: str, on_gpu: tuple[Any, Any], on_cpu: tuple[Any, Any]) -> None:
    gpu, told = on_gpu
    cpu, _ = on_cpu
    assert told["device"] == "CUDA:PTXRenderer"
    counted = told["cases"][name]
    assert counted["launches"] > 0
    assert counted["instructions"] > 0
    keys = [key for key in cpu if key.startswith(f"{name}/")]
    assert keys
    assert keys == [key for key in gpu if key.startswith(f"{name}/")]
    relative, absolute = CASES[name]
    for key in keys:
        assert gpu[key].dtype == cpu[key].dtype
        if relative == 0:
            np.testing.assert_array_equal(gpu[key], cpu[key], err_msg=key)
        else:
            np.testing.assert_allclose(
                gpu[key], cpu[key], rtol=relative, atol=absolute, err_msg=key
            )


def test_double_functions_are_refused_as_on_hardware(soft_env: dict[str, str]) -> None:
    """tinygrad writes `ex2.approx.f64`, which is no PTX; the driver refuses it, so do we."""
    code = (
        "import numpy as np\nfrom tinygrad import Tensor\n"
        "try: Tensor(np.ones(4)).exp2().numpy()\n"
        "except RuntimeError as error: print(error)\n"
    )
    env = {**soft_env, "DEV": "CUDA:PTX", "CC": "false", "CACHELEVEL": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert "module load failed with status code 218" in done.stdout
