# SPDX-License-Identifier: Apache-2.0
"""What an ELF file says of itself and of the libraries that it needs. Pure, bounded, never raises.

64-bit little-endian files only: CUDA knows no others. Files may be damaged or made to deceive: each
count, offset and length in them is checked against the file and against a limit of ours.

Source: System V ABI, chapters 4 and 5 (elf.h's names are kept).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Elf", "Range", "Source", "Text", "holds", "parse"]

PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
PF_X = 1
DT_NULL, DT_NEEDED, DT_STRTAB, DT_SONAME, DT_RPATH, DT_STRSZ, DT_RUNPATH = 0, 1, 5, 14, 15, 10, 29
SHT_NOBITS, SHF_ALLOC, SHF_EXECINSTR = 8, 2, 4

_SEGMENTS_MAX = 1024
_SECTIONS_MAX = 16_384
_DYNAMIC_MAX = 4096
_TABLE_BYTES = 64 << 20  # libraries of a gigabyte have string tables of tens of MiB
_STRING_BYTES = 4096
_CHUNK_BYTES = 1 << 20


class Source(Protocol):
    """Bytes that can be read anywhere: a file, or a test's own."""

    @property
    def size(self) -> int:
        """How many there are."""

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` of them; fewer at the end."""


@dataclass(frozen=True, slots=True)
class Text:
    """A Source in memory."""

    data: bytes

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return len(self.data)

    def read(self, offset: int, size: int) -> bytes:
        """Some of them."""
        return self.data[offset : offset + size]


@dataclass(frozen=True, slots=True)
class Range:
    """A piece of the file."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Elf:
    """What is said."""

    machine: int  #: EM_...: 62 x86-64, 183 AArch64
    interpreter: str  #: the loader; "": none, so nothing can be put before its libraries
    soname: str
    needed: tuple[str, ...]  #: in the order in which the loader takes them
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]
    sections: frozenset[str]
    data: tuple[Range, ...]  #: what is loaded and is not code


def parse(source: Source) -> Elf | None:
    """Read a file's headers; None if it is no such file, or cannot be read as one."""
    head = source.read(0, 64)
    if len(head) < 64 or head[:6] != b"\x7fELF\x02\x01":
        return None
    (machine,) = struct.unpack_from("<H", head, 18)
    phoff, shoff = struct.unpack_from("<QQ", head, 32)
    phentsize, phnum, shentsize, shnum, shstrndx = struct.unpack_from("<HHHHH", head, 54)
    segments = _segments(source, phoff, phentsize, phnum)
    if segments is None:
        return None
    sections = _sections(source, shoff, shentsize, shnum, shstrndx)
    dynamic = _dynamic(source, segments)
    loaded = [Range(s.offset, s.filesz) for s in segments if s.type == PT_LOAD]
    return Elf(
        machine=machine,
        interpreter=_interpreter(source, segments),
        soname=next(iter(dynamic.get(DT_SONAME, ())), ""),
        needed=tuple(dict.fromkeys(dynamic.get(DT_NEEDED, ()))),
        rpath=_paths(dynamic.get(DT_RPATH, [])),
        runpath=_paths(dynamic.get(DT_RUNPATH, [])),
        sections=frozenset(s.name for s in sections),
        # Without section headers it is not known which of it is code.
        data=tuple(s.range for s in sections if s.is_data) if sections else tuple(loaded),
    )


def holds(
    source: Source, ranges: tuple[Range, ...], marks: tuple[bytes, ...], limit_bytes: int
) -> frozenset[bytes]:
    """Which of `marks` occur in `ranges`, of which at most `limit_bytes` are read."""
    missing = set(marks)
    overlap = max(map(len, marks), default=1) - 1
    for piece in ranges:
        end = min(piece.offset + piece.size, source.size)
        at = piece.offset
        tail = b""
        while at < end and missing and limit_bytes > 0:
            chunk = source.read(at, min(_CHUNK_BYTES, end - at, limit_bytes))
            if not chunk:
                break
            window = tail + chunk
            missing -= {mark for mark in missing if mark in window}
            tail = window[-overlap:] if overlap else b""
            at += len(chunk)
            limit_bytes -= len(chunk)
    return frozenset(marks) - missing


@dataclass(frozen=True, slots=True)
class _Segment:
    type: int
    flags: int
    offset: int
    vaddr: int
    filesz: int


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    type: int
    flags: int
    range: Range

    @property
    def is_data(self) -> bool:
        loaded = self.flags & SHF_ALLOC and self.type != SHT_NOBITS
        # Device code is the bulk of large libraries, and no text of the host's.
        return bool(loaded) and not self.flags & SHF_EXECINSTR and self.name != ".nv_fatbin"


def _segments(source: Source, offset: int, entsize: int, count: int) -> list[_Segment] | None:
    if count > _SEGMENTS_MAX or (count and entsize != 56):
        return None
    table = source.read(offset, entsize * count)
    if len(table) < entsize * count:
        return None
    found = []
    for at in range(0, len(table), 56):
        kind, flags, off, vaddr, _, filesz = struct.unpack_from("<IIQQQQ", table, at)
        found.append(_Segment(kind, flags, off, vaddr, filesz))
    return found


def _sections(
    source: Source, offset: int, entsize: int, count: int, names_index: int
) -> list[_Section]:
    """Those that there are; [] if their table is damaged: a loader needs none."""
    if not offset or entsize != 64:
        return []
    first = source.read(offset, 64)
    if len(first) < 64:
        return []
    if count == 0:  # more than fit 16 bits: the first entry says how many
        (count,) = struct.unpack_from("<Q", first, 32)
    if names_index == 0xFFFF:
        (names_index,) = struct.unpack_from("<I", first, 40)
    if not 0 <= names_index < count <= _SECTIONS_MAX:
        return []
    table = source.read(offset, entsize * count)
    if len(table) < entsize * count:
        return []
    rows = [struct.unpack_from("<IIQQQQ", table, at) for at in range(0, len(table), 64)]
    _, _, _, _, names_at, names_size = rows[names_index]
    names = source.read(names_at, min(names_size, _TABLE_BYTES))
    return [
        _Section(_string(names, name), kind, flags, Range(off, size))
        for name, kind, flags, _, off, size in rows
    ]


def _dynamic(source: Source, segments: list[_Segment]) -> dict[int, list[str]]:
    """{tag: strings} of the tags that name something."""
    segment = next((s for s in segments if s.type == PT_DYNAMIC), None)
    if segment is None:
        return {}
    table = source.read(segment.offset, min(segment.filesz, 16 * _DYNAMIC_MAX))
    rows = list(_entries(table))
    strtab = next((value for tag, value in rows if tag == DT_STRTAB), None)
    strsz = next((value for tag, value in rows if tag == DT_STRSZ), 0)
    at = None if strtab is None else _file_offset(segments, strtab)
    if at is None:
        return {}
    strings = source.read(at, min(strsz, _TABLE_BYTES))
    found: dict[int, list[str]] = {}
    for tag, value in rows:
        if tag in (DT_NEEDED, DT_SONAME, DT_RPATH, DT_RUNPATH) and (
            text := _string(strings, value)
        ):
            found.setdefault(tag, []).append(text)
    return found


def _entries(table: bytes) -> Iterator[tuple[int, int]]:
    for at in range(0, len(table) - 15, 16):
        tag, value = struct.unpack_from("<QQ", table, at)
        if tag == DT_NULL:
            return
        yield tag, value


def _file_offset(segments: list[_Segment], vaddr: int) -> int | None:
    for s in segments:
        if s.type == PT_LOAD and s.vaddr <= vaddr < s.vaddr + s.filesz:
            return s.offset + vaddr - s.vaddr
    return None


def _interpreter(source: Source, segments: list[_Segment]) -> str:
    for s in segments:
        if s.type == PT_INTERP:
            return _string(source.read(s.offset, min(s.filesz, _STRING_BYTES)), 0)
    return ""


def _string(table: bytes, at: int) -> str:
    """The string there; "" if it has no end within reach."""
    end = table.find(b"\0", at, at + _STRING_BYTES) if 0 <= at < len(table) else -1
    return table[at:end].decode(errors="surrogateescape") if end >= 0 else ""


def _paths(entries: list[str]) -> tuple[str, ...]:
    return tuple(path for entry in entries for path in entry.split(":"))
