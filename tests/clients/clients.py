# SPDX-License-Identifier: Apache-2.0
"""Clients that are not in .venv: their environment, and one run of all of a program's cases."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from client_process import PROGRAMS, run_program

from tests.conftest import ROOT

ELSEWHERE = ROOT / "build" / "clients"


def cases_of(*programs: str) -> list[str]:
    """Names of cases, without importing the client: what `@case` or `@BOOK.host` stands above."""
    text = "\n".join((PROGRAMS / name).read_text() for name in programs)
    names = re.findall(r"^@(?:case|BOOK\.host)\ndef (\w+)", text, re.MULTILINE)
    assert len(names) == len(set(names)) > 0
    return names


def python_with(module: str) -> str:
    """The interpreter of build/clients, which has MODULE; skips where nobody has made it."""
    python = ELSEWHERE / "bin" / "python"
    if not python.exists():
        pytest.skip("no build/clients; remedy: HARP_CLIENTS=1 deploy/bootstrap dev")
    if not list(ELSEWHERE.glob(f"lib/python3*/site-packages/{module}/__init__.py")):
        pytest.skip(f"no {module} in build/clients: pyproject.toml says why, or there is no g++")
    return str(python)


@contextmanager
def driver_folder(native_dir: Path) -> Iterator[dict[str, str]]:
    """Environment with the software GPU under the names that drivers have, while it lasts."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="harp-test-", dir=base))
    (folder / "lib").mkdir()
    for name in ("libcuda.so", "libcuda.so.1"):
        (folder / "lib" / name).symlink_to(native_dir / "soft" / "libcuda.so.1")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_", "CUDA_"))}
    env |= {
        "HARP_SOFT_DIR": str(folder / "state"),
        "HARP_NATIVE_DIR": str(native_dir),
        "HARP_SOFT_VERBOSE": str(folder / "log"),
        "LD_LIBRARY_PATH": str(folder / "lib"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        yield env
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Told(dict[str, dict[str, object]]):
    """What a program told of each case, and what the driver logged."""

    log = ""

    def insist(self, name: str) -> None:
        """Fails where the case did."""
        assert name in self, f"{name} did not run"
        if self[name]["error"] is not None:
            pytest.fail(str(self[name]["error"]), pytrace=False)


def all_cases(module: str, program: str, native_dir: Path, timeout_s: float = 600) -> Told:
    """Runs every case of PROGRAM in one process: client and kernels are loaded once."""
    python = python_with(module)
    with driver_folder(native_dir) as env:
        told = Told(run_program(env, program, timeout_s=timeout_s, python=python))
        told.log = Path(env["HARP_SOFT_VERBOSE"]).read_text()
    return told
