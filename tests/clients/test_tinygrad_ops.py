# SPDX-License-Identifier: Apache-2.0
"""Every operation of tinygrad's Tensor on the software GPU against tinygrad's own CPU backend."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client_process import PROGRAMS, run_program
from clients import driver_folder

SOURCES = ("tiny_ops.py", "tiny_ops_shapes.py", "tiny_cases.py")
ASK = """
import json
from tiny_ops_shapes import CASES, LEFT_OUT
from tinygrad import Tensor
methods = [n for n in dir(Tensor) if not n.startswith("_") and callable(getattr(Tensor, n))]
print(json.dumps([{n: t for n, (_, t) in CASES.items()}, LEFT_OUT, methods]))
"""
#: not operations: how tensors are made, looked at, scheduled, kept
HOUSEKEEPING = re.compile(
    r"(is_|const|data$|item$|tolist|numpy$|realize|replace$|schedule|linear_with|call|custom_kernel|"
    r"as_param|alu$|ufix|usum|uprod|unique|gradient$|backward$|requires|manual_seed|size$|numel|nbytes|"
    r"element_size|max_|get$|set$|kernel|after|barrier|metadata|param|from_)"
)
#: nothing to do on the device: the same bytes in another shape
VIEWS = {
    *("move_reshape", "move_view", "move_squeeze", "move_unsqueeze"),
    *("move_flatten", "move_unflatten", "bitcast_float32_uint32"),
}


def _ask() -> tuple[dict[str, list[float]], dict[str, str], list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=PROGRAMS,
        env={**os.environ, "DEV": "CPU"},
        capture_output=True,
        text=True,
        check=True,
    )
    cases, left_out, methods = json.loads(done.stdout)
    return cases, left_out, methods


CASES, LEFT_OUT, METHODS = _ask()


@pytest.fixture(scope="module")
def both(
    native_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, Any], dict[str, Any], Any]]:
    """What the software GPU and the CPU computed, at once, and what ran on the GPU."""
    import ziglang

    folder = tmp_path_factory.mktemp("ops")
    clang = folder / "clang"
    clang.write_text(f'#!/bin/sh\nexec "{Path(ziglang.__file__).parent / "zig"}" clang "$@"\n')
    clang.chmod(0o755)
    with driver_folder(native_dir) as env, ThreadPoolExecutor(2) as pool:
        env |= {"CACHELEVEL": "0", "TINY_CASES": "tiny_ops_shapes"}
        gpu = {**env, "DEV": "CUDA:PTX", "CC": "false"}  # the CPU cannot stand in unnoticed
        cpu = {**env, "DEV": "CPU", "CC": str(clang), "LD_LIBRARY_PATH": ""}
        told = [
            pool.submit(run_program, e, "tiny.py", str(folder / f"{n}.npz"), timeout_s=1500)
            for n, e in (("gpu", gpu), ("cpu", cpu))
        ]
        seen = [one.result() for one in told]
        with np.load(folder / "gpu.npz") as a, np.load(folder / "cpu.npz") as b:
            yield dict(a), dict(b), seen[0]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CASES)
def test_operation(name: str, both: tuple[dict[str, Any], dict[str, Any], Any]) -> None:
    gpu, cpu, told = both
    assert told["device"] == "CUDA:PTXRenderer"
    assert (told["cases"][name]["launches"] == 0) == (name in VIEWS)
    keys = [key for key in cpu if key.startswith(f"{name}/")]
    assert keys
    assert keys == [key for key in gpu if key.startswith(f"{name}/")]
    relative, absolute = CASES[name]
    for key in keys:
        assert gpu[key].dtype == cpu[key].dtype
        np.testing.assert_allclose(gpu[key], cpu[key], rtol=relative, atol=absolute, err_msg=key)


def test_there_are_many() -> None:
    assert len(CASES) >= 200


def test_every_method_has_a_case_or_a_reason() -> None:
    text = "\n".join((PROGRAMS / name).read_text() for name in SOURCES)
    words = set(re.findall(r"\w+", text))
    left = [m for m in METHODS if m not in words and m not in LEFT_OUT]
    assert [m for m in left if not HOUSEKEEPING.match(m)] == []
