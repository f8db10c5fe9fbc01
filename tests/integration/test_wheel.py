# SPDX-License-Identifier: Apache-2.0
"""The wheel that users install: its name, its contents, and what its binaries ask of a machine."""

from __future__ import annotations

import json
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


def test_the_web_page_is_in_it(unpacked: Path) -> None:
    folder = unpacked / "harp" / "web" / "static"
    assert {p.name for p in folder.iterdir()} == {
        *("index.html", "page.css"),
        *("known.js", "charts.js", "page.js"),
    }


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
        ("libharp-arbiter-core.so", LIBC),
        ("libharp-replay.so", LIBC),
        ("harp-worker", LIBC),
        ("harp-cdi-hook", LIBC),
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
        for name in (
            "harp-arbiter",
            "harp-cdi-hook",
            "harp-worker",
            "harp-ptxc",
            "harp-soft-truth",
            "harp-soft-fault",
        ):
            mode = archive.getinfo(f"harp/_lib/{name}").external_attr >> 16
            assert mode & 0o111, f"{name} has mode {mode:o}"


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of a fresh venv whose only HARP is the wheel."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", wheel], check=True, timeout=600)
    return home / "bin"


def _clean() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_", "PYTHON"))}


def test_installed_wheel_runs_a_program(installed: Path, tmp_path: Path, soft_dir: Path) -> None:
    """`harp run` shows the limit to a program."""
    python, run = installed / "python", tmp_path / "run"
    env = _clean()
    env |= {"HARP_RUN": str(run), "HARP_SOFT_DIR": str(soft_dir), "XDG_RUNTIME_DIR": str(tmp_path)}
    program = (
        "import ctypes as c; d=c.CDLL('libcuda.so.1'); x=c.c_void_p(); f=c.c_size_t();"
        "t=c.c_size_t(); assert d.cuInit(0)==0; assert d.cuCtxCreate_v2(c.byref(x),0,0)==0;"
        "assert d.cuMemGetInfo_v2(c.byref(f),c.byref(t))==0; print(t.value>>20)"
    )
    harp = installed / "harp"
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


def test_installed_wheel_simulates(installed: Path, tmp_path: Path) -> None:
    """The policy core is found in it."""
    command = [installed / "harp", "sim", "time", "--shares", "30,70", "--seconds", "1", "--json"]
    out = subprocess.run(
        command, check=True, capture_output=True, text=True, env=_clean(), cwd=tmp_path
    ).stdout
    assert len(json.loads(out.splitlines()[-1])["tenants"]) == 2


#: a project of somebody who has never heard of HARP's repository
FOREIGN_TESTS = """
import subprocess, sys
import numpy as np
from cuda.bindings import driver as cu

PTX = b\"\"\"
.version 7.0
.target sm_70
.address_size 64
.visible .entry twice(.param .u64 data) {
    .reg .b64 %d<3>; .reg .b32 %r<3>;
    ld.param.u64 %d0, [data];
    mov.u32 %r0, %tid.x;
    mul.wide.u32 %d1, %r0, 4;
    add.u64 %d0, %d0, %d1;
    ld.global.u32 %r1, [%d0];
    add.u32 %r1, %r1, %r1;
    st.global.u32 [%d0], %r1;
    ret;
}\\0\"\"\"

def do(result):
    assert result[0] == 0, result
    return result[1] if len(result) > 1 else None

def test_twice(softgpu):
    do(cu.cuInit(0))
    do(cu.cuCtxCreate(None, 0, do(cu.cuDeviceGet(0))))
    kernel = do(cu.cuModuleGetFunction(do(cu.cuModuleLoadData(PTX)), b"twice"))
    data = np.arange(64, dtype="u4")
    at = do(cu.cuMemAlloc(data.nbytes))
    do(cu.cuMemcpyHtoD(at, data, data.nbytes))
    import ctypes
    value = ctypes.c_uint64(int(at))
    params = (ctypes.c_void_p * 1)(ctypes.addressof(value))
    do(cu.cuLaunchKernel(kernel, 1, 1, 1, 64, 1, 1, 0, 0, ctypes.addressof(params), 0))
    do(cu.cuMemcpyDtoH(data, at, data.nbytes))
    assert (data == np.arange(64) * 2).all()
    assert "kernel=twice" in softgpu.log_text()
"""


def test_installed_wheel_is_a_software_gpu_for_others(installed: Path, tmp_path: Path) -> None:
    """cuda-python in a program and in a pytest project with the fixture."""
    python = installed / "python"
    more = ["cuda-python==13.0.3", "numpy", "pytest"]
    subprocess.run([python, "-m", "pip", "install", "-q", *more], check=True, timeout=600)
    (tmp_path / "test_theirs.py").write_text(FOREIGN_TESTS)
    softgpu = [python, "-m", "harp.softgpu"]
    programs = ROOT / "tests" / "clients" / "programs"
    for command, said in (
        ([python, "-m", "pytest", "-q", "test_theirs.py"], "1 passed"),
        ([*softgpu, "--", python, programs / "bindings.py", "launch"], "ok"),
        ([*softgpu, "--json", "--", "true"], '"status": 0'),
        ([*softgpu, "devices"], "a100-40g"),
        ([*softgpu, "doc"], "A software GPU"),
    ):
        done = subprocess.run(
            command, env=_clean(), cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert said in done.stdout, (command, done.stdout)
