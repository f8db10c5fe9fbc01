# SPDX-License-Identifier: Apache-2.0
"""What libharp does to its process: nothing until CUDA is used, and little then."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from shim_world import MIB, World, build_fake, compile_c, soft_world

STATE = """
import ctypes as C, os, sys, threading
def state():
    status = dict(l.split(":\\t", 1) for l in open("/proc/self/status") if ":\\t" in l)
    keep = ("SigBlk", "SigIgn", "SigCgt", "Umask", "Threads")
    fds = sorted(os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                 if os.path.exists(f"/proc/self/fd/{n}"))
    return {k: status[k].strip() for k in keep} | {"fds": len(fds), "cwd": os.getcwd()}
"""


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_fake(tmp_path_factory.mktemp("fake"))


@pytest.fixture
def world(native_dir: Path, fake: Path) -> Iterator[World]:
    with World(native_dir, cuda=fake) as made:
        made.tenant("a", mem=64 * MIB, share_ppm=500_000)
        yield made


@pytest.fixture
def soft(native_dir: Path) -> Iterator[World]:
    with soft_world(native_dir) as made:
        made.tenant("a", mem=64 * MIB)
        made.tenant("free")
        yield made


def test_a_program_without_cuda_is_left_alone(world: World) -> None:
    code = STATE + "print(state())"
    bare = world.python(None, code)
    shimmed = world.python("a", code)
    assert shimmed == bare
    assert world.clients() == []


def test_use_changes_no_signal_and_no_umask_and_starts_one_thread(world: World) -> None:
    world.python(
        "a",
        STATE
        + """
before = state()
cuda = C.CDLL("libcuda.so.1", use_errno=True)
n = C.c_int()
C.set_errno(77)
assert cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(C.byref(n)) == 0
size = C.c_size_t()
assert cuda.cuDeviceTotalMem_v2(C.byref(size), 0) == 0 and size.value == 64 << 20
assert C.get_errno() == 77
middle = state()
assert middle["Threads"] == before["Threads"], (before, middle)
ctx, p = C.c_void_p(), C.c_uint64()
assert cuda.cuCtxCreate_v2(C.byref(ctx), 0, 0) == 0
assert cuda.cuMemAlloc_v2(C.byref(p), C.c_size_t(65 << 20)) == 2
assert C.get_errno() == 77
after = state()
assert int(after["Threads"]) == int(before["Threads"]) + 1
OWN = 3 << 31   # the C library catches two for itself once there are threads
assert int(after["SigCgt"], 16) & ~OWN == int(before["SigCgt"], 16) & ~OWN
for key in ("SigBlk", "SigIgn", "Umask", "cwd"):
    assert after[key] == before[key], key
assert after["fds"] - before["fds"] <= 2, (before, after)  # the socket and the wake-up
masks = [open(f"/proc/self/task/{t}/status").read().split("SigBlk:\\t")[1].split()[0]
         for t in os.listdir("/proc/self/task")]
assert any(int(m, 16) & 0x4000 for m in masks), masks      # our thread takes no SIGTERM
""",
    )


CREATE = """
import ctypes as C, sys, threading
PR_SET_NAME = 15
libc, cuda = C.CDLL(None), C.CDLL("libcuda.so.1")
ctx, p = C.c_void_p(), C.c_uint64()
def create():
    assert cuda.cuInit(0) == 0
    return cuda.cuCtxCreate_v2(C.byref(ctx), 0, 0)
"""


@pytest.mark.parametrize("thread", ["first", "second"])
def test_a_program_is_called_by_the_name_of_its_first_thread(world: World, thread: str) -> None:
    process = world.start(
        "a",
        sys.executable,
        "-c",
        CREATE
        + """
def second():
    libc.prctl(PR_SET_NAME, b"second")
    if sys.argv[1] == "second":
        create()
libc.prctl(PR_SET_NAME, b"the-first-one-of")   # the kernel keeps 15 bytes
work = threading.Thread(target=second)
work.start()
work.join()
if sys.argv[1] == "first":
    create()
print("there", flush=True)
input()
""",
        thread,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    assert [c.text for c in world.clients()] == ["the-first-one-o"]
    process.communicate("\n")


NO_THREAD = "int pthread_create() { return 11; }\n"


@pytest.mark.parametrize("strict", ["0", "1"])
def test_without_a_thread_memory_is_limited_all_the_same(
    world: World, tmp_path: Path, strict: str
) -> None:
    source = tmp_path / "no_thread.c"
    source.write_text(NO_THREAD)
    library = compile_c(source, tmp_path / "no_thread.so", "-shared", "-fPIC")
    preload = f"{world.env('a')['LD_PRELOAD']}:{library}"
    code = (
        CREATE
        + """
OPERATING_SYSTEM = 304
if sys.argv[1] == "1":
    assert create() == OPERATING_SYSTEM
    sys.exit()
assert create() == 0
assert cuda.cuMemAlloc_v2(C.byref(p), C.c_size_t(65 << 20)) == 2
assert cuda.cuMemAlloc_v2(C.byref(p), C.c_size_t(8 << 20)) == 0
assert cuda.cuMemFree_v2(p) == 0
"""
    )
    world.python("a", code, strict, LD_PRELOAD=preload, HARP_STRICT=strict)
    assert world.log("a").count("no_service_thread errno=11") == 1


def test_the_library_has_no_thread_local_storage_and_no_constructor(native_dir: Path) -> None:
    for name in ("libharp.so", "libharp-nvml.so"):
        read = subprocess.run(
            ["readelf", "-lW", native_dir / name], capture_output=True, text=True, check=True
        )
        assert " TLS " not in read.stdout


def test_static_destructors_may_call_the_driver(world: World, tmp_path: Path) -> None:
    source = tmp_path / "late.c"
    source.write_text("""
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include "generated/cuda_abi.h"
static void *lib;
static CUdeviceptr ptr;
#define CALL(name) ((__typeof__(&name))dlsym(lib, #name))
__attribute__((destructor)) static void late(void)
{
    CUcontext c;
    CALL(cuCtxGetCurrent)(&c);
    CALL(cuLaunchKernel)(NULL, 50, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL);
    CALL(cuMemFree_v2)(ptr);
    puts("late");
}
int main(void)
{
    CUcontext ctx;
    lib = dlopen("libcuda.so.1", RTLD_NOW);
    CALL(cuInit)(0);
    CALL(cuCtxCreate_v2)(&ctx, 0, 0);
    CALL(cuMemAlloc_v2)(&ptr, 1 << 20);
    for (int i = 0; i < 100; i++)
        CALL(cuLaunchKernel)(NULL, 50, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL);
    return 0;
}
""")
    program = compile_c(source, tmp_path / "late")
    assert world.run("a", program, timeout=20) == "late\n"


def test_a_constructor_of_a_library_may_call_the_driver(world: World, tmp_path: Path) -> None:
    source = tmp_path / "early.c"
    source.write_text("""
#include <dlfcn.h>
#include <stdio.h>
#include "generated/cuda_abi.h"
__attribute__((constructor)) static void early(void)
{
    CUcontext ctx;
    size_t n = 0;
    void *lib = dlopen("libcuda.so.1", RTLD_NOW);
    ((__typeof__(&cuInit))dlsym(lib, "cuInit"))(0);
    ((__typeof__(&cuCtxCreate_v2))dlsym(lib, "cuCtxCreate_v2"))(&ctx, 0, 0);
    ((__typeof__(&cuDeviceTotalMem_v2))dlsym(lib, "cuDeviceTotalMem_v2"))(&n, 0);
    printf("%zu\\n", n);
    fflush(stdout);
}
""")
    library = compile_c(source, tmp_path / "early.so", "-shared", "-fPIC")
    out = world.python("a", f"import ctypes; ctypes.CDLL({str(library)!r})")
    assert out == f"{64 * MIB}\n"


def test_a_forked_child_may_end_in_any_way(world: World) -> None:
    """Its parent's locks may be held for ever in it."""
    world.python(
        "a",
        """
import ctypes as C, os, threading, time
cuda = C.CDLL("libcuda.so.1")
libc = C.CDLL(None)
ctx = C.c_void_p()
assert cuda.cuInit(0) == 0 and cuda.cuCtxCreate_v2(C.byref(ctx), 0, 0) == 0
stop = False
def work():
    cuda.cuCtxSetCurrent(ctx)
    while not stop:
        cuda.cuLaunchKernel(None, 30, 1, 1, 1, 1, 1, 0, None, None, None)
        time.sleep(0)
thread = threading.Thread(target=work)
thread.start()
for _ in range(60):
    pid = os.fork()
    if pid == 0:
        libc.exit(0)   # with all handlers
    for _ in range(500):
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            break
        time.sleep(0.01)
    else:
        os.kill(pid, 9)
        raise SystemExit("a child hangs")
stop = True
thread.join()
""",
    )


def test_many_threads_allocate_and_free_within_the_limit(world: World) -> None:
    world.python(
        "a",
        """
import ctypes as C, threading, random
cuda = C.CDLL("libcuda.so.1")
ctx = C.c_void_p()
assert cuda.cuInit(0) == 0 and cuda.cuCtxCreate_v2(C.byref(ctx), 0, 0) == 0
bad = []
def work(seed):
    rnd = random.Random(seed)
    assert cuda.cuCtxSetCurrent(ctx) == 0
    held = []
    for _ in range(1500):
        if held and rnd.random() < 0.5:
            if cuda.cuMemFree_v2(held.pop(rnd.randrange(len(held)))) != 0:
                bad.append("free")
        else:
            p = C.c_uint64()
            status = cuda.cuMemAlloc_v2(C.byref(p), C.c_size_t(rnd.choice([512, 70000, 3 << 20])))
            if status == 0:
                held.append(C.c_uint64(p.value))
            elif status != 2:
                bad.append(status)
    for p in held:
        cuda.cuMemFree_v2(p)
threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
assert not bad, bad
f, t = C.c_size_t(), C.c_size_t()
assert cuda.cuMemGetInfo_v2(C.byref(f), C.byref(t)) == 0
assert f.value == t.value == 64 << 20, (f, t)
""",
    )
    assert world.usage("a").leased_bytes == 0


def test_no_driver_is_an_honest_error(world: World) -> None:
    out = world.python(
        "a",
        """
import ctypes as C
cuda = C.CDLL("libcuda.so.1")
print(cuda.cuInit(0))
""",
        HARP_CUDA_REAL="/nonexistent/libcuda.so.1",
    )
    assert out == "100\n"
    assert "driver_not_loaded path=/nonexistent/libcuda.so.1" in world.log("a")


def test_a_function_the_driver_lacks_needs_a_newer_driver(world: World) -> None:
    out = world.python(
        "a", "import ctypes as C; print(C.CDLL('libcuda.so.1').cuGraphCreate(None, 0))"
    )
    assert out == "36\n"


def test_wrapped_host_functions_run_and_may_not_be_gated(soft: World) -> None:
    out = soft.python(
        "a",
        """
import ctypes as C
cuda = C.CDLL("libcuda.so.1")
ctx = C.c_void_p()
assert cuda.cuInit(0) == 0 and cuda.cuCtxCreate_v2(C.byref(ctx), 0, 0) == 0
seen = []
@C.CFUNCTYPE(None, C.c_void_p)
def host(data):
    seen.append(data)
for i in range(1, 4):
    assert cuda.cuLaunchHostFunc(None, host, C.c_void_p(i)) == 0
assert cuda.cuCtxSynchronize() == 0
print(seen)
""",
    )
    assert out == "[1, 2, 3]\n"


NVML = """
import ctypes as C, os, subprocess, sys
import pynvml
pynvml.nvmlInit()
handle = pynvml.nvmlDeviceGetHandleByIndex(0)
def show():
    m = pynvml.nvmlDeviceGetMemoryInfo(handle)
    v2 = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    assert (m.total, m.used, m.free) == (v2.total, v2.used, v2.free)
    return [m.total >> 20, m.used >> 20, m.free >> 20]
first = show()
cuda = C.CDLL("libcuda.so.1")
ctx, p = C.c_void_p(), C.c_uint64()
assert cuda.cuInit(0) == 0 and cuda.cuCtxCreate_v2(C.byref(ctx), 0, 0) == 0
assert cuda.cuMemAlloc_v2(C.byref(p), C.c_size_t(10 << 20)) == 0
pids = [q.pid for q in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)]
print(first, show(), pids == [os.getpid()], pynvml.nvmlDeviceGetName(handle), flush=True)
sys.stdin.read()
"""


def test_nvml_shows_the_tenant_its_own(soft: World) -> None:
    soft.tenant("b", mem=128 * MIB)
    other = soft.start("b", sys.executable, "-c", NVML)
    assert other.stdout is not None
    assert other.stdout.readline().startswith("[128, 0, 128] [128, 10, 118] True")
    mine = soft.start("a", sys.executable, "-c", NVML)
    assert mine.stdout is not None
    line = mine.stdout.readline()
    assert line.startswith("[64, 0, 64] [64, 10, 54] True")
    assert "Software" in line
    real = soft.device_pids()
    assert {other.pid, mine.pid} <= set(real)


VADD = """
import ctypes as C
PTX = b'''
.version 7.0
.target sm_70
.address_size 64
.visible .entry vadd(.param .u64 a, .param .u64 b, .param .u32 n)
{
.reg .pred %p;
.reg .b32 %r<6>;
.reg .b64 %d<6>;
.reg .f32 %f<4>;
ld.param.u64 %d1, [a];
ld.param.u64 %d2, [b];
ld.param.u32 %r1, [n];
mov.u32 %r2, %ctaid.x;
mov.u32 %r3, %ntid.x;
mov.u32 %r4, %tid.x;
mad.lo.s32 %r5, %r2, %r3, %r4;
setp.ge.u32 %p, %r5, %r1;
@%p bra END;
mul.wide.u32 %d3, %r5, 4;
add.u64 %d4, %d1, %d3;
add.u64 %d5, %d2, %d3;
ld.global.f32 %f1, [%d4];
ld.global.f32 %f2, [%d5];
add.f32 %f3, %f1, %f2;
st.global.f32 [%d5], %f3;
END:
ret;
}
'''
cuda = C.CDLL("libcuda.so.1")
def do(name, *args):
    status = getattr(cuda, name)(*args)
    assert status == 0, (name, status)
ctx, module, f, a, b = (C.c_void_p() for _ in range(3)), None, None, C.c_uint64(), C.c_uint64()
ctx, module, f = C.c_void_p(), C.c_void_p(), C.c_void_p()
do("cuInit", 0)
do("cuCtxCreate_v2", C.byref(ctx), 0, 0)
do("cuModuleLoadData", C.byref(module), PTX)
do("cuModuleGetFunction", C.byref(f), module, b"vadd")
N = 100_000
size = C.c_size_t(4 * N)
do("cuMemAlloc_v2", C.byref(a), size)
do("cuMemAlloc_v2", C.byref(b), size)
host = (C.c_float * N)(*[(i * 37 % 1001) / 7 for i in range(N)])
do("cuMemcpyHtoD_v2", a, host, size)
do("cuMemsetD32_v2", b, 0, C.c_size_t(N))
n = C.c_uint(N)
args = (C.c_void_p * 3)(C.addressof(a), C.addressof(b), C.addressof(n))
for _ in range(20):
    do("cuLaunchKernel", f, (N + 255) // 256, 1, 1, 256, 1, 1, 0, None, args, None)
do("cuMemcpyDtoH_v2", host, b, size)
import hashlib
print(hashlib.sha256(bytes(host)).hexdigest(), host[5])
"""


def test_output_is_the_same_bare_shimmed_and_limited(soft: World) -> None:
    bare = soft.python(None, VADD)
    assert bare == soft.python("free", VADD) == soft.python("a", VADD)
    value = float(bare.split()[1])
    assert value == pytest.approx(20 * (5 * 37 % 1001) / 7, rel=1e-5)


MODULE = """
import ctypes as C, sys
cuda = C.CDLL("libcuda.so.1")
ctx, module = C.c_void_p(), C.c_void_p()
assert cuda.cuInit(0) == 0 and cuda.cuCtxCreate_v2(C.byref(ctx), 0, 0) == 0
def free():
    f, t = C.c_size_t(), C.c_size_t()
    assert cuda.cuMemGetInfo_v2(C.byref(f), C.byref(t)) == 0
    return f.value >> 20
def load(mib):
    head = ".version 7.8\\n.target sm_80\\n.address_size 64\\n"
    text = head + f".visible .global .align 4 .b8 room[{mib << 20}];\\n"
    text += ".visible .entry k()\\n{ ret; }\\n"
    return cuda.cuModuleLoadData(C.byref(module), text.encode())
print(load(48), free(), load(100), load(20))
"""


def test_variables_of_modules_are_charged(soft: World) -> None:
    code = MODULE + "print(cuda.cuModuleUnload(module), free())"
    assert soft.python("a", code) == "0 16 2 2\n0 64\n"
    assert soft.usage("a").leased_bytes == 0
