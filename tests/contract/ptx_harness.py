# SPDX-License-Identifier: Apache-2.0
"""Runs kernels that harp-ptxc has compiled, with a host of our own instead of the software GPU."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
ARENA_BASE = 0x7_0000_0000_0000
PAGE = 1 << 21
HEAD = ".version 8.0\n.target sm_90\n.address_size 64\n"
U32, U64 = ctypes.c_uint32, ctypes.c_uint64

DONE, ILLEGAL_ADDRESS, MISALIGNED, TRAP, ASSERT, ILLEGAL_INSTRUCTION, STACK, ABANDONED = range(8)


class Host(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p)
        for name in (
            *("now_ns", "poll", "translate", "vprintf", "sin", "cos", "exp2", "log2", "tanh"),
            *("sinf", "cosf", "exp2f", "log2f", "tanhf", "fma", "fmaf", "sqrt", "sqrtf"),
            *("memcpy", "memset", "heap_take", "heap_give", "grid_sync", "spins"),
        )
    ]


class Launch(ctypes.Structure):
    _fields_ = [
        ("grid", U32 * 3),
        ("block", U32 * 3),
        ("dyn_shared_bytes", U32),
        ("flags", U32),
        ("params", ctypes.c_void_p),
        ("params_bytes", U32),
        ("sm_count", U32),
        ("arena_base", U64),
        ("arena_bytes", U64),
        ("arena_delta", ctypes.c_int64),
        ("arena_map", ctypes.c_void_p),
        ("global_addrs", ctypes.c_void_p),
        ("host", ctypes.POINTER(Host)),
        ("host_data", ctypes.c_void_p),
        ("grid_id", U64),
    ]


class Block(ctypes.Structure):
    _fields_ = [
        ("ctaid", U32 * 3),
        ("smid", U32),
        ("shared", ctypes.c_void_p),
        ("shared_bytes", U32),
        ("instructions", U64),
        ("load_bytes", U64),
        ("store_bytes", U64),
        ("sleep_ns", U64),
        ("fault_addr", U64),
        ("fault_where", ctypes.c_char_p),
        ("scratch", ctypes.c_void_p),
    ]


class Kernel(ctypes.Structure):
    _fields_ = [
        ("abi", U32),
        ("flags", U32),
        ("name", ctypes.c_char_p),
        ("static_shared_bytes", U32),
        ("local_bytes", U32),
        ("scratch_fixed_bytes", U64),
        ("scratch_thread_bytes", U64),
        (
            "run_block",
            ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Launch), ctypes.POINTER(Block)),
        ),
    ]


@dataclass
class Result:
    stop: int = DONE
    instructions: int = 0
    load_bytes: int = 0
    store_bytes: int = 0
    sleep_ns: int = 0
    fault_addr: int = 0
    fault_where: str = ""


def program() -> Path:
    path = Path(os.environ.get("HARP_NATIVE_DIR", ROOT / "harp" / "_lib")).resolve() / "harp-ptxc"
    assert path.exists(), f"{path} is missing; remedy: run tests/check or deploy/quickstart"
    return path


def ptxc(*args: str, text: str = "", env: dict[str, str] | None = None) -> Any:
    return subprocess.run(
        [str(program()), *args], input=text, capture_output=True, text=True, check=False, env=env
    )


def compile_ptx(text: str, kernel: str, cache: Path) -> Path:
    out = ptxc("compile", "--kernel", kernel, "--cache", str(cache), text=text)
    assert out.returncode == 0, f"exit {out.returncode}: {out.stderr}"
    return Path(out.stdout.strip())


def _address(library: str, name: str) -> int | None:
    return ctypes.cast(getattr(ctypes.CDLL(library), name), ctypes.c_void_p).value


@dataclass
class Device:
    """An arena of `pages` pages, all mapped but the last, and a host table."""

    pages: int = 8
    polls: int = 0
    poll_result: Callable[[int], int] = lambda _n: 0
    printed: list[str] = field(default_factory=list)
    mapped: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.raw = np.zeros(self.pages * PAGE + 4096, dtype=np.uint8)
        start = self.raw.ctypes.data
        self.offset = -start % 4096
        self.delta = start + self.offset - ARENA_BASE
        self.map = np.full(self.pages, 3, dtype=np.uint8)
        self.map[-1] = 0
        self.used = 0
        self.clock = itertools.count(1_000_000_000, 100)
        libc, libm = "libc.so.6", "libm.so.6"
        now = ctypes.CFUNCTYPE(U64)(lambda: next(self.clock))
        poll = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(self._poll)
        translate = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, U64, U64, ctypes.c_int)(
            lambda _l, a, n, _w: self._translate(a, n)
        )
        vprintf = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
            self._vprintf
        )
        self.keep = (now, poll, translate, vprintf)
        self.host = Host(
            *(ctypes.cast(f, ctypes.c_void_p).value for f in self.keep),
            *(
                _address(libm, n)
                for n in (
                    *("sin", "cos", "exp2", "log2", "tanh", "sinf", "cosf", "exp2f", "log2f"),
                    *("tanhf", "fma", "fmaf", "sqrt", "sqrtf"),
                )
            ),
            *(_address(libc, n) for n in ("memcpy", "memset")),
        )

    def _poll(self, _launch: Any) -> int:
        self.polls += 1
        return self.poll_result(self.polls)

    def _translate(self, addr: int, size: int) -> int | None:
        for base, array in self.mapped.items():
            if base <= addr and addr + size <= base + array.nbytes:
                return int(array.ctypes.data) + addr - base
        return None

    def _vprintf(self, _launch: Any, fmt: bytes, args: int) -> int:
        text = fmt.decode()
        self.printed.append(text + f" {ctypes.c_int32.from_address(args).value if args else ''}")
        return text.count("%")

    def view(self, addr: int, dtype: Any, count: int) -> Any:
        """Device memory as an array."""
        at = self.offset + addr - ARENA_BASE
        return self.raw[at : at + count * np.dtype(dtype).itemsize].view(dtype)

    def put(self, array: Any, align: int = 512) -> int:
        """Copies `array` to fresh device memory; its device address."""
        flat = np.ascontiguousarray(array).reshape(-1)
        addr = self.alloc(flat.nbytes, align)
        self.view(addr, np.uint8, flat.nbytes)[:] = flat.view(np.uint8)
        return addr

    def alloc(self, size: int, align: int = 512) -> int:
        self.used = (self.used + align - 1) // align * align
        addr = ARENA_BASE + self.used
        self.used += size
        assert self.used <= (self.pages - 1) * PAGE, "arena too small"
        return addr


class Loaded:
    """One compiled kernel."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.kernel = Kernel.in_dll(self.library, "harp_kernel")
        assert self.kernel.abi == 4

    def run(
        self,
        device: Device,
        params: bytes = b"",
        *,
        block: Sequence[int] = (1, 1, 1),
        grid: Sequence[int] = (1, 1, 1),
        dyn_shared: int = 0,
        global_addrs: Sequence[int] = (),
    ) -> Result:
        block = (*block, 1, 1)[:3]
        grid = (*grid, 1, 1)[:3]
        threads = int(np.prod(block))
        shared_bytes = self.kernel.static_shared_bytes + dyn_shared
        shared = np.zeros(shared_bytes + 256, dtype=np.uint8)
        scratch = np.full(
            self.kernel.scratch_fixed_bytes + threads * self.kernel.scratch_thread_bytes + 64,
            0xA5,
            dtype=np.uint8,
        )
        scratch[-64:] = 0x3C
        packed = np.frombuffer(params + b"\0", dtype=np.uint8)
        addrs = np.array([*global_addrs, 0], dtype=np.uint64)
        launch = Launch(
            grid=(U32 * 3)(*grid),
            block=(U32 * 3)(*block),
            dyn_shared_bytes=dyn_shared,
            params=packed.ctypes.data,
            params_bytes=len(params),
            sm_count=132,
            arena_base=ARENA_BASE,
            arena_bytes=device.pages * PAGE,
            arena_delta=device.delta,
            arena_map=device.map.ctypes.data,
            global_addrs=addrs.ctypes.data,
            host=ctypes.pointer(device.host),
            grid_id=7,
        )
        result = Result()
        for z, y, x in itertools.product(*(range(n) for n in reversed(grid))):
            shared[:] = 0
            one = Block(
                ctaid=(U32 * 3)(x, y, z),
                smid=(x + y + z) % 132,
                shared=shared.ctypes.data + (-shared.ctypes.data % 256),
                shared_bytes=shared_bytes,
                scratch=scratch.ctypes.data,
            )
            result.stop = self.kernel.run_block(ctypes.byref(launch), ctypes.byref(one))
            result.instructions += one.instructions
            result.load_bytes += one.load_bytes
            result.store_bytes += one.store_bytes
            result.sleep_ns = max(result.sleep_ns, one.sleep_ns)
            if result.stop != DONE:
                result.fault_addr = one.fault_addr
                result.fault_where = (one.fault_where or b"").decode()
                break
        assert (scratch[-64:] == 0x3C).all(), "a block wrote behind its scratch memory"
        return result


def load(text: str, kernel: str, cache: Path) -> Loaded:
    return Loaded(compile_ptx(text, kernel, cache))


def rows_and_quick(text: str, kernel: str, folder: Path) -> tuple[Loaded, Loaded]:
    """The form of a kernel for rows of threads, and the quick one."""
    c = ptxc("emit", "--kernel", kernel, text=text).stdout
    assert "#define RT_ROWS 1\n" in c  # nothing would be tested otherwise
    quick = ptxc("compile", "--quick", "--kernel", kernel, "--cache", str(folder / "q"), text=text)
    assert quick.returncode == 0, quick.stderr
    return Loaded(compile_ptx(text, kernel, folder / "c")), Loaded(Path(quick.stdout.strip()))


def pointers(*addrs: int) -> bytes:
    return np.array(addrs, dtype=np.uint64).tobytes()


def entry(name: str, params: int, body: str, regs: str = "") -> str:
    """A kernel of `params` pointer parameters, already loaded into %p0.. as global addresses."""
    names = ", ".join(f".param .u64 {name}_{i}" for i in range(params))
    loads = "".join(f"ld.param.u64 %p{i}, [{name}_{i}];\n" for i in range(params))
    return (
        f".visible .entry {name}({names})\n{{\n.reg .b64 %p<{params + 1}>;\n"
        ".reg .pred %q<16>;\n.reg .b16 %h<32>;\n.reg .b32 %r<64>;\n.reg .f32 %f<32>;\n"
        f".reg .b64 %d<64>;\n.reg .f64 %g<32>;\n{regs}\n{loads}{body}\nret;\n}}\n"
    )


def run(
    body: str, cache: Path, *, top: str = "", block: int = 1, regs: str = "", **how: Any
) -> tuple[Result, Any, Device]:
    """Kernel `k` with a pointer to 64 zeroed words."""
    device = Device()
    for name, value in how.pop("device", {}).items():
        setattr(device, name, value)
    out = device.alloc(256)
    text = HEAD + top + entry("k", 1, body, regs)
    globals_ = how.pop("globals_", lambda _d: ())(device)
    result = load(text, "k", cache).run(
        device, pointers(out), block=(block,), global_addrs=globals_, **how
    )
    return result, device.view(out, "u4", 64), device
