# SPDX-License-Identifier: Apache-2.0
"""Kernels' totals in a page that the arbiter hands out, over the fake driver."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from arbiter_world import until
from shim_world import MIB, World, build_fake
from test_shim_profile import PROGRAM

from harp import profile
from harp.profile import SIZE, Page

#: launches of kernel_0, or names of what is open and mapped, as it is told
SERVED = """
import os
print("ready", flush=True)
for line in sys.stdin:
    word, count = line.split()
    for i in range(int(count)): launch(kept[0])
    fds = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
           if os.path.islink(f"/proc/self/fd/{n}")]
    maps = [line for line in open("/proc/self/maps") if "harp-profile" in line]
    print(len([f for f in fds if "harp-profile" in f]), len(maps), flush=True)
"""


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_fake(tmp_path_factory.mktemp("fake"))


@pytest.fixture
def world(native_dir: Path, fake: Path) -> Iterator[World]:
    with World(native_dir, cuda=fake) as made:
        yield made


def tenant(world: World, fd: int) -> Path:
    world.pages["t"] = fd
    return world.tenant("t", mem=256 * MIB)


def kernels(source: Path | Page) -> dict[str, int]:
    found = profile.read(source)
    assert found is not None
    return {k.name: k.launches for k in found.kernels}


def serve(world: World) -> subprocess.Popen[str]:
    process = world.start("t", sys.executable, "-c", PROGRAM + SERVED)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


def launch(process: subprocess.Popen[str], count: int) -> tuple[int, int]:
    """Launch; how many pages the process has open, and mapped."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"launch {count}\n")
    process.stdin.flush()
    opened, mapped = process.stdout.readline().split()
    return int(opened), int(mapped)


def restart(world: World, process: subprocess.Popen[str]) -> None:
    backs = world.log("t").count("arbiter_back")
    world.stop_arbiter()
    world.start_arbiter()

    def back() -> bool:
        launch(process, 0)
        return world.log("t").count("arbiter_back") > backs

    until(back, "the client is back")


def test_totals_are_in_the_page_and_not_in_the_folder(world: World) -> None:
    page = Page.make()
    grant = tenant(world, page.fd)
    profile.make(grant)
    code = PROGRAM + "for i in range(7): launch(kept[0], 3); launch(kept[1], 5)"
    world.python("t", code)
    world.python("t", code)
    assert kernels(page) == {"kernel_0": 14, "kernel_1": 14}
    assert kernels(grant) == {}


def test_a_folder_that_cannot_be_written_needs_no_file(world: World) -> None:
    page = Page.make()
    tenant(world, page.fd)
    process = serve(world)
    assert launch(process, 5) == (0, 1), "mapped, and nothing left open"
    process.kill()
    process.wait()
    assert kernels(page) == {"kernel_0": 5}
    assert not (world.base / "grants/t/profile").exists()


def test_a_forked_child_adds_to_the_same(world: World) -> None:
    page = Page.make()
    tenant(world, page.fd)
    code = """
launch(kept[0])
if os.fork() == 0:
    launch(kept[1])
    maps = [line for line in open("/proc/self/maps") if "harp-profile" in line]
    os._exit(len(maps))
sys.exit(os.wait()[1] != 256)
"""
    world.python("t", "import os\n" + PROGRAM + code)
    assert kernels(page) == {"kernel_0": 1, "kernel_1": 1}


def unsealed() -> int:
    fd = os.memfd_create("harp-profile", os.MFD_ALLOW_SEALING)
    os.write(fd, bytes(Page.make().read() or b""))
    return fd


def longer() -> int:
    fd = unsealed()
    os.ftruncate(fd, SIZE + 1)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def newer() -> int:
    fd = unsealed()
    os.pwrite(fd, struct.pack("<I", 2), 8)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def device() -> int:
    return os.open(os.devnull, os.O_RDWR)


@pytest.mark.parametrize("make", [unsealed, longer, newer, device])
def test_what_is_no_sealed_page_is_not_used(world: World, make: object) -> None:
    fd = make()  # type: ignore[operator]
    before = os.fstat(fd).st_size, os.pread(fd, 2 * SIZE, 0)
    grant = tenant(world, fd)
    profile.make(grant)
    process = serve(world)
    assert launch(process, 3) == (0, 0)
    assert (os.fstat(fd).st_size, os.pread(fd, 2 * SIZE, 0)) == before
    assert kernels(grant) == {"kernel_0": 3}
    assert "profile_page_refused" in world.log("t")
    os.close(fd)


def test_after_a_restart_the_same_page_is_gone_on_with(world: World) -> None:
    page = Page.make()
    tenant(world, page.fd)
    process = serve(world)
    launch(process, 10)
    restart(world, process)
    assert launch(process, 7) == (0, 1), "it is not mapped again"
    assert kernels(page) == {"kernel_0": 17}


def test_after_a_restart_another_page_is_taken(world: World) -> None:
    """Functions that were launched before it go there as well."""
    first, second = Page.make(), Page.make()
    tenant(world, first.fd)
    process = serve(world)
    launch(process, 10)
    world.pages["t"] = second.fd
    restart(world, process)
    assert launch(process, 7) == (0, 2), "who was at it in the first may go on"
    assert kernels(first) == {"kernel_0": 10}
    assert kernels(second) == {"kernel_0": 7}


def test_a_page_comes_to_who_began_without(world: World) -> None:
    grant = world.tenant("t", mem=256 * MIB)
    profile.make(grant)
    process = serve(world)
    launch(process, 4)
    page = Page.make()
    world.pages["t"] = page.fd
    restart(world, process)
    launch(process, 5)
    assert (kernels(grant), kernels(page)) == ({"kernel_0": 4}, {"kernel_0": 5})
