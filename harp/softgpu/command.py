# SPDX-License-Identifier: Apache-2.0
"""The command line: run a program on a private software GPU, look at one, make one misbehave."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import FrameType
from typing import Any

from harp.errors import HarpError, NativeError
from harp.softgpu.machine import (
    DEFAULT_DEVICES,
    PROFILES,
    SoftGpu,
    binaries,
    compiler,
    software_gpu,
)
from harp.softgpu.service import serve_compiler

__all__ = ["main"]

USAGE = """\
python -m harp.softgpu [OPTIONS] -- CMD...     run CMD on a private software GPU
python -m harp.softgpu devices [--json]        the devices it can be
python -m harp.softgpu truth [ARGUMENT...]     what each process really had (harp-soft-truth)
python -m harp.softgpu fault set RULE...|clear|show    make it misbehave (harp-soft-fault)
python -m harp.softgpu compiler --socket PATH  compile for containers that have no compiler
python -m harp.softgpu doc                     what it can and cannot do
truth and fault look at the machine of $HARP_SOFT_DIR: call them inside CMD."""

_DOC = files("harp.softgpu") / "doc.md"  #: made by native/gen/emit_softgpu.py
#: as a shell says it: found but not to be run, not found, ended by a signal
_NOT_EXECUTABLE, _NOT_FOUND, _SIGNALLED = 126, 127, 128
_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT)
_TRUTH_TIMEOUT_S = 20.0


def main(arguments: Sequence[str]) -> int:
    """Exit status: CMD's own; 1 this failed, 2 wrong usage."""
    try:
        match arguments[:1]:
            case ["devices"]:
                return _devices(arguments[1:])
            case ["truth"]:
                return _tool("harp-soft-truth", arguments[1:])
            case ["fault"]:
                return _fault(arguments[1:])
            case ["compiler"]:
                return serve_compiler(arguments[1:])
            case ["doc"]:
                sys.stdout.write(_DOC.read_text().partition("-->\n")[2].lstrip())
                return 0
            case _:
                return _run(arguments)
    except HarpError as error:
        hint = f"\nremedy: {error.hint}" if error.hint else ""
        sys.stderr.write(f"harp.softgpu: {error.message}{hint}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harp.softgpu", usage=USAGE, allow_abbrev=False, add_help=True
    )
    names = ", ".join(PROFILES)
    default = ",".join(DEFAULT_DEVICES)
    parser.add_argument(
        "--devices", default=default, help=f"of {names}, commas between; '' = none ({default})"
    )
    parser.add_argument("--dir", type=Path, help="folder for its state, new or empty")
    parser.add_argument("--keep", action="store_true", help="leave the folder and say where")
    parser.add_argument("--verbose", action="store_true", help="the driver's log on stderr")
    parser.add_argument("--json", action="store_true", help="one JSON object after CMD's output")
    return parser


def _run(arguments: Sequence[str]) -> int:
    parser = _parser()
    own, command = list(arguments), list[str]()
    if "--" in own:
        at = own.index("--")
        own, command = own[:at], own[at + 1 :]
    options = parser.parse_args(own)  # -h ends here
    if not command:
        parser.error("no CMD: what shall run on the software GPU? ... -- CMD")
    devices = [name for name in options.devices.split(",") if name]
    with software_gpu(
        devices, folder=options.dir, keep=options.keep, verbose=options.verbose
    ) as gpu:
        if compiler(gpu.env) is None:
            _say("there is no C compiler: kernels will fail with JIT_COMPILER_NOT_FOUND (221)")
        status, name = _execute(command, gpu)
        if options.json:
            _json(_report(command, status, name, gpu, keep=options.keep))
        if options.keep:
            _say(f"state is kept in {gpu.folder}")
    return status


def _execute(command: Sequence[str], gpu: SoftGpu) -> tuple[int, str | None]:
    """Run it; its exit status, and the signal that ended it."""
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        if process is None:
            early.append(number)
        elif number != signal.SIGINT or not sys.stdin.isatty():  # a terminal tells CMD itself
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        try:
            process = subprocess.Popen(list(command), env=dict(gpu.env))
        except FileNotFoundError:
            _say(f"{command[0]}: not found")
            return _NOT_FOUND, None
        except PermissionError:
            _say(f"{command[0]}: not executable")
            return _NOT_EXECUTABLE, None
        for number in early:
            process.send_signal(number)
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if status >= 0:
        return status, None
    return _SIGNALLED - status, signal.Signals(-status).name


def _report(
    command: Sequence[str], status: int, name: str | None, gpu: SoftGpu, *, keep: bool
) -> dict[str, object]:
    """What ran, how it ended, and what the engine's ledger says of it."""
    ledger = _ledger(gpu)
    return {
        "command": list(command),
        "status": status,
        "signal": name,
        "software": True,
        "devices": ledger["devices"],
        "processes": ledger["processes"],
        "log": gpu.log_text().splitlines(),
        "dir": str(gpu.folder) if keep else None,
    }


def _devices(arguments: Sequence[str]) -> int:
    if not set(arguments) <= {"--json"}:
        _parser().error(f"devices: {' '.join(arguments)}: only --json")
    with software_gpu(PROFILES) as gpu:
        ledger = _ledger(gpu)
    # a board with instances is a device for each of them
    found = {row["profile"]: row for row in ledger["devices"]}
    rows = [
        {"device": name, "name": row["name"], "memory_bytes": row["capacity_bytes"]}
        for name, row in found.items()
    ]
    if arguments:
        _json({"software": True, "devices": rows})
        return 0
    for row in rows:
        sys.stdout.write(f"{row['device']:14} {row['memory_bytes'] >> 20:7} MiB  {row['name']}\n")
    return 0


def _fault(arguments: Sequence[str]) -> int:
    if arguments[:1] not in (["set"], ["clear"], ["show"]) or arguments == ["set"]:
        _parser().error("fault: set RULE..., clear, or show")
    return _tool("harp-soft-fault", arguments)


def _tool(name: str, arguments: Sequence[str]) -> int:
    """One of the compiled programs, in place of this one."""
    path = binaries().optional(name)
    if path is not None:
        os.execv(path, [name, *arguments])  # noqa: S606 - nothing of this process is wanted more
    _say(f"this installation has no {name}; remedy: a version of harp that brings it")
    return 1


def _ledger(gpu: SoftGpu) -> dict[str, Any]:
    """What harp-soft-truth says of the machine."""
    done = subprocess.run(
        [str(binaries().path / "harp-soft-truth"), "--json"],
        env=dict(gpu.env),
        capture_output=True,
        text=True,
        timeout=_TRUTH_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise NativeError(f"harp-soft-truth: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _json(value: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _say(text: str) -> None:
    sys.stderr.write(f"harp.softgpu: {text}\n")
