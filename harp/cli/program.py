# SPDX-License-Identifier: Apache-2.0
"""The program to be run: where it is, and whether injection can reach it."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import struct
from collections.abc import Mapping
from pathlib import Path

__all__ = ["locate", "obstacle"]

_PT_INTERP = 3
_SHEBANG_DEPTH = 4


def locate(command: str, env: Mapping[str, str]) -> Path | None:
    """The file that execvp would run; None if there is none."""
    if "/" in command:
        path = Path(command)
        try:
            path.stat()
        except PermissionError:
            return path  # behind a folder that we may not enter: there, for all we know
        except OSError:
            return None
        return path
    found = shutil.which(command, path=env.get("PATH", os.defpath))
    return Path(found) if found else None


def obstacle(path: Path, depth: int = 0) -> str:
    """Why libraries injected through the environment do not reach this program; "" if they do.

    A script is judged by its interpreter. What cannot be read is taken to be all right: the
    watchdog sees the process anyway.
    """
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return ""
    if mode & (stat.S_ISUID | stat.S_ISGID) and os.geteuid() != 0:
        return f"{path} is setuid or setgid: the loader ignores LD_PRELOAD for it"
    with contextlib.suppress(OSError):
        if os.getxattr(path, "security.capability") and os.geteuid() != 0:
            return f"{path} has file capabilities: the loader ignores LD_PRELOAD for it"
    if head.startswith(b"#!") and depth < _SHEBANG_DEPTH:
        interpreter = head[2:].split(b"\n", 1)[0].strip().split(b" ", 1)[0]
        return obstacle(Path(os.fsdecode(interpreter)), depth + 1) if interpreter else ""
    if head.startswith(b"\x7fELF") and not _has_interpreter(head):
        return f"{path} is statically linked: no library can be put before it"
    return ""


def _has_interpreter(head: bytes) -> bool:
    """Whether an ELF file names a dynamic loader (has a PT_INTERP segment)."""
    if len(head) < 64 or head[4] != 2 or head[5] != 1:
        return True  # not 64-bit little endian: not ours to judge
    table, _, _, _, size, count = struct.unpack_from("<QQIHHH", head, 32)
    for index in range(count):
        at = table + index * size
        if at + 4 > len(head):
            return True
        if struct.unpack_from("<I", head, at)[0] == _PT_INTERP:
            return True
    return False
