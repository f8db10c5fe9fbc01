# SPDX-License-Identifier: Apache-2.0
"""Memory of graphs, over the software GPU: charged when they run, given back when trimmed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from memory_program import CONTEXT_BYTES, judged
from shim_world import MIB, World, soft_world


@pytest.fixture
def world(native_dir: Path) -> Iterator[World]:
    with soft_world(native_dir, overhead=CONTEXT_BYTES) as made:
        yield made


def test_graph_memory_charged(world: World) -> None:
    judged(
        world,
        160 * MIB,
        """
        big, _ = graph(60 * MIB, 20 * MIB)
        small, _ = graph(20 * MIB)
        assert free_mib() == 160                      # not before it runs
        do("cuGraphLaunch", big, None)
        assert free_mib() == 96, free_mib()           # the second is where the first was
        do("cuGraphLaunch", small, None)
        assert free_mib() == 96                       # and so is the other graph
        sync()
        assert free_mib() == 96
        do("cuDeviceGraphMemTrim", 0)
        assert free_mib() == 160
        kept, at = graph(40 * MIB, freed=False)
        do("cuGraphUpload", kept, None)
        assert free_mib() == 96
        do("cuGraphLaunch", kept, None)
        sync()
        do("cuDeviceGraphMemTrim", 0)
        assert free_mib() == 96                       # it outlives its graph
        do("cuGraphLaunch", big, None)
        assert free_mib() == 32
        assert raw("cuGraphLaunch", graph(130 * MIB)[0], None) == 2
        do("cuMemFreeAsync", u64(at), None)
        sync()
        do("cuGraphLaunch", graph(130 * MIB)[0], None)
        sync()
        do("cuDeviceGraphMemTrim", 0)
        assert free_mib() == 160
        """,
    )


def test_graph_launches_in_turn_lease_nothing(world: World) -> None:
    """Graphs that share memory are launched one after the other where there is no more of it."""
    judged(
        world,
        64 * MIB,
        """
        graphs = [graph(60 * MIB)[0] for _ in range(3)]
        for i in range(60):
            do("cuGraphLaunch", graphs[i % 3], None)
        sync()
        other = handle("cuStreamCreate", 1)
        do("cuGraphLaunch", graphs[0], other)         # nothing runs: any stream may
        do("cuGraphLaunch", graphs[0], other)
        sync()
        do("cuGraphExecDestroy", graphs[0])
        do("cuGraphLaunch", graphs[1], None)
        sync()
        """,
    )


def test_vllm_like_profile(world: World) -> None:
    """Ask what is free, take 90 % of it, capture allocations, free: free + used = total always."""
    judged(
        world,
        512 * MIB,
        """
        used = 0
        def step(more):
            global used
            used += more
            free, total = info()
            assert total == 512 * MIB and free + used == total, (free // MIB, used // MIB)
        step(0)
        most = info()[0] * 9 // 10 // (2 * MIB) * 2 * MIB
        cache = linear(most)
        step(most)
        stream = handle("cuStreamCreate", 1)
        do("cuStreamBeginCapture_v2", stream, 0)
        p = alloc(10 * MIB, stream)
        do("cuMemsetD8Async", p, 1, n(10 * MIB), stream)
        do("cuMemFreeAsync", p, stream)
        captured = ptr()
        do("cuStreamEndCapture", stream, C.byref(captured))
        step(0)
        run = handle("cuGraphInstantiateWithFlags", captured, C.c_ulonglong(0))
        step(0)
        do("cuGraphLaunch", run, stream)
        step(UNIT)
        do("cuStreamSynchronize", stream)
        step(0)
        do("cuGraphExecDestroy", run)
        do("cuDeviceGraphMemTrim", 0)
        step(-UNIT)
        do("cuMemFree_v2", cache)
        step(-most)
        """,
    )
