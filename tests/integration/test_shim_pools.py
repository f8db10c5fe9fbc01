# SPDX-License-Identifier: Apache-2.0
"""Memory that the driver keeps in pools, over the software GPU.

The ledger follows what pools have of the device, step by step, and the engine's own ledger says
that the process never had a byte more than its limit.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from memory_program import CONTEXT_BYTES, PRELUDE, judged, peak_bytes
from shim_world import MIB, World, soft_world


@pytest.fixture
def world(native_dir: Path) -> Iterator[World]:
    with soft_world(native_dir, overhead=CONTEXT_BYTES) as made:
        yield made


def test_pool_reserved_current(world: World) -> None:
    judged(
        world,
        256 * MIB,
        """
        p = alloc(1 << 20)
        assert reserved(own) == 32 and free_mib() == 224, (reserved(own), free_mib())
        q = alloc(40 * MIB)
        assert reserved(own) == 96 and free_mib() == 160
        other = create()
        r = alloc(5 * MIB, pool=other)               # identity, not the current device, counts
        assert reserved(other) == 32 and reserved(own) == 96 and free_mib() == 128
        do("cuDeviceSetMemPool", 0, other)
        s = alloc(1 << 20)
        assert reserved(other) == 32 and free_mib() == 128
        do("cuMemFreeAsync", q, None)
        assert free_mib() == 128                     # the pool has it, until the host waits
        sync()
        assert reserved(own) == 32 and free_mib() == 192, (reserved(own), free_mib())
        for held in (p, r, s):
            do("cuMemFreeAsync", held, None)
        sync()
        assert free_mib() == 256
        host = create(where=(2, 0))                  # not the device's
        t = alloc(100 * MIB, pool=host)
        assert free_mib() == 256
        do("cuMemFreeAsync", t, None)
        managed = create(kind=2, where=(1, 0))       # as managed memory, in full
        v = alloc(100 * MIB, pool=managed)
        assert free_mib() == 156
        do("cuMemFreeAsync", v, None)
        sync()
        assert free_mib() == 256
        """,
    )


def test_pool_gives_back_at_a_wait_after_its_frees_were_seen_to_be_over(world: World) -> None:
    judged(
        world,
        256 * MIB,
        """
        import time
        def over():
            while raw("cuStreamQuery", None) != 0:
                time.sleep(0.001)
        def asked(waits):
            p = alloc(40 * MIB)
            assert reserved(own) == 64 and free_mib() == 192
            do("cuMemFreeAsync", p, None)
            over()
            assert free_mib() == 192                 # over, and nobody has waited
            assert free_mib() == 192
            waits()
            assert reserved(own) == 0 and free_mib() == 256, (reserved(own), free_mib())
        asked(sync)
        asked(lambda: do("cuStreamSynchronize", None))
        """,
    )


def test_pool_trim_gives_back(world: World) -> None:
    judged(
        world,
        256 * MIB,
        """
        most = u64(2**64 - 1)
        do("cuMemPoolSetAttribute", own, 4, C.byref(most))
        held = [alloc(30 * MIB) for _ in range(4)]
        for p in held[1:]:
            do("cuMemFreeAsync", p, None)
        sync()
        assert reserved(own) == 128 and free_mib() == 128      # kept: the threshold says so
        do("cuMemPoolTrimTo", own, n(64 * MIB))
        assert reserved(own) == 64 and free_mib() == 192
        do("cuMemPoolTrimTo", own, n(0))
        assert reserved(own) == 32 and free_mib() == 224
        p = alloc(30 * MIB)
        do("cuMemFreeAsync", p, None)
        none = u64(0)
        do("cuMemPoolSetAttribute", own, 4, C.byref(none))
        sync()
        assert reserved(own) == 32 and free_mib() == 224
        other = create()
        q = alloc(1 << 20, pool=other)
        assert free_mib() == 192
        do("cuMemPoolDestroy", other)
        assert free_mib() == 192                               # what lives in it keeps it
        do("cuMemFreeAsync", q, None)
        sync()
        assert free_mib() == 224
        """,
    )


def test_what_a_pool_gives_back_unseen_is_given_back(world: World) -> None:
    """In a copy the driver waits, and trims: nobody calls the ledger then."""
    world.tenant("a", mem=256 * MIB)
    body = """
    there = linear(4096)
    p = alloc(100 * MIB)
    do("cuMemFreeAsync", p, None)
    do("cuMemcpyPeer", there, ctx, u64(there.value + 2048), ctx, n(2048))
    print("copied", flush=True)
    sys.stdin.read()
    """
    process = world.start("a", sys.executable, "-c", PRELUDE + textwrap.dedent(body))
    assert process.stdout is not None
    process.stdout.readline()
    assert process.stdout.readline() == "copied\n"
    deadline = time.monotonic() + 10
    while world.usage("a").leased_bytes > 4 * MIB:
        assert time.monotonic() < deadline, world.usage("a")
        time.sleep(0.02)


def test_oom_order(world: World) -> None:
    """What the process's pools do not need goes back before anything is refused: code 2."""
    judged(
        world,
        128 * MIB,
        """
        most = u64(2**64 - 1)
        do("cuMemPoolSetAttribute", own, 4, C.byref(most))
        p = alloc(120 * MIB)
        assert linear(2 * MIB) == 2 and alloc(9 * MIB) == 2
        do("cuMemFreeAsync", p, None)
        sync()
        assert reserved(own) == 128 and free_mib() == 0
        q = linear(100 * MIB)                         # the pool gives back for it
        assert not isinstance(q, int) and free_mib() == 28
        exec, _ = graph(20 * MIB)
        assert raw("cuGraphLaunch", exec, None) == 2  # of 32, which there are not
        do("cuMemFree_v2", q)
        do("cuGraphLaunch", exec, None)
        sync()
        assert free_mib() == 96
        q = linear(128 * MIB)                         # so does what graphs do not need
        assert not isinstance(q, int) and free_mib() == 0
        for status in (alloc(1), linear(1), raw("cuGraphLaunch", exec, None)):
            assert status == 2, status
        """,
    )


@pytest.mark.parametrize("limit", [32 * MIB, 48 * MIB, 64 * MIB])
def test_what_fits_is_not_refused(world: World, limit: int) -> None:
    """Live bytes and the request fit into the limit, whatever units the pool likes."""
    judged(
        world,
        limit,
        f"""
        limit = {limit}
        held = []
        while len(held) * 2 * MIB < limit:            # fills it to the last byte
            p = alloc(2 * MIB)
            assert not isinstance(p, int), (p, len(held), reserved(own))
            held.append(p)
        assert alloc(2 * MIB) == 2
        for p in held[::2]:
            do("cuMemFreeAsync", p, None)
        sync()
        again = [alloc(2 * MIB) for _ in held[::2]]
        assert not any(isinstance(p, int) for p in again)
        assert alloc(2 * MIB) == 2 and linear(2 * MIB) == 2
        """,
    )


def test_memory_freed_in_another_stream_is_waited_for(world: World) -> None:
    judged(
        world,
        64 * MIB,
        """
        a, b = handle("cuStreamCreate", 1), handle("cuStreamCreate", 1)
        for _ in range(50):
            p = alloc(60 * MIB, a)
            assert not isinstance(p, int)
            do("cuMemFreeAsync", p, a)
            q = alloc(60 * MIB, b)
            assert not isinstance(q, int)
            do("cuMemFreeAsync", q, b)
            r = linear(40 * MIB)
            if not isinstance(r, int):
                do("cuMemFreeAsync", r, a)            # linear memory, in a stream's order
        sync()
        """,
    )


def test_ipc_pool_import(world: World) -> None:
    """What is imported is its exporter's."""
    world.tenant("a", mem=128 * MIB)
    world.tenant("b", mem=64 * MIB)
    maker = PRELUDE + textwrap.dedent(
        """
        import socket
        pool = create(handles=1)
        p = alloc(40 * MIB, pool=pool)
        fd = C.c_int()
        do("cuMemPoolExportToShareableHandle", C.byref(fd), pool, 1, C.c_ulonglong(0))
        data = (C.c_ubyte * 64)()
        do("cuMemPoolExportPointer", C.byref(data), p)
        assert free_mib() == 64
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(sys.argv[1])
            listening.listen()
            print("there", flush=True)
            to, _ = listening.accept()
            socket.send_fds(to, [bytes(data)], [fd.value])
            assert to.recv(1) == b"1"
        """
    )
    taker = PRELUDE + textwrap.dedent(
        """
        import socket
        with socket.socket(socket.AF_UNIX) as to:
            to.connect(sys.argv[1])
            got, fds, _, _ = socket.recv_fds(to, 64, 1)
            before = info()
            pool = handle("cuMemPoolImportFromShareableHandle", ptr(fds[0]), 1, C.c_ulonglong(0))
            data = (C.c_ubyte * 64).from_buffer_copy(got)
            p = u64()
            do("cuMemPoolImportPointer", C.byref(p), pool, C.byref(data))
            do("cuMemsetD8_v2", p, 7, n(40 * MIB))
            assert info() == before == (64 * MIB, 64 * MIB), (before, info())
            do("cuMemFreeAsync", p, None)
            sync()
            do("cuMemPoolDestroy", pool)
            assert info() == before
            to.send(b"1")
        """
    )
    at = world.base / "pool.sock"
    process = world.start("a", sys.executable, "-c", maker, at)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert process.stdout.readline() == "there\n", process.stderr.read()  # type: ignore[union-attr]
    world.python("b", taker, at)
    assert process.wait(timeout=30) == 0
    assert peak_bytes(world, pid) <= 128 * MIB


def test_unknown_free_passthrough(world: World) -> None:
    judged(
        world,
        64 * MIB,
        """
        p = alloc(1 << 20)
        inside = u64(p.value + 512)
        for name, *more in (("cuMemFree_v2",), ("cuMemFreeAsync", None)):
            assert raw(name, u64(12345), *more) == 1
            assert raw(name, inside, *more) == 1
        assert raw("cuMemPoolTrimTo", ptr(12345), n(0)) == 1
        assert raw("cuMemPoolDestroy", ptr(12345)) == 1 and raw("cuMemPoolDestroy", own) == 1
        assert alloc(1 << 20, pool=ptr(12345)) == 1
        assert free_mib() == 32
        do("cuMemFreeAsync", p, None)
        assert raw("cuMemFreeAsync", p, None) == 1
        sync()
        assert free_mib() == 64
        """,
    )


def test_no_underflow(world: World) -> None:
    """Random calls by several threads: all of it comes back, and never was there too much."""
    judged(
        world,
        256 * MIB,
        """
        import random, threading
        others = [create() for _ in range(2)]
        failed = []
        def work(seed):
            try:
                do("cuCtxSetCurrent", ctx)
                rnd, held = random.Random(seed), []
                stream = handle("cuStreamCreate", 1)
                for _ in range(400):
                    what = rnd.random()
                    size = rnd.choice((512, 1 << 20, 3 << 20, 20 << 20, 40 << 20))
                    if what < 0.5:
                        got = (linear(size) if rnd.random() < 0.3 else
                               alloc(size, stream, rnd.choice((None, *others))))
                        assert not isinstance(got, int) or got == 2, got
                        if not isinstance(got, int):
                            held.append(got)
                    elif what < 0.9 and held:
                        got = held.pop(rnd.randrange(len(held)))
                        if rnd.random() < 0.8:
                            do("cuMemFreeAsync", got, stream)
                        else:
                            do("cuMemFree_v2", got)
                    elif what < 0.95:
                        do("cuStreamSynchronize", stream)
                    else:
                        do("cuMemPoolTrimTo", rnd.choice((own, *others)), n(0))
                for got in held:
                    do("cuMemFreeAsync", got, stream)
                do("cuStreamSynchronize", stream)
            except BaseException as error:
                failed.append(repr(error))
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not failed, failed
        sync()
        for pool in (own, *others):
            do("cuMemPoolTrimTo", pool, n(0))
        assert free_mib() == 256, free_mib()
        """,
    )


def test_a_context_that_goes_leaves_the_frees_of_others_known(world: World) -> None:
    """What is freed in a living stream comes back when its context has been waited for."""
    world.tenant("a", mem=48 * MIB)
    body = """
    stream = handle("cuStreamCreate", 1)
    held = [alloc(20 * MIB, stream)]
    held.append(alloc(15 * MIB, stream))         # no second unit: beside the pool
    assert free_mib() == 0, free_mib()
    other = handle("cuCtxCreate_v2", 0, 0)
    gone = handle("cuCtxCreate_v2", 0, 0)
    do("cuCtxPopCurrent_v2", C.byref(ptr()))
    do("cuCtxPopCurrent_v2", C.byref(ptr()))
    word = handle("cuMemHostAlloc", n(4096), 0)
    C.memset(word, 0, 4)
    do("cuStreamWaitValue32_v2", stream, u64(word.value), 1, 0)
    do("cuMemFreeAsync", held.pop(), stream)     # not before the stream gets there
    do("cuCtxDestroy_v2", gone)
    assert free_mib() == 0, free_mib()
    C.memset(word, 1, 4)
    sync()
    assert free_mib() == 16, free_mib()
    held.append(alloc(15 * MIB, stream))
    do("cuMemFreeAsync", held.pop(), stream)
    do("cuStreamDestroy_v2", stream)
    do("cuCtxDestroy_v2", other)
    sync()
    assert free_mib() == 16, free_mib()
    last = handle("cuCtxCreate_v2", 0, 0)
    stream = handle("cuStreamCreate", 1)
    held.append(alloc(15 * MIB, stream))
    do("cuMemFreeAsync", held.pop(), stream)
    do("cuCtxDestroy_v2", last)                  # and takes the memory along
    assert free_mib() == 16, free_mib()
    """
    world.python("a", PRELUDE + textwrap.dedent(body))
    assert world.usage("a").leased_bytes == 0
