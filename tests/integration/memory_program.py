# SPDX-License-Identifier: Apache-2.0
"""Programs that allocate in every way, judged by the engine's own ledger."""

from __future__ import annotations

import json
import subprocess
import textwrap

from shim_world import MIB, World

UNIT = 32 * MIB
#: a context of the device `tiny`
CONTEXT_BYTES = 24 * MIB

PRELUDE = """
import ctypes as C, os, sys
cuda = C.CDLL("libcuda.so.1")
MIB = 1 << 20
UNIT = 32 * MIB
n, u64, ptr = C.c_size_t, C.c_uint64, C.c_void_p
def raw(name, *args):
    return getattr(cuda, name)(*args)
def do(name, *args):
    status = raw(name, *args)
    assert status == 0, (name, status)
def handle(name, *args):
    out = ptr()
    do(name, C.byref(out), *args)
    return out
def info():
    f, t = n(), n()
    do("cuMemGetInfo_v2", C.byref(f), C.byref(t))
    return f.value, t.value
def free_mib():
    return info()[0] / MIB
def alloc(size, stream=None, pool=None):
    out = u64()
    if pool is None:
        status = raw("cuMemAllocAsync", C.byref(out), n(size), stream)
    else:
        status = raw("cuMemAllocFromPoolAsync", C.byref(out), n(size), pool, stream)
    return out if status == 0 else status
def linear(size):
    out = u64()
    status = raw("cuMemAlloc_v2", C.byref(out), n(size))
    return out if status == 0 else status
def reserved(pool):
    out = u64()
    do("cuMemPoolGetAttribute", pool, 5, C.byref(out))
    return out.value // MIB
class Location(C.Structure):
    _fields_ = [("type", C.c_int), ("id", C.c_int)]
class Props(C.Structure):
    _fields_ = [("type", C.c_int), ("handles", C.c_int), ("where", Location),
                ("security", ptr), ("most", n), ("usage", C.c_ushort), ("rest", C.c_ubyte * 54)]
def create(kind=1, where=(1, 0), handles=0):
    return handle("cuMemPoolCreate", C.byref(Props(kind, handles, Location(*where))))
class AllocNode(C.Structure):
    _fields_ = [("props", Props), ("descs", ptr), ("count", n), ("bytes", n), ("at", u64)]
def graph(*sizes, freed=True):
    '''A graph that has `sizes` one after the other; what it has last may outlive it.'''
    made, before, params = handle("cuGraphCreate", 0), None, None
    for i, size in enumerate(sizes):
        params = AllocNode(Props(1, 0, Location(1, 0)), None, 0, size)
        deps = (ptr * 1)(before.value) if before else None
        before = handle("cuGraphAddMemAllocNode", made, deps, n(1 if before else 0),
                        C.byref(params))
        if freed or i + 1 < len(sizes):
            deps = (ptr * 1)(before.value)
            before = handle("cuGraphAddMemFreeNode", made, deps, n(1), u64(params.at))
    return handle("cuGraphInstantiateWithFlags", made, C.c_ulonglong(0)), params.at
def sync():
    do("cuCtxSynchronize")
do("cuInit", 0)
print(os.getpid(), flush=True)
ctx = handle("cuCtxCreate_v2", 0, 0)
own = handle("cuDeviceGetDefaultMemPool", 0)
"""


def peak_bytes(world: World, pid: int) -> int:
    """The most that the process ever had, less its context, by the engine's ledger."""
    told = subprocess.run(
        [world.native / "harp-soft-truth", "--json", "--pid", str(pid)],
        env=world.bare_env(),
        capture_output=True,
        check=True,
    )
    row = next(p for p in json.loads(told.stdout)["processes"] if p["pid"] == pid)
    return int(row["peak_bytes"]) - CONTEXT_BYTES


def judged(world: World, limit: int, body: str) -> None:
    """Runs `body` as a tenant with that limit: it must pass and never have had more."""
    world.tenant("a", mem=limit)
    out = world.python("a", PRELUDE + textwrap.dedent(body))
    most = peak_bytes(world, int(out.split()[0]))
    assert most <= limit, f"{(most - limit) / MIB} MiB too many; {world.log('a')}"
    assert world.usage("a").leased_bytes == 0
