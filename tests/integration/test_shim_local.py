# SPDX-License-Identifier: Apache-2.0
"""Local memory that a launch adds for a large frame: leased before it, judged by the engine."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from memory_program import CONTEXT_BYTES, PRELUDE
from memory_program import judged as judged_program
from shim_world import MIB, ROOT, World, compile_c, soft_world

#: `deep` has a frame of 16 KiB, `deeper` of 32 KiB, `flat` of 256 bytes; each writes 7 to `out`
KERNELS = '''
import json, subprocess
def ptx(*kernels):
    text = ".version 7.0\\n.target sm_75\\n.address_size 64\\n"
    for name, size in kernels:
        text += f""".visible .entry {name}(.param .u64 out)
{{
    .local .align 16 .b8 frame[{size}];
    .reg .b32 %r<2>;
    .reg .b64 %d<3>;
    ld.param.u64 %d1, [out];
    mov.u64 %d2, frame;
    mov.u32 %r1, 7;
    st.local.u32 [%d2], %r1;
    ld.local.u32 %r1, [%d2];
    st.global.u32 [%d1], %r1;
    ret;
}}
"""
    return text.encode()
SOURCE = ptx(("deep", 16 << 10), ("deeper", 32 << 10), ("flat", 256))
def function(module, name):
    return handle("cuModuleGetFunction", module, name)
def launch(f, stream=None, threads=1):
    return raw("cuLaunchKernel", f, 1, 1, 1, threads, 1, 1, 0, stream, args, None)
def written():
    # What a kernel has left in `out`, and 0 there again.
    value = C.c_uint(99)
    do("cuMemcpyDtoH_v2", C.byref(value), out, n(4))
    do("cuMemsetD8_v2", out, C.c_ubyte(0), n(4))
    return value.value
def stack(size):
    do("cuCtxSetLimit", 0, n(size))
def grows(frame):
    sms, threads = C.c_int(), C.c_int()
    do("cuDeviceGetAttribute", C.byref(sms), 16, 0)
    do("cuDeviceGetAttribute", C.byref(threads), 39, 0)
    return -(-(frame - 1024) * sms.value * threads.value // (2 * MIB)) * 2
def truth():
    # MiB that this process has of the device, by the engine's ledger.
    env = {k: v for k, v in os.environ.items() if not k.startswith("LD_")}
    told = subprocess.run([os.environ["TRUTH"], "--json", "--pid", str(os.getpid())], env=env,
                          capture_output=True, check=True)
    row, = json.loads(told.stdout)["processes"]
    return (row["mem_bytes"] + row["context_bytes"]) / MIB
def added(mib):
    # So much more is charged than at first, and the device has as much more.
    at = (first[0] - free_mib(), truth() - first[1])
    assert at == (mib, mib), (at, mib)
bare = truth()
out = linear(4)
args = (ptr * 1)(C.addressof(out))
module = handle("cuModuleLoadData", SOURCE)
deep, deeper, flat = (function(module, name) for name in (b"deep", b"deeper", b"flat"))
DEEP, DEEPER = grows(16 << 10), grows(32 << 10)
assert 0 < DEEP < DEEPER
assert launch(flat) == 0
sync()
assert written() == 7
first = free_mib(), truth()
'''

GRAPHS = """
class Node(C.Structure):
    _fields_ = [("func", ptr), ("grid", C.c_uint * 3), ("block", C.c_uint * 3),
                ("shared", C.c_uint), ("args", ptr), ("extra", ptr), ("kern", ptr), ("ctx", ptr)]
def node(f):
    one = (C.c_uint * 3)(1, 1, 1)
    return Node(f.value, one, one, 0, C.addressof(args))
def graph_of(f):
    # A graph of one kernel, and its node.
    made = handle("cuGraphCreate", 0)
    return made, handle("cuGraphAddKernelNode_v2", made, None, n(0), C.byref(node(f)))
def runs(made):
    return handle("cuGraphInstantiateWithFlags", made, C.c_ulonglong(0))
def run(exec):
    status = raw("cuGraphLaunch", exec, None)
    sync()
    return status
"""

#: a driver that has only kernels of libraries, of as many bytes as their handles say; 1 has none
KERNELS_ONLY = """
CUresult cuFuncGetAttribute(int *v, CUfunction_attribute a, CUfunction f)
{
    return CUDA_ERROR_INVALID_HANDLE;
}
CUresult cuKernelGetAttribute(int *v, CUfunction_attribute a, CUkernel k, CUdevice d)
{
    *v = (int)(size_t)k;
    return *v == 1 || a != CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES ? CUDA_ERROR_INVALID_HANDLE
                                                              : CUDA_SUCCESS;
}
"""


@pytest.fixture
def world(native_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("TRUTH", str(native_dir / "harp-soft-truth"))  # programs ask it
    with soft_world(native_dir, overhead=CONTEXT_BYTES) as made:
        yield made


def judged(world: World, limit: int, body: str) -> None:
    judged_program(world, limit, KERNELS + GRAPHS + textwrap.dedent(body))


def test_growth_is_charged_once_and_goes_with_the_stack_or_the_context(world: World) -> None:
    judged(
        world,
        400 * MIB,
        """
        for launches in range(3):
            assert launch(deep) == 0
            added(DEEP)
            sync()
        assert launch(deeper) == 0
        added(DEEPER)
        assert launch(deep) == 0                  # it has room
        added(DEEPER)
        sync()
        stack(1024)
        added(0)
        for launches in range(3):                 # known to have fitted: it does not any more
            assert launch(deep) == 0
            added(DEEP)
        sync()
        stack(8 << 10)
        added(grows(8 << 10))
        assert launch(deep) == 0
        added(DEEP)
        sync()
        do("cuCtxDestroy_v2", ctx)
        ctx = handle("cuCtxCreate_v2", 0, 0)
        assert info()[0] == info()[1]
        assert truth() == bare
        """,
    )


def test_each_context_grows(world: World) -> None:
    """A library's kernel has one handle in all of them."""
    judged(
        world,
        400 * MIB,
        """
        library = handle("cuLibraryLoadData", SOURCE, None, None, 0, None, None, 0)
        deep, flat = (handle("cuLibraryGetKernel", library, name) for name in (b"deep", b"flat"))
        assert launch(flat) == 0
        sync()
        first = free_mib(), truth()
        for launches in range(3):
            assert launch(deep) == 0
            added(DEEP)
        sync()
        other = handle("cuCtxCreate_v2", 0, 0)
        own = linear(4)
        args[0] = C.addressof(own)
        assert launch(flat) == 0
        sync()
        first = free_mib(), truth()
        for launches in range(3):                 # known to have fitted the other one
            assert launch(deep) == 0
            sync()
            added(DEEP)
        stack(1024)
        added(0)
        do("cuCtxSetCurrent", ctx)
        args[0] = C.addressof(out)
        for launches in range(3):                 # there it still fits
            assert launch(deep) == 0
        sync()
        added(0)
        do("cuCtxSetCurrent", other)
        args[0] = C.addressof(own)
        assert launch(deep) == 0
        sync()
        added(DEEP)
        """,
    )


def test_every_launch_call_is_charged(world: World) -> None:
    judged(
        world,
        200 * MIB,
        """
        class Config(C.Structure):
            _fields_ = [("grid", C.c_uint * 3), ("block", C.c_uint * 3), ("shared", C.c_uint),
                        ("stream", ptr), ("attrs", ptr), ("count", C.c_uint)]
        one = (C.c_uint * 3)(1, 1, 1)
        config = C.byref(Config(one, one))
        ones = (1, 1, 1, 1, 1, 1, 0, None, args)
        stream = handle("cuStreamCreate", 1)
        for call in (
            lambda f: launch(f, stream),
            lambda f: raw("cuLaunchKernel_ptsz", f, *ones, None),
            lambda f: raw("cuLaunchKernelEx", config, f, args, None),
            lambda f: raw("cuLaunchKernelEx_ptsz", config, f, args, None),
            lambda f: raw("cuLaunchCooperativeKernel", f, *ones),
            lambda f: raw("cuLaunchCooperativeKernel_ptsz", f, *ones),
        ):
            for launches in range(5):             # the time gate knows the stream
                assert call(flat) == 0
            sync()
            assert call(deep) == 0
            added(DEEP)
            sync()
            assert written() == 7
            stack(1024)
            added(0)
        """,
    )


def test_kernels_of_libraries_are_charged(world: World) -> None:
    judged(
        world,
        200 * MIB,
        """
        library = handle("cuLibraryLoadData", SOURCE, None, None, 0, None, None, 0)
        kernel = handle("cuLibraryGetKernel", library, b"deep")
        small = handle("cuLibraryGetKernel", library, b"flat")
        assert launch(small) == 0
        sync()
        before = free_mib(), truth()
        for launches in range(2):
            assert launch(kernel) == 0
            assert before[0] - free_mib() == DEEP == truth() - before[1]
            sync()
        """,
    )


def test_driver_that_knows_kernels_as_no_functions(native_dir: Path, tmp_path: Path) -> None:
    source = tmp_path / "fake.c"
    source.write_text(f'#include "{ROOT}/tests/native/shim_fake_cuda.c"\n{KERNELS_ONLY}')
    options = ("-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-Wl,-Bsymbolic")
    fake = compile_c(source, tmp_path / "libcuda.so.1", *options)
    body = """
        def launch(frame):
            return raw("cuLaunchKernel", ptr(frame), 1, 1, 1, 1, 1, 1, 0, None, None, None)
        before = free_mib()
        for frame, mib in (1024, 0), (2048, 10), (2048, 10), (1, 10), (1024, 10), (16 << 10, 150):
            assert launch(frame) == 0
            assert before - free_mib() == mib, (frame, before - free_mib())
        assert launch(32 << 10) == 2
        assert before - free_mib() == 150
        """
    with World(native_dir, cuda=fake) as made:
        made.tenant("a", mem=200 * MIB)
        made.python("a", PRELUDE + textwrap.dedent(body))


def test_launch_that_does_not_fit_is_out_of_memory(world: World) -> None:
    """And a neighbour gets what it was promised."""
    promised = 840 * MIB
    world.tenant("b", mem=promised)
    body = """
        first = linear(600 * MIB)
        assert type(first) is u64
        print("ready", flush=True)
        sys.stdin.readline()
        rest = linear(240 * MIB)
        assert type(rest) is u64, rest
        """
    neighbour = world.start("b", sys.executable, "-c", PRELUDE + textwrap.dedent(body))
    assert neighbour.stdout is not None
    neighbour.stdout.readline()
    assert neighbour.stdout.readline() == "ready\n"
    judged(
        world,
        100 * MIB,
        """
        for launches in range(3):
            assert launch(deep) == 2
            sync()
            assert written() == 0
            added(0)
        assert launch(flat) == 0
        sync()
        assert written() == 7
        exec = runs(graph_of(deep)[0])
        assert run(exec) == 2
        assert written() == 0
        added(0)
        held = linear(90 * MIB)                   # all that is left is to be had
        assert type(held) is u64
        """,
    )
    out, err = neighbour.communicate("go\n", timeout=60)
    assert neighbour.returncode == 0, (out, err)


def test_launch_that_fails_leaves_nothing_charged(world: World) -> None:
    judged(
        world,
        400 * MIB,
        """
        assert launch(deep, threads=4096) == 1
        added(0)
        assert launch(deep) == 0
        assert launch(deeper, threads=4096) == 1
        added(DEEP)
        sync()
        """,
    )


def test_growth_counts_for_tenants_without_a_limit(world: World) -> None:
    """The device's memory is promised to others."""
    world.tenant("a")
    body = """
        assert launch(deep) == 0
        sync()
        print(DEEP, flush=True)
        sys.stdin.readline()
        """
    running = world.start("a", sys.executable, "-c", PRELUDE + KERNELS + textwrap.dedent(body))
    assert running.stdout is not None
    running.stdout.readline()
    grown = int(running.stdout.readline())
    assert world.usage("a").leased_bytes >= grown * MIB
    out, err = running.communicate("go\n", timeout=60)
    assert running.returncode == 0, (out, err)


def test_handle_of_an_unloaded_function_is_asked_again(world: World) -> None:
    judged(
        world,
        200 * MIB,
        """
        def load(frame):
            module = handle("cuModuleLoadData", ptx(("again", frame)))
            return module, function(module, b"again")
        was = set()
        for attempt in range(20):
            module, f = load(256)
            assert launch(f) == 0 and launch(f) == 0
            sync()
            was.add(f.value)
            do("cuModuleUnload", module)
            module, f = load(16 << 10)
            if f.value in was:
                break
            do("cuModuleUnload", module)
        assert f.value in was, "no handle was reused"
        before = free_mib(), truth()
        assert launch(f) == 0
        at = (before[0] - free_mib(), truth() - before[1])
        assert at == (DEEP, DEEP), at
        sync()
        """,
    )


def test_graphs_are_charged_when_they_run(world: World) -> None:
    judged(
        world,
        400 * MIB,
        """
        made, at = graph_of(deep)
        exec = runs(made)
        added(0)                                  # not before
        for launches in range(2):
            assert run(exec) == 0
            assert written() == 7
            added(DEEP)
        stack(1024)
        added(0)
        do("cuGraphExecKernelNodeSetParams_v2", exec, at, C.byref(node(deeper)))
        added(0)
        assert run(exec) == 0
        added(DEEPER)
        stack(1024)
        parent = handle("cuGraphCreate", 0)
        handle("cuGraphAddChildGraphNode", parent, None, n(0), made)
        assert run(runs(parent)) == 0
        added(DEEP)
        """,
    )


def test_graph_that_is_given_a_large_kernel_later(world: World) -> None:
    judged(
        world,
        400 * MIB,
        """
        made, at = graph_of(flat)
        exec = runs(made)
        assert run(exec) == 0
        added(0)
        other, _ = graph_of(deep)
        do("cuGraphExecUpdate_v2", exec, other, (C.c_ubyte * 64)())
        assert run(exec) == 0
        added(DEEP)
        stack(1024)
        do("cuGraphKernelNodeSetParams_v2", at, C.byref(node(deeper)))
        assert run(runs(made)) == 0
        added(DEEPER)
        """,
    )


def test_graph_of_a_kernel_that_had_room_when_it_was_made(world: World) -> None:
    judged(
        world,
        200 * MIB,
        """
        for launches in range(3):
            assert launch(deep) == 0
        sync()
        exec = runs(graph_of(deep)[0])
        stack(1024)
        added(0)
        assert run(exec) == 0
        added(DEEP)
        """,
    )


def test_captured_kernels_are_charged_when_their_graph_runs(world: World) -> None:
    judged(
        world,
        200 * MIB,
        """
        stream = handle("cuStreamCreate", 1)
        do("cuStreamBeginCapture_v2", stream, 0)
        assert launch(deep, stream) == 0
        made = ptr()
        do("cuStreamEndCapture", stream, C.byref(made))
        added(0)
        exec = runs(made)
        do("cuStreamBeginCapture_v2", stream, 0)
        do("cuGraphLaunch", exec, stream)         # becomes a child of another graph
        do("cuStreamEndCapture", stream, C.byref(made))
        added(0)
        assert run(exec) == 0
        assert written() == 7
        added(DEEP)
        stack(1024)
        assert run(runs(made)) == 0
        added(DEEP)
        """,
    )


def test_threads_that_need_the_same_memory_need_it_once(world: World) -> None:
    judged(
        world,
        260 * MIB,
        """
        import threading
        for attempt in range(10):
            together = threading.Barrier(4)
            failed = []
            def one(f):
                do("cuCtxSetCurrent", ctx)
                together.wait()
                for launches in range(20):
                    status = launch(f)
                    if status != 0:
                        failed.append(status)
            threads = [threading.Thread(target=one, args=(f,))
                       for f in (deep, deeper, deep, deeper)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            assert not failed, failed
            sync()
            added(DEEPER)
            stack(1024)
            added(0)
        """,
    )
