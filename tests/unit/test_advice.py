# SPDX-License-Identifier: Apache-2.0
"""harpd's adviser: filled from history in a thread, told of each run."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import learned_world
import pytest
from structlog.testing import capture_logs

from harp.daemon.advice import READING, Advice, Ended
from harp.errors import DaemonError, HistoryError
from harp.estimator.advise import Adviser
from harp.estimator.job import TARGETS, Job, Run
from harp.estimator.track import Track, Verdict

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
    asyncio.run(advice.fill(lambda _: runs))
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

    def slowly(_: int) -> Iterator[Run]:
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

    with capture_logs() as logs:
        asyncio.run(both())
    assert [log["event"] for log in logs] == ["history_read"]
    assert advice.runs == 4
    after = advice.ask(JOB)
    assert after == filled([run(1), run(2), run(3), run(4, mib=2000)]).ask(JOB)
    assert after[0].bound is not None
    assert after[0].bound >= 2000 * MIB


def test_a_run_that_comes_late_is_said() -> None:
    advice = filled([run(1)])
    with capture_logs() as logs:
        advice.learn(run(3))
        advice.learn(run(2))
    assert [(log["event"], log.get("run")) for log in logs] == [("run_came_late", 2)]
    assert advice.runs == 2


def test_the_loop_goes_on_while_history_is_read() -> None:
    advice, beats = Advice(Adviser()), 0

    async def beat() -> None:
        nonlocal beats
        while advice.state:
            beats += 1
            await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(advice.fill(lambda _: (run(n) for n in range(1, 3000))), beat())

    asyncio.run(both())
    assert advice.runs == 2999
    assert beats > 40


def test_a_history_that_cannot_be_read_is_said() -> None:
    def broken(_: int) -> Iterator[Run]:
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


class Book:
    """A history, and what was read of it."""

    def __init__(self) -> None:
        self.kept: list[Run] = []
        self.read: list[int] = []

    def runs(self, since_number: int) -> Iterator[Run]:
        for one in [*self.kept]:
            if one.number > since_number:
                self.read.append(one.number)
                yield one


async def settled(advice: Advice) -> None:
    """Until it answers."""
    while advice.state:  # noqa: ASYNC110 - a state, no event
        await asyncio.sleep(0)


def _lived(book: Book, file: Path, new: Iterable[Run] = (), track: Track | None = None) -> Advice:
    """An adviser's life: it starts, runs end, it ends."""
    advice = Advice(Adviser(), file=file, track=track)

    async def life() -> None:
        await advice.fill(book.runs)
        for one in new:
            book.kept.append(one)
            advice.learn(one)
        await advice.close()

    book.read.clear()
    asyncio.run(life())
    return advice


def test_what_was_learned_is_not_read_again(tmp_path: Path) -> None:
    book, file, rng = Book(), tmp_path / "learned.db", random.Random(1)
    jobs = [learned_world.any_run(rng, number, BEGAN_S + number) for number in range(1, 121)]
    _lived(book, file, jobs[:80])
    assert book.read == []
    book.kept += jobs[80:100]  # written down by one that was killed before it saved
    advice = Advice(Adviser(), file=file)

    async def life() -> None:
        with capture_logs() as logs:
            await advice.fill(book.runs)
        assert logs[-1]["event"] == "history_read"
        assert (logs[-1]["runs"], logs[-1]["learned_before"]) == (100, 80)
        assert book.read == [*range(80, 101)]  # the 80th to see that it is the one
        for one in jobs[100:]:
            advice.learn(one)
        await advice.save()
        assert len(advice._adviser.keys._held) > 0
        plain = filled_to(jobs)
        for _ in range(40):
            job = learned_world.any_job(rng)
            assert advice.ask(job) == plain.ask(job)
        await advice.close()

    asyncio.run(life())


def filled_to(runs: Iterable[Run]) -> Advice:
    """As filled(), within a loop."""
    advice = Advice(Adviser())
    advice.state = ""
    for one in runs:
        advice.learn(one)
    return advice


@pytest.mark.parametrize("how", ["another", "shorter", "none"])
def test_a_history_that_is_not_the_files_is_read_from_its_begin(tmp_path: Path, how: str) -> None:
    book, file = Book(), tmp_path / "learned.db"
    _lived(book, file, [run(n) for n in range(1, 6)])
    match how:
        case "another":
            book.kept[4] = replace(book.kept[4], ended_s=book.kept[4].ended_s + 1)
        case "shorter":
            del book.kept[3:]
        case "none":
            book.kept.clear()
    with capture_logs() as logs:
        advice = _lived(book, file)
    assert [log["event"] for log in logs] == ["learned_dropped", "history_read"]
    assert "run 5 is not the one" in logs[0]["reason"]
    assert advice.runs == len(book.kept)
    with capture_logs() as logs:
        _lived(book, file)
    assert [log["event"] for log in logs] == ["history_read"]
    assert logs[0]["learned_before"] == len(book.kept)


@pytest.mark.parametrize("damaged", [False, True])
def test_without_a_history_the_file_is_left_to_who_has_it(tmp_path: Path, damaged: bool) -> None:
    def refused(_: int) -> Iterator[Run]:
        raise HistoryError("another harpd has it")

    book, file = Book(), tmp_path / "learned.db"
    _lived(book, file, [run(n) for n in range(1, 6)])
    if damaged:
        file.write_bytes(b"x" * 9000)
    before = file.read_bytes()
    advice = Advice(Adviser(), file=file)

    async def life() -> None:
        await advice.fill(refused)
        await advice.close()

    with capture_logs() as logs:
        asyncio.run(life())
    assert [log["event"] for log in logs] == ["history_not_read"]
    assert advice.state == "another harpd has it"
    assert file.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"learned.db"}


def test_a_damaged_file_costs_time_alone(tmp_path: Path) -> None:
    book, file = Book(), tmp_path / "learned.db"
    _lived(book, file, [run(n) for n in range(1, 6)])
    file.write_bytes(b"x" * 9000)
    with capture_logs() as logs:
        advice = _lived(book, file)
    assert [log["event"] for log in logs] == ["learned_dropped", "history_read"]
    assert (advice.runs, book.read) == (5, [1, 2, 3, 4, 5])


@pytest.mark.parametrize("by", ["ask", "explain", "still", "learn", "prune"])
def test_what_cannot_be_read_back_later_is_learned_anew(tmp_path: Path, by: str) -> None:
    book, file = Book(), tmp_path / "learned.db"
    _lived(book, file, [run(n) for n in range(1, 4)])
    advice = Advice(Adviser(), file=file)

    async def life() -> None:
        keeping = asyncio.create_task(advice.keep(book.runs))
        await settled(advice)
        assert advice._learned is not None
        advice._learned._reads.close()
        book.kept.append(run(4))
        match by:
            case "ask":
                assert advice.ask(JOB)[0].reason == f"unknown: {READING}"
            case "explain":
                assert advice.explain(JOB) == [f"unknown: {READING}"]
            case "still":
                advice.still(replace(run(5), used={}))
            case "learn":
                advice.learn(run(4))
            case "prune":
                advice._prune()
        await settled(advice)
        keeping.cancel()
        assert advice.runs == 4
        assert advice.ask(JOB) == filled_to(run(n) for n in range(1, 5)).ask(JOB)
        await advice.close()

    with capture_logs() as logs:
        asyncio.run(life())
    assert [log["event"] for log in logs] == ["history_read", "learned_dropped", "history_read"]
    assert not file.exists()


def test_one_that_ends_while_it_reads_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harp.daemon.advice._SAVE_RUNS", 10)
    book, file = Book(), tmp_path / "learned.db"
    book.kept = [run(n) for n in range(1, 101)]
    advice = Advice(Adviser(), file=file)
    going, hold = threading.Event(), threading.Event()

    def slowly(since: int) -> Iterator[Run]:
        for one in book.runs(since):
            if one.number == 55:
                going.set()
                assert hold.wait(10)
            yield one

    async def life() -> None:
        filling = asyncio.create_task(advice.fill(slowly))
        await asyncio.to_thread(going.wait, 10)
        filling.cancel()
        advice._closing = True
        hold.set()
        await advice.close()

    asyncio.run(life())
    with capture_logs() as logs:
        after = _lived(book, file)
    assert (logs[-1]["learned_before"], after.runs) == (54, 100)


def test_how_bounds_did_is_kept(tmp_path: Path) -> None:
    book, file = Book(), tmp_path / "learned.db"
    told = [
        Verdict("gpu_mem_bytes", time.time() - n, n % 3 > 0, 980_000, 10, 7, 5) for n in range(9)
    ]
    first = Track()
    assert first.whole
    advice = Advice(Adviser(), file=file, track=first)
    assert not first.whole

    async def life() -> None:
        await advice.fill(book.runs)
        first.count(told)
        first.answers["gpu_mem_bytes", True] = 4
        book.kept.append(run(1))
        advice.learn(run(1))
        await advice.close()

    asyncio.run(life())
    second = Track()
    early = Verdict("gpu_mem_bytes", time.time(), held=False, asked=10, bound=1, used=5)
    second.count([early])  # before the file is read
    second.answers["gpu_mem_bytes", True] = 1
    _lived(book, file, track=second)
    assert second.whole
    first.count([early])
    assert second.at(time.time())["gpu_mem_bytes"] == first.at(time.time())["gpu_mem_bytes"]
    assert second.answers == {("gpu_mem_bytes", True): 5}
    third = Track()
    _lived(book, file, track=third)
    assert third.at(time.time()) == second.at(time.time())
    assert third.of["gpu_mem_bytes"].total.judged == 10


def test_answers_alone_are_kept_as_well(tmp_path: Path) -> None:
    book, file, first, second = Book(), tmp_path / "learned.db", Track(), Track()
    _lived(book, file, [run(1)], track=first)
    first.answers["gpu_mem_bytes", True] = 4
    advice = Advice(Adviser(), file=file, track=first)

    async def life() -> None:
        await advice.fill(book.runs)
        first.answers["gpu_mem_bytes", True] = 7  # and no run ends
        await advice.close()

    asyncio.run(life())
    _lived(book, file, track=second)
    assert second.answers == {("gpu_mem_bytes", True): 7}


@pytest.mark.parametrize("saved", [False, True], ids=["at-once", "after-a-save"])
def test_totals_after_a_kill_begin_at_zero_and_never_go_back_a_little(
    tmp_path: Path, saved: bool
) -> None:
    book, file = Book(), tmp_path / "learned.db"
    old = Verdict("gpu_mem_bytes", time.time(), held=True, asked=10, bound=7, used=5)
    killed, after, third = Track(), Track(), Track()
    _lived(book, file, [run(1)], track=killed)
    killed.count([old] * 9)
    killed.answers["gpu_mem_bytes", True] = 4
    _lived(book, file, track=killed)

    async def life() -> None:
        track = Track()
        advice = Advice(Adviser(), file=file, track=track)
        await advice.fill(book.runs)
        assert track.of["gpu_mem_bytes"].total.judged == 9
        if saved:
            track.count([old])
            await advice.save()
        track.count([old])  # shown, and never saved
        assert advice._learned is not None
        advice._learned.close()

    asyncio.run(life())
    with capture_logs() as logs:
        _lived(book, file, track=after)
    assert [log["event"] for log in logs] == ["totals_begin_anew", "history_read"]
    assert after.whole
    assert after.of["gpu_mem_bytes"].total.judged == after.of["gpu_mem_bytes"].total.asked == 0
    assert after.answers == {}
    assert after.at(time.time())["gpu_mem_bytes"].recent.judged == 9 + saved  # a gauge
    after.count([old])
    _lived(book, file, track=after)
    _lived(book, file, track=third)
    assert third.of["gpu_mem_bytes"].total.judged == 1


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
