# SPDX-License-Identifier: Apache-2.0
"""What a gate on launches must survive: each hazard once hung or broke a system that had one.

Programs run under libharp on the software GPU, beside a tenant that keeps it busy, with the real
arbiter. None may hang, all must compute what they would alone, and codes are the driver's own.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from shim_world import World, build_fake, compile_c, soft_world
from test_shim_share import engine, measure, two

from harp.trace.control import Wish, tell
from harp.trace.format import Reader
from harp.trace.records import Call, CallFlag, DeviceTime

pytestmark = pytest.mark.usefixtures("in_front")

HAZARD = Path(__file__).with_name("hazard.c")


@pytest.fixture(scope="module")
def hazard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_c(HAZARD, tmp_path_factory.mktemp("hazard") / "hazard")


@pytest.fixture
def world(native_dir: Path) -> Iterator[World]:
    with soft_world(native_dir) as made:
        two(made)
        yield made


def begin(*processes: subprocess.Popen[str]) -> None:
    """All are ready; then all are let go."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready"), process.communicate()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def ends(process: subprocess.Popen[str], code: int = 0, timeout_s: float = 60) -> str:
    """Its output; it must end with `code`."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"hung: {process.communicate()}")
    assert process.returncode == code, (process.returncode, out, err)
    return out


@pytest.mark.slow
def test_spin_across_gated_kernels(world: World, hazard: Path, busy: Path) -> None:
    """Kernel A spins on what kernel B sets, and B is still at the gate when A's turn is over."""
    other = world.start("large", busy, "deep", "200", "60")
    mine = world.start("small", hazard, "spin", "40")
    begin(other, mine)
    assert ends(mine) == "ok 40\n"
    assert "turn_extended" in world.log("small"), "it was never in the way: no test"


def test_two_gpu_barrier(native_dir: Path, hazard: Path, busy: Path) -> None:
    """Each of two devices' kernels needs the other device's turn."""
    with soft_world(native_dir, devices="tiny,tiny") as world:
        two(world)
        others = [world.start("large", busy, "deep", "200", "60", dev) for dev in (0, 1)]
        mine = world.start("small", hazard, "barrier", "200")
        begin(*others, mine)
        assert ends(mine) == "ok 200\n"


def test_capture(world: World, hazard: Path, busy: Path) -> None:
    """Nothing of ours in a captured graph, nothing unsafe beside a global capture; replays cost."""
    other = world.start("large", busy, "deep", "200", "60")
    mine = world.start("small", hazard, "capture", "60")
    begin(other, mine)
    assert ends(mine) == "ok 60\n"
    use = world.usage("small")
    assert use.launches >= 60 * 6
    assert use.used_ns > 0


def test_capture_while_all_is_measured(world: World, hazard: Path, busy: Path) -> None:
    """A trace measures each launch: still nothing of it lies in a graph."""
    file = world.base / "small.trace"
    tell(world.base / "grants" / "small", Wish(file))
    other = world.start("large", busy, "deep", "200", "60")
    mine = world.start("small", hazard, "capture", "60")
    begin(other, mine)
    assert ends(mine) == "ok 60\n"
    with file.open("rb") as opened:
        records = list(Reader(opened))
    calls = {r.sequence: r for r in records if isinstance(r, Call)}
    captured = {s for s, c in calls.items() if CallFlag.CAPTURED in c.flags}
    measured = {r.sequence for r in records if isinstance(r, DeviceTime)}
    assert len(captured) >= 60
    assert len(measured) >= 60
    assert not captured & measured


def test_capture_that_begins_beside_our_own_record(world: World, hazard: Path, busy: Path) -> None:
    """The service thread found no capture, and the event it then records lies in one."""
    other = world.start("large", busy, "deep", "200", "60")
    mine = world.start("small", hazard, "late", "30")
    fault = [world.native / "harp-soft-fault", "set", "slow cuEventRecord 600us program=hazard"]
    subprocess.run(fault, env=world.bare_env(), check=True, capture_output=True)
    begin(other, mine)
    assert ends(mine) == "ok 30\n"


def test_capture_that_begins_while_its_stream_is_asked(world: World, hazard: Path) -> None:
    """Frees in the stream's order are pending: another thread's wait asks whether they are over."""
    mine = world.start("small", hazard, "asked", "100")
    fault = [world.native / "harp-soft-fault", "set", "slow cuStreamQuery 600us program=hazard"]
    subprocess.run(fault, env=world.bare_env(), check=True, capture_output=True)
    begin(mine)
    assert ends(mine) == "ok 100\n"


def test_capture_over_a_driver_that_aborts(native_dir: Path, tmp_path: Path, busy: Path) -> None:
    """The fake driver aborts when an event is recorded on a capturing stream."""
    fake = build_fake(tmp_path / "fake")
    with World(native_dir, cuda=fake) as world:
        two(world)
        code = """
import ctypes as C, sys, time
cuda = C.CDLL("libcuda.so.1")
ctx, s, graph = C.c_void_p(), C.c_void_p(), C.c_void_p()
assert cuda.cuInit(0) == 0 and cuda.cuCtxCreate_v2(C.byref(ctx), 0, 0) == 0
assert cuda.cuStreamCreate(C.byref(s), 0) == 0
end = time.monotonic() + 2
while time.monotonic() < end:
    assert cuda.cuStreamBeginCapture_v2(s, 2) == 0
    for _ in range(100):
        assert cuda.cuLaunchKernel(None, 100, 1, 1, 1, 1, 1, 0, s, None, None) == 0
    assert cuda.cuStreamEndCapture(s, C.byref(graph)) == 0
    for _ in range(20):
        assert cuda.cuLaunchKernel(None, 100, 1, 1, 1, 1, 1, 0, s, None, None) == 0
print("done")
"""
        other = world.start("large", busy, "deep", "200", "3", FAKE_DRIVER="1")
        assert other.stdin is not None
        other.stdin.write("go\n")
        other.stdin.flush()
        assert world.python("small", code) == "done\n"
        other.kill()


def test_fork_after_init(world: World, busy: Path) -> None:
    """A child of a process that is gated: ends in any way, may run something else, is no tenant."""
    other = world.start("large", busy, "deep", "200", "60")
    begin(other)
    code = """
import ctypes as C, os, subprocess, sys, time
cuda = C.CDLL("libcuda.so.1")
ctx, p = C.c_void_p(), C.c_uint64()
assert cuda.cuInit(0) == 0 and cuda.cuCtxCreate_v2(C.byref(ctx), 0, 0) == 0
assert cuda.cuMemAlloc_v2(C.byref(p), C.c_size_t(4096)) == 0
for i in range(20):
    assert cuda.cuMemsetD8Async(p, i, C.c_size_t(4096), None) == 0
    pid = os.fork()
    if pid == 0:
        # the driver's own word for a context of before the fork, not a wait for a turn
        os._exit(0 if cuda.cuMemsetD8Async(p, i, C.c_size_t(4096), None) != 0 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert cuda.cuCtxSynchronize() == 0
fresh = "import ctypes; print(ctypes.CDLL('libcuda.so.1').cuInit(0))"
assert subprocess.check_output([sys.executable, "-c", fresh], text=True) == "0\\n"
print("done")
"""
    assert world.python("small", code) == "done\n"


def test_exit_order(world: World, hazard: Path, busy: Path) -> None:
    """main() returns while threads wait at the gate: its code comes out, and the turn goes back."""
    other = world.start("large", busy, "deep", "20000", "20")
    begin(other)
    for _ in range(5):
        mine = world.start("small", hazard, "held", "0")
        begin(mine)
        assert ends(mine, code=7) == "ok 0\n"
    before = sum(engine(world).values())
    time.sleep(1)
    assert sum(engine(world).values()) - before > 300_000_000, "nobody has the device any more"


def test_device_lost_while_gated(world: World, hazard: Path, busy: Path) -> None:
    other = world.start("large", busy, "deep", "20000", "20")
    mine = world.start("small", hazard, "until", "0")
    begin(other, mine)
    time.sleep(0.5)
    fault = [world.native / "harp-soft-fault", "set", "lost dev=0"]
    subprocess.run(fault, env=world.bare_env(), check=True, capture_output=True)
    assert ends(mine) == "ok 999\n"
    ends(other, code=1)


def test_gil_held_while_waiting(world: World, busy: Path) -> None:
    """A launch made with Python's lock held waits for its turn; no thread of ours needs it."""
    other = world.start("large", busy, "deep", "5000", "20")
    begin(other)
    code = """
import ctypes as C, threading, time
cuda = C.PyDLL("libcuda.so.1")      # keeps the lock
ctx, p = C.c_void_p(), C.c_uint64()
assert cuda.cuInit(0) == 0 and cuda.cuCtxCreate_v2(C.byref(ctx), 0, 0) == 0
assert cuda.cuMemAlloc_v2(C.byref(p), C.c_size_t(4096)) == 0
def work():
    assert cuda.cuCtxSetCurrent(ctx) == 0
    for i in range(50):
        assert cuda.cuMemsetD8Async(p, i, C.c_size_t(4096), None) == 0
        assert cuda.cuStreamSynchronize(None) == 0
        time.sleep(0)
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
print("done")
"""
    assert world.python("small", code) == "done\n"


def test_one_kernel_per_sync(world: World, busy: Path) -> None:
    shares = measure(world, busy, {"small": ("sync", "1000"), "large": ("deep", "500")}, 4)
    # Who waits for each kernel is away from the device for as long as the host keeps it waiting.
    assert shares["small"] == pytest.approx(0.3, abs=0.06), (shares, world.log("small"))


@pytest.mark.slow
def test_one_50ms_kernel_against_tiny_ones(world: World, busy: Path) -> None:
    """Ten turns long, each: it pays its debt before it is let again."""
    runs = {"small": ("deep", "50000"), "large": ("deep", "50")}
    shares = measure(world, busy, runs, 6)
    assert shares["small"] == pytest.approx(0.3, abs=0.03), (shares, world.log("small"))


@pytest.mark.slow
def test_arbiter_killed_mid_quantum(world: World, busy: Path) -> None:
    """Each keeps to its share of wall time by itself, for a while; then they are free; then again
    there is one who knows."""
    runs = {name: world.start(name, busy, "deep", "500", "60") for name in ("small", "large")}
    begin(*runs.values())
    time.sleep(1)

    def spent(seconds: float) -> dict[str, float]:
        start, before = time.monotonic(), engine(world)
        time.sleep(seconds)
        after, wall = engine(world), time.monotonic() - start
        return {n: (after[p.pid] - before[p.pid]) / wall / 1e9 for n, p in runs.items()}

    world.stop_arbiter(9)
    time.sleep(0.5)
    alone = spent(3)
    assert alone["small"] == pytest.approx(0.3, abs=0.05), (alone, world.log("small"))
    assert "time_offline" in world.log("small")
    assert "time_unshared" not in world.log("small")
    time.sleep(3)
    assert "time_unshared" in world.log("small")
    free = spent(2)
    assert free["small"] > 0.4, free
    world.start_arbiter()
    time.sleep(2)
    again = spent(3)
    parts = again["small"] / sum(again.values())
    assert parts == pytest.approx(0.3, abs=0.03), (again, world.log("small"))
    for name in runs:
        assert world.log(name).count("time_offline") == 1
        assert "arbiter_back" in world.log(name)
