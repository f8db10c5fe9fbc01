# SPDX-License-Identifier: Apache-2.0
"""A probe's process and its driver: cuda-python's bindings, on the library that was asked for."""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from harp.probe.questions import Value

__all__ = [
    "Library",
    "Refused",
    "check",
    "context",
    "driver",
    "kernel",
    "launch",
    "say",
    "timed_us",
]

MIB = 1 << 20


class Refused(Exception):  # noqa: N818 - what the driver did, said as an answer
    """The driver answered a call with an error; the text names both."""


def say(key: str, value: Value | None = None, unknown: str = "") -> None:
    """An answer, at once: what comes later may end this process."""
    said: dict[str, object] = {"key": key}
    said |= {"unknown": unknown} if value is None else {"value": value}
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def driver() -> Any:
    """cuda-python's bindings of the driver API."""
    from cuda.bindings import driver as bindings  # noqa: PLC0415 - an extra; asked for before

    return bindings


class Library:
    """The driver's library, loaded before cuda-python looks for one by its name.

    Args:
        path: its file. Whoever asks for libcuda.so.1 afterwards gets it.

    Raises:
        Refused: another one is in this process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.calls = ctypes.CDLL(str(self.path), mode=ctypes.RTLD_GLOBAL)
        check("cuInit", driver().cuInit(0))
        mapped = {
            Path("/" + line.partition("/")[2].rstrip("\n"))
            for line in Path("/proc/self/maps").read_text().splitlines()
            if "/libcuda.so" in line
        }
        if mapped != {self.path}:
            raise Refused(f"this process has {', '.join(map(str, sorted(mapped)))} for a driver")

    def address(self, name: str) -> int | None:
        """Where dlsym finds a function; None: it is not exported."""
        try:
            return ctypes.cast(getattr(self.calls, name), ctypes.c_void_p).value
        except AttributeError:
            return None


def check(what: str, result: tuple[Any, ...]) -> Any:
    """The values of a call that succeeded: none, one, or a tuple.

    Raises:
        Refused: it did not.
    """
    if int(result[0]):
        raise Refused(f"{what}: {result[0].name}")
    return result[1] if len(result) == 2 else result[1:] or None


def call(name: str, *arguments: object) -> Any:
    """Call the driver; see check()."""
    try:
        return check(name, getattr(driver(), name)(*arguments))
    except (AttributeError, RuntimeError) as error:  # a driver older than the bindings, or these
        raise Refused(f"{name}: {error}") from error


def context() -> Any:
    """The first device; its primary context is this thread's."""
    device = call("cuDeviceGet", 0)
    call("cuCtxSetCurrent", call("cuDevicePrimaryCtxRetain", device))
    return device


def kernel(ptx: str, name: str) -> Any:
    """A kernel of PTX text."""
    return call(
        "cuModuleGetFunction", call("cuModuleLoadData", ptx.encode() + b"\0"), name.encode()
    )


def launch(
    function: Any, values: tuple[object, ...] = (), types: tuple[Any, ...] = (), *,
    grid: int = 1, block: int = 1, stream: object = 0,
) -> None:  # fmt: skip
    """One kernel."""
    parameters = (values, types) if values else 0
    call("cuLaunchKernel", function, grid, 1, 1, block, 1, 1, 0, stream, parameters, 0)


def timed_us(work: Callable[[], object]) -> float:
    """How long it takes, by this host's clock."""
    begin = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - begin) / 1000


def middle(values: list[float]) -> float:
    """Their median, with as many digits as mean something."""
    return float(f"{median(values):.4g}")
