# SPDX-License-Identifier: Apache-2.0
"""Slots are matched to their container or to nobody, never to another."""

from __future__ import annotations

import dataclasses
import random

import pytest

from device_plugin.identity import (
    Ambiguous,
    Container,
    Holding,
    Kind,
    Match,
    Owner,
    Pod,
    Unknown,
    find,
    find_init,
    of_others,
)

NODE = "n1"
IDS = frozenset({"a-0", "a-1"})
MAIN = (Container("main"),)


def pod(name: str, *containers: Container, **more: object) -> Pod:
    base = Pod("ns", name, f"uid-{name}", NODE, containers or MAIN)
    return dataclasses.replace(base, **more)  # type: ignore[arg-type]


def held(name: str, container: str = "main", ids: frozenset[str] = IDS) -> Holding:
    return Holding(Owner("ns", name, container), ids)


ASKS = Container("init", Kind.INIT, slots=2)


@pytest.mark.parametrize(
    ("holdings", "waiting", "name"),
    [
        ([], [pod("p", ASKS, *MAIN)], "p"),
        ([held("p", ids=frozenset({"a-0"}))], [pod("p", ASKS, *MAIN)], "p"),  # given on
        ([held("p", ids=frozenset({"b-0"}))], [pod("p", ASKS, *MAIN)], ""),  # another's slots
        ([held("q", ids=frozenset({"a-0"}))], [pod("p", ASKS), pod("q", ASKS, *MAIN)], "q"),
        ([], [pod("p", ASKS), pod("q", ASKS)], ""),  # two may be it
        ([], [pod("p", dataclasses.replace(ASKS, slots=3))], ""),
        ([], [pod("p", dataclasses.replace(ASKS, ended=True), *MAIN)], ""),
        ([], [pod("p", dataclasses.replace(ASKS, running=True), *MAIN)], ""),
        ([], [pod("p", Container("main", slots=2))], ""),  # would be listed
        ([], [pod("p", ASKS, node="n2")], ""),
    ],
)
def test_init_containers_are_in_no_list(
    holdings: list[Holding], waiting: list[Pod], name: str
) -> None:
    found = find_init(IDS, holdings, waiting, NODE)
    if name:
        assert isinstance(found, Match)
        assert found.owner == Owner("ns", name, "init")
        assert found.pod in waiting
    else:
        assert found == Unknown()


@pytest.mark.parametrize("state", ["ended", "running"])
def test_an_init_container_that_starts_again_is_no_other_pods(state: str) -> None:
    """The API server has not heard of it yet; `other` waits for an image that never comes."""
    again = pod("p", dataclasses.replace(ASKS, **{state: True}), *MAIN)
    other = pod("other", ASKS, *MAIN)
    assert find_init(IDS, [], [other, again], NODE) == Unknown()
    for uid in ("uid-p", ""):
        had = (Owner("ns", "p", "init"), uid)
        assert find_init(IDS, [], [other, again], NODE, had) == Match(had[0], again)
    had = (Owner("ns", "p", "init"), "uid-of-one-that-is-gone")
    assert find_init(IDS, [], [other, again], NODE, had) == Unknown()
    gone = dataclasses.replace(again, ended=True)
    found = find_init(IDS, [], [other, gone], NODE, (had[0], "uid-p"))
    assert found == Match(Owner("ns", "other", "init"), other)


def test_the_next_init_container_of_the_same_slots_is_named() -> None:
    second = dataclasses.replace(ASKS, name="second")
    mine = pod("p", dataclasses.replace(ASKS, ended=True), second, *MAIN)
    had = (Owner("ns", "p", "init"), "uid-p")
    found = find_init(IDS, [], [mine, pod("other", ASKS)], NODE, had)
    assert found == Match(Owner("ns", "p", "second"), mine)


def test_who_had_the_slots_comes_before_a_dead_pod_that_kubelet_lists_still() -> None:
    mine = pod("p", dataclasses.replace(ASKS, running=True), *MAIN)
    dead = pod("dead", dataclasses.replace(ASKS, ended=True), Container("main", running=True))
    listed = [held("dead", ids=frozenset({"a-0"}))]
    had = (Owner("ns", "p", "init"), "uid-p")
    assert find_init(IDS, listed, [dead, mine], NODE, had) == Match(had[0], mine)


def test_an_init_container_that_is_yet_to_run_comes_before_a_pod_that_is_gone() -> None:
    """Kubelet lists what its pod has of the slots; the API server knows the one before still."""
    mine = pod("p", ASKS, *MAIN, pending=True)
    before = pod("gone", dataclasses.replace(ASKS, running=True), *MAIN)
    listed = [held("p", ids=frozenset({"a-0"}))]
    had = (Owner("ns", "gone", "init"), "uid-gone")
    for known in ([before, mine], [mine, before]):
        found = find_init(IDS, listed, known, NODE, had)
        assert found == Match(Owner("ns", "p", "init"), mine)
    # and of a listed one that the API server does not know nobody else has them
    assert find_init(IDS, listed, [pod("other", ASKS, *MAIN, pending=True)], NODE) == Unknown()


def test_an_init_container_runs_again_beside_what_was_given_on() -> None:
    """Its pod was begun anew, sandbox and all: the API server says that it runs."""
    mine = pod("p", dataclasses.replace(ASKS, ended=True), Container("main", running=True))
    listed = [held("p", ids=frozenset({"a-0"}))]
    found = find_init(IDS, listed, [pod("other", ASKS), mine], NODE)
    assert found == Match(Owner("ns", "p", "init"), mine)


def test_slots_that_another_has_are_not_taken_by_who_is_listed_nowhere() -> None:
    """A pod that was deleted by force while its container was about to start."""
    other = held("b", ids=frozenset({"a-0"}))
    assert of_others(IDS, [other], [pod("b")], ()) == other.owner
    assert of_others(IDS, [held("b", ids=frozenset({"b-0"}))], [pod("b")], ()) is None
    assert of_others(IDS, [other], [pod("b", ended=True)], ()) is None
    # its own init container may have had them, and have been begun anew
    mine = dataclasses.replace(ASKS, ended=True)
    assert of_others(IDS, [other], [pod("b", mine, *MAIN)], ()) is None
    assert (
        of_others(IDS, [other], [pod("b", dataclasses.replace(mine, slots=1))], ()) == other.owner
    )
    # of what nobody knows: who was given them may run
    assert of_others(IDS, [other], [], ()) is None
    assert of_others(IDS, [other], [], [other.ids]) == other.owner


def test_an_init_container_of_the_same_slots_comes_before_the_listed_one() -> None:
    listed = [held("p")]
    assert _named(listed, [pod("p", ASKS, *MAIN)]) == "init"
    assert _named(listed, [pod("p", dataclasses.replace(ASKS, ended=True), *MAIN)]) == "main"


@pytest.mark.parametrize(
    ("init", "one", "two", "of_one", "of_two"),
    [
        ({}, {}, {}, "init", "two"),  # it has yet to run: the first of the others has its slots
        ({"ended": True}, {"running": True}, {}, "one", "two"),
        ({"ended": True}, {"running": True}, {"running": True}, "one", "two"),  # it crashed: late
        ({"running": True}, {}, {}, "one", "two"),
    ],
)
def test_siblings_of_an_init_container_of_their_size_are_told_apart(
    init: dict[str, bool], one: dict[str, bool], two: dict[str, bool], of_one: str, of_two: str
) -> None:
    """Whoever is named like a sibling that runs would end it."""
    others = frozenset({"b-0", "b-1"})
    containers = (
        dataclasses.replace(ASKS, **init),
        dataclasses.replace(Container("one", slots=2), **one),
        dataclasses.replace(Container("two", slots=2), **two),
    )
    holdings = [held("p", "one"), held("p", "two", others)]
    for ids, expected in ((IDS, of_one), (others, of_two)):
        found = find(ids, holdings, [pod("p", *containers)], NODE)
        assert isinstance(found, Match)
        assert found.owner.container == expected


def _named(holdings: list[Holding], pods: list[Pod]) -> str:
    found = find(IDS, holdings, pods, NODE)
    assert isinstance(found, Match)
    return found.owner.container


def test_nobody_is_named_whom_kubelet_does_not_list() -> None:
    others = [held("p", ids=frozenset({"a-0"})), held("q", ids=IDS | {"a-2"})]
    assert find(IDS, others, [pod("p"), pod("q")], NODE) == Unknown()


def test_the_only_holder_is_it_whatever_the_api_server_says() -> None:
    for pods in ([], [pod("q")], [pod("p")], [pod("p", ended=True)], [pod("p", node="n2")]):
        found = find(IDS, [held("p"), held("q", ids=frozenset({"b-0"}))], pods, NODE)
        assert isinstance(found, Match)
        assert found.owner == Owner("ns", "p", "main")
        assert found.pod == (pods[0] if pods and pods[0].name == "p" else None)


@pytest.mark.parametrize(
    ("description", "pods", "owner"),
    [
        ("a dead pod's ids", [pod("old", ended=True), pod("new")], "new"),
        ("another node's", [pod("old", node="n2"), pod("new", pending=True)], "new"),
        (
            "one runs, one is pending",
            [pod("old", Container("main", running=True), started_s=9), pod("new", pending=True)],
            "new",
        ),
        (
            "a pending one is before one that restarts",
            [
                pod("old", Container("main", ended=True), started_s=9),
                pod("new", pending=True, started_s=5),
            ],
            "new",
        ),
        (
            "one restarts, one runs",
            [
                pod("new", Container("main", ended=True), started_s=1),
                pod("old", Container("main", running=True), started_s=2),
            ],
            "new",
        ),
        (
            "both restart: who started last",
            [pod("old", started_s=5), pod("new", started_s=6)],
            "new",
        ),
        (
            "both pending: one has not even been seen by kubelet's report",
            [pod("old", pending=True, started_s=5), pod("new", pending=True)],
            "new",
        ),
        ("two alike", [pod("old", started_s=5), pod("new", started_s=5)], None),
        ("two pending ones", [pod("old", pending=True), pod("new", pending=True)], None),
        ("one that the API server does not know", [pod("old")], None),
        ("neither is known", [], None),
        ("both are dead", [pod("old", ended=True), pod("new", ended=True)], None),
    ],
)
def test_of_two_pods_with_the_same_ids(
    description: str, pods: list[Pod], owner: str | None
) -> None:
    for holdings in ([held("old"), held("new")], [held("new"), held("old")]):
        found = find(IDS, holdings, pods, NODE)
        if owner is None:
            both = (Owner("ns", "new", "main"), Owner("ns", "old", "main"))
            assert found == Ambiguous(both), description
        else:
            assert isinstance(found, Match), description
            assert found.owner.pod == owner, description
            assert found.pod in pods


INIT, SECOND = Container("init", Kind.INIT), Container("second", Kind.INIT)
SIDECAR = Container("side", Kind.SIDECAR)


def running(one: Container) -> Container:
    return dataclasses.replace(one, running=True)


def ended(one: Container) -> Container:
    return dataclasses.replace(one, ended=True)


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        ((INIT, SECOND, *MAIN), "init"),
        ((ended(INIT), SECOND, *MAIN), "second"),
        ((ended(INIT), ended(SECOND), *MAIN), "main"),
        ((ended(INIT), ended(SECOND), ended(MAIN[0])), "main"),  # it starts again
        ((running(INIT), SECOND, *MAIN), "second"),  # the API server is late
        ((ended(INIT), running(SIDECAR), *MAIN), "main"),
        ((ended(INIT), running(SIDECAR), running(MAIN[0])), "side"),  # late: one started again
    ],
)
def test_of_one_pod_the_container_that_is_to_start_is_named(
    containers: tuple[Container, ...], expected: str
) -> None:
    names = [c.name for c in containers]
    found = find(IDS, [held("p", name) for name in names], [pod("p", *containers)], NODE)
    assert isinstance(found, Match)
    assert found.owner == Owner("ns", "p", expected)


def test_a_static_pod_is_known_by_its_mirror() -> None:
    mirror = pod(f"static-{NODE}", annotations={"kubernetes.io/config.mirror": "x"})
    for pods in ([], [mirror]):
        found = find(IDS, [held(f"static-{NODE}")], pods, NODE)
        assert isinstance(found, Match)
        assert found.pod == (mirror if pods else None)


@pytest.mark.parametrize("seed", range(30))
def test_110_pods_at_once_are_told_apart(seed: int) -> None:
    """A kubelet that hands ids on from the dead, lists some of them still, an API server behind."""
    rng = random.Random(seed)
    free = [f"g{g}-{n}" for g in range(8) for n in range(100)]
    holdings: list[Holding] = []
    pods: list[Pod] = []
    dead: list[tuple[Holding, Pod]] = []
    unsure = 0
    for number in range(110):
        name = f"p{number}"
        if dead and rng.random() < 0.4:  # ids are used again, all of them
            gone, was = dead.pop(rng.randrange(len(dead)))
            ids = gone.ids
            if rng.random() < 0.5:
                holdings.remove(gone)
            else:
                late = rng.random() < 0.5
                pods[pods.index(was)] = dataclasses.replace(was, ended=not late)
        else:
            size = rng.randint(1, min(6, len(free)))
            ids = frozenset(free.pop(rng.randrange(len(free))) for _ in range(size))
        kind = rng.choice(["plain", "init", "static"])
        containers = (INIT, *MAIN) if kind == "init" else MAIN
        mine = [held(name, c.name, ids) for c in containers]
        holdings += mine
        here = pod(name, *containers, pending=True)
        if kind != "static":
            pods.append(here)
        shuffled = holdings[:]
        rng.shuffle(shuffled)
        found = find(ids, shuffled, pods, NODE)
        match found:
            case Match(owner, _):
                assert owner == Owner("ns", name, containers[0].name)
            case Ambiguous(candidates):
                assert Owner("ns", name, containers[0].name) in candidates
                assert kind == "static"  # the API server does not know it, and a dead one is listed
                unsure += 1
            case Unknown():
                pytest.fail(f"{name} is listed")
        # it runs; some die
        if kind != "static":
            done = tuple(ended(c) if c.kind is Kind.INIT else running(c) for c in containers)
            now = dataclasses.replace(here, containers=done, pending=False, started_s=number)
            pods[pods.index(here)] = now
            if kind == "plain" and rng.random() < 0.5:
                dead.append((mine[0], now))
    assert unsure < 30
