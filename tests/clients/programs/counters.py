# SPDX-License-Identifier: Apache-2.0
"""What the software GPU says it has executed: its own count, per kernel name.

A library that answered success without running a kernel would pass many a test by luck; it cannot
count instructions that it did not execute.

Under `harp run`, and where the GPU is elsewhere, libcuda is libharp, which has no such export:
there nothing is watched, and the tests compare outputs with those of a watched run.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Self


class _Row(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char * 256),
        ("launches", ctypes.c_uint64),
        ("blocks", ctypes.c_uint64),
        ("threads", ctypes.c_uint64),
        ("instructions", ctypes.c_uint64),
        ("load_bytes", ctypes.c_uint64),
        ("store_bytes", ctypes.c_uint64),
    )


#: whether counts can be read here
WATCHED = not {"HARP_GRANT", "HARP_REMOTE"} & set(os.environ)


@dataclass(frozen=True)
class Count:
    launches: int = 0
    blocks: int = 0
    threads: int = 0
    instructions: int = 0
    load_bytes: int = 0
    store_bytes: int = 0

    def __sub__(self, other: Count) -> Count:
        return Count(*(getattr(self, f) - getattr(other, f) for f in self.__dataclass_fields__))


def read() -> dict[str, Count]:
    """Counts by kernel name, of this process, complete after cuCtxSynchronize."""
    library = ctypes.CDLL("libcuda.so.1")
    fill = library.harp_soft_counters
    fill.restype = ctypes.c_size_t
    fill.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    rows = (_Row * (fill(None, 0) + 64))()
    number = fill(rows, len(rows))
    return {
        row.name.decode(): Count(*(getattr(row, f) for f in Count.__dataclass_fields__))
        for row in rows[:number]
    }


class Watch:
    """Asserts, when left, that what was launched inside has run, to the last thread.

    Args:
        sync: waits for the device.
    """

    def __init__(self, sync) -> None:  # noqa: ANN001
        self._sync = sync
        #: what was launched inside: launches, blocks, threads, by kernel name
        self.asked: dict[str, list[int]] = {}
        #: what was executed inside, by kernel name; empty where nothing is watched
        self.counts: dict[str, Count] = {}

    def __enter__(self) -> Self:
        self._sync()
        self._before = read() if WATCHED else {}
        return self

    def launched(self, name: str, blocks: int, threads_per_block: int, times: int = 1) -> None:
        """Says that kernel `name` was launched `times` times."""
        row = self.asked.setdefault(name, [0, 0, 0])
        row[0] += times
        row[1] += times * blocks
        row[2] += times * blocks * threads_per_block

    def __exit__(self, kind, *_: object) -> None:  # noqa: ANN001
        if kind is not None:
            return
        self._sync()
        if not WATCHED:
            return
        after = read()
        self.counts = {
            name: count - self._before.get(name, Count()) for name, count in after.items()
        }
        self.counts = {name: count for name, count in self.counts.items() if count.launches}
        assert sorted(self.counts) == sorted(self.asked), (self.counts, self.asked)
        for name, (launches, blocks, threads) in self.asked.items():
            count = self.counts[name]
            ran = (count.launches, count.blocks, count.threads)
            assert ran == (launches, blocks, threads), (name, count)
            # Each thread executes its `ret` at least.
            assert count.instructions >= threads, (name, count, threads)
