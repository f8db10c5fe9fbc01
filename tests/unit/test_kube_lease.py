# SPDX-License-Identifier: Apache-2.0
"""Leader election: never two, and one before long."""

from __future__ import annotations

import contextlib
import random

import pytest
from fake_kube import FakeKube

from harp.errors import DaemonUnreachable
from harp.kube.lease import Elector, Tempo

LEASE = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/x"


class _Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _elector(kube: FakeKube, clock: _Clock, me: str, **more: object) -> Elector:
    return Elector(kube, "ns", "x", me, clock_s=clock, **more)  # type: ignore[arg-type]


def test_the_first_leads_and_the_second_when_it_has_expired() -> None:
    kube, clock = FakeKube(), _Clock()
    a, b = _elector(kube, clock, "a"), _elector(kube, clock, "b")
    a.step()
    b.step()
    assert (a.leads(), b.leads(), b.leader) == (True, False, "a")
    clock.now_s += 9.9
    assert a.leads()
    clock.now_s += 0.1
    assert not a.leads()  # nobody told it
    clock.now_s += 4.9
    b.step()
    assert not b.leads()
    clock.now_s += 0.1
    b.step()
    assert (b.leads(), b.leader) == (True, "b")
    assert kube.objects[LEASE]["spec"]["leaseTransitions"] == 1
    a.step()
    assert (a.leads(), a.leader) == (False, "b")


def test_what_renews_goes_on() -> None:
    kube, clock = FakeKube(), _Clock()
    a, b = _elector(kube, clock, "a"), _elector(kube, clock, "b")
    for _ in range(30):
        a.step()
        b.step()
        assert (a.leads(), b.leads()) == (True, False)
        clock.now_s += 2.0
    spec = kube.objects[LEASE]["spec"]
    assert (spec["leaseTransitions"], spec["leaseDurationSeconds"]) == (0, 15)


def test_a_lease_that_was_made_for_it_is_taken_and_stays_whose_it_was() -> None:
    """The chart makes it, empty, so that it goes with the release; its marks are not ours."""
    kube, clock = FakeKube(), _Clock()
    marks = {"labels": {"a": "b"}, "annotations": {"meta.helm.sh/release-name": "harp"}}
    made = {"metadata": {"name": "x", "namespace": "ns", **marks}}
    assert kube.ask("POST", LEASE.removesuffix("/x"), made).good
    a = _elector(kube, clock, "a")
    for _ in range(3):
        a.step()
        assert a.leads()
        clock.now_s += 2.0
    a.stop()
    a.run()
    lease = kube.objects[LEASE]
    assert not lease["spec"]["holderIdentity"]
    assert {key: lease["metadata"].get(key) for key in marks} == marks


def test_a_lease_that_was_given_up_is_taken_at_once() -> None:
    kube, clock = FakeKube(), _Clock()
    a = _elector(kube, clock, "a", wait=lambda _: True)
    b = _elector(kube, clock, "b")
    a.run()  # takes it, is told to stop, gives it up
    assert not a.leads()
    b.step()
    assert b.leads()


def test_a_lease_is_kept_where_something_still_runs() -> None:
    kube, clock = FakeKube(), _Clock()
    a = _elector(kube, clock, "a", wait=lambda _: True)
    a.stop(release=False)
    a.run()
    b = _elector(kube, clock, "b")
    b.step()
    assert not b.leads()
    assert kube.objects[LEASE]["spec"]["holderIdentity"] == "a"


def test_who_takes_over_leads_only_once_it_has_read_what_was_bound() -> None:
    kube, clock, read = FakeKube(), _Clock(), []

    def acquired() -> None:
        assert not a.leads()
        read.append(1)
        if len(read) == 1:
            raise DaemonUnreachable("no list")

    a = _elector(kube, clock, "a", acquired=acquired)
    with pytest.raises(DaemonUnreachable):
        a.step()
    assert not a.leads()
    assert kube.objects[LEASE]["spec"]["holderIdentity"] is None  # somebody else may try
    clock.now_s += 5.9
    a.step()
    assert not a.leads()
    assert kube.objects[LEASE]["spec"]["holderIdentity"] is None
    clock.now_s += 0.1
    a.step()
    assert a.leads()
    a.step()
    assert len(read) == 2


def test_of_two_the_one_that_can_read_leads() -> None:
    kube, clock = FakeKube(), _Clock()

    def no_list() -> None:
        raise DaemonUnreachable("no list")

    a, b = _elector(kube, clock, "a", acquired=no_list), _elector(kube, clock, "b")
    for _ in range(10):
        with contextlib.suppress(DaemonUnreachable):
            a.step()
        b.step()
        clock.now_s += 2.0
        if b.leads():
            return
    raise AssertionError("nobody leads")


def test_reading_may_take_longer_than_the_lease_lasts() -> None:
    """Else two candidates take it from each other for ever, and neither leads."""
    kube, clock = FakeKube(), _Clock()

    def read() -> None:
        for _ in range(20):
            clock.now_s += 1.5
            a.keep()
            b.step()
            assert not b.leads()

    a, b = _elector(kube, clock, "a", acquired=read), _elector(kube, clock, "b")
    a.step()
    assert a.leads()


def test_who_has_lost_the_lease_while_it_read_does_not_lead() -> None:
    kube, clock = FakeKube(), _Clock()

    def read() -> None:
        b.step()
        clock.now_s += 15.0
        b.step()
        a.keep()

    a, b = _elector(kube, clock, "a", acquired=read), _elector(kube, clock, "b")
    with pytest.raises(DaemonUnreachable, match="meanwhile"):
        a.step()
    assert (a.leads(), b.leads()) == (False, True)
    assert kube.objects[LEASE]["spec"]["holderIdentity"] == "b"  # not given back for it


def test_who_may_not_stand_does_not() -> None:
    kube, clock, may = FakeKube(), _Clock(), [False]
    a, b = _elector(kube, clock, "a", may=lambda: may[0]), _elector(kube, clock, "b")
    a.step()
    assert LEASE not in kube.objects
    may[0] = True
    a.step()
    assert a.leads()
    may[0] = False
    assert not a.leads()  # at once
    for _ in range(8):
        assert not b.leads()  # what a has begun has its time
        a.step()
        b.step()
        clock.now_s += 2.0
    b.step()
    assert b.leads()
    may[0] = True
    a.step()
    assert not a.leads()


def test_who_may_again_before_its_lease_has_lapsed_goes_on() -> None:
    kube, clock, may, read = FakeKube(), _Clock(), [True], list[int]()
    a = _elector(kube, clock, "a", may=lambda: may[0], acquired=lambda: read.append(1))
    b = _elector(kube, clock, "b")
    for now in (True, False, True, True):
        may[0] = now
        a.step()
        b.step()
        assert (a.leads(), b.leads()) == (now, False)
        clock.now_s += 4.0
    assert len(read) == 1  # nobody else led


def test_who_leads_again_reads_again() -> None:
    kube, clock = FakeKube(), _Clock()
    read: list[int] = []
    a = _elector(kube, clock, "a", acquired=lambda: read.append(1))
    b = _elector(kube, clock, "b", wait=lambda _: True)
    a.step()
    b.step()
    clock.now_s += 15.0
    b.run()  # takes it, and gives it up; what it bound a may not have seen
    a.step()
    assert (a.leads(), len(read)) == (True, 2)


def test_no_right_to_leases_is_said() -> None:
    kube = FakeKube()
    kube.hook = lambda *_: 403
    with pytest.raises(DaemonUnreachable, match="403") as caught:
        _elector(kube, _Clock(), "a").step()
    assert "get, create and update leases" in caught.value.hint


class _Race:
    """Three candidates: answers are lost, calls take long, and others act while one waits."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clock = _Clock()
        self.kube = FakeKube()
        self.kube.hook = self.kube.after = self.meanwhile
        self.idle = [_elector(self.kube, self.clock, me) for me in "abc"]
        self.electors = list(self.idle)

    def turn(self) -> None:
        elector = self.rng.choice(self.idle)
        self.idle.remove(elector)
        with contextlib.suppress(DaemonUnreachable):
            elector.step()
        self.idle.append(elector)
        self.leaders()

    def meanwhile(self, *_: object) -> None:
        self.clock.now_s += self.rng.choice([0.0, 0.0, 0.1, 0.1, 3.0, 12.0])
        self.leaders()
        if self.rng.random() < 0.1:
            raise DaemonUnreachable("lost")
        if self.idle and self.rng.random() < 0.4:
            self.turn()

    def leaders(self) -> int:
        count = sum(one.leads() for one in self.electors)
        assert count <= 1
        return count


@pytest.mark.parametrize("first", [0, 30])
def test_never_two(first: int) -> None:
    led = 0
    for seed in range(first, first + 30):
        race = _Race(seed)
        for _ in range(60):
            race.turn()
            race.clock.now_s += race.rng.choice([0.0, 1.0, 2.0, 9.0])
            led += race.leaders()
    assert led > 400  # else this would be no test


def test_tempo() -> None:
    tempo = Tempo()
    assert tempo.lease_s > tempo.renew_s > tempo.retry_s
