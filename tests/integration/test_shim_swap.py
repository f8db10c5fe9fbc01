# SPDX-License-Identifier: Apache-2.0
"""Memory that leaves the device and comes back: libharp's side, before a scripted arbiter."""

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

from harp.lease_wire import Op


@pytest.fixture(scope="module")
def world(native_dir: Path) -> Iterator[World]:
    with soft_world(native_dir, devices="tiny") as made:
        yield made


def test_data_survives_and_the_device_is_empty_meanwhile(world: World, tmp_path: Path) -> None:
    with tenant(world, FILL, tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "filled"
        full = made.device_bytes()
        assert swap_bytes(arbiter) == FILLED
        for _ in range(3):
            gone = arbiter.evict()
            assert (gone.b, gone.amount_bytes) == (0, FILLED)
            assert gone.used_ns > 0
            assert made.device_bytes() == full - FILLED
            back = arbiter.restore()
            assert (back.b, back.amount_bytes) == (0, FILLED)
            assert made.device_bytes() == full
        check_same(made)


def test_orders_that_change_nothing_are_answered(world: World, tmp_path: Path) -> None:
    with tenant(world, FILL, tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "filled"
        assert arbiter.restore().amount_bytes == 0
        assert arbiter.evict().amount_bytes == FILLED
        assert arbiter.evict().amount_bytes == 0
        assert arbiter.restore().amount_bytes == FILLED
        check_same(made)


def test_small_blocks_share_slabs_and_all_come_back(world: World, tmp_path: Path) -> None:
    code = """
import random
draw = random.Random(7)
live = {}
for seed in range(4000):
    size = draw.choice([1, 300, 512, 4096, 20_000])
    live[alloc(size)] = (seed, size)
    if draw.random() < 0.4:
        at = draw.choice(list(live))
        del live[at]
        free(at)
for at, (seed, size) in live.items():
    put(at, pattern(seed, size))
tell(sum((size + 511) // 512 * 512 for _, size in live.values()))
wait()
for at, (seed, size) in live.items():
    assert get(at, size) == pattern(seed, size)
    free(at)
tell("freed")
wait()
"""
    with tenant(world, code, tmp_path) as made:
        arbiter = made.arbiter()
        live = int(made.told())
        assert live <= swap_bytes(arbiter) <= 1.5 * live + 4 * MIB
        arbiter.evict()
        arbiter.restore()
        made.go()
        assert made.told() == "freed"
        eventually(lambda: swap_bytes(arbiter) == 2 * MIB)
        made.go()
        made.ended()


def test_what_is_allocated_while_away_is_an_address_until_the_others_are_back(
    world: World, tmp_path: Path
) -> None:
    code = """
old = alloc(8 << 20)
gone = alloc(6 << 20)
put(old, pattern(1, 8 << 20))
tell("filled")
wait()
free(gone)
new, small = alloc(4 << 20), alloc(100)
assert len({old, new, small}) == 3
tell("allocated")
put(new, pattern(2, 4 << 20))
put(small, pattern(3, 100))
assert get(old, 8 << 20) == pattern(1, 8 << 20)
assert get(new, 4 << 20) == pattern(2, 4 << 20)
assert get(small, 100) == pattern(3, 100)
tell("same")
wait()
"""
    with tenant(world, code, tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "filled"
        arbiter.evict()
        empty = made.device_bytes()
        made.go()
        assert made.told() == "allocated"
        assert made.device_bytes() == empty
        eventually(lambda: swap_bytes(arbiter) == 14 * MIB)
        arbiter.until(Op.WANT_TIME)
        assert arbiter.restore().amount_bytes == 14 * MIB
        assert made.told() == "same"
        made.go()
        made.ended()


#: keeps the mover busy over the orders that follow
BUSY = "slow cuMemUnmap 500ms"


def test_what_is_granted_behind_an_eviction_is_not_for_the_device(
    world: World, tmp_path: Path
) -> None:
    code = """
free(alloc(100))
tell("kept")
wait()
at = alloc(6 << 20)
tell("allocated")
put(at, pattern(1, 6 << 20))
assert get(at, 6 << 20) == pattern(1, 6 << 20)
tell("same")
wait()
"""
    with faults(world, BUSY), tenant(world, code, tmp_path) as made:
        arbiter = made.arbiter(opens=False)
        assert made.told() == "kept"
        arbiter.before_grant = [
            {"op": Op.RECALL_MEM, "seq": 8, "amount_bytes": 2 * MIB},
            {"op": Op.EVICT, "seq": 9},
        ]
        made.go()
        spare = arbiter.until(Op.EVICTED).amount_bytes
        assert spare <= 2 * MIB
        assert made.told() == "allocated"
        assert arbiter.restore().amount_bytes == spare + 6 * MIB
        assert made.told() == "same"
        made.go()
        made.ended()


def test_host_memory_is_pinned_once_and_told_apart(world: World, tmp_path: Path) -> None:
    code = """
at = alloc(6 << 20)
for seed in range(2):
    put(at, pattern(seed, 6 << 20))
    tell("put")
    wait()
    assert get(at, 6 << 20) == pattern(seed, 6 << 20), seed
"""
    with faults(world, "slow cuMemHostAlloc 500ms"), tenant(world, code, tmp_path) as made:
        arbiter = made.arbiter()
        for pins in (True, False):
            assert made.told() == "put"
            answer = arbiter.evict()
            assert (answer.wait_ns >= 500_000_000) is pins
            assert answer.wait_ns <= answer.used_ns
            arbiter.restore()
            made.go()
        made.ended()


def test_an_order_overtaken_by_the_next_moves_nothing_old(world: World, tmp_path: Path) -> None:
    code = """
at = alloc(6 << 20)
for seed in range(3):
    put(at, pattern(seed, 6 << 20))
    free(alloc(100))
    tell("put")
    wait()
    assert get(at, 6 << 20) == pattern(seed, 6 << 20), seed
"""
    with tenant(world, code, tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "put"
        arbiter.evict()
        arbiter.restore()
        made.go()
        for _ in range(2):
            assert made.told() == "put"
            arbiter.shut()
            with faults(world, BUSY):
                arbiter.say(op=Op.RECALL_MEM, seq=8, amount_bytes=2 * MIB)
                time.sleep(arbiter.pause_s)
                arbiter.say(op=Op.EVICT, seq=1)
                assert arbiter.restore().b == 0
            made.go()
        made.ended()


def test_memory_is_not_used_again_while_work_on_it_runs(world: World, tmp_path: Path) -> None:
    code = """
stream = C.c_void_p()
ok(cuda.cuStreamCreate(C.byref(stream), 1))
small = 1 << 19
for turn in range(20):
    first = alloc(small)
    for _ in range(40):
        ok(cuda.cuMemsetD8Async(C.c_uint64(first), 9, C.c_size_t(small), stream))
    free(first)
    again = alloc(small)
    assert again == first
    put(again, pattern(turn, small))
    ok(cuda.cuStreamSynchronize(stream))
    assert get(again, small) == pattern(turn, small), turn
    free(again)
tell("same")
"""
    with tenant(world, code, tmp_path) as made:
        made.arbiter()
        assert made.told() == "same"
        made.ended()


def test_memory_freed_in_a_capture_waits_for_its_end(world: World, tmp_path: Path) -> None:
    """To synchronise the context would spoil the capture."""
    code = """
stream, graph = C.c_void_p(), C.c_void_p()
ok(cuda.cuStreamCreate(C.byref(stream), 1))
at, held = alloc(100), alloc(3 << 20)
ok(cuda.cuStreamBeginCapture_v2(stream, 2))
ok(cuda.cuMemsetD8Async(C.c_uint64(at), 7, C.c_size_t(100), stream))
free(held)
assert cuda.cuMemFree_v2(C.c_uint64(held)) == 1
assert cuda.cuMemGetAddressRange_v2(None, None, C.c_uint64(held)) == 500
ok(cuda.cuStreamEndCapture(stream, C.byref(graph)))
tell("captured")
wait()
alloc(100)
tell("freed")
wait()
"""
    with tenant(world, code, tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "captured"
        assert swap_bytes(arbiter) == 6 * MIB
        made.go()
        assert made.told() == "freed"
        eventually(lambda: swap_bytes(arbiter) == 2 * MIB)
        made.go()
        made.ended()


@pytest.mark.slow
def test_a_grant_may_wait_for_anothers_eviction(world: World, tmp_path: Path) -> None:
    with tenant(world, 'wait()\nalloc(100)\ntell("allocated")\nwait()\n', tmp_path) as made:
        arbiter = made.arbiter()
        eventually(lambda: made.device_bytes() > 0)
        arbiter.grants_after_s = 7.0
        made.go()
        assert made.told() == "allocated"
        made.go()
        made.ended()


CALLS = {
    "copy": "put(at, pattern(2, 4096))",
    "fill": "ok(cuda.cuMemsetD8_v2(C.c_uint64(at), 7, C.c_size_t(4096)))",
    "node": """
graph, node = C.c_void_p(), C.c_void_p()
ok(cuda.cuGraphCreate(C.byref(graph), 0))
class Fill(C.Structure):
    _fields_ = [("dst", C.c_uint64), ("pitch", C.c_size_t), ("value", C.c_uint),
                ("element", C.c_uint), ("width", C.c_size_t), ("height", C.c_size_t)]
fill = Fill(at, 0, 7, 1, 4096, 1)
ok(cuda.cuGraphAddMemsetNode(C.byref(node), graph, None, C.c_size_t(0), C.byref(fill), ctx))
""",
    "capture": """
graph, stream = C.c_void_p(), C.c_void_p()
ok(cuda.cuStreamCreate(C.byref(stream), 1))
ok(cuda.cuStreamBeginCapture_v2(stream, 2))
ok(cuda.cuMemsetD8Async(C.c_uint64(at), 7, C.c_size_t(4096), stream))
ok(cuda.cuStreamEndCapture(stream, C.byref(graph)))
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_calls_that_name_it_wait_until_it_is_back(world: World, tmp_path: Path, call: str) -> None:
    code = f"""
at = alloc(4096)
put(at, pattern(1, 4096))
tell("filled")
wait()
tell("calls")
{CALLS[call]}
tell("called")
wait()
"""
    with tenant(world, code, tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "filled"
        arbiter.evict()
        made.go()
        assert made.told() == "calls"
        arbiter.until(Op.WANT_TIME)
        time.sleep(0.3)
        arbiter.restore()
        restored = time.monotonic()
        assert made.told() == "called"
        assert time.monotonic() - restored < 10
        made.go()
        made.ended()


def test_a_graph_holds_addresses_and_they_stay(world: World, tmp_path: Path) -> None:
    code = """
a, b = alloc(3 << 20), alloc(100_000)
put(b, pattern(9, 100_000))
graph, execution, stream = C.c_void_p(), C.c_void_p(), C.c_void_p()
ok(cuda.cuStreamCreate(C.byref(stream), 1))
ok(cuda.cuStreamBeginCapture_v2(stream, 2))
ok(cuda.cuMemsetD8Async(C.c_uint64(a), 7, C.c_size_t(3 << 20), stream))
ok(cuda.cuMemcpyDtoDAsync_v2(C.c_uint64(a + 512), C.c_uint64(b), C.c_size_t(100_000), stream))
ok(cuda.cuStreamEndCapture(stream, C.byref(graph)))
ok(cuda.cuGraphInstantiateWithFlags(C.byref(execution), graph, C.c_ulonglong(0)))
tell("captured")
wait()
ok(cuda.cuGraphLaunch(execution, stream))
ok(cuda.cuStreamSynchronize(stream))
want = b"\\7" * 512 + pattern(9, 100_000) + b"\\7" * ((3 << 20) - 100_512)
assert get(a, 3 << 20) == want
tell("same")
wait()
"""
    with tenant(world, code, tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "captured"
        arbiter.evict()
        made.go()
        arbiter.until(Op.WANT_TIME)
        arbiter.restore()
        assert made.told() == "same"
        made.go()
        made.ended()


def test_threads_at_work_meet_nothing_of_it(world: World, tmp_path: Path) -> None:
    """Copies, fills, allocations of several threads, with the memory gone again and again."""
    code = """
def work(number):
    ok(cuda.cuCtxSetCurrent(ctx))
    stream = C.c_void_p()
    ok(cuda.cuStreamCreate(C.byref(stream), 1))
    step = 0
    while not over.is_set():
        step += 1
        size = 1000 + 37_000 * (step * (number + 3) % 90)
        at = alloc(size)
        seed = step * 100 + number
        put(at, pattern(seed, size))
        assert get(at, size) == pattern(seed, size), (number, step)
        ok(cuda.cuMemsetD8Async(C.c_uint64(at), number, C.c_size_t(size), stream))
        ok(cuda.cuStreamSynchronize(stream))
        assert get(at, size) == bytes([number]) * size, (number, step)
        free(at)
    done.append(step)
over, done = threading.Event(), []
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
[t.start() for t in threads]
tell("works")
wait()
over.set()
[t.join() for t in threads]
assert len(done) == 4
tell(*done)
"""
    with tenant(world, code, tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "works"
        for _ in range(25):
            assert arbiter.evict().b == 0
            assert arbiter.restore().b == 0
            time.sleep(0.02)
        made.go()
        assert all(int(steps) > 3 for steps in made.told().split())
        made.ended()
        # one that had slipped by the lock would have met no memory, some day
        calls = next(
            line for line in made.log.read_text().splitlines() if " calls launches=" in line
        )
        copies, slow = (int(word.split("=")[1]) for word in calls.split()[-2:])
        assert slow == copies > 0


def test_an_open_gate_is_shut_first(world: World, tmp_path: Path) -> None:
    """A process that was stopped may be told so late: others have its turn already."""
    code = """
import select
at, size = alloc(8 << 20), 8 << 20
put(at, pattern(1, size))
stream = C.c_void_p()
ok(cuda.cuStreamCreate(C.byref(stream), 1))
tell("works")
while not select.select([sys.stdin], [], [], 0)[0]:
    for value in range(50):
        ok(cuda.cuMemsetD8Async(C.c_uint64(at), value, C.c_size_t(size), stream))
    ok(cuda.cuStreamSynchronize(stream))
    assert get(at, size) == bytes([49]) * size
wait()
tell("same")
"""
    with tenant(world, code, tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "works"
        arbiter.open = False
        arbiter.say(op=Op.EVICT, seq=3)
        arbiter.until(Op.YIELD_TIME)  # ahead of what comes next
        assert arbiter.until(Op.EVICTED).b == 0
        arbiter.restore()
        made.go()
        assert made.told() == "same"
        made.ended()


# --- without VMM ---------------------------------------------------------------------------------


def test_without_vmm_managed_memory_is_moved(world: World, tmp_path: Path) -> None:
    code = FILL.replace(
        'tell("filled")',
        """
value = C.c_uint64()
for attribute, want in ((2, 2), (8, 0), (11, blocks[3]), (12, sizes[3])):
    ok(cuda.cuPointerGetAttribute(C.byref(value), attribute, C.c_uint64(blocks[3] + 77)))
    assert value.value == want, (attribute, value.value)
    value.value = 0
tell("filled")""",
    )
    with faults(world, "novmm"), tenant(world, code, tmp_path) as made:
        arbiter = made.arbiter()
        assert made.told() == "filled"
        assert "tier=managed" in made.log.read_text()
        full = made.device_bytes()
        for _ in range(2):
            assert arbiter.evict().amount_bytes == FILLED
            assert made.device_bytes() == full - FILLED
            assert arbiter.restore().amount_bytes == FILLED
        check_same(made)
