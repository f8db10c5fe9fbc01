# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's headers as a source of facts to compare our rows with."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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


Compile = Callable[..., "subprocess.CompletedProcess[str]"]
