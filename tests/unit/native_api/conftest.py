# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's header as a source of facts to compare our rows with, and a compiler."""

from __future__ import annotations

import re
import shutil
import site
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

#: Headers that are not in the package, as far as prototypes need them.
FOREIGN = {
    "cudaProfiler.h": (
        "#pragma once\n"
        "typedef enum CUoutput_mode_enum "
        "{ CU_OUT_KEY_VALUE_PAIR = 0, CU_OUT_CSV = 1 } CUoutput_mode;\n"
        "CUresult cuProfilerInitialize(const char *, const char *, CUoutput_mode);"
        "CUresult cuProfilerStart(void);CUresult cuProfilerStop(void);"
    ),
    "GL/gl.h": "typedef unsigned int GLuint; typedef unsigned int GLenum;",
    "EGL/egl.h": "typedef int EGLint;",
    "EGL/eglext.h": "typedef void *EGLImageKHR, *EGLStreamKHR, *EGLSyncKHR;",
    "vdpau/vdpau.h": (
        "typedef unsigned int VdpDevice, VdpVideoSurface, VdpOutputSurface;"
        "typedef void VdpGetProcAddress;"
    ),
}
INCLUDES = """
#define __CUDA_API_VERSION_INTERNAL
#include <vdpau/vdpau.h>
#include <cuda.h>
#include <cudaProfiler.h>
#include <cudaGL.h>
#include <cudaEGL.h>
#include <cudaVDPAU.h>
"""
TYPEDEFS = ("cuda", "cudaProfiler", "cudaGL", "cudaEGL", "cudaVDPAU")


@dataclass(frozen=True)
class Header:
    """The toolkit's headers, and stand-ins for the graphics headers that they include."""

    flags: tuple[str, ...]
    folder: Path

    def pfn(self) -> set[tuple[str, int, bool]]:
        """(name, version, per thread) of each typedef of a versioned entry point."""
        rows = set()
        for stem in TYPEDEFS:
            text = (self.folder / f"{stem}Typedefs.h").read_text()
            text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
            for name, version, twin in re.findall(
                r"\*PFN_(\w+?)_v(\d+)(_pt[sd][sz])?\)\s*\(", text
            ):
                if name != "cuWGLGetDevice":  # Windows
                    rows.add((name, int(version), bool(twin)))
        return rows


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


Compile = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def compile_c(cc: str, tmp_path: Path) -> Compile:
    """compile_c(text, *flags): compiles (and links, unless -c or -E) to tmp_path/out."""

    def run(text: str, *flags: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "in.c").write_text(text)
        command = [cc, "-std=gnu17", "-w", "in.c", *flags, "-o", "out"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run
