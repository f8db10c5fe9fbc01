# SPDX-License-Identifier: Apache-2.0
"""Which GPU the extender meant for whoever kubelet asks for."""

from __future__ import annotations

from plugin_cases import slots_of

from device_plugin.book import Grant
from device_plugin.hint import hinted
from device_plugin.hint import served as having
from device_plugin.identity import Container, Owner, Pod
from harp.model import Limits

SLOTS = slots_of(3)
UUIDS = [gpu.uuid for gpu in SLOTS.gpus]
NODE = "n1"


def pod(name: str, said: str | None, *asks: int, node: str = NODE, **more: object) -> Pod:
    told = {} if said is None else {"harp.dev/gpu": said}
    containers = tuple(Container(f"c{n}", slots=ask) for n, ask in enumerate(asks))
    state = {"pending": True, **more}
    return Pod("ns", name, name, node, containers, annotations=told, **state)  # type: ignore[arg-type]


def hint(size: int, *pods: Pod, served: tuple[Owner, ...] = ()) -> tuple[int, ...]:
    return hinted(SLOTS, size, pods, served, NODE)


def test_the_only_pod_that_asks_for_so_much_is_meant() -> None:
    mine = pod("a", UUIDS[2], 30)
    assert hint(30, mine) == (2,)
    assert hint(30, mine, pod("b", UUIDS[0], 40)) == (2,)
    assert hint(20, mine) == ()
    assert hint(30) == ()


def test_a_gpu_is_named_by_its_place_too() -> None:
    assert hint(30, pod("a", "1", 30)) == (1,)
    assert hint(30, pod("a", " 1 ", 30)) == (1,)


def test_two_that_were_promised_different_gpus_leave_it_open() -> None:
    assert hint(30, pod("a", UUIDS[2], 30), pod("b", UUIDS[0], 30)) == ()
    assert hint(30, pod("a", UUIDS[2], 30), pod("b", UUIDS[2], 30)) == (2,)
    assert hint(30, pod("a", UUIDS[2], 30), pod("b", None, 30)) == ()  # one nothing is said of


def test_who_has_its_slots_or_is_not_about_to_get_some_is_not_meant() -> None:
    mine = pod("a", UUIDS[2], 30)
    assert hint(30, mine, pod("b", UUIDS[0], 30, node="other")) == (2,)
    assert hint(30, mine, pod("b", UUIDS[0], 30, pending=False)) == (2,)
    assert hint(30, mine, pod("b", UUIDS[0], 30, started_s=1.0)) == (2,)
    served = (Owner("ns", "b", "c0"),)
    assert hint(30, mine, pod("b", UUIDS[0], 30), served=served) == (2,)


def test_containers_have_theirs_in_order() -> None:
    two = pod("a", f"{UUIDS[1]},{UUIDS[0]}", 30, 0, 40)
    assert hint(30, two) == (1,)
    assert hint(40, two) == (0,)
    alike = pod("a", f"{UUIDS[1]},{UUIDS[0]}", 30, 30)
    assert hint(30, alike) == ()
    assert hint(30, alike, served=(Owner("ns", "a", "c0"),)) == (0,)
    whole = pod("a", f"{UUIDS[2]},{UUIDS[0]},{UUIDS[1]}", 200, 50)
    assert hint(200, whole) == (0, 2)
    assert hint(50, whole) == (1,)


def test_what_cannot_be_is_not_said() -> None:
    for said in ("", "GPU-none", "7", f"{UUIDS[0]}x", "-1"):
        assert hint(30, pod("a", said, 30)) == (), said
    assert hint(200, pod("a", UUIDS[0], 200)) == ()
    assert hint(200, pod("a", f"{UUIDS[0]},{UUIDS[0]}", 200)) == ()


def test_a_pod_that_came_again_under_its_name_has_nothing_yet() -> None:
    owner = Owner("ns", "a", "c0")

    def have(uid: str, *waiting: Pod) -> set[Owner]:
        grant = Grant("g", frozenset(SLOTS.ids(0)[:30]), (), Limits(), owner, uid)
        return having([grant], waiting)

    again = pod("a", UUIDS[2], 30)
    assert have("a", again) == {owner}
    assert have("", again) == {owner}  # begun without the API server
    assert have("the-one-before", again) == set()
    assert have("the-one-before") == {owner}
