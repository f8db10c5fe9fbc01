# SPDX-License-Identifier: Apache-2.0
"""Cases of arrays: in graphs and captures, what NVML sees, and what is refused by name."""

from __future__ import annotations

import ctypes as c
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from soft_mod_cases_graph import Graph, launch
from soft_mod_driver import (
    ILLEGAL_ADDRESS,
    INVALID_HANDLE,
    INVALID_VALUE,
    NOT_SUPPORTED,
    Copy3D,
    Driver,
    case,
    main,
    np,
)

HOST, DEVICE, ARRAY = 1, 2, 3
FLOAT = 0x20
GRANULE = 2 << 20


class Desc(c.Structure):
    _fields_ = (
        ("width", c.c_size_t),
        ("height", c.c_size_t),
        ("depth", c.c_size_t),
        ("format", c.c_int),
        ("channels", c.c_uint),
        ("flags", c.c_uint),
    )


def array(d: Driver, width: int, height: int = 0, depth: int = 0, flags: int = 0) -> c.c_void_p:
    return d.handle("cuArray3DCreate_v2", c.byref(Desc(width, height, depth, FLOAT, 1, flags)))


def box(width: int, height: int = 1, depth: int = 1, **sides: Any) -> Copy3D:
    return Copy3D(width=4 * width, height=height, depth=depth, **sides)


def host_of(side: str, data: np.ndarray[Any, Any]) -> dict[str, Any]:
    depth_height = data.shape[-2] if data.ndim > 1 else 1
    return {
        f"{side}_type": HOST,
        f"{side}_host": data.ctypes.data,
        f"{side}_pitch": 4 * data.shape[-1],
        f"{side}_height": depth_height,
    }


def array_of(side: str, handle: c.c_void_p, x: int = 0, y: int = 0, z: int = 0) -> dict[str, Any]:
    return {
        f"{side}_type": ARRAY,
        f"{side}_array": handle.value,
        f"{side}_x": 4 * x,
        f"{side}_y": y,
        f"{side}_z": z,
    }


@case
def sub_boxes_come_back_as_numpy_slices(d: Driver) -> None:
    seed = int(os.environ.get("HARP_TEST_SEED", "11"))
    print("seed", seed)
    rng = np.random.default_rng(seed)
    shape = (9, 33, 50)
    model = rng.random(shape, "f4")
    a = array(d, 50, 33, 9)
    whole = box(50, 33, 9, **host_of("src", model), **array_of("dst", a))
    d.ok("cuMemcpy3D_v2", c.byref(whole))
    for _ in range(100):
        n = [int(rng.integers(1, s + 1)) for s in shape]
        at = [int(rng.integers(0, s - k + 1)) for s, k in zip(shape, n, strict=True)]
        part = tuple(slice(o, o + k) for o, k in zip(at, n, strict=True))
        got = np.zeros(n, "f4")
        side = array_of("src", a, at[2], at[1], at[0])
        d.ok("cuMemcpy3D_v2", c.byref(box(n[2], n[1], n[0], **side, **host_of("dst", got))))
        assert (got == model[part]).all()
        new = rng.random(n, "f4")
        side = array_of("dst", a, at[2], at[1], at[0])
        d.ok("cuMemcpy3D_v2", c.byref(box(n[2], n[1], n[0], **host_of("src", new), **side)))
        model[part] = new
    past = box(50, 33, 9, **array_of("src", a, 1), **host_of("dst", model))
    d.fails(INVALID_VALUE, "cuMemcpy3D_v2", c.byref(past))
    past = box(50, 33, 9, **array_of("src", a), **host_of("dst", model))
    past.src_lod = 1
    d.fails(INVALID_VALUE, "cuMemcpy3D_v2", c.byref(past))


@case
def the_ledger_has_what_an_array_costs(d: Driver) -> None:
    def ledger() -> int:
        tool = Path(os.environ["HARP_NATIVE_DIR"]) / "harp-soft-truth"
        told = json.loads(subprocess.run([tool], capture_output=True, check=True).stdout)
        return next(int(p["mem_bytes"]) for p in told["processes"] if p["pid"] == os.getpid())

    before = ledger()
    # rows of 4004 bytes padded to 4032: 1040 of them are 4193280 bytes, 2 granules; 1041 are 3
    a, b = array(d, 1001, 1040), array(d, 1001, 1041)
    assert ledger() - before == 5 * GRANULE
    d.ok("cuArrayDestroy", a)
    assert ledger() - before == 3 * GRANULE
    d.ok("cuArrayDestroy", b)
    assert ledger() == before


@case
def rows_and_slices_are_padded(d: Driver) -> None:
    """MiB that an H200 took: rows to 64 bytes, their number and that of slices to 8."""
    for shape, mib in (
        ((100, 100, 100, FLOAT, 1), 6),
        ((100, 100, 100, FLOAT, 4), 18),
        ((1000, 1000, 0, FLOAT, 1), 4),
        ((1000, 1000, 0, FLOAT, 4), 16),
    ):
        before = d.free_bytes()
        made = d.handle("cuArray3DCreate_v2", c.byref(Desc(*shape, 0)))
        assert before - d.free_bytes() == mib << 20, shape
        d.ok("cuArrayDestroy", made)
        assert d.free_bytes() == before
    levels = Desc(1024, 1024, 0, FLOAT, 4, 0)
    made = d.handle("cuMipmappedArrayCreate", c.byref(levels), 11)
    assert before - d.free_bytes() == 22 << 20
    d.ok("cuMipmappedArrayDestroy", made)


@case
def a_graph_copies_arrays(d: Driver) -> None:
    data, got = np.arange(64 * 32, dtype="f4").reshape(32, 64), np.zeros((32, 64), "f4")
    a, b = array(d, 64, 32), array(d, 64, 32)
    g = Graph(d)
    up = box(64, 32, **host_of("src", data), **array_of("dst", a))
    across = box(60, 30, **array_of("src", a, 4, 2), **array_of("dst", b, 0, 0))
    down = box(64, 32, **array_of("src", b), **host_of("dst", got))
    node: tuple[c.c_void_p, ...] = ()
    for params in (up, across, down):
        g.keep.append(params)
        node = (g._add("cuGraphAddMemcpyNode", node, c.byref(params), d.ctx),)
    executable = g.instantiate()
    launch(d, executable)
    assert (got[:30, :60] == data[2:, 4:]).all()
    data += 1
    launch(d, executable)
    assert (got[:30, :60] == data[2:, 4:]).all()
    told = Copy3D()
    d.ok("cuGraphMemcpyNodeGetParams", node[0], c.byref(told))
    assert told.src_array == b.value
    past = box(64, 33, **array_of("src", a), **array_of("dst", b))
    d.fails(
        INVALID_VALUE, "cuGraphExecMemcpyNodeSetParams", executable, node[0], c.byref(past), d.ctx
    )
    d.ok("cuArrayDestroy", a)
    d.ok("cuGraphLaunch", executable, None)
    d.fails(ILLEGAL_ADDRESS, "cuCtxSynchronize")


@case
def a_capture_takes_copies_of_arrays(d: Driver) -> None:
    pinned = d.handle("cuMemHostAlloc", c.c_size_t(4 * 1000), 0)
    data = np.frombuffer((c.c_float * 1000).from_address(pinned.value or 0), "f4")
    data[:] = np.arange(1000)
    a, out = array(d, 1000), d.alloc(4000)
    stream = d.stream()
    d.ok("cuStreamBeginCapture_v2", stream, 2)
    size = c.c_size_t(4000)
    d.ok("cuMemcpyHtoAAsync_v2", a, c.c_size_t(0), pinned, size, stream)
    copy = box(1000, **array_of("src", a), dst_type=DEVICE, dst_device=out.value)
    d.ok("cuMemcpy3DAsync_v2", c.byref(copy), stream)
    graph = c.c_void_p()
    d.ok("cuStreamEndCapture", stream, c.byref(graph))
    assert (d.down(out, 1000) == 0).all()
    executable = d.handle("cuGraphInstantiateWithFlags", graph, c.c_uint64(0))
    launch(d, executable)
    assert (d.down(out, 1000) == np.arange(1000)).all()


@case
def textures_and_surfaces_are_refused_by_name(d: Driver) -> None:
    a = array(d, 64, 64)
    out = c.c_uint64()
    resource = (c.c_ubyte * 144)()
    c.memmove(c.addressof(resource) + 8, c.byref(a), 8)
    texture = (c.c_ubyte * 104)()
    d.fails(NOT_SUPPORTED, "cuTexObjectCreate", c.byref(out), resource, texture, None)
    d.fails(NOT_SUPPORTED, "cuSurfObjectCreate", c.byref(out), resource)
    d.fails(NOT_SUPPORTED, "cuTexRefCreate", c.byref(c.c_void_p()))
    d.fails(NOT_SUPPORTED, "cuSurfRefSetArray", None, a, 0)
    d.fails(NOT_SUPPORTED, "cuMemMapArrayAsync", None, 1, None)


@case
def peers_of_arrays_need_their_contexts(d: Driver) -> None:
    data, got = np.arange(100, dtype="f4"), np.zeros(100, "f4")
    a = array(d, 100)
    up = box(100, **host_of("src", data), **array_of("dst", a))
    d.fails(201, "cuMemcpy3DPeer", c.byref(up))  # no context named for the array
    up.reserved1 = d.ctx.value
    d.ok("cuMemcpy3DPeer", c.byref(up))
    down = box(100, **array_of("src", a), **host_of("dst", got))
    down.reserved0 = d.ctx.value
    d.ok("cuMemcpy3DPeerAsync", c.byref(down), None)
    d.sync()
    assert (got == data).all()
    d.ok("cuArrayDestroy", a)
    d.fails(INVALID_HANDLE, "cuMemcpy3DPeer", c.byref(down))


if __name__ == "__main__":
    main()
