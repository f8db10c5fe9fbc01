# SPDX-License-Identifier: Apache-2.0
"""What is sure on one node: against every way in which unknown shares can lie, and the plugin."""

from __future__ import annotations

import itertools

import pytest
from fake_kube import container, node, pod
from hypothesis import given
from hypothesis import strategies as st

from device_plugin.allocator import Chooser, prefer
from device_plugin.slots import Gpu, Slots
from harp.extender.objects import Claim, NodeInfo, PodInfo
from harp.extender.room import Room, best, fit, largest, misfit, room_of, sure

SMALL = 5  # slots of a GPU, where all cases are tried


@st.composite
def rooms(draw: st.DrawFn) -> Room:
    """A node and shares adrift that do lie somewhere."""
    gpus = draw(st.integers(1, 4))
    lies = draw(st.lists(st.tuples(st.integers(0, gpus - 1), st.integers(1, SMALL)), max_size=4))
    taken = [0] * gpus
    adrift = []
    for gpu, slots in lies:
        if taken[gpu] + slots <= SMALL:
            taken[gpu] += slots
            adrift.append(slots)
    free = tuple(draw(st.integers(one, SMALL)) for one in taken)
    return Room(SMALL, free, tuple(adrift), draw(st.integers(0, gpus)))


def _cases(room: Room) -> list[list[int]]:
    """What may really be free, over all places of shares adrift and of ill GPUs."""
    found = []
    for lies in itertools.product(range(len(room.free)), repeat=len(room.adrift)):
        free = list(room.free)
        for gpu, slots in zip(lies, room.adrift, strict=True):
            free[gpu] -= slots
        if min(free) < 0:
            continue
        found += [
            [0 if gpu in ill else have for gpu, have in enumerate(free)]
            for ill in itertools.combinations(range(len(free)), room.ill)
        ]
    return found


@given(rooms(), st.integers(1, SMALL))
def test_what_is_sure_is_there_in_every_case(room: Room, slots: int) -> None:
    there = min(sum(have >= slots for have in free) for free in _cases(room))
    assert sure(room, slots) <= there
    if not room.adrift:
        assert sure(room, slots) == there
    assert largest(room) <= min(max(free) for free in _cases(room))


@pytest.mark.parametrize(
    ("free", "adrift", "slots", "there"),
    [
        ((100, 100, 100), (90,), 90, 2),  # one share lies on one GPU
        ((100, 100), (10, 10), 80, 2),  # both together leave 80 of it
        ((100, 100), (10, 20), 80, 1),
        ((100, 100, 30), (30, 30), 70, 1),
        ((100, 50), (60,), 50, 1),
    ],
)
def test_no_more_is_held_back_than_shares_can_spoil(
    free: tuple[int, ...], adrift: tuple[int, ...], slots: int, there: int
) -> None:
    assert sure(Room(100, free, adrift), slots) == there


@given(rooms(), st.lists(st.integers(1, SMALL), min_size=1, max_size=3))
def test_containers_that_fit_are_placed_in_every_case(room: Room, asks: list[int]) -> None:
    claims = [Claim(str(at), slots) for at, slots in enumerate(asks)]
    if isinstance(fit(room, claims), str):
        return
    for free in _cases(room):
        for slots in asks:  # as the plugin does, one after the other
            gpus = best(free, 1, slots)
            assert gpus, (room, free, asks)
            free[gpus[0]] -= slots


@given(st.lists(st.integers(0, 100), min_size=1, max_size=4), st.integers(1, 100))
def test_the_plugin_chooses_the_gpu_that_is_foreseen(free: list[int], ask: int) -> None:
    slots = Slots(
        [Gpu(f"GPU-{at:08x}-0000-0000-0000-000000000000", at, 1 << 34) for at in range(len(free))]
    )
    available = [name for gpu, have in enumerate(free) for name in slots.ids(gpu)[:have]]
    names = prefer(slots, available, (), ask, Chooser())
    foreseen = fit(Room(100, tuple(free)), [Claim("main", ask)])
    if isinstance(foreseen, str):
        assert max(free) < ask
    else:
        assert {slots.all[name].gpu for name in names} == set(foreseen.gpus)


def test_whole_gpus() -> None:
    room = Room(100, (100, 99, 100, 100))
    found = fit(room, [Claim("main", 200), Claim("side", 50)])
    assert not isinstance(found, str)
    assert found.gpus == (0, 2, 1)  # the first two whole ones, then the least free
    assert fit(room, [Claim("main", 400)]) == "3 whole GPUs are free, need 4"


def test_the_reason_is_the_one_that_readme_promises() -> None:
    assert (
        fit(Room(100, (40, 40)), [Claim("main", 60)])
        == "largest free share on one GPU is 40, need 60"
    )
    assert fit(Room(100, (40, 100), (), 1), [Claim("main", 60)]) == (
        "largest free share on one GPU is 40, need 60 (1 GPUs are not healthy)"
    )


@pytest.mark.parametrize(
    ("share", "why"),
    [
        (150, "150 slots are more than one GPU and not whole GPUs: a multiple of 100"),
        (300, "the node has 2 GPUs, need 3"),
        (200, ""),
        (100, ""),
    ],
)
def test_pods_that_never_fit(share: int, why: str) -> None:
    known = NodeInfo.of(node("n"))
    assert misfit(PodInfo.of(pod("p", share)).claims, known) == why


def _room(info: NodeInfo, *pods: dict[str, object]) -> Room:
    return room_of(info, [PodInfo.of(one) for one in pods])


def test_annotated_pods_are_where_they_say_and_others_anywhere() -> None:
    info = NodeInfo.of(node("n"))
    assert _room(info, pod("a", 30, gpu="1"), pod("b", 50, 20, gpu="0,1")).free == (50, 50)
    assert _room(info, pod("a", 30)).adrift == (30,)
    assert _room(info, pod("a", 200, gpu="0,1")).free == (0, 0)


@pytest.mark.parametrize("gpu", ["2", "-1", "01", "0,1", "GPU-x", "0,", ",", " ", "0;1"])
def test_a_place_that_cannot_be_is_no_place(gpu: str) -> None:
    assert _room(NodeInfo.of(node("n")), pod("a", 30, gpu=gpu)).adrift == (30,)


def test_a_gpu_that_would_be_over_full_is_not_believed() -> None:
    room = _room(NodeInfo.of(node("n")), pod("a", 60, gpu="0"), pod("b", 60, gpu="0"))
    assert (room.free, room.adrift) == ((40, 100), (60,))


def test_uuids_and_the_ill_one_by_name() -> None:
    said = '[{"uuid": "GPU-a"}, {"uuid": "GPU-b", "healthy": false}]'
    info = NodeInfo.of(node("n", ill=1, annotations={"harp.dev/gpus": said}))
    assert info.name_of(1) == "GPU-b"
    room = _room(info, pod("a", 30, gpu="GPU-a"), pod("b", 20, gpu="0"))
    assert (room.free, room.ill, room.known) == ((50, 0), 0, True)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "x",
        "[]",
        "{}",
        "7",
        '[{"uuid": "GPU-a"}]',
        '[{"uuid": "a"}, {"uuid": "a"}]',
        '["a", "b"]',
    ],
)
def test_gpus_of_a_node_that_cannot_be_are_not_believed(said: str) -> None:
    info = NodeInfo.of(node("n", annotations={"harp.dev/gpus": said}))
    assert (info.uuids, info.known_ill, info.name_of(1)) == ((), frozenset(), "1")


def test_an_annotation_that_any_pod_may_have_moves_nothing() -> None:
    """harp.dev/gpu-used once counted more than the extender's own word."""
    body = pod("a", 30, gpu="0")
    body["metadata"]["annotations"]["harp.dev/gpu-used"] = "1"
    assert _room(NodeInfo.of(node("n")), body).free == (70, 100)


def test_init_containers_give_their_slots_on() -> None:
    def claims(*shares: int, init: int, stays: bool = False) -> list[int]:
        more = {"restartPolicy": "Always"} if stays else {}
        body = pod("p", *shares, init=(container("i", init, **more),))
        return [claim.slots for claim in PodInfo.of(body).claims]

    assert claims(30, init=20) == [30]
    assert claims(30, init=60) == [60]
    assert claims(30, 40, init=20) == [30, 40]
    assert claims(0, init=20) == [20]
    assert claims(30, init=20, stays=True) == [20, 30]
