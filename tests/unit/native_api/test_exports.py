# SPDX-License-Identifier: Apache-2.0
"""The built libraries export what the rows say, and programs linked against a driver start."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from header_facts import Compile

from native.api import cuda, nvml

CUDA = {s.name for s in cuda.SYMBOLS}
LIBRARIES = [
    ("soft/libcuda.so.1", CUDA, "cu"),
    ("libharp.so", CUDA, "cu"),
    ("soft/libnvidia-ml.so.1", set(nvml.SYMBOLS), "nvml"),
    ("libharp-nvml.so", set(nvml.SYMBOLS), "nvml"),
]
#: Symbols that only old programs still name, one of each family.
OLD = [
    "cuCtxCreate",
    "cuCtxAttach",
    "cuMemAlloc",
    "cuMemcpyHtoD",
    "cuLaunchGrid",
    "cuParamSetSize",
    "cuTexRefCreate",
    "cuGraphKernelNodeGetParams",
    "cuStreamBeginCapture_ptsz",
    "cuGLInit",
    "cuGLMapBufferObject_v2_ptds",
    "cuEGLStreamConsumerConnect",
    "cuVDPAUCtxCreate",
    "cuProfilerInitialize",
    "cudbgGetAPI",
]


def exported(path: Path) -> set[str]:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("no nm")
    done = subprocess.run(
        [nm, "-D", "--defined-only", str(path)], capture_output=True, text=True, check=True
    )
    return {line.split()[-1].split("@")[0] for line in done.stdout.splitlines() if line}


@pytest.mark.parametrize(("file", "names", "prefix"), LIBRARIES, ids=[x[0] for x in LIBRARIES])
def test_library_exports_the_rows(
    native_dir: Path, file: str, names: set[str], prefix: str
) -> None:
    found = exported(native_dir / file)
    assert names - found == set()
    assert {n for n in found if n.startswith(prefix)} - names == set()


@pytest.mark.parametrize("file", ["soft/libcuda.so.1", "libharp.so"])
def test_program_bound_at_start_to_old_symbols_starts(
    native_dir: Path,
    soft_env: dict[str, str],
    compile_c: Compile,
    tmp_path: Path,
    file: str,
) -> None:
    """DT_NEEDED and BIND_NOW: one missing symbol, and main is never reached."""
    driver, link = tmp_path / "driver", tmp_path / "link"
    driver.mkdir()
    link.mkdir()
    shutil.copy(native_dir / file, driver / "libcuda.so.1")
    bodies = "\n".join(f"void {n}(void) {{}}" for n in OLD)
    done = compile_c(bodies, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1")
    assert done.returncode == 0, done.stderr[:2000]
    (tmp_path / "out").rename(link / "libcuda.so.1")
    uses = "\n".join(f"extern char {n}[];" for n in OLD) + f"\nchar *uses[] = {{{', '.join(OLD)}}};"
    main = "int main(int n, char **_) { return uses[n - 1] ? 42 : 1; }"
    done = compile_c(f"{uses}\n{main}", str(link / "libcuda.so.1"), "-Wl,-z,now", "-fPIE", "-pie")
    assert done.returncode == 0, done.stderr[:2000]
    env = {**soft_env, "LD_LIBRARY_PATH": str(driver)}
    run = subprocess.run([tmp_path / "out"], env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 42, run.stderr
