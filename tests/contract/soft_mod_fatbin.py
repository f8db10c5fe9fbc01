# SPDX-License-Identifier: Apache-2.0
"""A writer of fat binaries: containers as nvcc lays them out, in all its ways of packing."""

from __future__ import annotations

import ctypes as c
import struct
from dataclasses import dataclass, field

import lz4.block
import zstandard

PTX_KIND, ELF_KIND, OTHER_KIND = 1, 2, 8
LZ4, ZSTD = 0x2000, 0x8000
FLAGS_ALWAYS = 0x11  # 64-bit, made on Linux
FLAG_DEBUG = 0x2


@dataclass(frozen=True)
class Entry:
    """One image; `packed` is None, "lz4" or "zstd"."""

    payload: bytes
    sm: int
    kind: int = PTX_KIND
    packed: str | None = None
    level: int = 19
    header: int = 64
    flags: int = FLAGS_ALWAYS
    changed: dict[str, int] = field(default_factory=dict)

    def bytes(self) -> bytes:
        data, flags, whole = self.payload, self.flags, 0
        if self.packed == "lz4":
            data = lz4.block.compress(data, mode="high_compression", store_size=False)
            flags, whole = flags | LZ4, len(self.payload)
        elif self.packed == "zstd":
            data = zstandard.compress(data, self.level)
            flags, whole = flags | ZSTD, len(self.payload)
        padded = data + bytes(-len(data) % 8)
        parts = {
            "header": self.header,
            "padded": len(padded),
            "packed": len(data) if self.packed else 0,
            "whole": whole,
            "flags": flags,
        } | self.changed
        head = struct.pack("<HHIQ", self.kind, 0x101, parts["header"], parts["padded"])
        head += struct.pack("<IIHHI", parts["packed"], 0, 0, 8, self.sm)
        head += struct.pack("<IIQQQ", 0, 0, parts["flags"], 0, parts["whole"])
        return head.ljust(self.header, b"\0") + padded


def fatbin(*entries: Entry, header: int = 16, version: int = 1) -> bytes:
    body = b"".join(entry.bytes() for entry in entries)
    head = struct.pack("<IHHQ", 0xBA55ED50, version, header, len(body))
    return head.ljust(header, b"\xcc") + body


class Wrapped:
    """The struct that a program's fatbin sits behind; keeps both alive."""

    def __init__(self, container: bytes, version: int = 1) -> None:
        self.container = c.create_string_buffer(container, len(container))
        self.bytes = struct.pack("<IIQQ", 0x466243B1, version, c.addressof(self.container), 0)
