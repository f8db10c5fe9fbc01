# SPDX-License-Identifier: Apache-2.0
"""A replay in a process of its own: a driver that crashes names the call, and ends nobody else."""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import signal
import sys
from pathlib import Path

from harp.errors import HarpError, TraceError
from harp.trace.again import replay
from harp.trace.report import Divergence, Report
from harp.trace.tape import Tape

__all__ = ["replay_apart"]

_NONE = (1 << 64) - 1


def replay_apart(tape: Tape, library: Path, *, hang_s: float = 60) -> Report:
    """As `replay`. Only for processes that have one thread.

    Raises:
        TraceError: the driver cannot be loaded, or the replay itself failed.
    """
    begun = mmap.mmap(-1, 8)  # shared with the child: the call that it is at
    begun[:] = _NONE.to_bytes(8, "little")
    out, into = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(out)
        _child(tape, library, hang_s, begun, into)
    os.close(into)
    with os.fdopen(out, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if told:
        answer = json.loads(told)
        if "error" in answer:
            raise TraceError(answer["error"], answer["hint"])
        return Report.from_json(answer)
    return _died(tape, int.from_bytes(begun[:], "little"), os.waitstatus_to_exitcode(status))


def _child(tape: Tape, library: Path, hang_s: float, begun: mmap.mmap, into: int) -> None:
    """Play, tell, end: without what this process's parent has to do at its end."""

    def note(call: int) -> None:
        begun[:] = call.to_bytes(8, "little")

    faulthandler.disable()  # who crashes here is told of by the parent
    status = 1
    try:
        answer = replay(tape, library, hang_s=hang_s, begun=note).as_json()
        status = 0
    except HarpError as error:
        answer = {"error": error.message, "hint": error.hint}
    except Exception as error:  # noqa: BLE001 - told to the parent, which raises it
        answer = {"error": f"the replay failed: {error!r}", "hint": "report it with the trace"}
    try:
        with os.fdopen(into, "wb") as pipe:
            pipe.write(json.dumps(answer).encode())
    finally:
        os._exit(status)  # a call may hang, and threads wait for it


def _died(tape: Tape, sequence: int, status: int) -> Report:
    """The driver ended the process, at that call."""
    how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    call = next((c for c in tape.calls if c.sequence == sequence), None)
    if call is None:
        raise TraceError(f"the driver ended the replay before its first call: {how}", "")
    report = Report(calls=len(tape.calls))
    returned = f"returned {call.result}"
    report.diverge(Divergence(sequence, call.symbol.name, "died", returned, f"process: {how}"))
    return report
