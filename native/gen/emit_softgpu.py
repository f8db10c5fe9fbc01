# SPDX-License-Identifier: Apache-2.0
"""harp/softgpu/doc.md: what the software GPU can and cannot do, for who uses it by itself.

The prose is softgpu_doc.md beside this file; the tables are made from rows, from the lists of
implemented symbols and from the instruction table of harp-ptxc.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import textwrap
from pathlib import Path

from native.api import nvml, rows, soft
from native.api.model import Function
from native.gen.output import NATIVE, Target

_HERE = Path(__file__).parent
_OPS = NATIVE / "soft" / "ptxc" / "ops.c"

#: what an area of the driver API is called on the page
_TITLES = {
    "array": "arrays, textures, surfaces",
    "context": "contexts, green contexts",
    "copy": "copies and fills",
    "debugger": "debugger and coredumps",
    "device": "devices",
    "graph": "graphs and capture",
    "init": "start, errors, logs, profiler",
    "interop": "OpenGL, EGL, VDPAU",
    "launch": "launches and occupancy",
    "memory": "memory and pointers",
    "module": "modules, libraries, the JIT",
    "pool": "memory pools",
    "sharing": "IPC, external memory and semaphores",
    "stream": "streams and events",
    "vmm": "virtual memory, multicast",
}


def _wrap(names: list[str]) -> str:
    text = ", ".join(names) or "none"
    return textwrap.fill(text, width=100, break_long_words=False, break_on_hyphens=False)


def areas() -> dict[str, tuple[Function, ...]]:
    """Rows by area."""
    found = {}
    for module in pkgutil.iter_modules(rows.__path__):
        found[module.name] = importlib.import_module(f"native.api.rows.{module.name}").ROWS
    return found


def _has(row: Function, have: frozenset[str]) -> bool:
    """A function counts once its newest symbol is there: programs are compiled against that."""
    return any(s.name in have or s.plain in have for s in row.symbols)


def _table(have: frozenset[str]) -> str:
    lines = ["| area | functions | work | refused |", "|---|---|---|---|"]
    for name, area in areas().items():
        done = sum(_has(row, have) for row in area)
        lines.append(f"| {_TITLES[name]} | {len(area)} | {done} | {len(area) - done} |")
    return "\n".join(lines)


def _refused(have: frozenset[str]) -> str:
    parts = []
    for name, area in areas().items():
        missing = sorted(row.name for row in area if not _has(row, have))
        if missing:
            parts.append(f"**{_TITLES[name]}**: " + ", ".join(missing) + ".")
    return "\n\n".join(
        textwrap.fill(part, width=100, break_long_words=False, break_on_hyphens=False)
        for part in parts
    )


def instructions() -> list[str]:
    """PTX instructions that harp-ptxc translates, by their first word."""
    found = set(re.findall(r'^ {4}\{"(\w+)", ', _OPS.read_text(), re.MULTILINE))
    return sorted(found)


def emit() -> str:
    """The whole page."""
    have = soft.implemented()
    text = (_HERE / "softgpu_doc.md").read_text().partition("-->\n")[2]
    made = {
        "areas": _table(have),
        "refused": _refused(have),
        "ptx": _wrap(instructions()),
        "nvml": _wrap(sorted(nvml.implemented())),
    }
    for name, table in made.items():
        assert f"{{{{{name}}}}}" in text, name
        text = text.replace(f"{{{{{name}}}}}", table)
    return text


TARGETS: tuple[Target, ...] = (
    Target("../harp/softgpu/doc.md", emit, "native/gen/emit_softgpu.py"),
)
