# SPDX-License-Identifier: Apache-2.0
"""The file of kernels' totals: its bytes, and a reader that believes nothing."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harp import profile
from harp.profile import GRAPHS, OTHER, SIZE, Kernel, Page, Profile, decode, make, read, top

HEADER = Path(__file__).resolve().parents[2] / "native" / "include" / "harp" / "profile.h"
MOST = 1 << 53


def row(name: bytes, *counts: int, threads: int = 0, ppm: int = 0, named: int = 1) -> bytes:
    counts += (0,) * (6 - len(counts))
    return struct.pack("<7Q4I120s", 1, *counts, named, 1, threads, ppm, name)


def page(*rows: bytes, copied: tuple[int, ...] = (0,) * 5, version: int = 1) -> bytes:
    head = struct.pack("<QII5Q", profile.MAGIC, version, profile.ROWS, *copied).ljust(256, b"\0")
    return (head + b"".join(rows)).ljust(SIZE, b"\0")


EMPTY = bytes(192)


def test_it_is_the_header_s_layout() -> None:
    text = HEADER.read_text()
    told = {n: int(v, 0) for n, v in re.findall(r"HARP_PROFILE_(\w+)\s+(\w+?)(?:ull|u)\b", text)}
    assert told["MAGIC"] == profile.MAGIC
    assert told["VERSION"] == profile.VERSION
    assert (told["ROWS"], told["NAME"]) == (profile.ROWS, profile.NAME_BYTES)
    assert "sizeof(struct harp_profile_row) == 192" in text
    ways = re.findall(r"HARP_COPIED_(\w+) = (\d)", text)
    assert [way.lower() for way, _ in ways[:-1]] == list(profile.COPIES)
    assert int(ways[-1][1]) == len(profile.COPIES)


def test_a_page_is_read_by_name() -> None:
    text = page(
        row(b"", 4, 40),
        row(b"", 2, 2, 1, 900),
        row(b"gemm\0rest of an older one", 10, 100, 2, 50, 8, 200, threads=256, ppm=500_000),
        row(b"claimed", 3, named=0),
        row(b"never"),
        copied=(1, 2, 3, 4, 5),
    )
    found = decode(text)
    assert found is not None
    assert found.kernels == (
        Kernel(OTHER, 4, 40),
        Kernel(GRAPHS, 2, 2, 1, 900),
        Kernel("gemm", 10, 100, 2, 50, 8, 200, 256, 0.5),
    )
    assert found.kernels[2].ns == 250
    assert found.copied_bytes == {"htod": 1, "dtoh": 2, "dtod": 3, "other": 4, "fill": 5}


@pytest.mark.parametrize("text", [b"", page()[:-1], page() + b"\0", page(version=2), bytes(SIZE)])
def test_another_file_is_none(text: bytes) -> None:
    assert decode(text) is None


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b'a"b\\c\nd\xff e', 'a"b\\c?d??e'),
        (b"\xc3\xa9" * 60, "?" * 119),
        (OTHER.encode(), None),  # nobody else's rows
        (GRAPHS.encode(), None),
        (b"", None),
    ],
)
def test_names_are_plain_and_bounded(name: bytes, shown: str | None) -> None:
    found = decode(page(EMPTY, EMPTY, row(name, 1)))
    assert found is not None
    assert [k.name for k in found.kernels] == ([] if shown is None else [shown])


def test_what_cannot_be_is_bounded_or_unknown() -> None:
    huge = (1 << 64) - 1
    text = page(
        EMPTY,
        EMPTY,
        row(b"a", *[huge] * 6, threads=1025, ppm=5),
        row(b"a", 7),
        row(b"b", 1, threads=64, ppm=1_000_001),
        copied=(huge,) * 5,
    )
    found = decode(text)
    assert found is not None
    assert found.kernels == (Kernel("a", *[MOST] * 6), Kernel("b", 1))
    assert set(found.copied_bytes.values()) == {MOST}


@given(st.lists(st.binary(max_size=192).map(lambda row: row.ljust(192, b"\xff")), max_size=12))
def test_any_bytes_are_read_within_bounds(rows: list[bytes]) -> None:
    found = decode(page(*rows))
    assert found is not None
    names = [k.name for k in found.kernels]
    assert len(names) == len(set(names)) <= profile.ROWS
    for k in found.kernels:
        assert k.name.isascii()
        assert k.name.isprintable()
        assert 0 < len(k.name) < profile.NAME_BYTES
        assert 0 < k.launches <= MOST
        assert 0 <= k.ns <= 2 * MOST
        assert k.occupancy_ratio is None or 0 < k.occupancy_ratio <= 1


def test_a_made_one_is_whole_and_its_owner_s(tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / "profile"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size == SIZE
    assert path.stat().st_blocks * 512 >= SIZE, "no page of it may be missing later"
    assert read(tmp_path) == Profile((), dict.fromkeys(profile.COPIES, 0))
    path.write_bytes(page(EMPTY, EMPTY, row(b"a", 1)))
    make(tmp_path)  # there already
    assert read(tmp_path) == decode(page(EMPTY, EMPTY, row(b"a", 1)))


def test_who_asks_for_one_user_s_gets_no_other_s(tmp_path: Path) -> None:
    make(tmp_path)
    assert read(tmp_path, os.geteuid()) is not None
    assert read(tmp_path, os.geteuid() + 1) is None


def test_a_made_one_is_its_user_s_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr(os, "fchown", lambda _fd, uid, _gid: given.append(uid))
    make(tmp_path, 4242)
    assert given == [4242]
    (tmp_path / "profile").unlink()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", full)
    make(tmp_path, 4242)
    assert list(tmp_path.iterdir()) == [], "half of one would be filled at a full disk"


def test_launches_that_nobody_timed_take_the_mean_of_the_others() -> None:
    assert Kernel("a", 10, 10, 2, 100, 3, 150).whole_ns == 500
    assert Kernel("a", 5, 5, 2, 100, 3, 150).whole_ns == 250
    assert Kernel("a", 10, 10).whole_ns == 0


def fails(what: Callable[[], object]) -> int | None:
    try:
        what()
    except OSError as error:
        return error.errno
    return None


def test_a_page_is_whole_and_nobody_can_grow_or_cut_it() -> None:
    made = Page.make()
    assert read(made) == Profile((), dict.fromkeys(profile.COPIES, 0))
    assert os.fstat(made.fd).st_blocks * 512 >= SIZE, "its memory is there"
    assert os.fstat(made.fd).st_mode & 0o777 == 0o600
    assert not os.get_inheritable(made.fd)
    for size in (0, SIZE - 1, SIZE + 1, 1 << 40):
        assert fails(lambda size=size: os.ftruncate(made.fd, size)) == errno.EPERM  # type: ignore[misc]
    assert fails(lambda: os.pwrite(made.fd, b"xx", SIZE - 1)) in (errno.EPERM, None)
    assert fails(lambda: os.pwrite(made.fd, b"x", SIZE)) == errno.EPERM
    assert fails(lambda: os.posix_fallocate(made.fd, SIZE, 1)) == errno.EPERM
    seal = lambda: fcntl.fcntl(made.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)  # noqa: E731
    assert fails(seal) == errno.EPERM, "nor make it unwritable for the rest of its tenant"
    with mmap.mmap(made.fd, SIZE) as mapped:
        mapped[: SIZE - 192] = page(EMPTY, EMPTY, row(b"a", 3))[: SIZE - 192]
    found = read(made)
    assert found is not None
    assert found.kernels == (Kernel("a", 3),)


def sized(size: int, seals: int) -> int:
    fd = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


@pytest.mark.parametrize(
    "made",
    [
        lambda: sized(SIZE, fcntl.F_SEAL_GROW),
        lambda: sized(SIZE, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK),
        lambda: sized(SIZE + 1, profile._SEALS),
        lambda: os.open("/dev/zero", os.O_RDWR),
        lambda: os.open("/", os.O_RDONLY),
    ],
)
def test_what_comes_back_is_looked_at_before_it_is_owned(made: Callable[[], int]) -> None:
    fd = made()
    with pytest.raises(OSError, match=r"page has|sealed|argument"):
        Page(fd)
    assert fails(lambda: os.fstat(fd)) == errno.EBADF, "it is closed"


def test_a_page_is_closed_with_its_last_user() -> None:
    made = Page.make()
    fd, reader = made.fd, made.read
    again = Page(os.dup(fd))
    del made
    assert reader() is not None, "a thread may read yet"
    del reader
    assert fails(lambda: os.fstat(fd)) == errno.EBADF
    assert read(again) is not None


def test_without_memory_or_memfds_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.memfd_create

    def older(name: str, flags: int) -> int:
        if flags & 8:
            raise OSError(errno.EINVAL, "x")
        return really(name, flags)

    def no_memory(_name: str, flags: int) -> int:
        raise OSError(errno.ENOMEM if flags & 8 else errno.EINVAL, "y")

    monkeypatch.setattr(os, "memfd_create", no_memory)
    with pytest.raises(OSError, match="y"):
        Page.make()
    monkeypatch.setattr(os, "memfd_create", older)
    assert read(Page.make()) is not None, "a kernel before 6.3"
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(OSError, match="this Python"):
        Page.make()


def test_what_a_tenant_puts_there_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "profile"
    assert read(tmp_path) is None
    (tmp_path / "secret").write_bytes(page())
    path.symlink_to("secret")
    assert read(tmp_path) is None
    path.unlink()
    os.mkfifo(path)  # nobody waits for it
    assert read(tmp_path) is None
    path.unlink()
    path.mkdir()
    assert read(tmp_path) is None
    path.rmdir()
    path.write_bytes(page() + b"\0")
    assert read(tmp_path) is None


def test_the_largest_are_named_and_the_rest_is_one() -> None:
    kernels = (
        Kernel(OTHER, 1, 1, 1, 5),
        Kernel("small", 9, 9, 9, 10),
        Kernel("large", 2, 4, 1, 100, 1, 100),
        Kernel("mid", 1, 1, 1, 50),
        Kernel("idle", 3, 3),
    )
    found = top(Profile(kernels), 2)
    assert [k.name for k in found] == ["large", "mid", OTHER]
    assert found[-1] == Kernel(OTHER, 13, 13, 10, 15)
    assert top(Profile(kernels[1:2]), 2) == (kernels[1],)
    tied = tuple(Kernel(name, n) for name, n in (("b", 3), ("a", 3), ("z", 4)))
    assert [k.name for k in top(Profile(tied), 3)] == ["z", "a", "b"]
    assert top(Profile(), 2) == ()
    assert [k.name for k in top(Profile(kernels), 0)] == [OTHER]
