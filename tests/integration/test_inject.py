# SPDX-License-Identifier: Apache-2.0
"""Load matrix: whichever way a program finds the driver, it is limited, or it can be detected.

Limited: it sees its tenant's limit, and an allocation over the limit is code 2.
Uncovered: the device lists its pid and the arbiter knows no such client; that is what the watchdog
of harpd looks for. Refused: it gets no context at all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from shim_world import MIB, World, compile_c, soft_world

LIMIT = 128 * MIB
PROBE = Path(__file__).with_name("shim_probe.c")
NOBODY = 65534


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_c(PROBE, tmp_path_factory.mktemp("probe") / "probe")


@pytest.fixture
def world(native_dir: Path) -> Iterator[World]:
    with soft_world(native_dir) as made:
        made.tenant("a", mem=LIMIT)
        yield made


def ask(world: World, process: subprocess.Popen[str]) -> tuple[int, str]:
    assert process.stdout is not None
    line = process.stdout.readline()
    pids = [process.pid, *world.children(process.pid)]
    return pids[-1], line.strip()


def start(world: World, *command: object, **more: str) -> subprocess.Popen[str]:
    return world.start("a", *command, SHIM_PROBE_BYTES=str(LIMIT + 2 * MIB), **more)


def is_limited(world: World, process: subprocess.Popen[str]) -> None:
    pid, line = ask(world, process)
    assert line == f"{LIMIT} 2", line
    assert pid in world.device_pids()
    assert pid in [c.pid for c in world.clients()]


def is_uncovered(world: World, process: subprocess.Popen[str]) -> None:
    pid, line = ask(world, process)
    assert line == f"{world.capacity} 0", line
    assert pid in world.device_pids()
    assert pid not in [c.pid for c in world.clients()]


def test_bare_name(world: World, probe: Path) -> None:
    is_limited(world, start(world, probe, "open", "libcuda.so.1"))


def test_development_name(world: World, probe: Path) -> None:
    is_limited(world, start(world, probe, "open", "libcuda.so"))


def test_absolute_path(world: World, probe: Path) -> None:
    is_limited(world, start(world, probe, "open", world.cuda))


def test_symbolic_link_of_another_name(world: World, probe: Path) -> None:
    link = world.base / "mydriver.so"
    link.symlink_to(world.cuda)
    is_limited(world, start(world, probe, "open", link))


def test_hard_link_of_another_name(world: World, probe: Path) -> None:
    link = world.cuda.parent / "libother.so"
    link.hardlink_to(world.cuda)
    is_limited(world, start(world, probe, "open", link))


def test_full_version_name(world: World, probe: Path) -> None:
    named = world.cuda.parent / "libcuda.so.580.65.06"
    named.symlink_to(world.cuda)
    is_limited(world, start(world, probe, "open", named))


@pytest.mark.parametrize(
    ("how", "options"),
    [
        ("needed", []),
        ("rpath", ["-Wl,--disable-new-dtags,-rpath,{folder}"]),
        ("runpath", ["-Wl,--enable-new-dtags,-rpath,{folder}"]),
    ],
)
def test_linked(world: World, tmp_path: Path, how: str, options: list[str]) -> None:
    filled = [o.format(folder=world.cuda.parent) for o in options]
    linked = compile_c(PROBE, tmp_path / how, "-DLINKED", *filled, str(world.cuda))
    is_limited(world, start(world, linked, "linked"))


def test_deepbind(world: World, probe: Path) -> None:
    is_limited(world, start(world, probe, "open", "libcuda.so.1", "deep"))


@pytest.mark.parametrize("name", ["libcuda.so.1", "absolute"])
def test_new_namespace(world: World, probe: Path, name: str) -> None:
    is_limited(world, start(world, probe, "space", world.cuda if name == "absolute" else name))


def test_ctypes(world: World) -> None:
    code = f"""
import ctypes as C, sys
cuda = C.CDLL({str(world.cuda)!r})
ctx, p, f, t = C.c_void_p(), C.c_uint64(), C.c_size_t(), C.c_size_t()
assert cuda.cuInit(0) == 0 and cuda.cuCtxCreate_v2(C.byref(ctx), 0, 0) == 0
cuda.cuMemGetInfo_v2(C.byref(f), C.byref(t))
print(t.value, cuda.cuMemAlloc_v2(C.byref(p), C.c_size_t({LIMIT + 2 * MIB})), flush=True)
sys.stdin.read()
"""
    is_limited(world, start(world, sys.executable, "-c", code))


def test_fork_without_exec(world: World, probe: Path) -> None:
    is_limited(world, start(world, probe, "fork", "libcuda.so.1"))


def test_fork_after_init_is_the_drivers_own_error(world: World, probe: Path) -> None:
    process = start(world, probe, "fork", "libcuda.so.1", "init")
    assert process.communicate(timeout=20)[0].strip() == "no-context 3"


def test_musl_program(world: World, tmp_path: Path) -> None:
    if shutil.which("musl-gcc") is None:
        pytest.skip("no musl-gcc (apt install musl-tools)")
    probe = compile_c(PROBE, tmp_path / "probe", cc="musl-gcc")
    is_limited(world, start(world, probe, "open", "libcuda.so.1"))


def test_musl_program_by_path(world: World, tmp_path: Path) -> None:
    if shutil.which("musl-gcc") is None:
        pytest.skip("no musl-gcc (apt install musl-tools)")
    probe = compile_c(PROBE, tmp_path / "probe", cc="musl-gcc")
    is_limited(world, start(world, probe, "open", world.cuda))


def test_preload_overwritten_but_library_path_left(world: World, probe: Path) -> None:
    is_limited(world, start(world, probe, "open", "libcuda.so.1", LD_PRELOAD=""))


def test_preload_overwritten_and_absolute_path(world: World, probe: Path) -> None:
    is_uncovered(world, start(world, probe, "open", world.cuda, LD_PRELOAD=""))


def test_empty_environment(world: World, probe: Path) -> None:
    keep = [f"{k}={v}" for k, v in world.soft_env.items()]
    size = f"SHIM_PROBE_BYTES={LIMIT + 2 * MIB}"
    is_uncovered(world, start(world, "env", "-i", *keep, size, probe, "open", world.cuda))


def test_static_program(world: World, tmp_path: Path) -> None:
    """No dynamic loader that could preload anything: what it opens, it opens by itself."""
    probe = compile_c(PROBE, tmp_path / "probe", "-static", "-Wno-error")
    process = start(world, probe, "open", world.cuda)
    pid, line = ask(world, process)
    if line == f"{world.capacity} 0":
        assert pid in world.device_pids()
        assert pid not in [c.pid for c in world.clients()]
    else:  # a static program that cannot open libraries cannot use CUDA
        assert process.wait(timeout=10) != 0
        assert pid not in world.device_pids()


def as_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def test_second_uid_gets_nothing_of_the_first(world: World, probe: Path) -> None:
    """Same environment, another user: the grant folder does not let it in."""
    if os.getuid() != 0:
        pytest.skip("needs root to become another user")
    (world.base / "grants" / "a").chmod(0o700)
    copy = world.base / "probe"
    shutil.copy(probe, copy)
    env = world.env("a", SHIM_PROBE_BYTES=str(LIMIT + 2 * MIB))
    done = subprocess.run(
        [copy, "open", "libcuda.so.1"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=as_nobody,
        stdin=subprocess.DEVNULL,
        timeout=30,
    )
    assert done.stdout.strip() == "no-context 2", done
    assert world.clients() == []


def test_set_user_id_program_is_seen(world: World, probe: Path) -> None:
    """AT_SECURE: the loader ignores every LD_ variable."""
    if os.getuid() != 0:
        pytest.skip("needs root to make a set-user-ID program")
    copy = world.base / "probe"
    shutil.copy(probe, copy)
    os.chown(copy, NOBODY, NOBODY)
    copy.chmod(0o4755)
    process = start(world, copy, "open", world.cuda)
    pid, line = ask(world, process)
    if line.startswith(("no-context", "not-opened")):
        assert pid not in world.device_pids()
        return
    assert line == f"{world.capacity} 0", line
    assert pid in world.device_pids()
    assert pid not in [c.pid for c in world.clients()]
