# SPDX-License-Identifier: Apache-2.0
"""Kernels' totals in a tenant's page, over the fake driver: a function's handle is its name."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from shim_world import MIB, World, build_fake

from harp import profile
from harp.profile import GRAPHS, OTHER, Kernel

PROGRAM = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
context, at = ctypes.c_void_p(), ctypes.c_uint64()
assert cuda.cuInit(0) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert cuda.cuCtxSetCurrent(context) == 0
stream = ctypes.c_void_p()
assert cuda.cuStreamCreate(ctypes.byref(stream), 0) == 0
def launch(name, grid=2):
    f = ctypes.c_char_p(name)
    r = cuda.cuLaunchKernel(f, grid, 1, 1, 32, 1, 1, 0, stream, None, None)
    assert r == 0, r
kept = [b"kernel_%d" % i for i in range(300)]
"""


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_fake(tmp_path_factory.mktemp("fake"))


@pytest.fixture
def world(native_dir: Path, fake: Path) -> Iterator[World]:
    with World(native_dir, cuda=fake) as made:
        yield made


def tenant(world: World, **limits: int) -> Path:
    grant = world.tenant("t", mem=256 * MIB, **limits)
    profile.make(grant)
    return grant


def kernels(grant: Path) -> dict[str, Kernel]:
    found = profile.read(grant)
    assert found is not None
    return {k.name: k for k in found.kernels}


def test_totals_are_of_the_tenant_s_processes(world: World) -> None:
    grant = tenant(world)
    code = PROGRAM + "for i in range(7): launch(kept[0], 3); launch(kept[1], 5)"
    world.python("t", code)
    world.python("t", code)
    found = kernels(grant)
    assert set(found) == {"kernel_0", "kernel_1"}
    assert (found["kernel_0"].launches, found["kernel_0"].blocks) == (14, 42)
    assert (found["kernel_1"].launches, found["kernel_1"].blocks) == (14, 70)


def test_a_killed_process_s_totals_stay(world: World) -> None:
    grant = tenant(world)
    code = PROGRAM + "for i in range(50): launch(kept[2])\nprint('done', flush=True)\ninput()"
    process = world.start("t", sys.executable, "-c", code)
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert kernels(grant)["kernel_2"].launches == 50


def test_names_beyond_the_table_are_one(world: World) -> None:
    grant = tenant(world)
    world.python("t", PROGRAM + "for name in kept: launch(name)")
    found = kernels(grant)
    assert len(found) == profile.ROWS - 1  # no graph
    assert found[OTHER].launches == len(range(300)) - (profile.ROWS - 2)
    assert sum(k.launches for k in found.values()) == 300
    assert GRAPHS not in found


def test_without_a_page_of_its_own_nothing_is_counted(world: World) -> None:
    grant = world.tenant("t", mem=256 * MIB)
    code = PROGRAM + "for i in range(9): launch(kept[0])"
    world.python("t", code)
    assert not (grant / "profile").exists()
    profile.make(grant)
    path = grant / "profile"
    newer = bytearray(path.read_bytes())
    newer[8] = 2  # its version
    path.write_bytes(newer)
    world.python("t", code)
    assert path.read_bytes() == newer
    path.write_bytes(newer[:100])
    world.python("t", code)
    assert path.read_bytes() == newer[:100]


def test_launches_into_a_capture_are_none(world: World) -> None:
    """Each was given its kernel's mean, and what the graph takes came on top."""
    grant = tenant(world)
    code = """
graph = ctypes.c_void_p()
for i in range(20): launch(kept[0])
assert cuda.cuStreamBeginCapture_v2(stream, 0) == 0
for i in range(7): launch(kept[0])
launch(kept[1])
assert cuda.cuStreamEndCapture(stream, ctypes.byref(graph)) == 0
for i in range(3): launch(kept[0])
"""
    world.python("t", PROGRAM + code)
    found = kernels(grant)
    assert set(found) == {"kernel_0"}
    assert (found["kernel_0"].launches, found["kernel_0"].blocks) == (23, 46)


def test_copies_are_counted_by_their_way(world: World) -> None:
    grant = tenant(world)
    code = """
here = ctypes.create_string_buffer(4096)
assert cuda.cuMemAlloc_v2(ctypes.byref(at), ctypes.c_size_t(4096)) == 0
for i in range(3):
    assert cuda.cuMemcpyHtoDAsync_v2(at, here, ctypes.c_size_t(1000), None) == 0
"""
    world.python("t", PROGRAM + code)
    found = profile.read(grant)
    assert found is not None
    assert found.copied_bytes == {"htod": 3000, "dtoh": 0, "dtod": 0, "other": 0, "fill": 0}


def test_alone_it_is_measured_on_though_calls_take_long(world: World) -> None:
    """A sample that came due within a call was forgotten by its end: no other was taken ever."""
    grant = tenant(world, share_ppm=500_000)
    code = """
import time
launch(kept[0])
time.sleep(0.1)  # a sample is due
launch(kept[1])  # this is it
launch(kept[2])  # it comes by, being new; within it the next is due
for i in range(40): launch(kept[0])
time.sleep(0.1)
"""
    world.python("t", PROGRAM + code, FAKE_LAUNCH_US="25000")
    found = kernels(grant)["kernel_0"]
    assert found.launches == 41
    assert found.measured_launches >= 10
    assert found.measured_launches + found.predicted_launches >= 30
    assert found.measured_ns >= 2000 * found.measured_launches  # of 2 us each, and brackets
