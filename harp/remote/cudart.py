# SPDX-License-Identifier: Apache-2.0
"""Whether a command brings the CUDA runtime with it: such a program cannot run remotely.

libcudart asks the driver for private tables, and HARP does not imitate NVIDIA's answer. Before the
program starts this is a sentence; after, an error code out of the middle of somebody's training.

What counts, for the program and each library that it is loaded with:
(1) it is, or needs, libcudart.so.*;
(2) it has the section .nvFatBinSegment, in which nvcc and clang leave device code for the runtime;
(3) its data holds both `cuGetExportTable` and `cudaErrorCudartUnloading`, as libcudart_static's
    does (seen in 11.8, 12.1, 12.8, 13.0; strip and --gc-sections leave them).

False negatives: what is loaded later (dlopen, Python's imports, plugins), programs that this one
starts, packed executables, files that may not be read. False positives: (3) in a program that lists
the names of CUDA's functions and errors without using the runtime, as some tracers do.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harp.remote.elf import holds, parse
from harp.remote.libraries import File, Object, opened, read_cache, walk

__all__ = ["Verdict", "judge"]

_SONAME = re.compile(r"libcudart(_static)?\.so(\..*)?")
_SEGMENT = ".nvFatBinSegment"
#: what the runtime asks the driver for, and an error that only it has; as whole strings
_MARKS = (b"\0cuGetExportTable\0", b"\0cudaErrorCudartUnloading\0")
_SEARCHED_BYTES = 512 << 20
_SCRIPT_BYTES = 256 << 10
_SCRIPT_DEPTH = 4
_PYTHON = re.compile(r"(python|pypy)[0-9.]*")
#: packages whose CUDA builds bring libcudart
_IMPORTS = re.compile(rb"^[ \t]*(?:import|from)[ \t]+(torch|cupy|tensorflow|jax)\b", re.MULTILINE)
_PYTHON_LATER = (
    "Python decides while it runs what it loads: a package that brings the CUDA runtime gets an"
    " error at its first CUDA call"
)
_WAY_OUT = (
    "run it on the machine that has the GPU: `harp run` there lets that exchange through to the"
    " real driver"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a command before it starts."""

    reason: str  #: why it cannot run remotely; "": nothing speaks against it
    way_out: str
    notes: tuple[str, ...]  #: what could not be known, or speaks against it without proof

    @property
    def refused(self) -> bool:
        """Whether it must not be started."""
        return bool(self.reason)


def judge(program: Path, argv: Sequence[str], env: Mapping[str, str]) -> Verdict:
    """Look at a command.

    Args:
        program: the file that execvp would run.
        argv: the command, argv[0] included.
        env: it will run with.
    """
    target, arguments, notes = program, list(argv[1:]), list[str]()
    for _ in range(_SCRIPT_DEPTH):
        if target.name == "env":
            named = next((a for a in arguments if not a.startswith("-") and "=" not in a), "")
            found = shutil.which(named, path=env.get("PATH", os.defpath)) if named else None
            if found is None:
                break
            arguments = arguments[arguments.index(named) + 1 :]
            target = Path(found)
            continue
        line = _shebang(target)
        if line is None:
            break
        interpreter, options = line
        arguments = [*options, str(target), *arguments]
        target = interpreter
    objects, missing = walk(target, env, read_cache())
    for item in objects:
        if why := _brings(item):
            return Verdict(_printable(why), _WAY_OUT, ())
    if not objects:
        notes.append(f"{target} is no program for this machine that can be read: not judged")
    if missing:
        notes.append(f"not found, and so not judged: {', '.join(missing)}")
    if _PYTHON.fullmatch(target.name):
        notes += _python(arguments)
    return Verdict("", "", tuple(map(_printable, notes)))


def _brings(item: Object) -> str:
    """Why an object brings the runtime with it; "" if it does not."""
    what = "the CUDA runtime, which asks the driver for private tables that HARP does not imitate"
    if _SONAME.fullmatch(item.elf.soname) or _SONAME.fullmatch(item.path.name):
        return f"{item.chain()}: this is {what}"
    needed = next((n for n in item.elf.needed if _SONAME.fullmatch(n)), None)
    if needed:
        return f"{item.chain()} needs {needed}, {what}"
    if _SEGMENT in item.elf.sections:
        return f"{item.chain()} has device code ({_SEGMENT}) for {what}"
    if _linked(item.path):
        return f"{item.chain()} contains libcudart_static, {what}"
    return ""


def _linked(path: Path) -> bool:
    fd = opened(path)
    if fd is None:
        return False
    try:
        source = File(fd)
        elf = parse(source)
        if elf is None:
            return False
        return holds(source, elf.data, _MARKS, _SEARCHED_BYTES) == frozenset(_MARKS)
    except OSError:
        return False
    finally:
        os.close(fd)


def _shebang(path: Path) -> tuple[Path, list[str]] | None:
    """A script's interpreter and its options; None if it is no script."""
    head = _head(path, 512)
    if not head.startswith(b"#!"):
        return None
    words = os.fsdecode(head[2:].split(b"\n", 1)[0]).strip().split(maxsplit=1)
    if not words:
        return None
    # The kernel passes the rest as one word; env -S takes it apart.
    options = words[1].split() if len(words) > 1 else []
    return Path(words[0]), options


def _python(arguments: Sequence[str]) -> list[str]:
    notes = [_PYTHON_LATER]
    script = next((a for a in arguments if not a.startswith("-")), "")
    module = "-m" in arguments or "-c" in arguments
    if script and not module:
        names = sorted({m.decode() for m in _IMPORTS.findall(_head(Path(script), _SCRIPT_BYTES))})
        notes += [
            f"{script} imports {name}, whose CUDA builds bring the CUDA runtime" for name in names
        ]
    return notes


def _head(path: Path, size: int) -> bytes:
    fd = opened(path)
    if fd is None:
        return b""
    try:
        return File(fd).read(0, size)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _printable(text: str) -> str:
    """Names come from files that may be anybody's."""
    return "".join(c if c.isprintable() else "?" for c in text)
