# SPDX-License-Identifier: Apache-2.0
"""ELF files made to measure."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_BASE = 0x400000


@dataclass(frozen=True)
class Made:
    """What an ELF file shall say."""

    needed: Sequence[str] = ()
    soname: str = ""
    rpath: str = ""
    runpath: str = ""
    interpreter: str = "/lib64/ld-linux-x86-64.so.2"
    sections: Sequence[tuple[str, bytes]] = ()
    machine: int = 62
    headers: bool = True  #: section headers

    def data(self) -> bytes:
        strings = b"\0"
        dynamic = b""
        for tag, text in (
            *((1, n) for n in self.needed),
            *((14, t) for t in (self.soname,) if t),
            *((15, t) for t in (self.rpath,) if t),
            *((29, t) for t in (self.runpath,) if t),
        ):
            dynamic += struct.pack("<QQ", tag, len(strings))
            strings += text.encode(errors="surrogateescape") + b"\0"
        interpreter = self.interpreter.encode() + b"\0" if self.interpreter else b""
        count = 2 + bool(interpreter)
        at = 64 + 56 * count
        places: dict[str, tuple[int, int]] = {}
        body = b""
        dynamic_size = len(dynamic) + 48
        for name, piece in (
            ("interpreter", interpreter),
            ("strings", strings),
            ("dynamic", bytes(dynamic_size)),
            *((f"s{i}", data) for i, (_, data) in enumerate(self.sections)),
        ):
            places[name] = (at + len(body), len(piece))
            body += piece
        dynamic += struct.pack("<QQ", 5, _BASE + places["strings"][0])
        dynamic += struct.pack("<QQ", 10, len(strings)) + bytes(16)
        begin = places["dynamic"][0] - at
        body = body[:begin] + dynamic + body[begin + dynamic_size :]
        end = at + len(body)
        segments = [(1, 4, 0, _BASE, end), (2, 4, places["dynamic"][0], 0, dynamic_size)]
        if interpreter:
            segments.append((3, 4, places["interpreter"][0], 0, len(interpreter)))
        program = b"".join(
            struct.pack("<IIQQQQQQ", kind, flags, off, vaddr, vaddr, size, size, 1)
            for kind, flags, off, vaddr, size in segments
        )
        table, shoff, shnum = b"", 0, 0
        if self.headers:
            names = b"\0"
            rows = [bytes(64)]
            for i, (name, _) in enumerate(self.sections):
                off, size = places[f"s{i}"]
                rows.append(struct.pack("<IIQQQQIIQQ", len(names), 1, 2, 0, off, size, 0, 0, 1, 0))
                names += name.encode() + b"\0"
            own = len(names)
            names += b".shstrtab\0"
            rows.append(struct.pack("<IIQQQQIIQQ", own, 3, 0, 0, end, len(names), 0, 0, 1, 0))
            shoff, shnum = end + len(names), len(rows)
            table = names + b"".join(rows)
        head = b"\x7fELF\x02\x01\x01" + bytes(9)
        head += struct.pack("<HHIQQQ", 3, self.machine, 1, 0, 64, shoff)
        head += struct.pack("<IHHHHHH", 0, 64, 56, count, 64, shnum, max(0, shnum - 1))
        return head + program + body + table

    def write(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.data())
        path.chmod(0o755)
        return path
