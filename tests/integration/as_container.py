# SPDX-License-Identifier: Apache-2.0
"""Becomes a program in a container, as far as mounts, environment and user go; needs root.

argv: JSON of {"mounts": [[inside, outside, read_only]], "env": {}, "uid": N, "command": [...]}.
A mount namespace of its own; /opt is empty but for the mounts, and for what it is run with.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path

NEWNS, BIND, REC, PRIVATE, REMOUNT, RDONLY = 0x20000, 0x1000, 0x4000, 0x40000, 0x20, 0x1
libc = ctypes.CDLL(None, use_errno=True)


def must(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(source: str, target: str, kind: str, flags: int) -> None:
    done = libc.mount(source.encode(), target.encode(), kind.encode(), flags, None)
    must(done, f"mount {source} {target}")


def bind(outside: str, inside: str, *, read_only: bool) -> None:
    path = Path(inside)
    path.parent.mkdir(parents=True, exist_ok=True)
    if Path(outside).is_dir():
        path.mkdir(exist_ok=True)
    else:
        path.touch()
    mount(outside, inside, "", BIND)
    if read_only:
        mount("", inside, "", BIND | REMOUNT | RDONLY)


def main() -> None:
    told = json.loads(sys.argv[1])
    must(libc.unshare(NEWNS), "unshare")
    mount("", "/", "", REC | PRIVATE)
    # Before /opt is hidden: it may be where Python lies.
    scratch = "/mnt"
    mount("tmpfs", scratch, "tmpfs", 0)
    held = [(sys.base_prefix, f"{scratch}/py"), (str(Path(__file__).parent), f"{scratch}/tests")]
    for outside, inside in held:
        bind(outside, inside, read_only=True)
    mount("tmpfs", "/opt", "tmpfs", 0)
    for inside, outside, read_only in told["mounts"]:
        bind(outside, inside, read_only=read_only)
    if told["uid"]:
        os.setgroups([])
        os.setgid(told["uid"])
        os.setuid(told["uid"])
    python = f"{scratch}/py/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    os.chdir("/")
    os.execve(python, [python, f"{scratch}/tests/{told['command'][0]}", *told["command"][1:]],
              {"LD_LIBRARY_PATH": f"{scratch}/py/lib:/opt/lib", **told["env"]})  # fmt: skip


main()
