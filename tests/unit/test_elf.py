# SPDX-License-Identifier: Apache-2.0
"""ELF files read: as they are, and damaged in every way."""

from __future__ import annotations

import random
import struct
import sys
import time
from pathlib import Path

import pytest
from elf_files import Made
from hypothesis import given
from hypothesis import strategies as st

from harp.remote.elf import Elf, Range, Text, holds, parse

WORD = st.text("abcdefgh./$_-", min_size=1, max_size=12)
PATHS = st.lists(st.text("abc/$", max_size=6), min_size=1, max_size=3).map(":".join)
MADE = st.builds(
    Made,
    needed=st.lists(WORD, max_size=5, unique=True),
    soname=st.one_of(st.just(""), WORD),
    rpath=st.one_of(st.just(""), PATHS),
    runpath=st.one_of(st.just(""), PATHS),
    interpreter=st.one_of(st.just(""), WORD),
    sections=st.lists(st.tuples(WORD, st.binary(max_size=40)), max_size=4),
    machine=st.sampled_from([62, 183]),
    headers=st.booleans(),
)
FULL = Made(
    needed=["libc.so.6", "libcudart.so.13"],
    soname="libx.so",
    rpath="/a:/b",
    runpath="$ORIGIN",
    sections=[(".rodata", b"\0mark\0"), (".nvFatBinSegment", b"x" * 24)],
)


@given(MADE)
def test_what_was_made_is_read(made: Made) -> None:
    elf = parse(Text(made.data()))
    assert elf is not None
    assert elf.machine == made.machine
    assert elf.interpreter == made.interpreter
    assert elf.soname == made.soname
    assert elf.needed == tuple(made.needed)
    assert elf.rpath == (tuple(made.rpath.split(":")) if made.rpath else ())
    assert elf.runpath == (tuple(made.runpath.split(":")) if made.runpath else ())
    if made.headers:
        assert elf.sections == {"", ".shstrtab", *(n for n, _ in made.sections)}
    else:
        assert elf.sections == set()
        assert len(elf.data) == 1


class Watched:
    """Counts what is read, and refuses what no file could be asked for."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.asked = 0

    @property
    def size(self) -> int:
        return len(self._data)

    def read(self, offset: int, size: int) -> bytes:
        assert offset >= 0
        assert 0 <= size <= 64 << 20
        self.asked += 1
        return self._data[offset : offset + size]


def damaged(rng: random.Random, data: bytes) -> bytes:
    """One file with a few things wrong, most of them in its tables."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out)) if rng.random() < 0.5 else rng.randrange(min(300, len(out)))
        match rng.randrange(5):
            case 0:
                out[at] = rng.randrange(256)
            case 1:
                out[at : at + 8] = struct.pack("<Q", rng.choice(EDGES))
            case 2:
                out[at : at + 4] = struct.pack("<I", rng.choice(EDGES) & 0xFFFFFFFF)
            case 3:
                out[at : at + 2] = struct.pack("<H", rng.choice(EDGES) & 0xFFFF)
            case _:
                del out[rng.randrange(len(out)) :]
                out += bytes(max(0, 1 - len(out)))
    return bytes(out)


EDGES = [0, 1, 55, 56, 64, 0x7FFF, 0xFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]


def test_ten_thousand_damaged_files_are_read_or_not_but_harm_nobody() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    real = Path(sys.executable).resolve().read_bytes()[:20_000]
    seeds = [FULL.data(), Made(headers=False).data(), real]
    began_s = time.monotonic()
    read = 0
    for number in range(10_000):
        source = Watched(damaged(rng, seeds[number % len(seeds)]))
        elf = parse(source)
        assert source.asked < 10
        if elf is None:
            continue
        read += 1
        assert isinstance(elf, Elf)
        assert len(elf.needed) <= 4096
        assert all("\0" not in name for name in (*elf.needed, elf.soname, elf.interpreter))
        holds(source, elf.data, (b"mark",), 1 << 20)
    print(f"{read} read in {time.monotonic() - began_s:.1f} s")
    assert 1000 < read < 10_000


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_not(data: bytes) -> None:
    parse(Text(data))
    parse(Text(b"\x7fELF\x02\x01" + data))


@pytest.mark.parametrize("cut", range(0, 64, 7))
def test_a_file_cut_in_its_header_is_none(cut: int) -> None:
    assert parse(Text(FULL.data()[:cut])) is None


@pytest.mark.parametrize("ident", [b"\x7fELF\x01\x01", b"\x7fELF\x02\x02", b"MZ\0\0\0\0"])
def test_what_is_not_64_bit_little_endian_is_none(ident: bytes) -> None:
    assert parse(Text(ident + FULL.data()[6:])) is None


def test_damaged_section_headers_do_not_hide_what_the_loader_reads() -> None:
    data = bytearray(FULL.data())
    data[40:48] = struct.pack("<Q", 1 << 60)
    elf = parse(Text(bytes(data)))
    assert elf is not None
    assert elf.needed == ("libc.so.6", "libcudart.so.13")
    assert elf.sections == set()
    assert holds(Text(bytes(data)), elf.data, (b"\0mark\0",), 1 << 20)


def test_real_files_are_read() -> None:
    import grpc._cython.cygrpc as extension

    for path in (Path(sys.executable).resolve(), Path(extension.__file__)):
        elf = parse(Text(path.read_bytes()))
        assert elf is not None
        assert any(name.startswith("libc.so") for name in elf.needed)
        assert {".text", ".rodata"} <= elf.sections


@given(st.data())
def test_a_mark_is_found_wherever_it_lies(data: st.DataObject) -> None:
    mark = b"needle"
    chunk = 1 << 20
    at = data.draw(st.one_of(st.integers(0, 2 * chunk), st.integers(chunk - 8, chunk + 8)))
    text = bytes(at) + mark + bytes(10)
    whole = (Range(0, len(text)),)
    assert holds(Text(text), whole, (mark, b"other"), 1 << 30) == {mark}
    assert holds(Text(text), (Range(0, at + 5),), (mark,), 1 << 30) == set()
    assert holds(Text(text), (Range(at + 1, 100),), (mark,), 1 << 30) == set()
    assert holds(Text(text), whole, (mark,), at + 5) == set()
    assert holds(Text(text), (Range(1 << 62, 1 << 62),), (mark,), 1 << 30) == set()
