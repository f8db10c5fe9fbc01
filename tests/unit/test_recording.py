# SPDX-License-Identifier: Apache-2.0
"""What harpd writes down of its tenants, without devices and without an arbiter."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from recording_world import MIB, Desk, do, kept, picture, tenant
from structlog.testing import capture_logs

from harp.config import HistoryConfig
from harp.daemon.picture import Picture
from harp.daemon.recording import Recording
from harp.errors import HistoryError
from harp.estimator.history import History
from harp.estimator.job import Job, Outcome, Run
from harp.lease_wire import MemClass, Msg, Op
from harp.model import Client, ClientState, Use
from harp.procs import all_procs


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "state")


def test_a_tenant_that_ends_is_a_run(desk: Desk) -> None:
    one = tenant()

    async def steps(recording: Recording) -> None:
        recording.made(one, ["python", "t.py", "--bs", "8"])
        desk.tenants[1] = one
        recording.look(picture(one), all_procs())
        recording.ended(desk.tenants.pop(1), picture(one, 120), "ended")
        await recording.settle()

    do(desk, steps)
    ((whose, run),) = desk.told
    assert (whose, kept(desk)) == (one, [run])
    assert run.number == 1
    assert run.job.numbers == (("bs", 8.0),)
    assert (run.job.gpu, run.job.device_mem_bytes) == ("tiny", 1 << 30)
    assert (run.job.asked_mem_bytes, run.job.asked_share_ratio) == (256 * MIB, 0.25)
    assert run.used["gpu_mem_bytes"] == 120 * MIB
    assert 20 * MIB < run.used["host_mem_bytes"] < 4000 * MIB
    assert run.used["duration_s"] == pytest.approx(5, abs=4)
    assert run.outcome is Outcome.DONE


def test_whose_it_is_nobody_says_but_the_kernel(desk: Desk) -> None:
    """The user's digest is of the tenant's uid, by a salt that is kept, and nobody else reads."""
    digests = []

    async def steps(recording: Recording) -> None:
        for number, uid in ((1, 1000), (2, 1000), (3, 1001)):
            one = tenant(number, uid=uid)
            recording.made(one, ["python", "t.py"])
            job = recording.job_of(one)
            assert job
            assert job.user == recording.digest_of(uid)
            digests.append(job.user)

    do(desk, steps)
    do(desk, steps)
    assert digests[0] == digests[1] == digests[3] != digests[2] == digests[5]
    assert (desk.state / "history.salt").stat().st_mode & 0o777 == 0o600
    other = Desk(desk.state.parent / "other")
    do(other, steps)
    assert digests[6] != digests[0]


def test_what_its_user_would_have_asked_for_is_kept_where_its_limit_was_estimated(
    desk: Desk,
) -> None:
    async def steps(recording: Recording) -> None:
        for number, asked, said in ((1, 800 * MIB, 800 * MIB), (2, 0, 0)):
            one = tenant(number)
            recording.made(one, ["t"], estimated=True, asked_mem_bytes=asked)
            job = recording.job_of(one)
            assert job
            assert (job.asked_mem_bytes, job.asked_share_ratio) == (said, 0.0)

    do(desk, steps)


def test_a_containers_owner_is_its_pods_and_it_has_no_user(desk: Desk) -> None:
    labels = (("container", "main"), ("namespace", "ml"), ("pod", "train-7f9c6d5b8d-x2x4z"))
    one = tenant(held=True, uid=0, root_pid=0, root_start=0, labels=labels)

    async def steps(recording: Recording) -> None:
        desk.tenants[1] = one
        recording.look(picture(one), all_procs())
        recording.ended(desk.tenants.pop(1), picture(one), "removed by uid 0")

    do(desk, steps)
    (run,) = kept(desk)
    assert (run.job.owner, run.job.user, run.job.program) == ("ml/Pod/train/main", "", "")
    assert (run.outcome, run.exit_status) == (Outcome.DONE, None)
    assert run.used["host_mem_bytes"] > 0


def test_leases_of_other_machines_are_not_our_jobs(desk: Desk) -> None:
    one = tenant(for_root=True)

    async def steps(recording: Recording) -> None:
        desk.tenants[1] = one
        recording.made(one, ["harp-worker"])
        recording.look(picture(one), all_procs())
        recording.ended(one, picture(one), "ended")

    do(desk, steps)
    assert kept(desk) == []


def test_one_removed_under_its_processes_was_killed(desk: Desk) -> None:
    one = tenant()

    async def steps(recording: Recording) -> None:
        recording.made(one, ["t"])
        recording.ended(one, picture(one), "removed by uid 0")

    do(desk, steps)
    assert [run.outcome for run in kept(desk)] == [Outcome.KILLED]


def test_refusals_say_what_was_attempted(desk: Desk) -> None:
    one = tenant(root_pid=0, root_start=0)

    async def steps(recording: Recording) -> None:
        desk.tenants[1] = one
        recording.made(one, ["t"])
        of_device = Msg(op=Op.EVENT_DENY, tenant=1, amount_bytes=200 * MIB, leased_bytes=100 * MIB)
        recording.denied(of_device)
        of_host = Msg(op=Op.EVENT_DENY, tenant=1, cls=MemClass.HOST, amount_bytes=1 << 40)
        recording.denied(of_host)
        recording.denied(Msg(op=Op.EVENT_DENY, tenant=99, amount_bytes=1))
        recording.ended(desk.tenants.pop(1), picture(one, denials=2), "ended")

    do(desk, steps)
    (run,) = kept(desk)
    assert (run.outcome, run.attempted_bytes) == (Outcome.OOM, 300 * MIB)


def test_another_harpd_goes_on_and_those_gone_meanwhile_are_lost(desk: Desk) -> None:
    stays, goes = tenant(1), tenant(2)

    async def first(recording: Recording) -> None:
        for one in (stays, goes):
            desk.tenants[one.tenant_id] = one
            recording.made(one, ["python", f"t{one.tenant_id}.py"])
        recording.look(picture(stays, 200), all_procs())

    async def second(recording: Recording) -> None:
        await recording.settle()
        ((_, run),) = desk.told
        assert run.outcome is Outcome.LOST
        recording.look(picture(stays, 50), all_procs())
        recording.ended(desk.tenants.pop(1), picture(stays, 50), "ended")

    do(desk, first)
    del desk.tenants[2]
    do(desk, second)
    lost, run = kept(desk)
    assert lost.job.program != run.job.program != ""
    assert run.used["gpu_mem_bytes"] == 200 * MIB
    assert run.outcome is Outcome.DONE


def test_one_that_the_book_lost_is_lost(desk: Desk) -> None:
    one = tenant()

    async def steps(recording: Recording) -> None:
        recording.made(one, ["t"])  # and the book never has it again
        recording.look(Picture(), {})

    do(desk, steps)
    assert [run.outcome for run in kept(desk)] == [Outcome.LOST]


@pytest.mark.parametrize("broken", ["file", "salt", "folder"])
def test_a_history_that_cannot_be_is_named_once_and_ends_nothing(desk: Desk, broken: str) -> None:
    if broken == "folder":
        desk.state.write_text("")
    else:
        desk.state.mkdir(mode=0o700)
        name = "history.db" if broken == "file" else "history.salt"
        (desk.state / name).write_bytes(b"no such thing")
    one = tenant()

    async def steps(recording: Recording) -> None:
        assert recording.problem.startswith("history is not kept: ")
        recording.made(one, ["t"])
        recording.look(picture(one), {})
        recording.ended(one, picture(one), "ended")
        await recording.settle()
        await recording.keep()
        assert len(recording.digest_of(1)) == 32
        with pytest.raises(HistoryError, match="history is not kept"):
            recording.runs()

    with capture_logs() as logs:
        do(desk, steps)
    assert [(log["event"], bool(log["hint"])) for log in logs] == [("history_not_kept", True)]
    assert str(desk.state) in logs[0]["reason"]
    assert desk.told == []


def test_off_is_off(desk: Desk) -> None:
    desk.config = HistoryConfig(enabled="no")

    async def steps(recording: Recording) -> None:
        recording.made(tenant(), ["t"])
        with pytest.raises(HistoryError, match="enabled=no"):
            recording.latest(1)

    do(desk, steps)
    assert not desk.state.exists()


def test_runs_wait_for_a_disk_with_room(desk: Desk) -> None:
    one = tenant()

    async def steps(recording: Recording) -> None:
        history = recording._history
        assert history
        # As a full disk has it; which test_history.py has for real.
        history._db.execute(
            "CREATE TEMP TRIGGER full BEFORE INSERT ON run BEGIN SELECT RAISE(FAIL, 'no room'); END"
        )
        recording.made(one, ["t"])
        recording.ended(one, picture(one), "ended")
        await recording.settle()
        await recording.settle()
        assert desk.told == []
        history._db.execute("DROP TRIGGER full")
        await recording.settle()
        assert [run.number for _, run in desk.told] == [1]

    with capture_logs() as logs:
        do(desk, steps)
    assert [log["event"] for log in logs] == ["run_not_written", "runs_are_written_again"]
    assert "no room" in logs[0]["reason"]


def test_a_run_that_ends_beside_an_import_is_told_in_the_order_of_numbers(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who learns takes none that comes after a larger number: it has read that one already."""
    written, go_on = threading.Event(), threading.Event()
    add = History.add

    def slowly(self: History, run: Run, key: str = "") -> Run:
        kept = add(self, run, key)
        written.set()
        assert go_on.wait(10)
        return kept

    monkeypatch.setattr(History, "add", slowly)
    one = tenant()

    async def steps(recording: Recording) -> None:
        recording.made(one, ["t"])
        recording.ended(one, picture(one), "ended")
        settling = asyncio.create_task(recording.settle())
        await asyncio.to_thread(written.wait, 10)
        foreign = Run(Job("p", "s"), started_s=1.0, ended_s=2.0)
        importing = asyncio.create_task(
            recording.add_unknown([foreign, foreign], lambda run: desk.told.append((None, run)))
        )
        await asyncio.sleep(0.05)  # it would add the other now
        go_on.set()
        await asyncio.gather(settling, importing)

    do(desk, steps)
    assert [run.number for _, run in desk.told] == [1, 2]
    assert [whose for whose, _ in desk.told] == [one, None]


def test_notes_and_runs_are_written_by_themselves(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harp.daemon.recording._NOTE_S", 0.05)
    one, other = tenant(1), tenant(2)

    async def steps(recording: Recording) -> None:
        keeping = asyncio.create_task(recording.keep())
        recording.made(one, ["t"])
        recording.made(other, ["t"])
        recording.ended(one, picture(one), "ended")
        async with asyncio.timeout(10):
            while not desk.told or not _notes(desk) or not desk.going:  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.01)
        keeping.cancel()
        assert {run.started_s for run in desk.going} <= {one.created_s, other.created_s}
        assert desk.going[-1].started_s == other.created_s
        assert [key.partition("@")[0] for key in _notes(desk)] == ["2"]

    do(desk, steps)


def test_a_run_that_is_written_has_no_note_that_would_be_lost_once_more(desk: Desk) -> None:
    """Whenever harpd is killed: both are one transaction."""
    one = tenant()

    async def steps(recording: Recording) -> None:
        recording.made(one, ["t"])
        await recording._note(everyone=False)
        assert len(_notes(desk)) == 1
        recording.ended(one, picture(one), "ended")
        await recording.settle()
        assert _notes(desk) == []

    do(desk, steps)


def _notes(desk: Desk) -> list[str]:
    db = sqlite3.connect(desk.state / "history.db")
    try:
        return [key for (key,) in db.execute("SELECT key FROM note")]
    finally:
        db.close()


def test_a_look_at_a_hundred_tenants_costs_little(desk: Desk) -> None:
    """Three processes each. What all of it may cost is 0.5 % of a processor."""
    began_s = time.time() - 60
    for number in range(100):
        desk.tenants[number] = tenant(number, created_s=began_s)
    uses = {
        (number, "GPU-1"): Use(peak_bytes=MIB, leased_bytes=MIB, used_ns=number)
        for number in range(100)
    }
    pids = sorted(all_procs())[:300]
    pids = (pids * 300)[:300]
    clients = {n: Client(n, n // 3, pid, ClientState.LIVE, "x") for n, pid in enumerate(pids)}
    spent = []

    async def steps(recording: Recording) -> None:
        procs = all_procs()
        for one in desk.tenants.values():
            recording.made(one, ["python", "t.py", "--bs", "8", "--lr", "1e-4"])
        for step in range(60):
            looked = Picture(
                uses={k: replace(u, used_ns=u.used_ns + step * 10**9) for k, u in uses.items()},
                clients=clients,
            )
            recording._looked_s = 0.0
            before = time.process_time()
            recording.look(looked, procs)
            spent.append(time.process_time() - before)
        before = time.process_time()
        notes = recording._recorder.notes()
        note_s = time.process_time() - before
        look_s = sorted(spent)[len(spent) // 2]
        period_s = desk.config.period_s
        ratio = look_s / period_s + note_s / 60
        size_kib = sum(map(len, notes.values())) >> 10
        print(f"a look {look_s * 1e3:.2f} ms, notes {note_s * 1e3:.1f} ms, {size_kib} KiB")
        print(f"{ratio:.3%} of a processor at a look each {period_s:g} s")
        assert ratio < 0.005

    do(desk, steps)
