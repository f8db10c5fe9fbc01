# SPDX-License-Identifier: Apache-2.0
"""The file that runs are kept in: whole after a kill, bounded, and honest about what it cannot."""

from __future__ import annotations

import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harp.errors import HistoryError
from harp.estimator.history import VERSION, History
from harp.estimator.job import TARGETS, Job, Outcome, Run
from harp.estimator.tables import export_runs, import_runs

DAY_S = 86400.0
REAL = st.floats(0, 1e18)
COUNT = st.integers(0, 2**63 - 1)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
JOBS = st.builds(
    Job,
    program=NAMES,
    shape=NAMES,
    numbers=st.lists(st.tuples(NAMES, st.floats(-1e300, 1e300)), max_size=3).map(tuple),
    user=NAMES,
    image=NAMES,
    framework=NAMES,
    owner=NAMES,
    gpu=NAMES,
    asked_mem_bytes=COUNT,
    asked_share_ratio=st.floats(0, 1),
    device_mem_bytes=COUNT,
    labels=st.lists(st.tuples(NAMES, NAMES), max_size=3).map(tuple),
)
RUNS = st.builds(
    Run,
    job=JOBS,
    started_s=REAL,
    ended_s=REAL,
    outcome=st.sampled_from(Outcome),
    exit_status=st.none() | st.integers(-255, 255),
    used=st.dictionaries(st.sampled_from((*TARGETS, "other")), REAL),
    quantiles=st.dictionaries(NAMES, REAL, max_size=3),
    mem_limit_bytes=COUNT,
    share_ratio=st.floats(0, 1),
    attempted_bytes=COUNT,
    elastic=st.booleans(),
)


def ended(at_s: float) -> Run:
    return Run(Job(program="p"), started_s=at_s - 1, ended_s=at_s, used={"duration_s": 1.0})


@given(st.lists(RUNS, max_size=4))
def test_what_comes_out_is_what_went_in(
    tmp_path_factory: pytest.TempPathFactory, runs: list[Run]
) -> None:
    path = tmp_path_factory.mktemp("history") / "h.db"
    with History(path) as history:
        written = [history.add(run) for run in runs]
        assert [replace(run, number=0) for run in written] == runs
        assert list(history.runs()) == written
    with History(path) as history:
        assert list(history.runs()) == written
        assert history.count() == len(runs)


def test_numbers_go_on_and_pages_leave_none_out(tmp_path: Path) -> None:
    with History(tmp_path / "h.db", runs_max=1200) as history:
        for at in range(1300):
            history.add(ended(at * 1.0))
        assert [run.number for run in history.runs()] == list(range(1, 1301))
        assert [run.number for run in history.runs(1298)] == [1299, 1300]
        assert history.prune(0.0) == 100
        assert [run.number for run in history.runs()][:1] == [101]
        assert history.add(ended(9.0)).number == 1301


def test_the_last_runs_are_a_users_or_all(tmp_path: Path) -> None:
    with History(tmp_path / "h.db") as history:
        for at in range(6):
            run = ended(at * 1.0)
            history.add(replace(run, job=replace(run.job, user="ab"[at % 2])))
        assert [run.number for run in history.latest(4)] == [6, 5, 4, 3]
        assert [run.number for run in history.latest(2, "a")] == [5, 3]
        assert history.latest(2, "c") == []


def test_old_runs_go_and_their_numbers_with_them(tmp_path: Path) -> None:
    with History(tmp_path / "h.db", days=90) as history:
        for day in (0, 1, 95, 99):
            history.add(ended(day * DAY_S))
        assert history.prune(100 * DAY_S) == 2
        assert [run.ended_s / DAY_S for run in history.runs()] == [95, 99]
        assert history.prune(1000 * DAY_S) == 2
        assert history.add(ended(0.0)).number == 5


def test_a_pruned_file_is_smaller(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    with History(path, runs_max=10) as history:
        for at in range(2000):
            history.add(ended(at * 1.0))
    full_bytes = path.stat().st_size
    with History(path, runs_max=10) as history:
        assert history.prune(0.0) == 1990
    assert path.stat().st_size < full_bytes / 4


def test_notes_take_the_place_of_those_before(tmp_path: Path) -> None:
    with History(tmp_path / "h.db") as history:
        history.keep({"a": "1", "b": "2"}, 5.0)
        history.keep({"b": "3"}, 6.0)
        assert history.kept() == {"b": (6.0, "3")}
        history.keep({"a": "4", "b": "5"}, 7.0, others=True)
        history.keep({"b": "6"}, 8.0, others=True)
        assert history.kept() == {"a": (7.0, "4"), "b": (8.0, "6")}
        history.add(ended(1.0), "b")
        assert history.kept() == {"a": (7.0, "4")}


def test_nobody_else_reads_the_file(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with History(tmp_path / "state" / "h.db") as history:
            history.add(ended(1.0))
            folder = tmp_path / "state"
            assert folder.stat().st_mode & 0o777 == 0o700
            modes = {p.name: p.stat().st_mode & 0o077 for p in folder.iterdir()}
            assert set(modes) == {"h.db", "h.db-wal", "h.db-shm", "h.db.lock"}
            assert set(modes.values()) == {0}
    finally:
        os.umask(before)


def test_one_writes_and_others_read(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    with History(path) as history:
        with pytest.raises(HistoryError, match="is written by another process"):
            History(path)
        history.add(ended(1.0))
        with History(path, writes=False) as reader:
            assert len(list(reader.runs())) == 1
            history.add(ended(2.0))
            assert len(list(reader.runs())) == 2
            with pytest.raises(HistoryError, match="readonly"):
                reader.add(ended(3.0))
    with History(path) as history:
        assert history.count() == 2


def test_threads_share_it(tmp_path: Path) -> None:
    with History(tmp_path / "h.db") as history:
        threads = [
            threading.Thread(target=lambda: [history.add(ended(1.0)) for _ in range(50)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [run.number for run in history.runs()] == list(range(1, 201))


WRITER = """
import sys
from pathlib import Path
from harp.estimator.history import History
from harp.estimator.job import Job, Run
with History(Path(sys.argv[1])) as history:
    for at in range(1, 1_000_000):
        run = history.add(Run(Job(program="p" * 500), ended_s=at, used={"duration_s": at}))
        print(run.number, flush=True)
        history.keep({str(n): str(at) for n in range(300)}, at)
        if at % 40 == 0:
            history.prune(0.0)
"""


def test_a_writer_that_is_killed_leaves_whole_runs(tmp_path: Path) -> None:
    """Whatever it had said it wrote is there, and nothing is half there; again and again."""
    path, told = tmp_path / "h.db", 0
    seed = int(os.environ.get("HARP_TEST_SEED", random.SystemRandom().getrandbits(31)))
    print(f"HARP_TEST_SEED={seed}")
    rng = random.Random(seed)
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout
            told = int(child.stdout.readline())
            time.sleep(rng.uniform(0.0, 0.1))
            child.send_signal(signal.SIGKILL)
            rest = child.stdout.read().rpartition("\n")[0]
            told = int(rest.splitlines()[-1]) if rest else told
        with History(path) as history:
            runs = list(history.runs())
            assert [run.number for run in runs] == list(range(1, len(runs) + 1))
            assert len(runs) >= told
            assert all(run.used == {"duration_s": run.ended_s} for run in runs)
            notes = [text for _, text in history.kept().values()]
            assert (len(notes), len(set(notes))) in {(300, 1), (0, 0)}
            (ok,) = history._db.execute("PRAGMA integrity_check").fetchone()
            assert ok == "ok"


FULL = """
import resource, sys
from pathlib import Path
from harp.errors import HistoryError
from harp.estimator.history import History
from harp.estimator.job import Job, Run
with History(Path(sys.argv[1])) as history:
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    told = []
    for _ in range(2):
        try:
            while True:
                told.append(history.add(Run(Job(program="p" * 5000))).number)
        except HistoryError as error:
            print(error.message, "|", error.hint)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    told.append(history.add(Run(Job())).number)
    assert [run.number for run in history.runs()] == told, told
    print(len(told))
"""


def test_a_full_disk_is_an_error_that_passes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "h.db")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, other, count = done.stdout.splitlines()
    assert "h.db cannot be written: disk I/O error | see that" in one or "full" in one
    assert one == other
    assert int(count) > 10


def scribble(path: Path) -> None:
    path.write_bytes(b"no database at all" * 1000)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)


@pytest.mark.parametrize("harm", [scribble, halve])
def test_a_broken_file_is_named_with_its_remedy(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    path = tmp_path / "h.db"
    with History(path) as history:
        for at in range(500):
            history.add(ended(at * 1.0))
    harm(path)
    with pytest.raises(HistoryError, match=f"{path} cannot be") as caught, History(path) as history:
        list(history.runs())
    assert "move the file away" in caught.value.hint
    path.rename(path.with_suffix(".broken"))
    with History(path) as history:
        assert history.add(ended(1.0)).number == 1


def test_a_run_that_makes_no_sense_is_named(tmp_path: Path) -> None:
    with History(tmp_path / "h.db") as history:
        history.add(ended(1.0))
        history._db.execute("UPDATE run SET outcome = 'exploded'")
        with pytest.raises(HistoryError, match="'exploded' is not a valid Outcome"):
            list(history.runs())


def test_a_newer_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    with History(path) as history:
        history.add(ended(1.0))
        history._db.execute(f"PRAGMA user_version = {VERSION + 1}")
    for writes in (True, False):
        with pytest.raises(
            HistoryError, match=f"has version {VERSION + 1}, this HARP reads"
        ) as caught:
            History(path, writes=writes)
        assert "newer HARP" in caught.value.hint
    db = sqlite3.connect(path)
    assert db.execute("SELECT count(*) FROM run").fetchone() == (1,)
    db.close()


@given(RUNS)
def test_a_run_that_is_there_is_not_added_again(
    tmp_path_factory: pytest.TempPathFactory, run: Run
) -> None:
    folder = tmp_path_factory.mktemp("history")
    with History(folder / "h.db") as history:
        first = history.add_unknown(run)
        assert first == replace(run, number=1)
        # Another file's number, and its columns in another order, are no other run.
        turned = replace(run, number=7, used=dict(reversed(run.used.items())))
        assert history.add_unknown(turned) is None
        for other in (
            replace(run, started_s=math.nextafter(run.started_s, math.inf)),
            replace(run, ended_s=math.nextafter(run.ended_s, math.inf)),
            replace(run, outcome=Outcome.LOST if run.outcome is Outcome.DONE else Outcome.DONE),
            replace(run, exit_status=None if run.exit_status == 1 else 1),
            replace(run, used=run.used | {"another": 1.0}),
            replace(run, job=replace(run.job, program=run.job.program + "x")),
            replace(run, job=replace(run.job, user=run.job.user + "x")),
        ):
            assert history.add_unknown(other) is not None
            assert history.add_unknown(other) is None


def test_what_this_machine_saw_itself_is_known_too(tmp_path: Path) -> None:
    """Runs that went to another machine and come back."""
    with History(tmp_path / "h.db") as here, History(tmp_path / "other" / "h.db") as there:
        for at in (1.0, 2.0):
            here.add(ended(at))
        there.add(ended(9.0))
        export_runs(here.runs(), tmp_path / "out.csv")
        assert all(there.add_unknown(run) for run in import_runs(tmp_path / "out.csv"))
        export_runs(there.runs(), tmp_path / "back.csv")
        back = [here.add_unknown(run) for run in import_runs(tmp_path / "back.csv")]
        assert [run is None for run in back] == [False, True, True]
        assert [run.ended_s for run in here.runs()] == [1.0, 2.0, 9.0]


def test_an_older_file_is_brought_up_to_date_by_its_writer_alone(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE older (a)")
    db.commit()
    db.close()
    with pytest.raises(HistoryError, match="has version 0") as caught:
        History(path, writes=False)
    assert "harpd once" in caught.value.hint
    with History(path) as history:
        assert history.add(ended(1.0)).number == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_elses_is_named() -> None:
    with pytest.raises(HistoryError, match="/proc/none cannot hold history"):
        History(Path("/proc/none/h.db"))


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HistoryError, match="cannot hold history") as caught:
        History(tmp_path / "file" / "h.db")
    assert "HARP_STATE" in caught.value.hint


def test_a_link_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "h.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HistoryError, match="cannot be opened"):
        History(tmp_path / "h.db")
    assert not (tmp_path / "elsewhere").exists()


def test_text_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with History(tmp_path / "h.db") as history:
        with pytest.raises(HistoryError):
            history.add(Run(Job(image="\udcff")))
        assert history.add(ended(1.0)).number == 1


KERNELS = (("gemm", 30, 1.5), ("(other)", 4, 0.25))


def test_a_run_s_kernels_are_kept_and_make_no_other_run_of_it(tmp_path: Path) -> None:
    with History(tmp_path / "h.db") as history:
        run = history.add(replace(ended(2.0), kernels=KERNELS))
        (found,) = history.runs()
        assert found.kernels == run.kernels == KERNELS
        assert history.add_unknown(ended(2.0)) is None, "come back from where it was exported"
        mine = replace(run.job, user="me")
        history.add(replace(ended(3.0), job=mine, kernels=KERNELS[:1]))
        history.add(replace(ended(4.0), job=mine))  # of the last one nothing is known
        assert history.kernels_of(mine) == KERNELS[:1]
        assert history.kernels_of(run.job) == KERNELS
        assert history.kernels_of(replace(mine, shape="another")) == ()


def test_who_asks_for_kernels_has_no_run_of_others_looked_at(tmp_path: Path) -> None:
    with History(tmp_path / "h.db") as history:
        statements: list[str] = []
        history._db.set_trace_callback(statements.append)
        history.kernels_of(ended(1.0).job)
        history._db.set_trace_callback(None)
        (statement,) = statements
        (plan,) = history._db.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
        assert plan["detail"] == (
            "SEARCH run USING INDEX run_kernels (program=? AND shape=? AND user=?)"
        )


def test_a_file_without_kernels_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    with History(path) as history:
        old = history.add(ended(1.0))
        history.keep({"1@2": "{}"}, 5.0)
        history._db.execute("DROP INDEX run_kernels")
        history._db.execute("ALTER TABLE run DROP COLUMN kernels")
        history._db.execute("PRAGMA user_version = 1")
    with pytest.raises(HistoryError, match="has version 1"):
        History(path, writes=False)
    with History(path) as history:
        assert list(history.runs()) == [old]
        assert history.kept() == {"1@2": (5.0, "{}")}
        history.add(replace(ended(2.0), kernels=KERNELS))
        assert [run.kernels for run in history.runs()] == [(), KERNELS]
        assert history._db.execute("PRAGMA user_version").fetchone()[0] == VERSION == 2


def test_kernels_that_make_no_sense_are_named(tmp_path: Path) -> None:
    with History(tmp_path / "h.db") as history:
        history.add(ended(1.0))
        for broken in ("[1]", '{"a": 1}', "[[1, 2]]", "no"):
            history._db.execute("UPDATE run SET kernels = ?", (broken,))
            with pytest.raises(HistoryError, match=r"run 1 of .* cannot be read"):
                list(history.runs())
