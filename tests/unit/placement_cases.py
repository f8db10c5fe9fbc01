# SPDX-License-Identifier: Apache-2.0
"""Small clusters and workloads for the placement tests, and hypothesis strategies for them."""

from __future__ import annotations

from hypothesis import strategies as st

from harp.scheduler import Node, Pod

__all__ = ["GIB", "clusters", "node", "pod", "pods", "shares", "workload"]

GIB = 1 << 30
MODELS = ("A", "B", "C")


def node(name: str, gpus: int = 8, *, cpus: int = 96, model: str = "A") -> Node:
    """A node of whole GPUs with plenty of memory."""
    return Node(name, 1000 * cpus, 512 * GIB, (1000,) * gpus, model)


def pod(name: str, milli: int = 0, *, gpus: int = 1, cpus: int = 1, spec: str = "") -> Pod:
    """A pod of so many GPUs of so many milli each; 0 milli: no GPU."""
    asked = (gpus, milli) if milli else (0, 0)
    models = tuple(filter(None, spec.split("|")))
    return Pod(name, 1000 * cpus, GIB, *asked, models)


def workload() -> list[Pod]:
    """What a busy cluster sees: shared GPUs, whole ones, several, and none."""
    rows = [(500, 1, 4), (250, 1, 2), (1000, 1, 8), (1000, 2, 16), (1000, 8, 64), (0, 0, 6)]
    return [
        pod(f"w{row}-{number}", milli, gpus=gpus, cpus=cpus)
        for row, (milli, gpus, cpus) in enumerate(rows)
        for number in range(12 - 2 * row)
    ]


#: milli that tie, that just fit together and that just do not
shares = st.sampled_from((1, 50, 200, 330, 340, 499, 500, 501, 670, 999, 1000))


@st.composite
def pods(draw: st.DrawFn, most: int = 40) -> list[Pod]:
    """Pods of every kind."""
    found = []
    for number in range(draw(st.integers(1, most))):
        count = draw(st.sampled_from((0, 1, 1, 1, 1, 2, 3, 8)))
        milli = draw(shares) if count else 0
        spec = draw(st.sampled_from(((), (), (), ("A",), ("A", "B"), ("nowhere",))))
        cpu_milli = draw(st.sampled_from((0, 500, 1000, 4000, 12000)))
        memory = draw(st.sampled_from((0, GIB, 3 * GIB)))
        found.append(Pod(f"p{number}", cpu_milli, memory, count, milli, spec))
    return found


@st.composite
def clusters(draw: st.DrawFn) -> list[Node]:
    """One to six nodes, of unequal GPUs too, in any order of names."""
    names = draw(st.permutations([f"n{number}" for number in range(draw(st.integers(1, 6)))]))
    gpu = st.sampled_from((1000, 1000, 1000, 500, 0))
    return [
        Node(
            name,
            draw(st.sampled_from((0, 4000, 16000, 64000))),
            draw(st.sampled_from((2 * GIB, 64 * GIB))),
            tuple(draw(st.lists(gpu, max_size=8))),
            draw(st.sampled_from(MODELS)),
        )
        for name in names
    ]
