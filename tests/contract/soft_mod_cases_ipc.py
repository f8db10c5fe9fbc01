# SPDX-License-Identifier: Apache-2.0
"""Cases of legacy IPC: memory and events between programs that exchange 64 bytes."""

from __future__ import annotations

import ctypes as c
import subprocess
import sys
import threading
import time

from soft_mod_driver import (
    INVALID_CONTEXT,
    INVALID_HANDLE,
    INVALID_VALUE,
    NOT_READY,
    Driver,
    Params,
    case,
    main,
    np,
)

LAZY = 1
INTERPROCESS = 4 | 2  # never without DISABLE_TIMING
N = 1000


class Handle(c.Structure):
    _fields_ = (("bytes", c.c_ubyte * 64),)


def add1(d: Driver, source: c.c_uint64, to: c.c_uint64) -> None:
    d.launch(
        d.function(d.module(), "add1"), Params(source, to, c.c_uint32(N)), (4, 1, 1), (256, 1, 1)
    )
    d.sync()


def say(*handles: Handle) -> None:
    print(*(bytes(h.bytes).hex() for h in handles), flush=True)


def exporter(d: Driver) -> None:
    """The other program: gives names away, then does what it is told, line by line."""
    data = np.arange(N, dtype="f4")
    large, small = d.alloc(5_000_000), d.up_now(data)  # who gets the name waits for nothing here
    event = d.event(INTERPROCESS)
    names = [Handle(), Handle(), Handle()]
    d.ok("cuIpcGetMemHandle", c.byref(names[0]), large)
    d.ok("cuIpcGetMemHandle", c.byref(names[1]), small)
    d.ok("cuIpcGetEventHandle", c.byref(names[2]), event)
    say(*names)
    let = threading.Event()
    waits = c.CFUNCTYPE(None, c.c_void_p)(lambda _: let.wait() and None)
    for line in sys.stdin:
        if line == "record\n":
            d.launch(d.function(d.module(), "nap"), Params(c.c_uint32(300)))
            d.ok("cuEventRecord", event, None)
        elif line == "record later\n":
            d.ok("cuLaunchHostFunc", None, waits, None)
            d.ok("cuEventRecord", event, None)
        elif line == "let\n":
            let.set()
        elif line == "free\n":
            d.ok("cuMemFree_v2", large)
        elif line == "look\n":
            assert (d.down(large, N) == data + 1).all()
        print("done", flush=True)


class Other:
    """That program, seen from here."""

    def __init__(self) -> None:
        command = [sys.executable, "-B", __file__, "exporter"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.names = [Handle.from_buffer_copy(bytes.fromhex(t)) for t in self.line().split()]

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line
        return line.strip()

    def tell(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        assert self.line() == "done"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def opened(d: Driver, name: Handle) -> c.c_uint64:
    ptr = c.c_uint64()
    d.ok("cuIpcOpenMemHandle_v2", c.byref(ptr), name, LAZY)
    return ptr


@case
def memory_is_shared_by_its_name(d: Driver) -> None:
    other = Other()
    large, small = opened(d, other.names[0]), opened(d, other.names[1])
    add1(d, small, large)
    other.tell("look")
    assert opened(d, other.names[0]).value == large.value
    legacy = c.c_int(7)
    d.ok("cuPointerGetAttribute", c.byref(legacy), 10, large)
    assert legacy.value & 0xFF == 0  # what was opened is not handed on
    d.ok("cuIpcCloseMemHandle", large)
    add1(d, small, large)
    d.ok("cuIpcCloseMemHandle", large)
    d.fails(INVALID_VALUE, "cuIpcCloseMemHandle", large)
    other.kill()


@case
def names_of_what_is_gone_open_nothing(d: Driver) -> None:
    other, ptr = Other(), c.c_uint64()
    large = opened(d, other.names[0])
    other.tell("free")
    d.fails(INVALID_HANDLE, "cuIpcOpenMemHandle_v2", c.byref(ptr), other.names[0], LAZY)
    small = opened(d, other.names[1])
    other.kill()
    d.fails(INVALID_HANDLE, "cuIpcOpenMemHandle_v2", c.byref(ptr), other.names[1], LAZY)
    add1(d, small, large)  # what is open goes on
    assert (d.down(large, N) == np.arange(N, dtype="f4") + 1).all()


@case
def a_process_does_not_open_its_own(d: Driver) -> None:
    name, ptr = Handle(), c.c_uint64()
    d.ok("cuIpcGetMemHandle", c.byref(name), d.alloc(100))
    d.fails(INVALID_CONTEXT, "cuIpcOpenMemHandle_v2", c.byref(ptr), name, LAZY)
    d.fails(INVALID_VALUE, "cuIpcOpenMemHandle_v2", c.byref(ptr), Handle(), LAZY)
    d.fails(INVALID_VALUE, "cuIpcOpenMemHandle_v2", c.byref(ptr), name, 0)
    d.ok("cuIpcGetEventHandle", c.byref(name), d.event(INTERPROCESS))
    d.fails(INVALID_CONTEXT, "cuIpcOpenEventHandle", c.byref(ptr), name)
    d.fails(INVALID_HANDLE, "cuIpcGetEventHandle", c.byref(name), d.event(2))


@case
def streams_wait_for_the_other_program(d: Driver) -> None:
    other, event = Other(), c.c_void_p()
    d.ok("cuIpcOpenEventHandle", c.byref(event), other.names[2])
    d.ok("cuEventQuery", event)
    other.tell("record later")
    stream = d.stream()
    d.ok("cuStreamWaitEvent", stream, event, 0)
    d.fails(NOT_READY, "cuEventQuery", event)
    d.fails(NOT_READY, "cuStreamQuery", stream)
    said: list[str] = []

    def let() -> None:
        said.append("let")
        other.tell("let")

    timer = threading.Timer(0.3, let)
    timer.start()
    d.ok("cuStreamSynchronize", stream)
    assert said == ["let"]
    d.ok("cuEventQuery", event)
    timer.join()
    other.kill()


@case
def a_killed_recorder_holds_nobody(d: Driver) -> None:
    other, event = Other(), c.c_void_p()
    d.ok("cuIpcOpenEventHandle", c.byref(event), other.names[2])
    for _ in range(20):
        other.tell("record")
    d.fails(NOT_READY, "cuEventQuery", event)
    other.kill()
    began = time.monotonic()
    d.ok("cuEventSynchronize", event)
    assert time.monotonic() - began < 3


if __name__ == "__main__":
    if sys.argv[1] == "exporter":
        exporter(Driver())
    else:
        main()
