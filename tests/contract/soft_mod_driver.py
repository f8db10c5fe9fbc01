# SPDX-License-Identifier: Apache-2.0
"""The driver API by ctypes, as little of it as the cases of modules, launches and graphs need.

Run inside a process of its own whose LD_LIBRARY_PATH names the library under test.
"""

from __future__ import annotations

import ctypes as c
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, ClassVar, overload

if TYPE_CHECKING:
    import numpy as np
else:

    class _NumPy:
        """NumPy, read when it is first used: of a case's 140 ms it takes 85, and many use none."""

        def __getattr__(self, name: str) -> object:
            import numpy as np

            return getattr(np, name)

    np = _NumPy()


@dataclass(frozen=True)
class Case:
    """A case and the backends it is for (suite.py)."""

    area: str
    name: str
    body: Callable[[Driver], None]
    only: tuple[str, ...]
    why: str
    waived: Mapping[str, str]
    devices: str = ""  #: of the machine that it needs; "": any
    env: Mapping[str, str] = field(default_factory=dict)


CASES: dict[tuple[str, str], Case] = {}

PTX = (Path(__file__).with_name("soft_mod_kernels.ptx")).read_bytes()

SUCCESS, INVALID_VALUE = 0, 1
INVALID_IMAGE, INVALID_CONTEXT, NO_BINARY, INVALID_PTX, UNSUPPORTED_PTX = 200, 201, 209, 218, 222
FILE_NOT_FOUND, INVALID_HANDLE, ILLEGAL_STATE, NOT_FOUND, NOT_READY = 301, 400, 401, 500, 600
ILLEGAL_ADDRESS, OUT_OF_RESOURCES, MISALIGNED, LAUNCH_FAILED, TOO_LARGE = 700, 701, 716, 719, 720
NOT_SUPPORTED, NOT_PERMITTED = 801, 800
INVALID_DEVICE, PRIMARY_ACTIVE, DESTROYED = 101, 708, 709
UNSUPPORTED_LIMIT, UNSUPPORTED_AFFINITY = 215, 224
CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED, CAPTURE_MERGE, CAPTURE_UNMATCHED = 900, 901, 902, 903
CAPTURE_UNJOINED, CAPTURE_ISOLATION, CAPTURE_IMPLICIT, CAPTURED_EVENT = 904, 905, 906, 907
WRONG_THREAD, UPDATE_FAILURE = 908, 910


class Counter(c.Structure):
    _fields_ = (
        ("name", c.c_char * 256),
        ("launches", c.c_uint64),
        ("blocks", c.c_uint64),
        ("threads", c.c_uint64),
        ("instructions", c.c_uint64),
        ("load_bytes", c.c_uint64),
        ("store_bytes", c.c_uint64),
    )


class KernelNode(c.Structure):
    """CUDA_KERNEL_NODE_PARAMS_v1, and what v2 adds."""

    _fields_: ClassVar = [
        ("func", c.c_void_p),
        *((n, c.c_uint) for n in ("gx", "gy", "gz", "bx", "by", "bz", "shared")),
        ("params", c.c_void_p),
        ("extra", c.c_void_p),
        ("kern", c.c_void_p),
        ("ctx", c.c_void_p),
    ]


class Memset(c.Structure):
    _fields_ = (
        ("dst", c.c_uint64),
        ("pitch", c.c_size_t),
        ("value", c.c_uint),
        ("element", c.c_uint),
        ("width", c.c_size_t),
        ("height", c.c_size_t),
    )


class Copy3D(c.Structure):
    _fields_: ClassVar = [
        *((n, c.c_size_t) for n in ("src_x", "src_y", "src_z", "src_lod")),
        ("src_type", c.c_int),
        ("src_host", c.c_void_p),
        ("src_device", c.c_uint64),
        ("src_array", c.c_void_p),
        ("reserved0", c.c_void_p),
        ("src_pitch", c.c_size_t),
        ("src_height", c.c_size_t),
        *((n, c.c_size_t) for n in ("dst_x", "dst_y", "dst_z", "dst_lod")),
        ("dst_type", c.c_int),
        ("dst_host", c.c_void_p),
        ("dst_device", c.c_uint64),
        ("dst_array", c.c_void_p),
        ("reserved1", c.c_void_p),
        ("dst_pitch", c.c_size_t),
        ("dst_height", c.c_size_t),
        ("width", c.c_size_t),
        ("height", c.c_size_t),
        ("depth", c.c_size_t),
    ]


class Failed(AssertionError):
    """A call that must succeed did not."""


class Params:
    """Kernel parameters in both forms; keeps what the driver reads alive."""

    def __init__(self, *values: Any) -> None:
        self.values = values
        self.array = (c.c_void_p * (len(values) + 1))(
            *(c.cast(c.byref(v), c.c_void_p) for v in values), None
        )
        blob = b""
        for v in values:
            blob += b"\0" * (-len(blob) % c.alignment(v)) + bytes(v)
        self.blob = c.create_string_buffer(blob, len(blob) or 1)
        self.size = c.c_size_t(len(blob))
        self.extra = (c.c_void_p * 5)(1, c.addressof(self.blob), 2, c.addressof(self.size), 0)


class LinkMap(c.Structure):
    """The loader's list of what is loaded; in glibc an entry's address is dlopen's handle."""


LinkMap._fields_ = [
    ("addr", c.c_void_p),
    ("name", c.c_char_p),
    ("dynamic", c.c_void_p),
    ("next", c.POINTER(LinkMap)),
    ("prev", c.POINTER(LinkMap)),
]


def software_gpu() -> c.CDLL:
    """The software GPU's own library: libharp, where it is between, exports CUDA's names only."""
    real = os.environ.get("HARP_CUDA_REAL", "")
    at = c.cast(c.CDLL(None)._handle, c.POINTER(LinkMap))
    while real and at:
        if (at.contents.name or b"").decode() == real:
            return c.CDLL(real, handle=c.cast(at, c.c_void_p).value)
        at = at.contents.next
    return c.CDLL("libcuda.so.1")


class Driver:
    """One device with a context current."""

    def __init__(self, *, later: bool = False) -> None:
        self.keep: list[Any] = []
        if not later:
            self.start()

    def start(self) -> None:
        """Initialises the driver and makes the context."""
        self.cu = c.CDLL("libcuda.so.1")
        self.ok("cuInit", 0)
        self.device = c.c_int()
        self.ok("cuDeviceGet", c.byref(self.device), 0)
        self.ctx = self.handle("cuCtxCreate_v2", 0, self.device)

    def apart(self, body: Callable[..., None], *args: Any) -> None:
        """`body(d, *args)` in a process of its own: a fault breaks the process it happens in."""
        assert "cu" not in vars(self), "this process uses the device already: it cannot fork"
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                self.start()
                body(self, *args)
                code = 0
            except BaseException:  # noqa: BLE001 - the parent fails for it
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        assert status == 0, (body.__name__, *args)

    def call(self, name: str, *args: Any) -> int:
        result: int = getattr(self.cu, name)(*args)
        return result

    def ok(self, name: str, *args: Any) -> None:
        result = self.call(name, *args)
        if result != 0:
            raise Failed(f"{name}: {result}")

    def fails(self, expected: int, name: str, *args: Any) -> None:
        result = self.call(name, *args)
        assert result == expected, f"{name}: {result}, not {expected}"

    def handle(self, name: str, *args: Any) -> c.c_void_p:
        out = c.c_void_p()
        self.ok(name, c.byref(out), *args)
        return out

    def module(self, ptx: bytes = PTX) -> c.c_void_p:
        return self.handle("cuModuleLoadData", ptx)

    def function(self, module: c.c_void_p, name: str) -> c.c_void_p:
        return self.handle("cuModuleGetFunction", module, name.encode())

    def alloc(self, size: int) -> c.c_uint64:
        out = c.c_uint64()
        self.ok("cuMemAlloc_v2", c.byref(out), c.c_size_t(size))
        return out

    def free_bytes(self) -> int:
        """Of the device, as the driver says."""
        free, total = c.c_size_t(), c.c_size_t()
        self.ok("cuMemGetInfo_v2", c.byref(free), c.byref(total))
        return free.value

    def up(self, data: np.ndarray[Any, Any]) -> c.c_uint64:
        ptr = self.alloc(data.nbytes)
        self.ok("cuMemcpyHtoD_v2", ptr, c.c_void_p(data.ctypes.data), c.c_size_t(data.nbytes))
        return ptr

    def up_now(self, data: np.ndarray[Any, Any]) -> c.c_uint64:
        """For streams that wait for nobody: a small copy may go on after the call."""
        ptr = self.up(data)
        self.sync()
        return ptr

    def down(self, ptr: c.c_uint64, count: int, dtype: str = "f4") -> np.ndarray[Any, Any]:
        data = np.zeros(count, dtype)
        self.ok("cuMemcpyDtoH_v2", c.c_void_p(data.ctypes.data), ptr, c.c_size_t(data.nbytes))
        return data

    def global_of(self, module: c.c_void_p, name: str) -> tuple[c.c_uint64, int]:
        ptr, size = c.c_uint64(), c.c_size_t()
        self.ok("cuModuleGetGlobal_v2", c.byref(ptr), c.byref(size), module, name.encode())
        return ptr, size.value

    def try_launch(
        self,
        function: c.c_void_p,
        params: Params | None = None,
        grid: tuple[int, int, int] = (1, 1, 1),
        block: tuple[int, int, int] = (1, 1, 1),
        *,
        shared: int = 0,
        stream: c.c_void_p | None = None,
        extra: bool = False,
    ) -> int:
        self.keep.append(params)
        array = None if params is None or extra else params.array
        packed = params.extra if params is not None and extra else None
        return self.call("cuLaunchKernel", function, *grid, *block, shared, stream, array, packed)

    def launch(self, *args: Any, **named: Any) -> None:
        result = self.try_launch(*args, **named)
        if result != 0:
            raise Failed(f"cuLaunchKernel: {result}")

    def sync(self) -> None:
        self.ok("cuCtxSynchronize")

    def stream(self, flags: int = 1) -> c.c_void_p:
        return self.handle("cuStreamCreate", flags)

    def event(self, flags: int = 0) -> c.c_void_p:
        return self.handle("cuEventCreate", flags)

    def elapsed_ms(self, start: c.c_void_p, end: c.c_void_p) -> float:
        self.ok("cuEventSynchronize", end)
        ms = c.c_float()
        self.ok("cuEventElapsedTime", c.byref(ms), start, end)
        return ms.value

    def counters(self) -> dict[str, Counter]:
        """What really ran; the software GPU's own export, under libharp too."""
        fill = software_gpu().harp_soft_counters
        fill.restype = c.c_size_t
        fill.argtypes = [c.c_void_p, c.c_size_t]
        rows = (Counter * 64)()
        return {rows[i].name.decode(): rows[i] for i in range(fill(rows, 64))}


Body = Callable[["Driver"], None]
SOFTWARE = ("soft", "local")
COUNTS = "reads harp_soft_counters, an export of the software GPU alone"
TIMES = "holds kernels to the software GPU's model of time"
DEVICES = "names the devices that the machine must have"
REFUSALS = "what the software GPU refuses, and its words for it"


def names_in(code: CodeType) -> set[str]:
    """All names that a function and those inside it use."""
    inner = (names_in(const) for const in code.co_consts if isinstance(const, CodeType))
    return {*code.co_names}.union(*inner)


@overload
def case(body: Body) -> Body: ...
@overload
def case(
    *,
    only: str | tuple[str, ...] = (),
    why: str = "",
    waived: Mapping[str, str] | None = None,
    devices: str = "",
    env: Mapping[str, str] | None = None,
) -> Callable[[Body], Body]: ...
def case(
    body: Body | None = None,
    *,
    only: str | tuple[str, ...] = (),
    why: str = "",
    waived: Mapping[str, str] | None = None,
    devices: str = "",
    env: Mapping[str, str] | None = None,
) -> Body | Callable[[Body], Body]:
    """Register a case.

    Args:
        body: what to do; gets a Driver.
        only: backends it has a meaning on; none: all, or those with counters if it reads them.
        why: the reason for `only`.
        waived: backends on which it ought to pass and does not, each with the reason.
        devices: the software GPU's devices that it needs ("tiny,tiny"): a machine of its own.
        env: variables that it finds in its environment.
    """

    def add(body: Body) -> Body:
        area = Path(body.__code__.co_filename).stem.removeprefix("soft_mod_cases_")
        backends, reason = (only,) if isinstance(only, str) else only, why
        if not backends and "counters" in names_in(body.__code__):
            backends, reason = SOFTWARE, COUNTS
        if not backends and devices:
            backends, reason = SOFTWARE, DEVICES
        name = body.__name__
        assert (area, name) not in CASES, f"two cases of {area} are called {name}"
        assert bool(backends) == bool(reason), f"{name}: `only` and `why` go together"
        assert all((waived or {}).values()), f"{name}: a waiver says why"
        CASES[area, name] = Case(
            area, name, body, backends, reason, waived or {}, devices, env or {}
        )
        return body

    return add if body is None else add(body)


def main() -> None:
    name = sys.argv[1]
    (found,) = (one for one in CASES.values() if one.name == name)
    for key, value in {"HARP_SOFT_DEVICES": found.devices, **found.env}.items():
        if value or key in found.env:
            os.environ.setdefault(key, value)
    found.body(Driver(later="apart" in names_in(found.body.__code__)))
    print("passed")
