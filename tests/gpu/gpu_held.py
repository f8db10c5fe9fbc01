# SPDX-License-Identifier: Apache-2.0
"""Programs that hold memory and look after it: `gpu_held.py WHAT [ARGUMENT]...`; JSON lines."""

from __future__ import annotations

import ctypes as c
import sys
import time

from gpu_client import alloc, context, cuda, do, say

MIB = 1 << 20
LOOK = 1 << 20  #: bytes looked at, at the end of what is held


def _fill(pointer: c.c_uint64, size: int, word: int) -> None:
    do("cuMemsetD32_v2", pointer, word, c.c_size_t(size // 4))


def _wrong(pointer: c.c_uint64, size: int, word: int) -> int:
    """Words that differ, in the first and the last bytes."""
    host = (c.c_uint32 * (LOOK // 4))()
    wrong = 0
    for at in (0, size - LOOK):
        do("cuMemcpyDtoH_v2", host, c.c_uint64(pointer.value + at), c.c_size_t(LOOK))
        wrong += sum(one != word for one in host)
    return wrong


def keep(mib: str) -> None:
    """Holds memory and a stream; each line of input is answered with how much of it is wrong."""
    context()
    size = int(mib) * MIB
    pointer = alloc(size)
    _fill(pointer, size, 0x5EED)
    do("cuCtxSynchronize")
    say(ready=True)
    for _ in sys.stdin:
        begin_s = time.monotonic()
        wrong = _wrong(pointer, size, 0x5EED)
        say(wrong=wrong, pointer=pointer.value, seconds=time.monotonic() - begin_s)


def turns(mib: str, tag: str, seconds: str) -> None:
    """Fills its memory with another word again and again; what it found wrong, how it waited."""
    context()
    size, word, rounds, wrong, longest_s = int(mib) * MIB, int(tag), 0, 0, 0.0
    pointer = alloc(size)
    _fill(pointer, size, word)
    say(ready=True)
    sys.stdin.readline()
    end_s = time.monotonic() + float(seconds)
    while (begin_s := time.monotonic()) < end_s:
        wrong += _wrong(pointer, size, word)
        word += 2
        _fill(pointer, size, word)
        do("cuCtxSynchronize")
        rounds += 1
        longest_s = max(longest_s, time.monotonic() - begin_s)
    say(rounds=rounds, wrong=wrong, longest_s=longest_s)


def pooled() -> None:
    """Stream-ordered allocations up to the limit and over it; what there is again afterwards."""
    context()
    codes, held, free, total = [], [], c.c_size_t(), c.c_size_t()
    do("cuMemGetInfo_v2", c.byref(free), c.byref(total))
    for _ in range(64):
        out = c.c_uint64()
        codes.append(cuda.cuMemAllocAsync(c.byref(out), c.c_size_t(128 * MIB), None))
        if codes[-1] != 0:
            break
        held.append(out)
    for one in held:
        do("cuMemFreeAsync", one, None)
    do("cuCtxSynchronize")
    after = c.c_size_t()
    do("cuMemGetInfo_v2", c.byref(after), c.byref(total))
    again = cuda.cuMemAlloc_v2(c.byref(c.c_uint64()), c.c_size_t(after.value))
    say(had_mib=128 * len(held), last=codes[-1], free=free.value, after=after.value, again=again)


if __name__ == "__main__":
    {f.__name__: f for f in (keep, turns, pooled)}[sys.argv[1]](*sys.argv[2:])
