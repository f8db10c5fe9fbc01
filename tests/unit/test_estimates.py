# SPDX-License-Identifier: Apache-2.0
"""What harpd answers of jobs and runs, and to whom."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harp.api.jobs import need_message, need_of, run_message, run_of
from harp.api.v1 import control_pb2 as pb
from harp.daemon.advice import Advice, Ended
from harp.daemon.book import Book
from harp.daemon.estimates import Estimates
from harp.errors import ConfigError, NoDevice, NotOwner, UnknownTenant
from harp.estimator.advise import Adviser
from harp.estimator.job import TARGETS, Job, Need, Outcome, Run
from harp.estimator.signature import job_of
from harp.model import Device, DeviceKind, Limits, Policy, Tenant

MIB, GIB = 1 << 20, 1 << 30
MINE, THEIRS = os.geteuid() + 1000, os.geteuid() + 1001  # harpd is ours
COMMAND = ["python", "train.py", "--batch", "64"]
GPU = Device(0, "GPU-1", "soft", DeviceKind.SOFTWARE, 16 * GIB, 0, "default", "1")
OTHER = replace(GPU, index=1, uuid="GPU-2", name="other", memory_bytes=40 * GIB)
TENANT = Tenant(
    tenant_id=7,
    name="living",
    uid=MINE,
    root_pid=1,
    root_start=1,
    grant_dir="",
    device_uuids=("GPU-1",),
    limits=Limits(),
    policy=Policy.WARN,
    created_s=0,
)


def job(uid: int = MINE) -> Job:
    return job_of(COMMAND, user=f"u{uid}", gpu="soft", device_mem_bytes=16 * GIB)


class FakeHistory:
    """Runs in a list."""

    def __init__(self) -> None:
        self.kept: list[Run] = []
        self.kernels: tuple[tuple[str, int, float], ...] = ()
        self.threads: set[int] = set()  #: that waited for what it knows of kernels

    def add(self, run: Run) -> Run:
        self.kept.append(replace(run, number=len(self.kept) + 1))
        return self.kept[-1]

    async def add_unknown(self, runs: Iterable[Run], learn: Callable[[Run], None]) -> None:
        for run in runs:
            if not any(replace(one, number=0) == replace(run, number=0) for one in self.kept):
                learn(self.add(run))

    def runs(self, since_number: int = 0) -> Iterator[Run]:
        return (run for run in self.kept if run.number > since_number)

    def kernels_of(self, job: Job) -> tuple[tuple[str, int, float], ...]:
        self.threads.add(threading.get_ident())
        return self.kernels if job.user == f"u{MINE}" else ()

    def latest(self, limit: int, user: str = "") -> list[Run]:
        return [r for r in self.kept[::-1] if user in ("", r.job.user)][:limit]


class World:
    """A daemon with one living tenant, whose job is known."""

    def __init__(self) -> None:
        self.history = FakeHistory()
        self.advice = Advice(Adviser())
        asyncio.run(self.advice.fill(self.history.runs))
        self.jobs: dict[int, Job] = {7: job()}
        book = SimpleNamespace(tenants={7: TENANT}, devices={"GPU-1": GPU, "GPU-2": OTHER})
        self.estimates = Estimates(
            self.advice,
            cast("Book", book),
            self.history,
            digest_of=lambda uid: f"u{uid}",
            job_of_tenant=lambda tenant: self.jobs.get(tenant.tenant_id),
        )

    def ran(self, uid: int = MINE, mib: int = 500, outcome: Outcome = Outcome.DONE) -> Run:
        now_s = time.time()
        used = {"gpu_mem_bytes": float(mib * MIB), "duration_s": 5.0}
        run = self.history.add(
            Run(job(uid), started_s=now_s - 5, ended_s=now_s, outcome=outcome, used=used)
        )
        self.advice.learn(run)
        return run

    def ask(self, uid: int = MINE, **request: Any) -> pb.EstimateReply:
        return asyncio.run(self.estimates.estimate(pb.EstimateRequest(**request), uid))

    def add(self, request: pb.AddRunsRequest, uid: int) -> pb.AddRunsReply:
        return asyncio.run(self.estimates.add(request, uid))


@pytest.fixture
def world() -> World:
    return World()


def test_a_command_is_known_after_three_runs_of_it(world: World) -> None:
    for known in (False, False, False, True):
        need = world.ask(command=COMMAND).needs[0]
        assert need.known is known
        assert need.HasField("typical") is known
        world.ran()
    assert 500 * MIB <= need.bound < 1024 * MIB
    reply = world.ask(command=["/usr/bin/python3", "/elsewhere/train.py", "--batch", "64"])
    assert [one.target for one in reply.needs] == [*TARGETS]
    assert (reply.needs[0].level, reply.runs, reply.state) == ("signature", 4, "")
    assert not reply.explained
    assert world.ask(command=COMMAND, explain=True).explained


def test_the_device_and_the_request_bound_it(world: World) -> None:
    assert world.ask(command=COMMAND).job.device_mem_bytes == 16 * GIB
    found = world.ask(command=COMMAND, gpu="1", mem_bytes=GIB, share_ppm=300_000).job
    assert (found.gpu, found.device_mem_bytes) == ("other", 40 * GIB)
    assert (found.asked_mem_bytes, found.asked_share_ratio) == (GIB, 0.3)
    with pytest.raises(NoDevice):
        world.ask(command=COMMAND, gpu="9")


def test_users_ask_as_themselves_and_root_as_any(world: World) -> None:
    assert world.ask(command=COMMAND).job.user == f"u{MINE}"
    assert world.ask(command=COMMAND, for_uid=MINE).job.user == f"u{MINE}"
    with pytest.raises(NotOwner, match=f"uid {MINE} asks as uid {THEIRS}"):
        world.ask(command=COMMAND, for_uid=THEIRS)
    with pytest.raises(NotOwner):
        world.ask(command=COMMAND, for_uid=0)
    assert world.ask(0, command=COMMAND, for_uid=THEIRS).job.user == f"u{THEIRS}"
    assert world.ask(0, command=COMMAND).job.user == "u0"


def test_a_pods_job_is_its_makers_and_no_users(world: World) -> None:
    assert world.ask(0, command=COMMAND, owner="ns/Job/a").job.user == ""
    assert world.ask(0, command=COMMAND, owner="ns/Job/a", for_uid=MINE).job.user == f"u{MINE}"


@pytest.mark.parametrize(
    "request_", [{}, {"mem_bytes": 5}, {"command": ["a"], "share_ppm": 1_000_001}]
)
def test_what_is_no_job_is_refused(world: World, request_: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        world.ask(**request_)


def test_what_pods_need_is_told_to_root_and_harpds_user(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        now_s = time.time()
        of = replace(job(MINE), user="", owner="ns/Job/a")
        used = {"gpu_mem_bytes": 500.0 * MIB, "duration_s": 5.0}
        world.advice.learn(
            world.history.add(Run(of, started_s=now_s - 5, ended_s=now_s, used=used))
        )
    named: list[dict[str, Any]] = [
        {"owner": "ns/Job/a"},
        {"labels": {"owner": "ns/Job/a"}},
        {"labels": {"namespace": "ns", "pod": "a-0", "container": "c"}, "command": COMMAND},
    ]
    monkeypatch.setattr("os.geteuid", lambda: THEIRS)
    for request in named:
        for explain in (False, True):
            with pytest.raises(NotOwner, match=f"uid {MINE} asks what pods of ns/"):
                world.ask(MINE, **request, explain=explain)
    for uid in (0, THEIRS):
        assert world.ask(uid, owner="ns/Job/a").needs[0].level == "owner"
    # What they share is told.
    assert world.ask(MINE, image="another", command=COMMAND).needs[0].level != "owner"


def test_a_living_tenant_is_its_owners(world: World) -> None:
    assert world.ask(tenant="living").job.program == job().program
    assert world.ask(0, tenant="living").job.user == f"u{MINE}"
    with pytest.raises(NotOwner):
        world.ask(THEIRS, tenant="living")
    world.jobs.clear()
    with pytest.raises(ConfigError, match="older than this harpd"):
        world.ask(tenant="living")


def test_an_ended_tenant_says_how_it_ended(world: World) -> None:
    with pytest.raises(UnknownTenant, match="no tenant 'gone'"):
        world.ask(tenant="gone")
    world.advice.remember("gone", Ended(MINE, world.ran(outcome=Outcome.OOM)))
    reply = world.ask(tenant="gone")
    assert reply.ended.outcome == "oom"
    assert reply.job.program == job().program
    with pytest.raises(NotOwner):
        world.ask(THEIRS, tenant="gone")
    assert not world.ask(tenant="living").HasField("ended")


def test_runs_are_their_users_and_all_of_them_root_s(world: World) -> None:
    for number in range(7):
        world.ran(MINE if number % 2 else THEIRS)

    def pages(uid: int, limit: int) -> list[int]:
        found: list[int] = []
        request = pb.GetRunsRequest(limit=limit)
        while True:
            reply = world.estimates.page(request, uid)
            assert len(reply.runs) <= limit
            found += [one.number for one in reply.runs]
            if not reply.more:
                return found
            assert reply.next > request.after
            request.after = reply.next

    for limit in (1, 2, 7, 100):
        assert pages(0, limit) == pages(os.geteuid(), limit) == [1, 2, 3, 4, 5, 6, 7]
    assert pages(MINE + 5, 2) == []
    assert pages(MINE, 2) == [2, 4, 6]
    newest = world.estimates.page(pb.GetRunsRequest(newest=True, limit=2), THEIRS)
    assert [one.number for one in newest.runs] == [7, 5]


def test_runs_are_added_by_root_and_learned_all_or_none(world: World) -> None:
    good = run_message(replace(world.ran(), number=99))
    bad = pb.Run(job=good.job, outcome="odd")
    worse = pb.Run(job=good.job, outcome="done", used={"gpu_mem_bytes": float("nan")})
    with pytest.raises(NotOwner, match=f"uid {MINE}"):
        world.add(pb.AddRunsRequest(runs=[good]), MINE)
    for wrong in (bad, worse):
        with pytest.raises(ConfigError):
            world.add(pb.AddRunsRequest(runs=[good, wrong]), 0)
    assert len(world.history.kept) == 1
    others = [run_message(replace(run_of(good), ended_s=run_of(good).ended_s + n)) for n in (1, 2)]
    assert world.add(pb.AddRunsRequest(runs=others), 0).added == 2
    assert [run.number for run in world.history.kept] == [1, 2, 3]
    assert world.ask(command=COMMAND).needs[0].known


def test_runs_that_are_there_are_neither_added_nor_learned_again(world: World) -> None:
    there = run_message(replace(world.ran(), number=99))
    other = run_message(replace(run_of(there), ended_s=run_of(there).ended_s + 1))
    for added in (1, 0):
        told = pb.AddRunsRequest(runs=[there, other, there, other])
        assert world.add(told, 0).added == added
        assert [run.number for run in world.history.kept] == [1, 2]
        assert world.ask(command=COMMAND).runs == 2


def test_messages_come_back_as_they_went() -> None:
    full = Job(
        "p", "s", (("b", 64.0), ("a", 0.5)), "u", "i", "f", "o", "g", 1, 0.5, 3, (("l", "m"),)
    )
    run = Run(
        full, 4, 1.5, 2.5, Outcome.KILLED, -9, {"a": 1.0}, {"a.p50": 0.5}, 5, 0.25, 6, elastic=True
    )
    for one in (run, Run(Job()), replace(run, exit_status=0)):
        assert run_of(run_message(one)) == one
    for need in (
        Need("t", 1.0, 2.0, 0.9, known=True, level="l", runs=3, reason="r"),
        Need("t", None, None, 0.9, known=False, level="l", runs=0, reason="r"),
        Need("t", 0.0, 0.0, 0.9, known=True, level="l", runs=3, reason="r"),
    ):
        assert need_of(need_message(need)) == need


def test_its_last_run_s_kernels_are_named_to_who_ran_it(world: World) -> None:
    world.ran()
    line = "its last run's kernels, of 2 s: gemm 75% in 30 launches, (other) 25% in 4 launches"
    assert not any("kernels" in one for one in world.ask(command=COMMAND, explain=True).explained)
    world.history.kernels = (("gemm", 30, 1.5), ("(other)", 4, 0.5))
    assert world.ask(command=COMMAND, explain=True).explained[-1] == line
    assert line not in world.ask(THEIRS, command=COMMAND, explain=True).explained
    assert world.history.threads
    assert threading.get_ident() not in world.history.threads, "harpd goes on meanwhile"
    world.history.kernels = (("gemm", 30, 0.0),)  # launched, and never measured
    assert not any("kernels" in one for one in world.ask(command=COMMAND, explain=True).explained)
