# SPDX-License-Identifier: Apache-2.0
"""A kernel that the cache has needs no other process; one that may not be trusted is not loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_ptx_hot import PTX, World

from harp.native import find

#: run behind the first launch: had the program children?
NONE = "import resource; assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss == 0"
SOME = NONE.replace("== 0", "> 0")


@pytest.fixture
def world(soft_env: dict[str, str], tmp_path: Path) -> World:
    return World(soft_env, tmp_path)


@pytest.fixture
def entry(world: World) -> Path:
    """A file of the cache, of a kernel that was compiled once."""
    world.run(2, 10, between=SOME)
    (path,) = (world.folder / "cache/harp/ptx").iterdir()
    return path


@pytest.mark.usefixtures("entry")
def test_the_next_program_asks_nobody(world: World) -> None:
    world.run(2, 10, between=NONE)
    assert world.levels == {"-O1": 1}
    world.run(2, 10, ptx=PTX + "\n", between=SOME)
    assert world.levels == {"-O1": 2}


def test_the_fast_form_is_found_for_who_wants_it_soon(world: World, entry: Path) -> None:
    _compile(world, PTX, "mix")
    entry.unlink()
    world.run(2, 10, between=NONE)
    assert world.levels == {"-O1": 1, "-O2": 1}


@pytest.mark.usefixtures("entry")
def test_another_compiler_is_another_kernel(world: World) -> None:
    world.compiler("exec  cc")
    world.run(2, 10, between=SOME)
    assert world.levels == {"-O1": 2}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4096])


def _change(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def _swap(path: Path) -> None:
    """What is whole, but another's."""
    path.write_bytes(path.with_name("other").read_bytes())


@pytest.mark.parametrize("spoil", [_cut, _change, _swap])
def test_a_damaged_entry_is_made_again(spoil: object, world: World, entry: Path) -> None:
    assert callable(spoil)
    other = next(p for p in (_compile(world, PTX + "\n", "mix"),) if p != entry)
    other.rename(other.with_name("other"))
    entry.chmod(0o700)
    spoil(entry)
    entry.chmod(0o500)
    world.run(2, 10, between=SOME)
    world.run(2, 10, between=NONE)


def test_an_entry_that_others_may_write_to_is_refused(world: World, entry: Path) -> None:
    entry.chmod(0o520)
    with pytest.raises(AssertionError):
        world.run(2, 10)
    assert "not a file of this user, or writable by others" in world.log.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files to another user")
def test_an_entry_of_another_user_is_refused(world: World, entry: Path) -> None:
    os.chown(entry, 65534, 65534)
    with pytest.raises(AssertionError):
        world.run(2, 10)
    assert "not a file of this user" in world.log.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files to another user")
def test_a_folder_of_another_user_is_not_looked_in(world: World, entry: Path) -> None:
    os.chown(entry.parent, 65534, 65534)
    world.run(2, 10, between=SOME)


def test_a_folder_that_others_may_write_to_is_not_looked_in(world: World, entry: Path) -> None:
    entry.parent.chmod(0o770)
    world.run(2, 10, between=SOME)


@pytest.mark.usefixtures("entry")
def test_a_folder_that_others_may_move_is_not_looked_in(world: World) -> None:
    (world.folder / "cache/harp").chmod(0o770)
    world.run(2, 10, between=SOME)


SWAP = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
void *dlopen(const char *path, int flags)
{
    void *(*real)(const char *, int) = (void *(*)(const char *, int))dlsym(RTLD_NEXT, "dlopen");
    if (path && (strstr(path, "harp/ptx") || strstr(path, "/proc/self/fd")))
        rename(getenv("SWAP_FROM"), getenv("SWAP_TO"));
    return real(path, flags);
}
"""


def test_what_was_looked_at_is_what_is_loaded(world: World, entry: Path) -> None:
    """Another takes the entry's place between the look at it and its use."""
    source, library, other = (world.folder / name for name in ("swap.c", "swap.so", "other.so"))
    source.write_text(SWAP)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    _compile(world, PTX.replace("1664525", "1664527"), "mix").rename(other)
    world.env |= {"LD_PRELOAD": str(library), "SWAP_FROM": str(other), "SWAP_TO": str(entry)}
    world.run(2, 10, between=NONE)
    assert not other.exists()


def _compile(world: World, ptx: str, kernel: str) -> Path:
    """The fast form, put where programs look."""
    folder = world.folder / "cache/harp/ptx"
    done = subprocess.run(
        [str(find(world.env).file("harp-ptxc")), "compile", "--kernel", kernel, "--cache", folder],
        env=world.env,
        input=ptx,
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(done.stdout.strip())


PLACES = """.version 7.0
.target sm_70
.address_size 64
.visible .entry places(.param .u64 out)
{
    .reg .b32 %r<9>;
    .reg .b64 %d<9>;
    ld.param.u64 %d1, [out];
    mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ctaid.y; mov.u32 %r3, %ctaid.z; mov.u32 %r4, %smid;
    mov.u32 %r5, %nctaid.x; mov.u32 %r6, %nctaid.y;
    mad.lo.u32 %r6, %r3, %r6, %r2; mad.lo.u32 %r6, %r6, %r5, %r1;
    cvt.u64.u32 %d2, %r1; cvt.u64.u32 %d3, %r2; cvt.u64.u32 %d4, %r3; cvt.u64.u32 %d5, %r4;
    shl.b64 %d3, %d3, 20; shl.b64 %d4, %d4, 36; shl.b64 %d5, %d5, 48;
    add.u64 %d2, %d2, %d3; add.u64 %d2, %d2, %d4; add.u64 %d2, %d2, %d5; add.u64 %d2, %d2, 1;
    mul.wide.u32 %d6, %r6, 8; add.u64 %d6, %d1, %d6;
    red.global.add.u64 [%d6], %d2;
    ret;
}
"""
LAUNCH = """
import ctypes as c, json, sys
ptx, grids = json.loads(sys.argv[1])
cu = c.CDLL("libcuda.so.1")
def do(name, *a):
    status = getattr(cu, name)(*a)
    assert status == 0, (name, status)
do("cuInit", 0)
context, module, function, out = c.c_void_p(), c.c_void_p(), c.c_void_p(), c.c_uint64()
do("cuCtxCreate_v2", c.byref(context), 0, 0)
do("cuModuleLoadData", c.byref(module), ptx.encode())
do("cuModuleGetFunction", c.byref(function), module, b"places")
sms = c.c_int()
do("cuDeviceGetAttribute", c.byref(sms), 16, 0)
for x, y, z in grids:
    size = c.c_size_t(8 * x * y * z)
    do("cuMemAlloc_v2", c.byref(out), size)
    do("cuMemsetD8_v2", out, 0, size)
    params = (c.c_void_p * 1)(c.addressof(out))
    do("cuLaunchKernel", function, x, y, z, 1, 1, 1, 0, None, params, None)
    words = (c.c_uint64 * (x * y * z))()
    do("cuMemcpyDtoH_v2", words, out, size)
    for at, word in enumerate(words):
        place = at % x + (at // x % y << 20) + (at // x // y << 36) + (at % sms.value << 48) + 1
        assert word == place, (x, y, z, at, hex(word), hex(place))
"""


@pytest.mark.parametrize("workers", ["1", "3"])
def test_every_block_runs_once_and_where_it_is(workers: str, world: World) -> None:
    """The fast form: threads take blocks of it by the piece."""
    _compile(world, PLACES, "places")
    grids = [(1, 1, 1), (7, 5, 3), (1, 1, 1000), (3, 1000, 2), (20011, 1, 1)]
    subprocess.run(
        [sys.executable, "-c", LAUNCH, json.dumps([PLACES, grids])],
        env=world.env | {"HARP_SOFT_WORKERS": workers},
        check=True,
    )
    assert world.levels == {"-O2": 1}
