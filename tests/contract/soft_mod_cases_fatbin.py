# SPDX-License-Identifier: Apache-2.0
"""Cases of fat binaries: which image is picked, how it is packed, what is damaged."""

from __future__ import annotations

import ctypes as c
import os
import random
from pathlib import Path

import zstandard
from soft_mod_driver import (
    INVALID_IMAGE,
    INVALID_PTX,
    NO_BINARY,
    PTX,
    UNSUPPORTED_PTX,
    Driver,
    case,
    main,
)
from soft_mod_fatbin import ELF_KIND, FLAG_DEBUG, OTHER_KIND, Entry, Wrapped, fatbin

PTX_VERSION, BINARY_VERSION = 5, 6
DISABLED = 223


def marked(value: int, target: str = "sm_75", version: str = "8.0") -> bytes:
    """The kernels with a mark by which a loaded module is known."""
    text = PTX.replace(b"counter = 7", b"counter = %d" % value)
    text = text.replace(b".target sm_75", b".target " + target.encode())
    return text.replace(b".version 8.0", b".version " + version.encode())


def elf(sm: int) -> Entry:
    return Entry(b"\x7fELF\x02\x01\x01" + bytes(range(90)), sm, ELF_KIND)


def mark(d: Driver, image: bytes) -> int:
    module = d.module(image)
    value = int(d.down(d.global_of(module, "counter")[0], 1, "u4")[0])
    d.ok("cuModuleUnload", module)
    return value


def refused(d: Driver, image: bytes) -> int:
    return d.call("cuModuleLoadData", c.byref(c.c_void_p()), image)


@case
def every_way_of_packing_is_unpacked(d: Driver) -> None:
    for packed in (None, "lz4", "zstd"):
        for header in (64, 72, 80, 112):
            for flags in (0x11, 0x11 | FLAG_DEBUG, 0x51):
                text = marked(header + flags)
                image = fatbin(Entry(text, 75, packed=packed, header=header, flags=flags))
                assert mark(d, image) == header + flags, (packed, header, flags)
    for level in (1, 3, 19, 22):
        assert mark(d, fatbin(Entry(marked(level), 75, packed="zstd", level=level))) == level
    for header in (16, 24, 64):
        assert mark(d, fatbin(Entry(marked(header), 75, packed="zstd"), header=header)) == header
    for version in (1, 2):
        wrapped = Wrapped(fatbin(Entry(marked(9), 75, packed="lz4")), version)
        assert mark(d, wrapped.bytes) == 9
        module = d.handle("cuModuleLoadFatBinary", wrapped.bytes)
        assert d.global_of(module, "counter")[1] == 4
    assert refused(d, Wrapped(fatbin(Entry(PTX, 75)), 3).bytes) == INVALID_IMAGE


@case
def the_newest_ptx_not_newer_than_the_device_is_picked(d: Driver) -> None:
    entries = [Entry(marked(sm, f"sm_{sm}"), sm) for sm in (50, 70, 75, 80, 86, 90, 100, 120)]
    dice = random.Random(5)
    for _ in range(6):
        dice.shuffle(entries)
        assert mark(d, fatbin(elf(90), *entries, elf(120))) == 90
    older = [entry for entry in entries if entry.sm < 86]
    module = d.module(fatbin(elf(90), *older, Entry(b"?", 90, OTHER_KIND)))
    value = c.c_int()
    function = d.function(module, "add1")
    d.ok("cuFuncGetAttribute", c.byref(value), PTX_VERSION, function)
    assert value.value == 80  # the image's, not the device's
    d.ok("cuFuncGetAttribute", c.byref(value), BINARY_VERSION, function)
    assert value.value == 90


@case
def ptx_of_one_architecture_runs_on_that_one_only(d: Driver) -> None:
    plain, bound = Entry(marked(1, "sm_90"), 90), Entry(marked(2, "sm_90a"), 90)
    assert mark(d, fatbin(plain, bound)) == 2
    assert mark(d, fatbin(bound, plain)) == 2
    other = Entry(marked(3, "sm_80a"), 80)
    assert mark(d, fatbin(other, Entry(marked(4, "sm_70"), 70))) == 4
    assert refused(d, fatbin(other)) == NO_BINARY
    assert refused(d, marked(3, "sm_80a")) == INVALID_PTX
    assert mark(d, marked(5, "sm_90a")) == 5
    assert mark(d, fatbin(Entry(marked(6, "sm_90f"), 90))) == 6
    assert refused(d, marked(6, "sm_80f")) == INVALID_PTX


@case(devices="a100-40g")
def an_older_device_picks_older_ptx(d: Driver) -> None:
    images = [Entry(marked(sm, f"sm_{sm}"), sm) for sm in (70, 80, 86, 90)]
    assert mark(d, fatbin(*images)) == 80
    assert refused(d, fatbin(images[3], elf(80))) == NO_BINARY
    assert refused(d, fatbin(Entry(marked(1, "sm_90a"), 90))) == NO_BINARY
    assert mark(d, fatbin(Entry(marked(2, "sm_80a"), 80), images[0])) == 2


@case
def what_does_not_run_has_the_right_code(d: Driver) -> None:
    assert refused(d, fatbin(elf(90))) == NO_BINARY
    assert refused(d, fatbin()) == NO_BINARY
    assert refused(d, fatbin(Entry(marked(1, "sm_100"), 100, packed="zstd"))) == NO_BINARY
    assert refused(d, fatbin(Entry(b"lto", 90, OTHER_KIND))) == NO_BINARY
    for packed in (None, "lz4", "zstd"):
        bad = PTX.replace(b".visible .entry fail()", b".visible .entri fail()")
        assert refused(d, fatbin(Entry(bad, 75, packed=packed))) == INVALID_PTX
        newer = marked(1, version="9.9")
        assert refused(d, fatbin(Entry(newer, 75, packed=packed))) == UNSUPPORTED_PTX


@case
def damage_is_an_error(d: Driver) -> None:
    table = [
        fatbin(Entry(PTX, 75), version=2),
        fatbin(Entry(PTX, 75), header=16)[:6] + b"\x08\0" + fatbin(Entry(PTX, 75))[8:],
        *(fatbin(Entry(PTX, 75, changed={"header": n})) for n in (0, 32, 63, 1 << 31)),
        *(fatbin(Entry(PTX, 75, changed={"padded": n})) for n in (1 << 20, 1 << 40, (1 << 64) - 8)),
    ]
    for packed in ("lz4", "zstd"):
        for field, values in {
            "packed": (1, 7, 1 << 20, (1 << 32) - 1),
            "whole": (0, 1, len(PTX) - 1, len(PTX) + 1, 1 << 31, (1 << 64) - 1),
            "flags": (0xA000,),
        }.items():
            table += [
                fatbin(Entry(PTX, 75, packed=packed, changed={field: value})) for value in values
            ]
    for at, image in enumerate(table):
        assert refused(d, image) == INVALID_IMAGE, at
    # the checksum of a stream is looked at
    packed = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(PTX))
    good = Entry(
        bytes(packed), 75, flags=0x8011, changed={"packed": len(packed), "whole": len(PTX)}
    )
    assert refused(d, fatbin(good)) == 0
    packed[-1] ^= 1
    bad = Entry(bytes(packed), 75, flags=0x8011, changed={"packed": len(packed), "whole": len(PTX)})
    assert refused(d, fatbin(bad)) == INVALID_IMAGE


@case
def files_are_read_within_their_bounds(d: Driver) -> None:
    path = Path(os.environ["HARP_SOFT_DIR"]) / "kernels.fatbin"
    whole = fatbin(elf(90), Entry(marked(3), 75, packed="zstd"))

    def load(data: bytes) -> int:
        path.write_bytes(data)
        return d.call("cuModuleLoad", c.byref(c.c_void_p()), str(path).encode())

    assert load(whole) == 0
    for cut in (1, 3, 4, 15, 16, 40, 79, 200, len(whole) - 9, len(whole) - 1):
        assert load(whole[:cut]) == INVALID_IMAGE, cut
    assert load(Wrapped(whole).bytes) == INVALID_IMAGE
    # parts of a program want to be linked
    assert load(whole + whole) == INVALID_IMAGE
    assert load(whole + bytes(40)) == 0


@case(env={"CUDA_DISABLE_PTX_JIT": "1"})
def the_environment_forbids_to_compile(d: Driver) -> None:
    assert refused(d, PTX) == DISABLED
    assert refused(d, fatbin(Entry(PTX, 75))) == DISABLED
    library = c.c_void_p()
    d.fails(DISABLED, "cuLibraryLoadData", c.byref(library), PTX, None, None, 0, None, None, 0)


if __name__ == "__main__":
    main()
