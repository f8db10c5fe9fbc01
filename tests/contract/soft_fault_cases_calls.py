# SPDX-License-Identifier: Apache-2.0
"""Cases of faults on request: calls that fail or take long, memory that runs out, the rules."""

from __future__ import annotations

import ctypes as c
import os
import shutil
import threading
import time
from pathlib import Path

from soft_fault_driver import (
    GPU_IS_LOST,
    OUT_OF_MEMORY,
    UNKNOWN,
    Nvml,
    alloc,
    arm,
    case,
    context_on,
    main,
    probe,
    tool,
)
from soft_mod_driver import Driver, Params, np


@case
def a_call_fails_by_its_number() -> None:
    d = Driver()
    arm(
        "fail cuMemAlloc_v2 2 nth=3",
        "fail cuMemGetInfo_v2 999 every=2",
        "fail cuCtxGetDevice 4 from=3",
    )
    assert [alloc(d) for _ in range(5)] == [0, 0, 2, 0, 0]
    free, total = c.c_size_t(), c.c_size_t()
    info = [d.call("cuMemGetInfo_v2", c.byref(free), c.byref(total)) for _ in range(4)]
    assert info == [0, 999, 0, 999]
    device = c.c_int()
    assert [d.call("cuCtxGetDevice", c.byref(device)) for _ in range(4)] == [0, 0, 4, 4]
    tool("clear")
    assert alloc(d) == 0
    assert d.call("cuCtxGetDevice", c.byref(device)) == 0


@case
def a_failed_call_does_nothing() -> None:
    d = Driver()
    free, total, after = c.c_size_t(), c.c_size_t(), c.c_size_t()
    d.ok("cuMemGetInfo_v2", c.byref(free), c.byref(total))
    arm("fail cuMemAlloc_v2 2")
    out = c.c_uint64(0x1234)
    assert d.call("cuMemAlloc_v2", c.byref(out), c.c_size_t(64 << 20)) == OUT_OF_MEMORY
    d.ok("cuMemGetInfo_v2", c.byref(after), c.byref(total))
    assert (out.value, after.value) == (0x1234, free.value)


@case
def a_call_made_inside_is_not_a_clients_call() -> None:
    """cuCtxCreate_v4 uses cuCtxCreate_v2 inside; cuCtxSynchronize uses cuCtxSynchronize_v2."""
    d = Driver()
    arm("fail cuCtxCreate_v2 2", "fail cuCtxCreate_v4 5 nth=2", "fail cuCtxSynchronize_v2 6")
    ctx = c.c_void_p()
    assert d.call("cuCtxCreate_v4", c.byref(ctx), None, 0, 0) == 0
    assert d.call("cuCtxCreate_v4", c.byref(ctx), None, 0, 0) == 5
    assert d.call("cuCtxSynchronize") == 0
    assert d.call("cuCtxSynchronize_v2", None) == 6


@case
def twins_and_beginnings() -> None:
    d = Driver()
    ptr, data = d.alloc(64), c.create_string_buffer(64)
    copies = ("cuMemcpyHtoD_v2", "cuMemcpyHtoD_v2_ptds")
    arm("fail cuMemcpyHtoD_v2 7 from=2")
    assert [d.call(n, ptr, data, c.c_size_t(64)) for n in copies] == [0, 7]
    arm("fail cuMemcpyHtoD_v2_ptds 7")
    assert [d.call(n, ptr, data, c.c_size_t(64)) for n in copies] == [0, 7]
    arm("fail cuMemcpy* 700")
    assert [d.call(n, ptr, data, c.c_size_t(64)) for n in copies] == [700, 700]
    assert alloc(d) == 0


@case
def both_ways_to_an_entry_are_one_door() -> None:
    d = Driver()
    entry, status = c.c_void_p(), c.c_int()
    d.ok(
        "cuGetProcAddress_v2", b"cuMemAlloc", c.byref(entry), 13000, c.c_uint64(0), c.byref(status)
    )
    assert entry.value == c.cast(d.cu.cuMemAlloc_v2, c.c_void_p).value
    arm("fail cuMemAlloc_v2 2 nth=2")
    out = c.c_uint64()
    call = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_size_t)(entry.value or 0)
    assert [call(c.addressof(out), 1 << 20), alloc(d), alloc(d)] == [0, 2, 0]


@case
def only_on_one_device_or_for_one_program() -> None:
    d = Driver()
    assert context_on(d, 1)[0] == 0
    arm("fail cuMemAlloc_v2 2 dev=0")
    assert alloc(d) == 0
    d.ok("cuCtxSetCurrent", d.ctx)
    assert alloc(d) == OUT_OF_MEMORY
    arm("fail cuDeviceTotalMem_v2 3 dev=1")  # it names the device itself
    size = c.c_size_t()
    assert [d.call("cuDeviceTotalMem_v2", c.byref(size), n) for n in (0, 1)] == [0, 3]
    arm(f"fail cuMemAlloc_v2 2 pid={os.getpid()}")
    assert alloc(d) == OUT_OF_MEMORY
    assert probe(1)[3:] == [0]
    arm("fail cuMemAlloc_v2 2 program=nobody")
    assert alloc(d) == 0
    name = Path("/proc/self/comm").read_text().strip()
    arm(f"fail cuMemAlloc_v2 2 program={name}")
    assert alloc(d) == OUT_OF_MEMORY


@case
def before_the_first_call() -> None:
    arm("fail cuInit 999 nth=1")
    lib = c.CDLL("libcuda.so.1")
    assert [lib.cuInit(0), lib.cuInit(0)] == [UNKNOWN, 0]


@case
def slow_takes_longer_and_does_its_work() -> None:
    d = Driver()
    data = np.arange(16, dtype="f4")
    arm(
        "slow cuMemcpyHtoD_v2 80ms",
        "fail cuMemcpyDtoH_v2 7 nth=2",
        "slow cuMemcpyDtoH_v2 600ms nth=2",
    )
    start = time.monotonic()
    ptr = d.up(data)
    assert time.monotonic() - start >= 0.08
    start = time.monotonic()
    assert (d.down(ptr, 16) == data).all()
    first = time.monotonic() - start
    start = time.monotonic()
    out = np.zeros(16, "f4")
    assert d.call("cuMemcpyDtoH_v2", c.c_void_p(out.ctypes.data), ptr, c.c_size_t(64)) == 7
    assert time.monotonic() - start >= 0.6 > first


@case
def oom_meets_any_kind_of_device_memory() -> None:
    d = Driver()
    arm("oom nth=3")
    kinds = ["cuMemAlloc_v2", "cuMemAllocPitch_v2", "cuMemAllocPitch_v2", "cuMemAlloc_v2"]
    assert [alloc(d, kind) for kind in kinds] == [0, 0, OUT_OF_MEMORY, 0]
    host = c.c_void_p()
    arm("oom")
    d.ok("cuMemAllocHost_v2", c.byref(host), c.c_size_t(4096))  # not the device's
    for name in ("cuMemCreate", "cuArrayCreate_v2", "cuMemAllocManaged", "cuMemAllocAsync"):
        assert d.call(name, None, None, None, None) == OUT_OF_MEMORY, name


@case
def oom_counts_by_process_or_machine() -> None:
    d = Driver()
    arm("oom nth=2 count=machine")
    assert alloc(d) == 0
    assert probe(2)[3:] == [OUT_OF_MEMORY, 0]
    assert alloc(d) == 0
    arm("oom nth=2")
    assert alloc(d) == 0
    assert probe(3)[3:] == [0, OUT_OF_MEMORY, 0]
    assert alloc(d) == OUT_OF_MEMORY


@case
def nvml_calls_have_the_same_doors() -> None:
    n = Nvml()
    (_, first), (_, second) = n.handle(0), n.handle(1)
    arm("fail nvmlDeviceGetMemoryInfo 999 dev=1 nth=2", "fail nvmlDeviceGetTemperature 15")
    assert [n.memory(h) for h in (first, second, second, second)] == [0, 0, 999, 0]
    assert n.lib.nvmlDeviceGetTemperature(first, 0, c.byref(c.c_uint())) == GPU_IS_LOST
    d = Driver()
    assert alloc(d) == 0


@case
def rules_written_by_hand() -> None:
    path = Path(os.environ["HARP_SOFT_DIR"]) / "faults"
    d = Driver()
    arm("fail cuCtxGetDevice 4")
    path.write_text("# mine\nfail cuMemAlloc_v2 2 nth=1 # once\n")
    time.sleep(0.05)
    assert [alloc(d), alloc(d)] == [OUT_OF_MEMORY, 0]
    assert tool("show") == "fail cuMemAlloc_v2 2 nth=1\n"
    path.unlink()
    time.sleep(0.05)
    assert d.call("cuCtxGetDevice", c.byref(c.c_int())) == 0


@case
def a_program_that_goes_elsewhere() -> None:
    """It changes its folder, then its user, who may not look: the machine's rules stay."""
    folder = Path(os.environ["HARP_SOFT_DIR"])
    tool("show")  # makes the machine
    os.chdir(folder.parent)
    os.environ["HARP_SOFT_DIR"] = folder.name
    d = Driver()
    os.environ["HARP_SOFT_DIR"] = str(folder)
    os.chdir("/")
    arm("fail cuCtxGetDevice 4")
    device = c.c_int()
    assert d.call("cuCtxGetDevice", c.byref(device)) == 4
    if os.geteuid() == 0:
        folder.chmod(0o700)
        os.seteuid(65534)
        time.sleep(0.02)
        hidden = [d.call("cuCtxGetDevice", c.byref(device)) for _ in range(3)]
        os.seteuid(0)
        assert hidden == [4, 4, 4]
    time.sleep(0.02)
    assert d.call("cuCtxGetDevice", c.byref(device)) == 4
    assert tool("show") == "fail cuCtxGetDevice 4\n"


@case
def arguments_are_kept_while_armed() -> None:
    """The call with the most arguments, and one with a float among them."""
    d = Driver()
    arm("fail cuInit 999 nth=1000000")
    module = d.module()
    mixed, out = d.function(module, "mixed"), d.alloc(64)
    d.launch(mixed, Params(out, c.c_uint8(200), c.c_uint16(60000), c.c_int(-5), c.c_double(2.5)))
    d.sync()
    assert list(d.down(out, 4, "f8")) == [200, 60000, -5, 2.5]
    add1 = d.function(module, "add1")
    data = d.up(np.arange(64, dtype="f4"))
    result = d.alloc(256)
    d.ok("cuFuncSetBlockShape", add1, 64, 1, 1)
    for at, value in ((0, data), (8, result)):
        d.ok("cuParamSetv", add1, at, c.byref(value), 8)
    d.cu.cuParamSetf.argtypes = [c.c_void_p, c.c_int, c.c_float]
    count = float(np.array([64], "u4").view("f4")[0])  # the bits of the number 64
    d.ok("cuParamSetf", add1, 16, count)
    d.ok("cuParamSetSize", add1, 20)
    d.ok("cuLaunchGrid", add1, 1, 1)
    d.sync()
    assert (d.down(result, 64) == np.arange(64) + 1).all()


@case
def many_threads_while_rules_come_and_go() -> None:
    d = Driver()
    seen: set[int] = set()
    stop = threading.Event()

    def work() -> None:
        d.ok("cuCtxSetCurrent", d.ctx)
        while not stop.is_set():
            seen.add(d.call("cuCtxSynchronize"))

    def until_seen(code: int) -> None:
        seen.discard(code)
        until_s = time.monotonic() + 20
        while code not in seen and time.monotonic() < until_s:
            time.sleep(0.0005)
        assert code in seen

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(25):
        arm("fail cuCtxSynchronize 7 every=2", "slow cuCtxSynchronize 10us")
        until_seen(7)
        tool("clear")
        until_seen(0)
    stop.set()
    for thread in threads:
        thread.join()
    assert seen <= {0, 7}
    assert d.call("cuCtxSynchronize") == 0


@case
def a_fork_while_rules_are_armed() -> None:
    d = Driver()
    arm("fail cuCtxGetDevice 4")
    assert d.call("cuCtxGetDevice", c.byref(c.c_int())) == 4
    pid = os.fork()
    if pid == 0:
        armed = d.call("cuCtxGetDevice", c.byref(c.c_int())) == 4
        arm("fail cuCtxGetDevice 5")
        again = d.call("cuCtxGetDevice", c.byref(c.c_int())) == 5
        tool("clear")
        ended = d.call("cuCtxGetDevice", c.byref(c.c_int())) == 3  # a child is not initialised
        os._exit(0 if armed and again and ended else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert d.call("cuCtxGetDevice", c.byref(c.c_int())) == 0


@case
def what_the_tool_refuses() -> None:
    arm("fail cuInit 3 nth=1000")
    for rule, says in {
        "explode": "no such fault",
        "fail cuMemAllocate 2": "no such function",
        "fail nvmlDeviceGetMemoryInfo 31": "nvmlReturn_t",
        "fail cuInit 77": "CUresult",
        "fail nvmlErrorString 2": "no result",
        "fail cuInit 2 dev=2": "this machine has 2",
        "xid 31 dev=5": "this machine has 2",
        "oom nth=0": "nth=0",
        "slow cuInit 2": "duration",
    }.items():
        said = tool("set", "oom nth=1", rule, status=2)
        assert rule in said
        assert says in said
        assert "remedy" in said or "nth" in rule
    assert tool("show") == "fail cuInit 3 nth=1000\n", "what is refused changes nothing"
    assert "usage" in tool(status=2)
    assert "usage" in tool("set", status=2)
    tool("set", *["oom nth=5"] * 65, status=2)
    tool("clear")
    assert tool("show") == ""
    left = {p.name for p in Path(os.environ["HARP_SOFT_DIR"]).iterdir()}
    assert left == {"state", "slots"}
    shutil.rmtree(os.environ["HARP_SOFT_DIR"])


if __name__ == "__main__":
    main()
