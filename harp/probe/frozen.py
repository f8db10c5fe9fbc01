# SPDX-License-Identifier: Apache-2.0
"""Probe of checkpoints: processes that hold memory in several ways, frozen and thawed."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harp.probe.driver import MIB, Library, Refused, call, context, driver, middle, say, timed_us
from harp.probe.memory import Mapped

__all__ = ["KINDS", "checkpoint", "hold"]

_SIZE = 256 * MIB
_SEEN = 16 * MIB
_LOCK_MS = 10_000


def _plain() -> tuple[Any, Callable[[], None]]:
    return call("cuMemAlloc", _SIZE), lambda: None


def _pool() -> tuple[Any, Callable[[], None]]:
    return call("cuMemAllocAsync", _SIZE, 0), lambda: None


def _mapped() -> tuple[Any, Callable[[], None]]:
    block = Mapped(_SIZE)
    block.make()
    return block.address, lambda: None


def _managed() -> tuple[Any, Callable[[], None]]:
    flags = driver().CUmemAttach_flags.CU_MEM_ATTACH_GLOBAL.value
    return call("cuMemAllocManaged", _SIZE, flags), lambda: None


def _graph() -> tuple[Any, Callable[[], None]]:
    """Memory that a graph fills, whenever it is asked to."""
    cuda = driver()
    memory, stream = call("cuMemAlloc", _SIZE), call("cuStreamCreate", 1)
    mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    call("cuStreamBeginCapture", stream, mode)
    call("cuMemsetD8Async", memory, 0x5E, _SIZE, stream)
    ready = call("cuGraphInstantiate", call("cuStreamEndCapture", stream), 0)

    def again() -> None:
        call("cuGraphLaunch", ready, stream)
        call("cuStreamSynchronize", stream)

    return memory, again


KINDS = {"plain": _plain, "pool": _pool, "graph": _graph, "vmm": _mapped, "managed": _managed}


def hold(kind: str) -> None:
    """The process that is frozen: says a digest of what it holds, whenever asked."""
    context()
    memory, work = KINDS[kind]()
    call("cuMemsetD8", memory, 0x5E, _SIZE)
    call("cuCtxSynchronize")
    host = bytearray(_SEEN)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        work()
        call("cuMemcpyDtoH", host, memory, _SEEN)
        sys.stdout.write(hashlib.sha256(host).hexdigest() + "\n")
        sys.stdout.flush()


@contextlib.contextmanager
def _held(library: Path, kind: str) -> Iterator[tuple[int, Callable[[], str]]]:
    command = [sys.executable, "-m", "harp.probe.child", str(library), "hold", kind]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            if child.stdout.readline() != "ready\n":
                raise Refused("the process to be frozen could not make its memory")

            def ask() -> str:
                assert child.stdin is not None
                assert child.stdout is not None
                child.stdin.write("?\n")
                child.stdin.flush()
                if not (said := child.stdout.readline().strip()):
                    raise Refused("it ended when it went on")
                return said

            yield child.pid, ask
        finally:
            child.kill()


def _freeze(pid: int) -> tuple[float, float]:
    """Take a process off the device and bring it back; us of both."""
    cuda = driver()
    lock = cuda.CUcheckpointLockArgs()
    lock.timeoutMs = _LOCK_MS
    call("cuCheckpointProcessLock", pid, lock)
    try:
        away = timed_us(lambda: call("cuCheckpointProcessCheckpoint", pid, None))
        back = timed_us(lambda: call("cuCheckpointProcessRestore", pid, None))
    except Refused:
        with contextlib.suppress(Refused):
            call("cuCheckpointProcessUnlock", pid, None)
        raise
    call("cuCheckpointProcessUnlock", pid, None)
    return away, back


def checkpoint(library: Library) -> None:
    """Each kind of memory through a checkpoint; the first one three times, for its speed."""
    away_us: list[float] = []
    back_us: list[float] = []
    for kind in KINDS:
        key = f"checkpoint_{kind}"
        try:
            with _held(library.path, kind) as (pid, ask):
                before = ask()
                for _ in range(3 if kind == "plain" else 1):
                    away, back = _freeze(pid)
                    if kind == "plain":
                        away_us.append(away)
                        back_us.append(back)
                same = ask() == before
            say(key, "yes" if same else "no: it came back with other contents")
        except Refused as error:
            # What this driver does is the answer; that it was never reached is none.
            reached = str(error).startswith("cuCheckpoint")
            say(key, f"no: {error}" if reached else None, unknown=str(error))
    for key, spent_us in (("checkpoint_away", away_us), ("checkpoint_back", back_us)):
        if spent_us:
            say(key, int(float(f"{_SIZE * 1e6 / middle(spent_us):.4g}")))
        else:
            say(key, unknown="no checkpoint of plain memory succeeded")
