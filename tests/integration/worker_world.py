# SPDX-License-Identifier: Apache-2.0
"""Tenants for workers, a worker's session, and what most tests ask of it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ring_client import Client, Worker
from shim_world import MIB, World, soft_world

SUCCESS, INVALID_VALUE, OUT_OF_MEMORY = 0, 1, 2
INVALID_IMAGE, INVALID_CONTEXT, FILE_NOT_FOUND, INVALID_HANDLE, NOT_SUPPORTED = (
    200,
    201,
    301,
    400,
    801,
)

PTX = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry add(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{
    .reg .pred %p;
    .reg .b32 %r<6>;
    .reg .f32 %f<4>;
    .reg .b64 %d<8>;
    ld.param.u64 %d1, [a];
    ld.param.u64 %d2, [b];
    ld.param.u64 %d3, [c];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p, %r5, %r1;
    @%p bra DONE;
    mul.wide.u32 %d4, %r5, 4;
    add.u64 %d5, %d1, %d4;
    add.u64 %d6, %d2, %d4;
    add.u64 %d7, %d3, %d4;
    ld.global.f32 %f1, [%d5];
    ld.global.f32 %f2, [%d6];
    add.f32 %f3, %f1, %f2;
    st.global.f32 [%d7], %f3;
DONE:
    ret;
}
.visible .entry twice(.param .u64 at)
{
    .reg .b32 %r<2>;
    .reg .b64 %d<2>;
    ld.param.u64 %d1, [at];
    ld.global.u32 %r1, [%d1];
    shl.b32 %r1, %r1, 1;
    st.global.u32 [%d1], %r1;
    ret;
}
"""


@contextmanager
def tenants(native_dir: Path) -> Iterator[World]:
    """One of 1 GiB, and one of 256 MiB."""
    with soft_world(native_dir) as made:
        made.tenant("remote", mem=1024 * MIB)
        made.tenant("small", mem=256 * MIB)
        yield made


def start(world: World, name: str = "remote") -> Worker:
    env = world.env(name)
    del env["LD_PRELOAD"]  # libharp is the driver that the worker opens
    return Worker(world.native, world.shim / "libcuda.so.1", env)


@contextmanager
def session(world: World) -> Iterator[Client]:
    """One that has a context; the worker must be there afterwards."""
    with start(world) as worker:
        made = worker.dial()
        made.context()
        yield made
        status = worker.process.poll()
        assert status is None, f"the worker ended with {status}: {worker.words()}"


def alloc(c: Client, size: int = 4096) -> int:
    return int(c.must("cuMemAlloc_v2", dptr=1, bytesize=size)["dptr"])


def zero(c: Client) -> int:
    """A word that is 0, whatever streams do next."""
    at = alloc(c)
    c.must("cuMemcpyHtoD_v2", dstDevice=at, srcHost=bytes(4), ByteCount=4)
    assert sync(c) == SUCCESS  # a small copy returns before the device is done
    return at


def read(c: Client, at: int, size: int = 4) -> bytes:
    return bytes(c.must("cuMemcpyDtoH_v2", dstHost=b"", srcDevice=at, ByteCount=size)["dstHost"])


def number(c: Client, at: int) -> int:
    return int.from_bytes(read(c, at), "little")


def stream(c: Client) -> int:
    made = c.new()
    c.send("cuStreamCreate", phStream=made, Flags=1)
    return made


def fill(c: Client, at: int, value: int, on: int, **more: int) -> int:
    return c.send("cuMemsetD32Async", dstDevice=at, ui=value, N=1, hStream=on, **more)


def sync(c: Client, **more: int) -> int:
    return c.ask("cuCtxSynchronize", **more)[0]


def gone(pid: int) -> bool:
    """Whether a process has ended. Who waits for it may be gone as well."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def held(world: World, pid: int) -> int:
    """Bytes that a process has, by the engine's ledger; -1: it is not there."""
    tool = [world.native / "harp-soft-truth", "--json"]
    env = world.bare_env()
    told = subprocess.run(tool, env=env, capture_output=True, check=True, text=True).stdout
    rows = json.loads(told)["processes"]
    return next((int(row["mem_bytes"]) for row in rows if row["pid"] == pid), -1)


def is_back(world: World, pid: int) -> None:
    """In three seconds, as is promised: the worker is gone, and what it had is the device's."""
    end = time.monotonic() + 3
    while held(world, pid) > 0 or not gone(pid):
        assert time.monotonic() < end, held(world, pid)
        time.sleep(0.02)
