# SPDX-License-Identifier: Apache-2.0
"""The corpus (ptx_corpus/) as PTX, by every clang at hand, and as a library of the host's."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CORPUS = Path(__file__).with_name("ptx_corpus")
BLOCKS, THREADS, IN_BYTES, OUT_BYTES, CELLS = 2, 96, 64, 128, 64
# The least PTX version of each processor; what clang writes depends on it.
PTX_OF = {"sm_70": 60, "sm_75": 63, "sm_80": 70, "sm_86": 71, "sm_89": 78, "sm_90": 78}
SM = tuple(PTX_OF)
LEVELS = ("-O0", "-O1", "-O2", "-O3")
FLAGS = ("-ffp-contract=off", "-fwrapv", "-Wno-everything")


@dataclass(frozen=True)
class Clang:
    """A clang that has the NVPTX back end."""

    argv: tuple[str, ...]
    version: int

    @property
    def targets(self) -> tuple[str, ...]:
        """What this clang knows: 14 ends at sm_86, sm_89 and sm_90 came with 16."""
        return SM if self.version >= 16 else SM[:4]


def zig() -> str:
    """The clang of the wheel that builds HARP: always there."""
    import ziglang

    return str(Path(ziglang.__file__).parent / "zig")


def clangs() -> list[Clang]:
    """Zig's clang, and the distribution's where it is installed."""
    found = [Clang((zig(), "clang"), 0)]
    for name in ("clang", "clang-14", "clang-16", "clang-19", "clang-22"):
        path = shutil.which(name)
        if path and all(Path(path).resolve() != Path(c.argv[0]).resolve() for c in found):
            found.append(Clang((path,), 0))
    for i, one in enumerate(found):
        text = subprocess.run(
            [*one.argv, "--version"], capture_output=True, text=True, check=True
        ).stdout
        number = re.search(r"version (\d+)", text)
        assert number, text
        found[i] = Clang(one.argv, int(number[1]))
    return found


def to_ptx(clang: Clang, source: Path, sm: str, level: str, out: Path) -> Path:
    """One file of the corpus as PTX."""
    if source.suffix == ".cl":
        dialect = ["-x", "cl", "-cl-std=CL2.0", "-fno-builtin"]
    else:
        dialect = ["-x", "cuda", "-std=c++17", "-fcuda-is-device", "-aux-triple"]
        dialect += ["x86_64-unknown-linux-gnu", "-fno-rtti"]
    done = subprocess.run(
        [
            *clang.argv,
            *("-cc1", "-triple", "nvptx64-nvidia-cuda", "-target-cpu", sm),
            *("-target-feature", f"+ptx{78 if clang.version >= 16 else PTX_OF[sm]}"),
            *dialect,
            *(*FLAGS, level, "-S", "-o", str(out), str(source)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{source.name} {sm} {level}: {done.stderr[-3000:]}"
    return out


def kernels(source: Path) -> list[str]:
    """Names of the kernels of a file."""
    return re.findall(r"^(?:KERNEL|kernel) void (\w+)\(", source.read_text(), re.MULTILINE)


def aligned(size: int) -> np.ndarray:
    """Bytes that begin where a vector may lie."""
    raw = np.zeros(size + 64, np.uint8)
    return raw[-raw.ctypes.data % 64 :][:size]


class HostLibrary:
    """The same kernels, compiled for the host."""

    def __init__(self, folder: Path) -> None:
        path = folder / "corpus.so"
        objects = []
        env = {**os.environ, "ZIG_LOCAL_CACHE_DIR": str(folder / "zig")}
        for source in sorted(CORPUS.glob("*.c[lu]")):
            objects.append(folder / f"{source.stem}.o")
            kind = ["-x", "cl", "-cl-std=CL2.0", "-cl-no-stdinc", "-fno-builtin"]
            if source.suffix != ".cl":
                kind = ["-x", "c++", "-std=c++17", "-fno-rtti", "-fno-exceptions"]
            subprocess.run(
                [
                    *(zig(), "clang", "--target=x86_64-linux-gnu", *kind, *FLAGS, "-O0", "-fPIC"),
                    # Halves as a GPU has them: each operation is rounded.
                    *("-Xclang", "-ffloat16-excess-precision=none"),
                    *("-c", "-o", str(objects[-1]), str(source)),
                ],
                check=True,
                env=env,
            )
        subprocess.run(
            [
                *(zig(), "cc", "-shared", "-O1", "-fPIC", "-o", str(path)),
                *(str(CORPUS / "host.c"), *map(str, objects)),
            ],
            check=True,
            env=env,
        )
        self.library = ctypes.CDLL(str(path))

    def run(self, kernel: str, data: bytes) -> tuple[bytes, bytes]:
        """What the kernel writes: its output and the cells."""
        source, out = aligned(len(data)), aligned(BLOCKS * THREADS * OUT_BYTES)
        source[:] = np.frombuffer(data, np.uint8)
        cells = aligned(CELLS * 4)
        status = self.library.host_run(
            getattr(self.library, kernel),
            *(a.ctypes.data_as(ctypes.c_void_p) for a in (source, out, cells)),
            *(BLOCKS, THREADS),
        )
        assert status == 0, status
        return out.tobytes(), cells.tobytes()


def inputs(seed: int) -> bytes:
    """64 bytes for each thread: random bits, small numbers, special numbers."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (BLOCKS * THREADS, IN_BYTES), np.uint8)
    words = rows.view(np.uint32)
    words[1::5] = rng.integers(0, 40, words[1::5].shape, np.uint32)
    special = [0, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 1, 0x7F7FFFFF, 0x3F800000]
    words[2::5] = rng.choice(
        np.array([*special, 0xFFFFFFFF, 0x7FFFFFFF], np.uint32), words[2::5].shape
    )
    rows.view(np.float16)[3::5] = rng.normal(0, 30, (len(rows[3::5]), 32)).astype(np.float16)
    rows.view(np.float64)[4::5] = rng.normal(0, 1e3, (len(rows[4::5]), 8))
    return rows.tobytes()
