# SPDX-License-Identifier: Apache-2.0
"""The software GPU's own decoders against streams of the real libraries, and each zstd feature."""

from __future__ import annotations

import ctypes as c
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import lz4.block
import pytest
import zstandard

ROOT = Path(__file__).resolve().parent.parent.parent
GPU = ROOT / "native" / "soft" / "gpu"
PTX = Path(__file__).with_name("soft_mod_kernels.ptx").read_bytes()
EINVAL, ENOTSUP = -22, -95

Unpack = Callable[[bytes, int], tuple[int, bytes]]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> c.CDLL:
    path = tmp_path_factory.mktemp("unpack") / "unpack.so"
    sources = [*sorted(GPU.glob("zstd*.c")), GPU / "module_unpack.c"]
    command = ["cc", "-O2", "-shared", "-fPIC", f"-I{ROOT / 'native'}", "-o", path, *sources]
    subprocess.run(list(map(str, command)), check=True)
    return c.CDLL(str(path))


def caller(function: c._CFuncPtr) -> Unpack:
    function.argtypes = [c.c_char_p, c.c_size_t, c.c_void_p, c.c_size_t]

    def call(packed: bytes, size: int) -> tuple[int, bytes]:
        out = c.create_string_buffer(size + 8)
        result = function(packed, len(packed), out, size)
        assert out.raw[size:] == bytes(8)
        return result, out.raw[:size]

    return call


@pytest.fixture(scope="module")
def unzstd(library: c.CDLL) -> Unpack:
    return caller(library.soft_zstd_unpack)


@pytest.fixture(scope="module")
def unlz4(library: c.CDLL) -> Unpack:
    library.soft_lz4_unpack.restype = c.c_ssize_t
    return caller(library.soft_lz4_unpack)


def _sources() -> dict[str, bytes]:
    dice = random.Random(20261125)
    lines = [
        b"line %d: %d\n" % (i, dice.randrange(10 ** dice.randrange(1, 9))) for i in range(40000)
    ]
    weights = [1 / (i + 1) ** 2 for i in range(256)]
    noise = dice.randbytes(200000)
    return {
        "nothing": b"",
        "one": b"a",
        "ptx": PTX * 12,
        "zeroes": bytes(300000),
        "noise": noise,
        "lines": b"".join(lines),
        "skewed": bytes(dice.choices(range(256), weights, k=400000)),
        "few": bytes(dice.choices(b"abcdef", k=600)),
        "far": noise + bytes(3 << 20) + noise,
    }


SOURCES = _sources()
LEVELS = (-5, 1, 3, 9, 19, 22)


class Seen(set[str]):
    """Which features of the format streams have; reads no more than headers."""

    def frames(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            magic = int.from_bytes(data[at : at + 4], "little")
            if magic & ~15 == 0x184D2A50:
                at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
                self.add("skippable")
                continue
            assert magic == 0xFD2FB528
            at = self.frame(data, at + 4)

    def frame(self, data: bytes, at: int) -> int:
        flags = data[at]
        single = flags >> 5 & 1
        self.add("single segment" if single else "window")
        at += 1 + (not single) + (0, 1, 2, 4)[flags & 3]
        at += (single, 2, 4, 8)[flags >> 6]
        last = 0
        while not last:
            head = int.from_bytes(data[at : at + 3], "little")
            last, kind, size = head & 1, head >> 1 & 3, head >> 3
            self.add(("raw block", "repeated block", "packed block")[kind])
            at += 3
            if kind == 2:
                self.block(data[at : at + size])
            at += 1 if kind == 1 else size
        self.add("checksum" if flags & 4 else "no checksum")
        return at + 4 * (flags >> 2 & 1)

    def block(self, data: bytes) -> None:
        kind, form = data[0] & 3, data[0] >> 2 & 3
        self.add(("raw", "repeated", "packed", "treeless")[kind] + " literals")
        if kind < 2:
            used = {1: 2, 3: 3}.get(form, 1)
            count = int.from_bytes(data[:used], "little") >> (3 if used == 1 else 4)
            used += 1 if kind == 1 else count
        else:
            used, bits = ((3, 10), (3, 10), (4, 14), (5, 18))[form]
            self.add("one stream" if form == 0 else "four streams")
            head = int.from_bytes(data[:used], "little")
            if kind == 2:
                self.add("weights packed" if data[used] < 128 else "weights plain")
            used += head >> (4 + bits) & ((1 << bits) - 1)
        count = data[used]
        self.add(f"count of {1 if count < 128 else 2 if count < 255 else 3} bytes")
        if count > 0:
            modes = data[used + (1 if count < 128 else 2 if count < 255 else 3)]
            for shift, name in ((6, "literals"), (4, "offsets"), (2, "matches")):
                mode = ("predefined", "one symbol", "described", "as before")[modes >> shift & 3]
                self.add(f"{name}: {mode}")


ALL_FEATURES = {
    *("skippable", "single segment", "window", "checksum", "no checksum"),
    *("raw block", "repeated block", "packed block"),
    *("raw literals", "repeated literals", "packed literals", "treeless literals"),
    *("one stream", "four streams", "weights packed", "weights plain"),
    *("count of 1 bytes", "count of 2 bytes", "count of 3 bytes"),
    *(f"{n}: {m}" for n in ("literals", "offsets", "matches") for m in ("predefined", "described")),
    *(f"{n}: {m}" for n in ("literals", "offsets", "matches") for m in ("one symbol", "as before")),
}


def _streams() -> list[tuple[str, bytes, bytes]]:
    out = []
    for name, data in SOURCES.items():
        for level in LEVELS:
            for more in ({}, {"write_checksum": True}, {"write_content_size": False}):
                packer = zstandard.ZstdCompressor(level=level, **more)
                out.append((f"{name} {level} {more}", data, packer.compress(data)))
        for log in (10, 17, 27):
            shape = zstandard.ZstdCompressionParameters.from_level(
                19, window_log=log, enable_ldm=log == 27
            )
            pieces = zstandard.ZstdCompressor(compression_params=shape).compressobj()
            packed = b"".join(
                pieces.compress(data[i : i + 7777]) for i in range(0, len(data), 7777)
            )
            out.append((f"{name} window 2^{log}", data, packed + pieces.flush()))
    dice = random.Random(7)
    word, noise = dice.randbytes(12), dice.randbytes(131072)
    pieces = [noise[i : i + 20] for i in range(0, 20000, 53)]
    special = {
        # repeated strings of one length at one distance: codes of a single symbol
        "steady": b"".join(dice.randbytes(4) + word for _ in range(3000)),
        "runs": b"".join(bytes([65 + i % 3]) * 9 + word for i in range(2000)),
        # a block in which all literals are alike
        "commas": noise + b",".join(dice.sample(pieces, len(pieces))),
        # a tree of few symbols
        "small": bytes(dice.choices(range(6), (40, 20, 10, 5, 3, 1), k=2500)),
        # many short matches
        "short": b"".join(noise[i : i + 3] for i in dice.choices(range(0, 6000, 3), k=90000)),
    }
    for name, data in special.items():
        out += [(f"{name} {level}", data, zstandard.compress(data, level)) for level in LEVELS]
    shape = zstandard.ZstdCompressionParameters(
        window_log=18, min_match=3, search_log=12, strategy=zstandard.STRATEGY_BTOPT
    )
    packer = zstandard.ZstdCompressor(compression_params=shape)
    out.append(("short, matches of 3", special["short"], packer.compress(special["short"])))
    skip = (0x184D2A5C).to_bytes(4, "little") + (9).to_bytes(4, "little") + b"something"
    both = zstandard.compress(PTX) + skip + zstandard.compress(SOURCES["few"])
    out.append(("frames", PTX + SOURCES["few"], both))
    return out


@pytest.mark.slow
def test_every_feature_of_real_zstd_streams(unzstd: Unpack) -> None:
    seen = Seen()
    for name, data, packed in _streams():
        assert unzstd(packed, len(data)) == (0, data), name
        assert unzstd(packed + bytes(7), len(data))[0] == 0, name
        assert unzstd(packed + b"junk", len(data))[0] == EINVAL, name
        assert unzstd(packed, len(data) + 1)[0] == EINVAL, name
        if data:
            assert unzstd(packed, len(data) - 1)[0] == EINVAL, name
            assert unzstd(packed[:-1], len(data))[0] == EINVAL, name
        seen.frames(packed)
    missing = ALL_FEATURES - seen
    assert not missing, missing


def test_what_a_frame_says_of_itself_is_compared(unzstd: Unpack) -> None:
    packed = zstandard.ZstdCompressor(write_checksum=True).compress(PTX)
    wrong = packed[:-1] + bytes([packed[-1] ^ 1])
    assert unzstd(wrong, len(PTX))[0] == EINVAL
    plain = bytearray(zstandard.compress(PTX))
    assert plain[4] >> 6 == 1  # a content size of two bytes
    plain[5 + (plain[4] >> 5 & 1 == 0)] ^= 1
    for size in (len(PTX) - 1, len(PTX), len(PTX) + 1):
        assert unzstd(bytes(plain), size)[0] == EINVAL


def test_dictionaries_and_unknown_frames_are_refused(unzstd: Unpack) -> None:
    samples = [PTX[i : i + 400] for i in range(0, len(PTX) - 400, 40)]
    known = zstandard.train_dictionary(2048, samples)
    packed = zstandard.ZstdCompressor(dict_data=known).compress(PTX)
    assert unzstd(packed, len(PTX))[0] == ENOTSUP
    reserved = bytearray(zstandard.compress(PTX))
    reserved[4] |= 8
    assert unzstd(bytes(reserved), len(PTX))[0] == EINVAL
    assert unzstd(b"\x27\xb5\x2f\xfd" + packed[4:], len(PTX))[0] == EINVAL


def test_real_lz4_blocks(unlz4: Unpack) -> None:
    for name, data in SOURCES.items():
        for mode in ("fast", "high_compression"):
            packed = lz4.block.compress(data, mode=mode, store_size=False)
            if data:
                assert unlz4(packed, len(data)) == (len(data), data), name
                assert unlz4(packed, len(data) + 1)[0] == -1, name
                assert unlz4(packed[:-1], len(data))[0] == -1, name
