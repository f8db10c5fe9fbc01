# SPDX-License-Identifier: Apache-2.0
"""The wheel that users install: its name, its contents, and what its binaries ask of a machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: NEEDED of what is loaded into users' processes; the tag promises glibc 2.17.
LIBC = {"libc.so.6", "libdl.so.2", "libpthread.so.0"}
GLIBC_FLOOR = (2, 17)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    env = dict(os.environ, ZIG_GLOBAL_CACHE_DIR=str(ROOT / "build" / "zig-cache"))
    env["HARP_ZIG_PYTHON"] = sys.executable
    pip_wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*pip_wheel, "-w", out, "-C", f"build-dir={out / 'build'}", ROOT],
        check=True,
        env=env,
        timeout=900,
    )
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out)
    return out


def _elves(folder: Path) -> list[Path]:
    return [
        p for p in sorted(folder.rglob("*")) if p.is_file() and p.read_bytes()[:4] == b"\x7fELF"
    ]


def test_name_and_top_level(wheel: Path) -> None:
    assert re.fullmatch(r"harp-[0-9.]+-py3-none-manylinux_2_17_(x86_64|aarch64)\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"harp"}


def test_binaries_ask_for_no_newer_glibc(unpacked: Path) -> None:
    elves = _elves(unpacked / "harp" / "_lib")
    assert len(elves) >= 7
    for path in elves:
        text = subprocess.run(
            ["objdump", "-T", path], check=True, capture_output=True, text=True
        ).stdout
        for version in re.findall(r"GLIBC_([0-9.]+)", text):
            asked = tuple(int(part) for part in version.split("."))
            assert asked <= GLIBC_FLOOR, f"{path.name} asks for GLIBC_{version}"


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("libharp.so", LIBC),
        ("libharp-nvml.so", LIBC),
        ("soft/libcuda.so.1", LIBC | {"libm.so.6"}),
        ("soft/libnvidia-ml.so.1", LIBC | {"libm.so.6"}),
    ],
)
def test_injected_libraries_need_libc_only(unpacked: Path, name: str, needed: set[str]) -> None:
    text = subprocess.run(
        ["readelf", "-dW", unpacked / "harp" / "_lib" / name],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert set(re.findall(r"NEEDED.*\[(.+?)\]", text)) <= needed


def test_programs_keep_their_x_bit(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in ("harp-arbiter", "harp-ptxc", "harp-soft-truth"):
            mode = archive.getinfo(f"harp/_lib/{name}").external_attr >> 16
            assert mode & 0o111, f"{name} has mode {mode:o}"


def test_installed_wheel_runs_a_program(wheel: Path, tmp_path: Path, soft_dir: Path) -> None:
    """In a fresh venv whose only HARP is the wheel: `harp run` shows the limit to a program."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", wheel], check=True, timeout=600)
    run = tmp_path / "run"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_", "PYTHON"))}
    env |= {"HARP_RUN": str(run), "HARP_SOFT_DIR": str(soft_dir), "XDG_RUNTIME_DIR": str(tmp_path)}
    program = (
        "import ctypes as c; d=c.CDLL('libcuda.so.1'); x=c.c_void_p(); f=c.c_size_t();"
        "t=c.c_size_t(); assert d.cuInit(0)==0; assert d.cuCtxCreate_v2(c.byref(x),0,0)==0;"
        "assert d.cuMemGetInfo_v2(c.byref(f),c.byref(t))==0; print(t.value>>20)"
    )
    harp = home / "bin" / "harp"
    try:
        out = subprocess.run(
            [harp, "run", "--mem", "256MiB", "--", python, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env=env,
            timeout=120,
            cwd=tmp_path,
        ).stdout
        assert out.split()[-1] == "256"
    finally:
        subprocess.run([harp, "daemon", "--stop"], env=env, check=False, timeout=60, cwd=tmp_path)
        shutil.rmtree(run, ignore_errors=True)
