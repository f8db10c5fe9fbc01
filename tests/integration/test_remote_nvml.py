# SPDX-License-Identifier: Apache-2.0
"""NVML where the GPU is elsewhere: none, in words, even on a machine that has some of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import ctypes, os
nvml = ctypes.CDLL("libnvidia-ml.so.1")
nvml.nvmlErrorString.restype = ctypes.c_char_p
count = ctypes.c_uint(77)
print(nvml.nvmlInit_v2(), nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)), count.value)
print(nvml.nvmlErrorString(12).decode())
"""


@pytest.fixture
def libraries(native_dir: Path, tmp_path: Path) -> Path:
    """libharp's two, as a program finds them."""
    folder = tmp_path / "lib"
    folder.mkdir()
    (folder / "libcuda.so.1").symlink_to(native_dir / "libharp.so")
    (folder / "libnvidia-ml.so.1").symlink_to(native_dir / "libharp-nvml.so")
    return folder


def run(env: dict[str, str]) -> list[str]:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_this_machines_nvml_is_not_shown(
    libraries: Path, native_dir: Path, soft_env: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    env = {
        **soft_env,
        "HARP_SOFT_DEVICES": "h100-80g",
        "LD_LIBRARY_PATH": str(libraries),
        "HARP_NVML_REAL": str(native_dir / "soft" / "libnvidia-ml.so.1"),
        "HARP_LOG": str(log),
    }
    assert run(env)[0] == "0 0 1"
    assert run({**env, "HARP_REMOTE": str(tmp_path / "none")}) == ["12 12 77", "NVML is not there"]
    assert "nvml_elsewhere" in log.read_text()
    assert "remedy=" in log.read_text()


def test_where_there_is_none_its_words_are_there(
    libraries: Path, soft_env: dict[str, str], tmp_path: Path
) -> None:
    """nvmlErrorString answers no code: a program reads what it points to."""
    env = {**soft_env, "LD_LIBRARY_PATH": str(libraries)}
    env["HARP_NVML_REAL"] = str(tmp_path / "none")
    first, words = run(env)
    assert first == "12 12 77"
    assert words == "NVML is not there"
