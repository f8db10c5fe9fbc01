# SPDX-License-Identifier: Apache-2.0
"""Memory that can leave the device: what fails, what stays there, and what ends meanwhile.
libharp's side, before a scripted arbiter.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from shim_world import World
from swap_world import (
    FILL,
    FILLED,
    MIB,
    check_same,
    eventually,
    faults,
    soft_world,
    swap_bytes,
    tenant,
)

from harp.lease_wire import MemClass, Op


@pytest.fixture(scope="module")
def world(native_dir: Path) -> Iterator[World]:
    with soft_world(native_dir, devices="tiny") as made:
        yield made


# --- what fails ----------------------------------------------------------------------------------


@pytest.mark.parametrize("nth", [1, 3])
def test_a_restore_without_memory_loses_nothing(world: World, tmp_path: Path, nth: int) -> None:
    with tenant(world, FILL, tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "filled"
        arbiter.evict()
        empty = made.device_bytes()
        with faults(world, f"oom nth={nth}"):
            failed = arbiter.restore()
        assert failed.b == 1
        assert "memory" in failed.text
        assert made.device_bytes() == empty
        assert arbiter.restore().b == 0
        check_same(made)


@pytest.mark.parametrize(
    "rule",
    [
        "fail cuMemcpyDtoHAsync_v2 2 nth=2",
        "fail cuMemHostAlloc 2",
        "fail cuMemUnmap 999 nth=3",
        "fail cuStreamSynchronize 999 nth=1",
    ],
)
def test_an_eviction_that_fails_leaves_all_where_it_was(
    world: World, tmp_path: Path, rule: str
) -> None:
    with tenant(world, FILL, tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "filled"
        full = made.device_bytes()
        with faults(world, rule):
            failed = arbiter.evict()
        assert (failed.b, failed.amount_bytes) == (1, 0)
        assert failed.text
        assert made.device_bytes() == full
        arbiter.restore()
        assert arbiter.evict().b == 0
        arbiter.restore()
        check_same(made)


def test_a_device_that_is_full_but_for_own_pools_has_room(world: World, tmp_path: Path) -> None:
    code = """
own, at, most = C.c_void_p(), C.c_uint64(), C.c_uint64(2**64 - 1)
ok(cuda.cuDeviceGetDefaultMemPool(C.byref(own), 0))
ok(cuda.cuMemPoolSetAttribute(own, 4, C.byref(most)))
ok(cuda.cuMemAllocAsync(C.byref(at), C.c_size_t(1 << 20), None))
ok(cuda.cuMemFreeAsync(at, None))
ok(cuda.cuCtxSynchronize())
tell("pooled")
wait()
alloc(3 << 20)
tell("allocated")
wait()
"""
    with tenant(world, code, tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "pooled"
        assert arbiter.leased[0, MemClass.DEVICE] > 0
        with faults(world, "fail cuMemCreate 2 nth=1"):
            made.go()
            assert made.told() == "allocated"
        eventually(lambda: arbiter.leased[0, MemClass.DEVICE] == 0)
        made.go()
        made.ended()


def test_pinned_memory_of_the_host_is_counted(world: World, tmp_path: Path) -> None:
    with tenant(world, FILL, tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "filled"
        arbiter.evict()
        assert arbiter.leased[0, MemClass.HOST] >= FILLED
        arbiter.restore()
        check_same(made)


def test_pinned_memory_of_the_host_has_a_quota(world: World, tmp_path: Path) -> None:
    with tenant(world, FILL, tmp_path) as made:
        arbiter = made.arbiter(host=16 * MIB)
        assert made.told() == "filled"
        refused = arbiter.evict()
        assert refused.b == 1
        assert "host" in refused.text
        arbiter.host = 64 * MIB
        assert arbiter.evict().b == 0
        assert arbiter.leased[0, MemClass.HOST] >= FILLED
        arbiter.restore()
        check_same(made)


def test_a_limit_refuses_what_does_not_fit_and_no_more(world: World, tmp_path: Path) -> None:
    code = """
at = C.c_uint64()
take = lambda size: cuda.cuMemAlloc_v2(C.byref(at), C.c_size_t(size))
free(alloc(100))  # its slab is kept: not in the way of what follows
big = alloc(64 << 20)
assert take(1) == 2
free(big)
whole = [alloc(2 << 20) for _ in range(31)] + [alloc(512) for _ in range(4096)]
assert take(1) == 2
tell("full")
wait()
"""
    with tenant(world, code, tmp_path) as made:
        arbiter = made.arbiter(limit=64 * MIB)
        assert made.told() == "full"
        eventually(lambda: swap_bytes(arbiter) == 64 * MIB)
        made.go()
        made.ended()


def test_a_recall_brings_back_empty_slabs(world: World, tmp_path: Path) -> None:
    with tenant(world, 'free(alloc(100))\ntell("kept")\nwait()\n', tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "kept"
        eventually(lambda: swap_bytes(arbiter) == 2 * MIB)
        arbiter.say(op=Op.RECALL_MEM, seq=5, amount_bytes=2 * MIB)
        answer = arbiter.until(Op.RECALLED)
        assert (answer.seq, answer.amount_bytes) == (5, 0)
        assert swap_bytes(arbiter) == 0  # said before the answer
        arbiter.say(op=Op.RECALL_MEM, seq=6, amount_bytes=2 * MIB)
        assert arbiter.until(Op.RECALLED).seq == 6
        made.go()
        made.ended()


# --- what stays ----------------------------------------------------------------------------------


def test_memory_handed_to_others_stays(world: World, tmp_path: Path) -> None:
    code = """
shared, own = alloc(6 << 20), alloc(4 << 20)
put(shared, pattern(1, 6 << 20))
one = C.c_uint(1)
ok(cuda.cuPointerSetAttribute(C.byref(one), 6, C.c_uint64(shared)))
tell("handed")
wait()
assert get(shared, 6 << 20) == pattern(1, 6 << 20)
free(shared)
tell("freed")
wait()
"""
    with tenant(world, code, tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "handed"
        assert (swap_bytes(arbiter), arbiter.leased[0, MemClass.DEVICE]) == (4 * MIB, 6 * MIB)
        assert "--no-oversubscribe" in made.log.read_text()
        full = made.device_bytes()
        assert arbiter.evict().amount_bytes == 4 * MIB
        assert made.device_bytes() == full - 4 * MIB
        arbiter.restore()
        made.go()
        assert made.told() == "freed"
        eventually(lambda: arbiter.leased[0, MemClass.DEVICE] == 0)
        made.go()
        made.ended()


def test_memory_that_no_lease_can_be_had_for_is_in_the_account(
    world: World, tmp_path: Path
) -> None:
    code = """
at, one = alloc(6 << 20), C.c_uint(1)
tell("made")
wait()
assert cuda.cuPointerSetAttribute(C.byref(one), 6, C.c_uint64(at)) == 2
tell("refused")
wait()
free(at)
alloc(6 << 20)
tell("again")
wait()
"""
    with tenant(world, code, tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "made"
        limit, arbiter.limit = arbiter.limit, 0  # between the two another had it
        made.go()
        assert made.told() == "refused"
        assert swap_bytes(arbiter) == 0
        arbiter.limit = limit
        made.go()
        assert made.told() == "again"
        assert swap_bytes(arbiter) == 6 * MIB
        made.go()
        made.ended()


def test_a_legacy_handle_is_refused_with_the_remedy(world: World, tmp_path: Path) -> None:
    code = """
at, handle, capable = alloc(4 << 20), C.create_string_buffer(64), C.c_uint8(9)
assert cuda.cuIpcGetMemHandle(handle, C.c_uint64(at)) == 801
ok(cuda.cuPointerGetAttribute(C.byref(capable), 10, C.c_uint64(at)))
assert capable.value == 0
tell("refused")
wait()
"""
    with tenant(world, code, tmp_path) as made:
        made.arbiter()
        assert made.told() == "refused"
        assert "cuIpcGetMemHandle" in made.log.read_text()
        assert "--no-oversubscribe" in made.log.read_text()
        made.go()
        made.ended()


def test_a_process_with_two_devices_stays(native_dir: Path, tmp_path: Path) -> None:
    code = """
at = alloc(4 << 20)
second = C.c_void_p()
ok(cuda.cuCtxCreate_v2(C.byref(second), 0, 1))
ok(cuda.cuCtxSetCurrent(ctx))
later = alloc(4 << 20)
tell("two")
wait()
"""
    with (
        soft_world(native_dir, devices="tiny,tiny") as world,
        tenant(world, code, tmp_path) as made,
    ):
        arbiter = made.arbiter()
        assert made.told() == "two"
        eventually(lambda: swap_bytes(arbiter) == 0)
        assert arbiter.leased[0, MemClass.DEVICE] == 8 * MIB
        assert arbiter.evict().amount_bytes == 0
        made.go()


# --- the arbiter, the context, the process go ----------------------------------------------------


@pytest.mark.slow
def test_away_it_stays_until_an_arbiter_is_back(world: World, tmp_path: Path) -> None:
    code = FILL.replace('tell("same")', 'free(alloc(6 << 20))\ntell("same")')
    with tenant(world, code, tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "filled"
        arbiter.evict()
        empty = made.device_bytes()
        arbiter.link.close()
        made.go()  # it copies: nobody gives turns, but its memory is not there
        arbiter = made.arbiter(opens=False)
        arbiter.until(Op.WANT_TIME)
        swap = [m for m in arbiter.adopted if m.cls == MemClass.SWAP]
        assert [(m.a, m.amount_bytes) for m in swap] == [(1, FILLED)]
        assert made.device_bytes() == empty
        arbiter.restore()
        assert made.told() == "same"
        made.go()
        assert made.told() == "freed"
        made.go()
        made.ended()


@pytest.mark.slow
def test_an_opened_gate_is_a_device_that_is_ours(world: World, tmp_path: Path) -> None:
    """An arbiter that knows of no eviction opens the gate and says no more."""
    with tenant(world, FILL, tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "filled"
        arbiter.evict()
        with faults(world, "oom nth=1"):
            arbiter.open = True
            made.go()
            assert arbiter.until(Op.RESTORED).b == 1
            arbiter.open = False  # it has opened, and says so no more
        assert arbiter.until(Op.RESTORED).b == 0
        assert made.told() == "same"
        made.go()
        assert made.told() == "freed"


@pytest.mark.parametrize("away", [False, True], ids=["here", "away"])
def test_a_context_takes_its_memory_along(world: World, tmp_path: Path, *, away: bool) -> None:
    code = """
alloc(100)
alloc(6 << 20)
tell("made")
wait()
ok(cuda.cuCtxDestroy_v2(ctx))
tell("gone")
wait()
ok(cuda.cuCtxCreate_v2(C.byref(ctx), 0, 0))
at = alloc(3 << 20)
put(at, pattern(1, 3 << 20))
tell("again")
wait()
"""
    with tenant(world, code, tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "made"
        if away:
            arbiter.evict()
        made.go()
        assert made.told() == "gone"
        eventually(lambda: swap_bytes(arbiter) == 0)
        assert made.device_bytes() == 0
        if away:
            arbiter.restore()
        made.go()
        assert made.told() == "again"
        eventually(lambda: swap_bytes(arbiter) == 4 * MIB)
        made.go()
        made.ended()


def test_a_context_does_not_end_under_the_mover(world: World, tmp_path: Path) -> None:
    """It copies in that context: the order was there first."""
    code = """
at = alloc(6 << 20)
put(at, pattern(1, 6 << 20))
tell("made")
wait()
ok(cuda.cuCtxDestroy_v2(ctx))
tell("gone")
wait()
"""
    with tenant(world, code, tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "made"
        arbiter.shut()
        with faults(world, "slow cuMemcpyDtoHAsync_v2 500ms"):
            arbiter.say(op=Op.EVICT, seq=1)
            time.sleep(arbiter.pause_s)
            made.go()
            answer = arbiter.until(Op.EVICTED)
        assert (answer.b, answer.amount_bytes, answer.text) == (0, 6 * MIB, "")
        assert made.told() == "gone"
        eventually(lambda: swap_bytes(arbiter) == 0)
        assert made.device_bytes() == 0
        made.go()
        made.ended()


def test_what_was_freed_in_a_capture_goes_with_its_context(world: World, tmp_path: Path) -> None:
    """Else every later allocation would wait for the device."""
    code = """
stream, graph = C.c_void_p(), C.c_void_p()
ok(cuda.cuStreamCreate(C.byref(stream), 1))
held = alloc(3 << 20)
ok(cuda.cuStreamBeginCapture_v2(stream, 2))
free(held)
ok(cuda.cuStreamEndCapture(stream, C.byref(graph)))
ok(cuda.cuCtxDestroy_v2(ctx))
ok(cuda.cuCtxCreate_v2(C.byref(ctx), 0, 0))
ok(cuda.cuStreamCreate(C.byref(stream), 1))
word = C.c_void_p()
ok(cuda.cuMemHostAlloc(C.byref(word), C.c_size_t(4096), 0))
C.memset(word, 0, 4)
ok(cuda.cuStreamWaitValue32_v2(stream, C.c_uint64(word.value), 1, 0))
alloc(100)
tell("allocated")
C.memset(word, 1, 4)
"""
    with tenant(world, code, tmp_path) as made:
        made.arbiter()
        assert made.told() == "allocated"
        made.ended()


def test_a_program_may_end_while_away(world: World, tmp_path: Path) -> None:
    with tenant(world, 'alloc(6 << 20)\ntell("made")\nwait()\n', tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "made"
        arbiter.evict()
        made.go()
        made.ended()
        assert made.device_bytes() == 0


def test_a_forked_child_begins_anew(world: World, tmp_path: Path) -> None:
    code = """
import os
at = alloc(6 << 20)
put(at, pattern(1, 6 << 20))
tell("made")
wait()
if (child := os.fork()) == 0:
    free_result = cuda.cuMemFree_v2(C.c_uint64(at))
    os._exit(0 if free_result != 0 else 1)
assert os.waitpid(child, 0)[1] == 0
tell("forked")
wait()
assert get(at, 6 << 20) == pattern(1, 6 << 20)
tell("same")
"""
    with tenant(world, code, tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "made"
        arbiter.evict()
        made.go()
        assert made.told() == "forked"
        arbiter.restore()
        made.go()
        assert made.told() == "same"
        made.ended()
