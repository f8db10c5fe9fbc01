# SPDX-License-Identifier: Apache-2.0
"""What programs are told: the driver's own codes for what means nothing, 2 where memory is short.

Every symbol that libharp does not simply pass on is called with arguments that mean nothing, bare
and as a tenant with a limit: the code must be the same, and neither may crash where the other does
not.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from shim_world import MIB, World, compile_c, soft_world

from native.api.cuda import FUNCTIONS
from native.api.model import Charge, Gate
from tests.integration.machine import seed_of_this_run

HERE = Path(__file__).resolve().parent
ROUNDS = 500
HOOKED = [f for f in FUNCTIONS if f.gate is not Gate.NONE]
#: a tenant with a limit is told 801 by these, whatever it asks
REFUSED = {s.name for f in HOOKED if f.gate is Gate.REFUSE for s in f.symbols}
REFUSED |= {"cuArrayCreate", "cuArray3DCreate"}  # of 32 bits
#: 32 bits too, which the software GPU has not: answered by the one of today
BETTER = {"cuMemGetInfo"}
#: more than the limit is 2, whatever else is wrong
ALLOCATES = {s.name for f in HOOKED if f.gate is Gate.MEM_ALLOC for s in f.symbols}


def allowed(name: str, code: str) -> bool:
    """Whether a tenant may be told something else than the driver says."""
    if code == "801":
        return name in REFUSED
    return name in BETTER or (name in ALLOCATES and code == "2")


@pytest.fixture
def world(native_dir: Path) -> Iterator[World]:
    # Much memory: nobody tells this arbiter that the device has back what the dead had.
    with soft_world(native_dir, devices="h100-80g") as made:
        made.tenant("a", mem=8192 * MIB)
        yield made


def answers(world: World, tenant: str | None, program: Path, asked: list[str]) -> list[str]:
    env = world.env(tenant) if tenant else world.bare_env()
    done = subprocess.run(
        [program],
        env=env,
        input="\n".join(asked) + "\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["nulls", "buffer"])
@pytest.mark.parametrize("state", ["bare", "init", "context"])
def test_null_args_fuzz_gets_the_drivers_own_code(
    world: World, tmp_path: Path, state: str, pattern: str
) -> None:
    program = compile_c(HERE / "null_calls.c", tmp_path / "null_calls", "-w")
    names = [symbol.name for function in HOOKED for symbol in function.symbols]
    asked = [f"{state} {pattern} {name}" for name in names]
    bare, under = answers(world, None, program, asked), answers(world, "a", program, asked)
    assert len(bare) == len(under) == len(names) > 100
    differ = {n: (b, u) for n, b, u in zip(names, bare, under, strict=True) if b != u}
    print(len(names), differ)
    assert not {n: d for n, d in differ.items() if not allowed(n, d[1])}


# --- code 2 of every allocator -------------------------------------------------------------------

PRELUDE = """
import ctypes as C
cuda = C.CDLL("libcuda.so.1")
MIB = 1 << 20
def do(name, *args):
    status = getattr(cuda, name)(*args)
    assert status == 0, (name, status)
class Prop(C.Structure):
    _fields_ = [("type", C.c_int), ("handles", C.c_int), ("where", C.c_int), ("id", C.c_int),
                ("rest", C.c_char * 64)]
class Pool(C.Structure):
    _fields_ = [("type", C.c_int), ("handles", C.c_int), ("where", C.c_int), ("id", C.c_int),
                ("rest", C.c_char * 128)]
class Array(C.Structure):
    _fields_ = [("w", C.c_size_t), ("h", C.c_size_t), ("format", C.c_uint), ("n", C.c_uint)]
class Array3(C.Structure):
    _fields_ = [("w", C.c_size_t), ("h", C.c_size_t), ("d", C.c_size_t), ("format", C.c_uint),
                ("n", C.c_uint), ("flags", C.c_uint)]
p, q, n, z = C.c_uint64(), C.c_size_t(), C.c_size_t, C.c_uint64(0)
r = C.byref(p)
do("cuInit", 0)
do("cuCtxCreate_v2", C.byref(C.c_void_p()), 0, 0)
prop = Prop(type=1, where=1)
pool, props = C.c_void_p(), Pool(type=1, where=1)
do("cuMemPoolCreate", C.byref(pool), C.byref(props))
BIG = n(MANY * MIB)
wide = Array(16384, MANY * 16, 32, 1)
CALLS = {
    "cuMemAlloc_v2": (r, BIG),
    "cuMemAllocPitch_v2": (r, C.byref(q), n(MIB), n(MANY), 4),
    "cuMemAllocManaged": (r, BIG, 1),
    "cuMemAllocAsync": (r, BIG, None),
    "cuMemAllocAsync_ptsz": (r, BIG, None),
    "cuMemAllocFromPoolAsync": (r, BIG, pool, None),
    "cuMemAllocFromPoolAsync_ptsz": (r, BIG, pool, None),
    "cuMemCreate": (r, BIG, C.byref(prop), z),
    "cuArrayCreate_v2": (r, C.byref(wide)),
    "cuArray3DCreate_v2": (r, C.byref(Array3(1024, 1024, MANY // 4, 32, 1, 0))),
    "cuMipmappedArrayCreate": (r, C.byref(Array3(16384, MANY * 16, 0, 32, 1, 0)), 2),
    "cuCtxSetLimit": (2, BIG),
}
for name, arguments in CALLS.items():
    first = getattr(cuda, name)(*arguments)
    do("cuCtxSynchronize")
    print(name, first)
"""
#: charged by what they turn out to need; their denial is tested with modules of some size
#: (test_shim_process.py) or they are of 32 bits and refused
ELSEWHERE = {"cuModuleLoad", "cuModuleLoadData", "cuModuleLoadDataEx", "cuModuleLoadFatBinary"}
ELSEWHERE |= {"cuLibraryLoadData", "cuLibraryLoadFromFile"}
ELSEWHERE |= {"cuMemAlloc", "cuMemAllocPitch", "cuArrayCreate", "cuArray3DCreate"}
#: code and graphs take memory at their first use (test_shim_graph_memory.py), host memory has a
#: quota of its own, and what another interface made is there already
LATER = (Charge.CODE, Charge.GRAPH, Charge.HOST, Charge.FOREIGN)
ELSEWHERE |= {s.name for f in HOOKED if f.charge in LATER for s in f.symbols}


def test_oom_code_is_2_of_every_allocator(world: World) -> None:
    """Above the limit each says 2, and below it each works: so the 2 is the limit's."""
    world.tenant("b", mem=256 * MIB)
    said = dict(
        line.split()
        for line in world.python("b", f"MANY = 1024\n{PRELUDE}").splitlines()  # MiB
    )
    assert {name for name, code in said.items() if code != "2"} == set()
    missing = ALLOCATES - said.keys() - ELSEWHERE
    assert not missing, "allocators without a row here: add a call above the limit"
    fits = world.python("b", f"MANY = 4\n{PRELUDE}").splitlines()
    assert {line.split()[1] for line in fits} == {"0"}, fits


@pytest.mark.parametrize("free", ["cuMemFree_v2", "cuMemRelease", "cuArrayDestroy"])
def test_unknown_free_passthrough_changes_nothing(world: World, free: str) -> None:
    code = f"""
import ctypes as C
cuda = C.CDLL("libcuda.so.1")
cuda.cuInit(0), cuda.cuCtxCreate_v2(C.byref(C.c_void_p()), 0, 0)
f, t, p = C.c_size_t(), C.c_size_t(), C.c_uint64()
assert cuda.cuMemAlloc_v2(C.byref(p), C.c_size_t(4 << 20)) == 0
def free(at):
    code = cuda.{free}(C.c_uint64(at))
    assert cuda.cuMemGetInfo_v2(C.byref(f), C.byref(t)) == 0
    return code, t.value - f.value
print(free(0x7777), free(p.value + 512 if "{free}" == "cuMemFree_v2" else 0x1234))
"""
    bare = world.python(None, code).replace(")", "").replace("(", "").split(", ")
    under = world.python("a", code).replace(")", "").replace("(", "").split(", ")
    assert bare[0] == under[0] != "0"
    assert under[1].split()[0] == str(4 * MIB)


def test_two_allocs_one_fits_and_one_gets_it(world: World, tmp_path: Path) -> None:
    """The same with the arbiter's core alone, in every order: test_arbiter_interleavings.py."""
    seed = seed_of_this_run()
    program = compile_c(HERE / "two_allocs.c", tmp_path / "two_allocs")
    world.tenant("b", mem=20 * MIB)
    out = world.run("b", program, ROUNDS, seed % 2**30, 12)
    first, second, none, both, wrong = map(int, out.split())
    print(f"{ROUNDS} rounds: {first} times the first, {second} times the second")
    assert (none, both, wrong) == (0, 0, 0), out
    assert first + second == ROUNDS
    assert world.usage("b").leased_bytes == 0
