# SPDX-License-Identifier: Apache-2.0
"""Whatever kubelet does, the plugin is registered again soon, and asks no more than it must."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

import pytest

from device_plugin.registration import (
    BACKOFF_MAX_S,
    Action,
    Event,
    Failed,
    Look,
    Register,
    Registered,
    Serve,
    Served,
    SocketFile,
    State,
    StreamBegan,
    StreamEnded,
    step,
)

PERIOD_S = 0.2


@dataclass
class World:
    """Kubelet's folder and the plugin's rim, with a clock that tests move."""

    now_s: float = 100.0
    state: State = field(default_factory=State)
    own: SocketFile | None = None
    kubelet: SocketFile | None = None
    refuses: bool = False  #: kubelet does not answer yet
    binds: bool = True  #: the folder can be written to
    knows: SocketFile | None = None  #: our socket, as the living kubelet knows it
    done: list[tuple[float, Action]] = field(default_factory=list)
    made: int = 0
    reuse_inodes: bool = False

    def file(self) -> SocketFile:
        self.made += 1
        return SocketFile(1, 7 if self.reuse_inodes else self.made, self.made)

    def restart(self, *, wipe: bool = True) -> None:
        """Another kubelet."""
        self.stop()
        if wipe:
            self.own = None
        self.kubelet = self.file()

    def stop(self) -> None:
        if self.knows is not None:
            self.knows = None
            self.take(StreamEnded())

    def take(self, event: Event) -> None:
        self.state, actions = step(self.state, event, self.now_s)
        assert len(actions) <= 1
        for action in actions:
            self.done.append((self.now_s, action))
            self.take(self.perform(action))

    def perform(self, action: Action) -> Event:
        match action:
            case Serve():
                if not self.binds:
                    return Failed(action)
                self.own = self.file()
                return Served(self.own)
            case Register(kubelet):
                assert self.state.own is not None, "registered before it served"
                assert kubelet == self.state.kubelet
                if self.refuses or self.kubelet is None or self.own != self.state.own:
                    return Failed(action)
                had, self.knows = self.knows, self.own
                if had is not None:
                    self.pending = True
                return Registered(kubelet)

    pending: bool = False  #: kubelet replaces a stream: one ends, then one begins

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / PERIOD_S)):
            self.now_s += PERIOD_S
            self.take(Look(self.own, self.kubelet))
            if self.pending:
                self.pending = False
                self.take(StreamEnded())
                self.take(StreamBegan())

    @property
    def good(self) -> bool:
        return self.state.registered and self.knows is not None and self.knows == self.own

    def count(self, kind: type) -> int:
        return sum(isinstance(action, kind) for _, action in self.done)


def started() -> World:
    world = World()
    world.restart()
    world.run(1)
    assert world.good
    assert [type(action) for _, action in world.done] == [Serve, Register]
    world.done.clear()
    return world


def test_it_serves_first_and_registers_once() -> None:
    started().run(60)


def test_it_is_ready_before_the_first_kubelet() -> None:
    world = World()
    world.run(5)
    assert world.own is not None
    assert world.count(Serve) == 1
    world.kubelet = world.file()
    world.run(0.4)
    assert world.good


@pytest.mark.parametrize("wipe", [True, False])
@pytest.mark.parametrize("reuse", [True, False])
def test_a_new_kubelet_is_told_within_two_seconds(*, wipe: bool, reuse: bool) -> None:
    world = started()
    world.reuse_inodes = reuse
    for _ in range(5):
        world.restart(wipe=wipe)
        world.refuses = True  # its socket is there before it answers
        world.run(0.6)
        world.refuses = False
        world.run(1.4)
        assert world.good
    assert world.count(Serve) == (5 if wipe else 0)


def test_another_kubelets_socket_alone_is_enough() -> None:
    """Before the end of the stream is noticed, and though our socket was left alone."""
    world = started()
    world.kubelet = world.file()
    world.knows = None
    world.run(0.4)
    assert world.good
    assert world.count(Serve) == 0


def test_a_wiped_socket_alone_is_enough() -> None:
    world = started()
    world.own = None
    world.knows = None
    world.run(0.4)
    assert world.good


def test_a_kubelet_that_went_away_is_waited_for_in_silence() -> None:
    world = started()
    world.stop()
    world.own = world.kubelet = None
    world.run(60)
    assert [type(action) for _, action in world.done] == [Serve]
    assert not world.state.registered
    world.kubelet = world.file()
    world.run(0.4)
    assert world.good


def test_refusals_are_met_with_ever_longer_pauses() -> None:
    world = started()
    world.refuses = True
    world.restart()
    world.run(60)
    tries = [at for at, action in world.done if isinstance(action, Register)]
    pauses = [round(b - a, 6) for a, b in itertools.pairwise(tries)]
    assert pauses[0] == pytest.approx(0.2)
    assert sorted(pauses) == pauses
    assert BACKOFF_MAX_S <= max(pauses) <= BACKOFF_MAX_S + PERIOD_S
    assert len(tries) < 20
    world.restart()  # another kubelet has refused nothing yet
    world.refuses = False
    world.run(0.6)
    assert world.good


def test_a_folder_that_cannot_be_written_is_tried_again() -> None:
    world = World(binds=False)
    world.restart()
    world.run(30)
    assert world.count(Register) == 0
    assert 5 <= world.count(Serve) < 20
    world.binds = True
    world.run(BACKOFF_MAX_S + 1)
    assert world.good


def test_a_stream_that_kubelet_drops_is_asked_for_again() -> None:
    world = started()
    world.run(60)
    world.knows = None
    world.take(StreamEnded())
    world.run(0.6)
    assert world.good


def test_registrations_do_not_bring_about_each_other() -> None:
    world = started()
    world.take(StreamEnded())  # and kubelet still knows us: the next one replaces its stream
    world.run(60)
    assert world.good
    assert world.count(Register) <= 2


def test_a_kubelet_that_drops_every_stream_is_not_stormed() -> None:
    world = started()
    for _ in range(300):
        if world.knows is not None:
            world.knows = None
            world.take(StreamEnded())
        world.run(PERIOD_S)
    assert world.count(Register) < 25


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_it_is_registered_again(seed: int) -> None:
    rng = random.Random(seed)
    world = World(reuse_inodes=bool(seed % 2))
    for _ in range(60):
        match rng.randrange(8):
            case 0 | 1:
                world.restart(wipe=rng.random() < 0.8)
            case 2:
                world.stop()
                world.kubelet = None
            case 3:
                world.own = None
                world.knows = None
            case 4:
                world.refuses = rng.random() < 0.5
            case 5:
                world.binds = rng.random() < 0.7
            case 6:
                world.take(StreamEnded())
            case _:
                if world.knows is not None and world.knows == world.own:
                    world.take(StreamBegan())
        world.run(rng.choice([0, 0.2, 0.4, 3]))
    world.refuses, world.binds = False, True
    world.restart()
    world.run(2)
    assert world.good, seed
    world.done.clear()
    world.run(60)
    assert world.good
    assert world.count(Register) <= 1
