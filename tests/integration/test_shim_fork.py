# SPDX-License-Identifier: Apache-2.0
"""Children of a program that uses the device: made by fork at any moment, by vfork, by
multiprocessing. None hangs, none speaks for its parent, and the parent loses nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from shim_world import MIB, World, build_fake, compile_c, soft_world

LIMIT = 64 * MIB


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(__file__).with_name("shim_fork.c")
    return compile_c(source, tmp_path_factory.mktemp("fork") / "fork")


@pytest.fixture
def world(native_dir: Path, tmp_path: Path) -> Iterator[World]:
    with World(native_dir, cuda=build_fake(tmp_path / "fake"), overhead=0) as made:
        made.tenant("a", mem=LIMIT)
        made.tenant("free")
        yield made


# The fake, unlike a driver, works in a child: all the better to see what libharp does there.
@pytest.mark.slow
@pytest.mark.parametrize(("how", "count"), [("free", 2000), ("use", 200), ("exec", 40)])
def test_forks_while_other_threads_hold_its_locks(
    world: World, program: Path, how: str, count: int
) -> None:
    # Nobody tells this arbiter that the dead have drained: their leases would fill a limit.
    process = world.start("a" if how == "free" else "free", program, how, count)
    assert process.stdout
    assert process.stderr
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    line = process.stdout.readline()
    watchdog.cancel()
    assert line == "0\n", (line or "it hangs", process.stderr.read() if line else "")
    # The children are gone, and the parent is one client that has given all back but its slack.
    for row in world.clients():
        if row.pid != process.pid:
            assert row.d == 2, "a child is taken for alive"
    assert process.pid in [row.pid for row in world.clients()]
    assert process.communicate(timeout=20)[0] == ""
    assert process.returncode == 0


MULTIPROCESSING = """
import ctypes as C, multiprocessing, os
cuda = C.CDLL("libcuda.so.1")
def work(mib):
    ctx, p = C.c_void_p(), C.c_uint64()
    assert cuda.cuInit(0) == 0
    assert cuda.cuCtxCreate_v2(C.byref(ctx), 0, 0) == 0
    return cuda.cuMemAlloc_v2(C.byref(p), C.c_size_t(mib << 20))
if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    with context.Pool(3) as pool:
        # before the parent's own first call, as a data loader does
        print(*pool.map(work, [8, 8, 8], chunksize=1))
    print(work(8))
"""


def test_multiprocessing_before_the_parents_first_call(native_dir: Path) -> None:
    with soft_world(native_dir, overhead=0) as world:
        world.tenant("a", mem=LIMIT)
        assert world.python("a", MULTIPROCESSING).split() == ["0", "0", "0", "0"]


STOPPED = """
import ctypes as C, sys
cuda = C.CDLL("libcuda.so.1")
ctx, p = C.c_void_p(), C.c_uint64()
assert cuda.cuInit(0) == 0
assert cuda.cuCtxCreate_v2(C.byref(ctx), 0, 0) == 0
for _ in range(3):
    assert cuda.cuMemAlloc_v2(C.byref(p), C.c_size_t(5 << 20)) == 0
    assert cuda.cuMemFree_v2(p) == 0
assert cuda.cuMemAlloc_v2(C.byref(p), C.c_size_t(int(sys.argv[1]) << 20)) == 0
print("holds", flush=True)
sys.stdin.read()
"""

PEER = """
import ctypes as C, sys, time
cuda = C.CDLL("libcuda.so.1")
ctx, p = C.c_void_p(), C.c_uint64()
assert cuda.cuInit(0) == 0
assert cuda.cuCtxCreate_v2(C.byref(ctx), 0, 0) == 0
longest = 0
for mib in (5, 9, 21) * 30:
    begun = time.monotonic()
    assert cuda.cuMemAlloc_v2(C.byref(p), C.c_size_t(mib << 20)) == 0, mib
    assert cuda.cuMemFree_v2(p) == 0
    longest = max(longest, time.monotonic() - begun)
print(longest)
"""


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process in a frozen control group of its own."""
    tree, state, on, off = Path("/sys/fs/cgroup"), "cgroup.freeze", "1", "0"
    if (tree / "freezer").is_dir():  # version 1
        tree, state, on, off = tree / "freezer", "freezer.state", "FROZEN", "THAWED"
    group = tree / f"harp-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group to freeze ({error}); needs root")
    try:
        if not (group / state).exists():
            pytest.skip(f"{tree} has no {state}")
        (group / "cgroup.procs").write_text(str(pid))
        (group / state).write_text(on)
        yield
        (group / state).write_text(off)
        (tree / "cgroup.procs").write_text(str(pid))
    finally:
        with contextlib.suppress(OSError):
            (group / state).write_text(off)
        group.rmdir()


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_sigstop_holder(world: World, how: str) -> None:
    """Who is stopped holds nobody up: what is free is given at once, within its tenant and out."""
    world.tenant("b", mem=LIMIT)
    holder = world.start("a", sys.executable, "-c", STOPPED, 40)
    assert holder.stdout
    assert holder.stdout.readline() == "holds\n"
    if how == "frozen":
        with frozen(holder.pid):
            longest = [float(world.python(name, PEER)) for name in ("a", "b")]
    else:
        holder.send_signal(signal.SIGSTOP)
        longest = [float(world.python(name, PEER)) for name in ("a", "b")]
        holder.send_signal(signal.SIGCONT)
    assert max(longest) < 1.0, longest
    assert world.usage("a").leased_bytes >= 40 * MIB
    assert holder.communicate("", timeout=20)[0] == ""
