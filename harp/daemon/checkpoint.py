# SPDX-License-Identifier: Apache-2.0
"""The driver's checkpoint calls, made by a process of their own: the driver is never in harpd.

A call may take as long as the device's memory takes to be copied, and a driver that misbehaves ends
that process alone. Source: CUDA driver API, "CUDA Checkpointing" (cuCheckpointProcess*, CUDA 12.8).
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from harp.errors import CheckpointFailed
from harp.model import uuid_bytes
from harp.native import scrub
from harp.procs import read

__all__ = [
    "STOPPED",
    "Calls",
    "Code",
    "Driver",
    "NoCheckpoints",
    "ProcessState",
    "driver_calls",
    "is_stopped",
    "state_after",
    "state_of",
]

_SEE = "`harp ps` tells whether it is suspended; ask again, or end the process"
_NO_CHECKPOINTS = (
    "driver 570 (CUDA 12.8) or newer has them; with an older one run the tenant with"
    " --oversubscribe: its memory then leaves the device when others need it"
)
#: longest time for one call but Lock, which has its own: some hundred GiB at a few GiB/s
_CALL_S = 300.0

#: argv: libcuda's path. One question a line, {"do", "pid", ...}; one answer a line, [code, value].
_PROGRAM = """
import ctypes as c, json, sys
cuda = c.CDLL(sys.argv[1])
begun = False
for line in sys.stdin:
    ask = json.loads(line)
    call = getattr(cuda, "cuCheckpointProcess" + ask["do"], None)
    value, args = c.c_int(-1), None
    if call is None:
        print(json.dumps([801, -1]), flush=True)
        continue
    if not begun:
        begun = cuda.cuInit(0) == 0
    if ask["do"].startswith("Get"):
        args = c.byref(value)
    elif ask["do"] == "Lock":
        args = (c.c_uint * 16)(ask["timeout_ms"])
    elif ask.get("pairs"):
        names = b"".join(bytes.fromhex(old + new) for old, new in ask["pairs"])
        pairs = c.create_string_buffer(names, len(names))
        args = (c.c_uint64 * 8)(c.addressof(pairs), len(ask["pairs"]))
    print(json.dumps([call(ask["pid"], args), value.value]), flush=True)
"""


class Code(enum.IntEnum):
    """Results that mean something here (CUresult)."""

    SUCCESS = 0
    INVALID_VALUE = 1
    OUT_OF_MEMORY = 2
    NOT_INITIALIZED = 3
    OPERATING_SYSTEM = 304
    ILLEGAL_STATE = 401
    NOT_READY = 600
    NOT_SUPPORTED = 801


class ProcessState(enum.IntEnum):
    """CUprocessState."""

    RUNNING = 0
    LOCKED = 1
    CHECKPOINTED = 2
    FAILED = 3


STOPPED = (ProcessState.LOCKED, ProcessState.CHECKPOINTED)


class NoCheckpoints(CheckpointFailed):
    """The driver has no such calls."""


class Driver(Protocol):
    """What takes a process's memory off the device and brings it back; results are CUresults."""

    async def lock(self, pid: int, timeout_s: float) -> int:
        """RUNNING to LOCKED."""

    async def checkpoint(self, pid: int) -> int:
        """LOCKED to CHECKPOINTED."""

    async def restore(self, pid: int, pairs: Sequence[tuple[str, str]]) -> int:
        """CHECKPOINTED to LOCKED."""

    async def unlock(self, pid: int) -> int:
        """LOCKED to RUNNING."""

    async def state(self, pid: int) -> tuple[int, int]:
        """(result, state)."""


class Calls:
    """The process that makes the calls; one at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def lock(self, pid: int, timeout_s: float) -> int:
        """Keep its calls out, once what it submitted has ended; undone when that takes longer."""
        timeout_ms = max(1, round(timeout_s * 1000))
        return (await self._ask("Lock", pid, timeout_s + 10, timeout_ms=timeout_ms))[0]

    async def checkpoint(self, pid: int) -> int:
        """Take all it has off its devices."""
        return (await self._ask("Checkpoint", pid))[0]

    async def restore(self, pid: int, pairs: Sequence[tuple[str, str]]) -> int:
        """Bring it back; `pairs` of UUIDs, old and new, or none: where it was."""
        names = [(uuid_bytes(old).hex(), uuid_bytes(new).hex()) for old, new in pairs]
        return (await self._ask("Restore", pid, pairs=names))[0]

    async def unlock(self, pid: int) -> int:
        """Let its calls go on."""
        return (await self._ask("Unlock", pid))[0]

    async def state(self, pid: int) -> tuple[int, int]:
        """(result, ProcessState)."""
        return await self._ask("GetState", pid)

    async def _ask(
        self, do: str, pid: int, timeout_s: float = _CALL_S, **more: object
    ) -> tuple[int, int]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                stdin.write(json.dumps({"do": do, "pid": pid, **more}).encode() + b"\n")
                await stdin.drain()
                line = await stdout.readline()
        except (TimeoutError, OSError) as error:
            raise CheckpointFailed(
                f"the driver did not answer to {do} of process {pid} within {timeout_s:g} s", _SEE
            ) from error
        if not line:
            raise CheckpointFailed(
                f"the process that calls the driver ended at {do} of {pid}", _SEE
            )
        code, value = json.loads(line)
        return int(code), int(value)


@contextlib.asynccontextmanager
async def driver_calls(cuda_path: Path, env: Mapping[str, str]) -> AsyncIterator[Calls]:
    """Start the process; end it afterwards, whatever it is at."""
    clean = scrub(env)
    clean.pop("CUDA_VISIBLE_DEVICES", None)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-c",
        _PROGRAM,
        str(cuda_path),
        env=clean,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield Calls(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def state_of(driver: Driver, pid: int) -> ProcessState | None:
    """State of a process; None: it is gone, or has no CUDA.

    Raises:
        CheckpointFailed: it cannot be asked, or is beyond help.
    """
    code, state = await driver.state(pid)
    if code == Code.NOT_SUPPORTED:
        raise NoCheckpoints("this driver has no checkpoints of processes", _NO_CHECKPOINTS)
    if code in (Code.NOT_INITIALIZED, Code.INVALID_VALUE) or (code and _is_gone(pid)):
        return None
    if code == Code.OPERATING_SYSTEM:
        raise CheckpointFailed(
            f"harpd may not look into process {pid} (CUDA error {code})",
            "only a harpd of the same user, or root's, can suspend it",
        )
    if code or state == ProcessState.FAILED:
        raise CheckpointFailed(
            f"process {pid} cannot be put away or brought back (CUDA error {code}, state {state})",
            "end it",
        )
    return ProcessState(state)


def state_after(pid: int, code: int, what: str, state: ProcessState) -> ProcessState | None:
    """The state after a call; None: it ended meanwhile."""
    if code == Code.SUCCESS:
        return state
    if _is_gone(pid) or (code == Code.NOT_INITIALIZED and what != "restore"):
        return None
    hint = "see `harp ps`; the process goes on"
    if what == "checkpoint" and code == Code.NOT_SUPPORTED:
        raise CheckpointFailed(
            f"process {pid} has memory that a driver does not put away (CUDA error {code}): managed"
            " memory, or memory that it shares with other processes",
            "the tenant goes on; one of --oversubscribe leaves the device when others need it",
        )
    if what == "checkpoint":
        hint = "the host needs room for what is on the GPUs; `harp ps` tells what goes on"
    elif what == "restore":
        hint = "it stays suspended; resume it again when there is more room"
    raise CheckpointFailed(f"the driver answered {code} to the {what} of process {pid}", hint)


async def is_stopped(driver: Driver, pid: int) -> bool:
    """Whether it is locked or put away; also asked of processes that may have no CUDA."""
    code, state = await driver.state(pid)
    return code == Code.SUCCESS and state in STOPPED


def _is_gone(pid: int) -> bool:
    found = read(pid)
    return found is None or found.zombie
