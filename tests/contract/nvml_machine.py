# SPDX-License-Identifier: Apache-2.0
"""Programs that ask NVML, and processes that hold memory, each on a machine of the test's own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HOLDER = """
import ctypes as c, sys
cu = c.CDLL("libcuda.so.1")
def ok(r):
    assert r == 0, r
ok(cu.cuInit(0))
device, ctx, pointer = c.c_int(), c.c_void_p(), c.c_uint64()
ok(cu.cuDeviceGet(c.byref(device), int(sys.argv[1])))
ok(cu.cuCtxCreate_v2(c.byref(ctx), 0, device))
ok(cu.cuMemAlloc_v2(c.byref(pointer), c.c_size_t(int(sys.argv[2]) << 20)))
uuid = (c.c_ubyte * 16)()
ok(cu.cuDeviceGetUuid_v2(uuid, device))
bus = c.create_string_buffer(32)
ok(cu.cuDeviceGetPCIBusId(bus, 32, device))
print(bytes(uuid).hex(), bus.value.decode(), flush=True)
sys.stdin.readline()
"""

#: `tell(f, ...)` is what f says, or "error N".
PRELUDE = """
import json, sys
import pynvml as n
def tell(call, *args):
    try:
        return call(*args)
    except n.NVMLError as error:
        return f"error {error.value}"
n.nvmlInit()
"""


def ask(env: dict[str, str], program: str, *args: str) -> Any:
    """What `program`, in a process of its own after PRELUDE, prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", PRELUDE + program, *args],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


class Holder:
    """A process that holds a context and some memory until told to go."""

    def __init__(self, env: dict[str, str], device: int, mib: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-B", "-c", HOLDER, str(device), str(mib)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.uuid, self.bus = self.process.stdout.readline().split()

    @property
    def pid(self) -> int:
        return self.process.pid

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)


@contextmanager
def busy(env: dict[str, str]) -> Iterator[int]:
    """The first device computes without a pause, for the process of this id."""
    script = Path(__file__).with_name("soft_mod_cases_launch.py")
    process = subprocess.Popen(
        [sys.executable, "-B", str(script), "stay_busy"],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "busy\n"
        time.sleep(1.5)
        yield process.pid
    finally:
        process.kill()
        process.communicate(timeout=30)
