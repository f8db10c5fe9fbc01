# SPDX-License-Identifier: Apache-2.0
"""Fixtures: the toolkit's headers, a compiler."""

from __future__ import annotations

import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from header_facts import FOREIGN, Compile, Header  # noqa: E402  (beside this file)


@pytest.fixture(scope="session")
def cc() -> str:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    return compiler


@pytest.fixture(scope="session")
def header(tmp_path_factory: pytest.TempPathFactory) -> Header:
    for base in site.getsitepackages():
        folder = Path(base) / "nvidia" / "cu13" / "include"
        if (folder / "cuda.h").exists():
            break
    else:
        pytest.skip("no CUDA header here: pip install nvidia-cuda-runtime==13.0.96")
    if "#define CUDA_VERSION 13000" not in (folder / "cuda.h").read_text():
        pytest.skip("the CUDA header here is not 13.0: pip install nvidia-cuda-runtime==13.0.96")
    foreign = tmp_path_factory.mktemp("foreign")
    for name, text in FOREIGN.items():
        path = foreign / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Header((f"-I{folder}", f"-I{foreign}"), folder)


@pytest.fixture
def compile_c(cc: str, tmp_path: Path) -> Compile:
    """compile_c(text, *flags): compiles (and links, unless -c or -E) to tmp_path/out."""

    def run(text: str, *flags: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "in.c").write_text(text)
        command = [cc, "-std=gnu17", "-w", "in.c", *flags, "-o", "out"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run
