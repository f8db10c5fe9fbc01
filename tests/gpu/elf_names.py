# SPDX-License-Identifier: Apache-2.0
"""Names a 64-bit ELF library exports, read without binutils."""

from __future__ import annotations

import struct
from pathlib import Path

_DYNSYM = 11


def exported(library: Path) -> set[str]:
    """Defined names of the dynamic symbol table."""
    data = library.read_bytes()
    (at,) = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, at + i * size) for i in range(count)]
    names = set()
    for _, kind, _, _, offset, length, link, _, _, step in sections:
        if kind != _DYNSYM:
            continue
        strings = sections[link][4]
        for entry in range(offset, offset + length, step):
            name, _, _, section = struct.unpack_from("<IBBH", data, entry)
            if section and name:
                begin = strings + name
                names.add(data[begin : data.index(b"\0", begin)].decode())
    return names
