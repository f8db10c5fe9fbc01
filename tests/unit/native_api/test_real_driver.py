# SPDX-License-Identifier: Apache-2.0
"""The rows against a driver of flesh: what it exports, what its cuGetProcAddress answers."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from test_classes_reviewed import SUSPECT

from native.api import cuda

pytestmark = pytest.mark.gpu

PLACES = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/local/nvidia/lib64",
    "/usr/lib/wsl/lib",
)


@pytest.fixture(scope="module")
def driver() -> Path:
    """$HARP_TEST_DRIVER, or NVIDIA's libcuda.so.1 in a usual place."""
    named = os.environ.get("HARP_TEST_DRIVER")
    found = [Path(named)] if named else [Path(p) / "libcuda.so.1" for p in PLACES]
    for path in found:
        if path.exists():
            return path
    pytest.skip("no real libcuda.so.1 here")


def test_driver_exports_no_allocating_or_launching_name_without_a_row(driver: Path) -> None:
    nm = shutil.which("nm")
    assert nm is not None
    done = subprocess.run(
        [nm, "-D", "--defined-only", str(driver)], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1].split("@")[0] for line in done.stdout.splitlines() if line}
    known = {s.name for s in cuda.SYMBOLS}
    loose = {n for n in names - known if n.startswith("cu") and SUSPECT.search(n)}
    print(f"{driver}: {len(names & known)} of {len(known)} known symbols; unknown: {names - known}")
    assert loose == set()


def test_every_version_is_answered_by_the_symbol_of_its_row(driver: Path) -> None:
    """Also settles whether cuGetProcAddress answers with the exported address."""
    library = ctypes.CDLL(str(driver))
    version = ctypes.c_int()
    assert library.cuDriverGetVersion(ctypes.byref(version)) == 0
    differ = []
    for row in cuda.FUNCTIONS:
        for s in row.symbols:
            if not 0 < s.since <= version.value or not hasattr(library, s.name):
                continue
            entry, status = ctypes.c_void_p(), ctypes.c_int()
            code = library.cuGetProcAddress_v2(
                row.name.encode(),
                ctypes.byref(entry),
                s.since,
                ctypes.c_uint64(2 if s.per_thread else 0),
                ctypes.byref(status),
            )
            want = ctypes.cast(getattr(library, s.name), ctypes.c_void_p).value
            if code != 0 or entry.value != want:
                differ.append((s.name, s.since, code, status.value))
    assert differ == []
