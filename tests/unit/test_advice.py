# SPDX-License-Identifier: Apache-2.0
"""harpd's adviser: filled from history in a thread, told of each run."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from harp.daemon.advice import READING, Advice, Ended
from harp.errors import DaemonError
from harp.estimator.advise import Adviser
from harp.estimator.job import TARGETS, Job, Run

MIB = 1 << 20
BEGAN_S = time.time() - 10_000
JOB = Job(
    program="p", shape="s", user="u", gpu="g", asked_mem_bytes=8 << 30, device_mem_bytes=16 << 30
)


def run(number: int, mib: float = 500) -> Run:
    used = {"gpu_mem_bytes": mib * MIB, "share_ratio": 0.25, "duration_s": 10.0}
    began_s = BEGAN_S + number
    return Run(JOB, number=number, started_s=began_s, ended_s=began_s + 10, used=used)


def filled(runs: Iterable[Run]) -> Advice:
    advice = Advice(Adviser())
    asyncio.run(advice.fill(lambda: runs))
    return advice


def test_before_history_is_read_all_is_unknown_and_says_why() -> None:
    advice = Advice(Adviser())
    needs = advice.ask(JOB)
    assert [need.target for need in needs] == [*TARGETS]
    assert not any(need.known for need in needs)
    assert needs[0].bound == 8 << 30
    assert needs[0].reason == f"unknown: {READING}"
    assert needs[4].bound is None
    assert advice.explain(JOB) == [f"unknown: {READING}"]


def test_three_runs_of_a_job_are_enough() -> None:
    advice = filled(run(n) for n in (1, 2, 3))
    assert (advice.state, advice.runs) == ("", 3)
    need = advice.ask(JOB)[0]
    assert need.known
    assert need.bound is not None
    assert 500 * MIB <= need.bound < 1024 * MIB
    assert advice.explain(JOB)


def test_who_goes_on_beyond_its_bound_is_heard_of_before_it_ends() -> None:
    advice = filled(run(n) for n in (1, 2, 3))
    before = advice.ask(JOB)[0]
    assert before.bound is not None
    going = replace(run(4), used={"gpu_mem_bytes": before.bound * 1.5})
    Advice(Adviser()).still(going)  # while history is read nothing is followed
    advice.still(going)
    after = advice.ask(JOB)[0]
    assert after.bound is not None
    assert after.bound >= before.bound * 1.5


def test_one_that_cannot_be_followed_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    advice = filled(run(n) for n in (1, 2, 3))

    def odd(_self: Adviser, _run: Run) -> None:
        raise ValueError("odd")

    monkeypatch.setattr(Adviser, "still", odd)
    with capture_logs() as logs:
        advice.still(run(4))
    assert [log["event"] for log in logs] == ["run_not_followed"]


def test_runs_that_end_while_it_reads_are_learned_after_it_and_once() -> None:
    going, hold = threading.Event(), threading.Event()
    advice = Advice(Adviser())

    def slowly() -> Iterator[Run]:
        yield run(1)
        going.set()
        assert hold.wait(10)
        yield run(2)
        yield run(3)  # was added meanwhile, and is read as well

    async def both() -> None:
        reading = asyncio.create_task(advice.fill(slowly))
        await asyncio.to_thread(going.wait, 10)
        advice.learn(run(3))
        advice.learn(run(4, mib=2000))
        assert advice.state == READING
        assert not advice.ask(JOB)[0].known
        hold.set()
        await reading

    asyncio.run(both())
    assert advice.runs == 4
    after = advice.ask(JOB)
    assert after == filled([run(1), run(2), run(3), run(4, mib=2000)]).ask(JOB)
    assert after[0].bound is not None
    assert after[0].bound >= 2000 * MIB


def test_the_loop_goes_on_while_history_is_read() -> None:
    advice, beats = Advice(Adviser()), 0

    async def beat() -> None:
        nonlocal beats
        while advice.state:
            beats += 1
            await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(advice.fill(lambda: (run(n) for n in range(1, 3000))), beat())

    asyncio.run(both())
    assert advice.runs == 2999
    assert beats > 40


def test_a_history_that_cannot_be_read_is_said() -> None:
    def broken() -> Iterator[Run]:
        yield run(1)
        raise DaemonError("the file is broken")

    advice = Advice(Adviser())
    asyncio.run(advice.fill(broken))
    assert advice.state == "the file is broken"
    advice.learn(run(2))
    assert not advice.ask(JOB)[0].known


def test_tenants_that_ended_are_known_by_name_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harp.daemon.advice._NAMES", 2)
    advice = filled([])
    for number, name in enumerate(("a", "b", "a", "c")):
        advice.remember(name, Ended(1000, run(number)))
    assert advice.ended("b") is None
    found = advice.ended("a")
    assert found
    assert found.run.number == 2


def test_an_odd_run_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    learn = Adviser.learn

    def oddly(self: Adviser, run: Run) -> None:
        if run.number in (2, 5):
            raise ZeroDivisionError
        learn(self, run)

    monkeypatch.setattr(Adviser, "learn", oddly)
    advice = filled(run(n) for n in (1, 2, 3, 4))
    assert (advice.state, advice.runs) == ("", 3)
    advice.learn(run(5))
    assert advice.ask(JOB)[0].known
