# SPDX-License-Identifier: Apache-2.0
"""device_plugin.estimates: an estimate lowers a container's limits within its share, or says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plugin_cases import slots_of

from device_plugin.allocator import check, least_slots, limits
from device_plugin.api import pod_of
from device_plugin.book import Cap
from device_plugin.estimates import Modes, cap_of, capped, word_of
from device_plugin.identity import Pod
from harp.estimator.job import Need
from harp.estimator.modes import Mode, read_modes
from harp.model import Limits

GIB = 1 << 30
SHARE = Limits(mem_bytes=20 * GIB, share_ppm=250_000, limit_ppm=250_000)


def need(
    target: str, bound: float | None, *, known: bool = True, level: str = "owner"
) -> dict[str, Need]:
    return {target: Need(target, None, bound, 0.98, known, level, 7, "because")}


@pytest.mark.parametrize(
    ("description", "needs", "cap"),
    [
        ("less memory", need("gpu_mem_bytes", 5.0 * GIB), Cap(5 * GIB, 0, 20 * GIB, 250_000)),
        ("in whole granules", need("gpu_mem_bytes", 1.0), Cap(2 << 20, 0, 20 * GIB, 250_000)),
        ("less time", need("share_ratio", 0.1), Cap(0, 100_000, 20 * GIB, 250_000)),
        ("more than the share", need("gpu_mem_bytes", 30.0 * GIB), Cap()),
        ("just the share", need("gpu_mem_bytes", 20.0 * GIB), Cap()),
        ("what others with its image need", need("gpu_mem_bytes", 5.0 * GIB, level="image"), Cap()),
        ("not learned from runs", need("gpu_mem_bytes", 5.0 * GIB, known=False), Cap()),
        ("nothing said", {}, Cap()),
        ("no bound", need("gpu_mem_bytes", None), Cap()),
        ("never none at all", need("gpu_mem_bytes", 0.0), Cap()),
        ("of another target", need("duration_s", 5.0), Cap()),
    ],
)
def test_what_an_estimate_lowers(description: str, needs: dict[str, Need], cap: Cap) -> None:
    assert cap_of(SHARE, needs) == cap, description


@given(st.floats(0, 100 * GIB), st.floats(0, 2))
def test_it_never_raises_and_never_lifts_a_limit(memory: float, share: float) -> None:
    needs = need("gpu_mem_bytes", memory) | need("share_ratio", share)
    given_ = capped(SHARE, cap_of(SHARE, needs))
    assert 0 < given_.mem_bytes <= SHARE.mem_bytes
    assert 0 < given_.share_ppm <= SHARE.share_ppm
    assert given_.limit_ppm == SHARE.limit_ppm  # else nobody could be seen to need more
    assert given_.mem_bytes >= min(memory, SHARE.mem_bytes)


def test_its_pod_is_told_what_and_why() -> None:
    needs = need("gpu_mem_bytes", 5.0 * GIB) | need("share_ratio", 0.1)
    cap = cap_of(SHARE, needs)
    assert word_of("main", SHARE, needs, cap, done=True) == (
        "container main has 5GiB of 20GiB (because) and 10% of 25% (because)"
    )
    assert "would do with 5GiB" in word_of("main", SHARE, needs, cap, done=False)


@pytest.mark.parametrize(
    ("namespace", "said", "mode"),
    [
        ("a", "", Mode.OBSERVE),
        ("b", "", Mode.ENFORCE),
        ("c", "", Mode.RECOMMEND),
        ("a", "auto", Mode.ENFORCE),
        ("b", "off", Mode.OBSERVE),
        ("b", "perhaps", Mode.ENFORCE),
    ],
)
def test_the_pod_s_word_comes_before_its_namespace_s(namespace: str, said: str, mode: Mode) -> None:
    pod = Pod(namespace, "p", "u", "n", (), annotations={"harp.dev/estimate": said})
    assert Modes(Mode.OBSERVE, read_modes("b=enforce,c=recommend")).of(pod) is mode


@given(st.integers(2, 100), st.integers(1, 80 * GIB), st.integers(1, 1_000_000))
def test_so_many_slots_would_do_and_one_less_would_not(count: int, memory: int, ppm: int) -> None:
    slots = slots_of(1)
    ids = slots.ids(0)[:count]
    share = limits(slots, check(slots, ids))
    wanted = Limits(min(memory, share.mem_bytes), min(ppm, share.share_ppm))
    least = least_slots(slots, ids, wanted)

    def enough(slots_had: int) -> bool:
        had = limits(slots, check(slots, ids[:slots_had]))
        # A limit is in whole granules: the rest of one is nobody's.
        return had.mem_bytes + (2 << 20) > wanted.mem_bytes and had.share_ppm >= wanted.share_ppm

    assert 1 <= least <= count
    assert enough(least)
    assert least == 1 or not enough(least - 1) or share.mem_bytes - wanted.mem_bytes < 4 << 20


@pytest.mark.parametrize(
    ("kind", "name", "labels", "maker"),
    [
        ("Job", "train", {}, "ns/Job/train"),
        ("Job", "train-28412345", {}, "ns/CronJob/train"),
        ("Job", "train-2024", {}, "ns/Job/train-2024"),
        ("StatefulSet", "db", {}, "ns/StatefulSet/db"),
        ("ReplicaSet", "web-5d9f", {"pod-template-hash": "5d9f"}, "ns/Deployment/web"),
        ("ReplicaSet", "web-5d9f", {}, "ns/ReplicaSet/web-5d9f"),
    ],
)
def test_what_makes_such_pods_is_its_maker(
    kind: str, name: str, labels: dict[str, str], maker: str
) -> None:
    owners = [{"kind": "Node", "name": "n"}, {"kind": kind, "name": name, "controller": True}]
    meta = {"namespace": "ns", "name": "p", "uid": "u", "labels": labels, "ownerReferences": owners}
    assert pod_of({"metadata": meta}).maker == maker


def test_a_container_is_known_by_its_image_and_its_words() -> None:
    spec = {"containers": [{"name": "c", "image": "i:1", "command": ["a"], "args": ["b", "c"]}]}
    pod = pod_of({"metadata": {"namespace": "ns", "name": "p", "uid": "u"}, "spec": spec})
    assert (pod.maker, pod.containers[0].image) == ("", "i:1")
    assert pod.containers[0].command == ("a", "b", "c")
