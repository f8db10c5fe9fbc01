# SPDX-License-Identifier: Apache-2.0
"""harp.estimator.learned: what was learned is read back to the last bit, or not at all."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from job_worlds import DAY_S
from learned_world import any_job, any_run, said, steps, tell

from harp.errors import HistoryError, LearnedLost
from harp.estimator import learned
from harp.estimator.advise import AdviseConfig, Adviser
from harp.estimator.job import Run
from harp.estimator.learned import Learned, Point, digest, maker
from harp.estimator.state import Keys
from harp.estimator.track import Verdict

MADE = maker(AdviseConfig())


class Desk:
    """An adviser with a file, and why the file was dropped."""

    def __init__(self, path: Path, made_by: str = MADE, most_bytes: int = 0) -> None:
        self.dropped: list[str] = []
        self.file = Learned(path, made_by, self.dropped.append)
        self.adviser = Adviser(keys=Keys(self.file, most_bytes=most_bytes))
        if self.file.point is not None:
            self.adviser.read(self.file.parts)

    def save(self, run: Run) -> None:
        self.file.take(self.adviser, Point(run.number, digest(run), run.number))


@pytest.mark.parametrize("seed", range(3))
def test_with_and_without_a_file_the_same_is_said(tmp_path: Path, seed: int) -> None:
    """Saved and read back at any moment, with whatever part of it in memory."""
    rng = random.Random(seed)
    plain, path = Adviser(), tmp_path / "learned.db"
    desk = Desk(path, most_bytes=rng.choice((0, 20_000, 1 << 30)))
    restarts = 0
    for step in steps(seed, 300):
        tell(plain, step)
        tell(desk.adviser, step)
        if rng.random() < 0.1:
            desk.save(step.run)
            if rng.random() < 0.3:
                desk.file.close()
                desk = Desk(path, most_bytes=rng.choice((0, 20_000, 1 << 30)))
                assert not desk.dropped
                restarts += 1
        if rng.random() < 0.03:
            assert said(desk.adviser, step.now_s, seed) == said(plain, step.now_s, seed)
    assert said(desk.adviser, step.now_s, seed, 60) == said(plain, step.now_s, seed, 60)
    assert restarts > 3
    desk.file.close()


def test_memory_holds_no_more_than_its_part(tmp_path: Path) -> None:
    desk, rng = Desk(tmp_path / "learned.db", most_bytes=30_000), random.Random(1)
    for number in range(1, 400):
        run = any_run(rng, number, 1e9 + number)
        desk.adviser.learn(run)
        if number % 40 == 0:
            desk.save(run)
            held = desk.adviser.keys._held
            assert sum(state.held_bytes for state in held.values()) <= 30_000
            assert len(held) < len(desk.adviser)
    desk.file.close()


def test_what_changes_while_it_is_saved_stays_in_memory(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "learned.db")
    keys = desk.adviser.keys
    plain = Adviser()
    for number in range(1, 30):
        for adviser in (desk.adviser, plain):
            adviser.learn(run := any_run(random.Random(number), number, 1e9 + number))
    changed, gone = keys.take()
    rows = [(key, state.seen_s, state.packed()) for key, state in changed]
    for number in range(30, 35):  # while another thread writes
        for adviser in (desk.adviser, plain):
            adviser.learn(run := any_run(random.Random(number), number, 1e9 + number))
    desk.file.save(Point(29, "", 29), rows, gone, desk.adviser.write())
    keys.saved(gone)
    assert 0 < len(keys._held) < len(keys)
    assert said(desk.adviser, 1e9 + 40) == said(plain, 1e9 + 40)
    desk.save(run)
    desk.file.close()
    assert said(Desk(tmp_path / "learned.db").adviser, 1e9 + 40) == said(plain, 1e9 + 40)


def test_what_was_dropped_is_gone_before_it_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "learned.db"
    _, run = _taught(path)
    desk = Desk(path)
    late_s = 1e9 + 200 * DAY_S
    assert desk.adviser.prune(late_s) > 0
    assert len(desk.adviser) == 0
    rng = random.Random(0)
    for _ in range(30):
        assert not any(need.known for need in desk.adviser.ask(any_job(rng), 1e9).values())
    desk.adviser.learn(again := any_run(random.Random(9), 61, late_s))
    desk.save(again)
    desk.file.close()
    plain = Adviser()
    plain.learn(again)
    assert len(Desk(path).file) == len(plain)
    assert run.number == 60


def _taught(path: Path, runs: int = 60) -> tuple[Adviser, Run]:
    desk, rng = Desk(path), random.Random(2)
    for number in range(1, runs + 1):
        run = any_run(rng, number, 1e9 + number)
        desk.adviser.learn(run)
    desk.save(run)
    desk.file.close()
    return desk.adviser, run


def test_any_byte_that_is_not_what_was_written_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "learned.db"
    _taught(path)
    whole, rng = path.read_bytes(), random.Random(3)
    desk = Desk(path)
    expected = said(desk.adviser, 1e9)
    desk.file.close()
    noticed = 0
    for _ in range(50):
        at = rng.randrange(len(whole))
        broken = bytearray(whole)
        broken[at] ^= 1 << rng.randrange(8)
        for end in ("-wal", "-shm"):
            path.with_name(path.name + end).unlink(missing_ok=True)
        path.write_bytes(broken)
        desk = Desk(path)
        if desk.dropped:
            noticed += 1
            assert desk.file.point is None
            assert len(desk.adviser) == 0
        else:  # a byte that nobody reads
            assert said(desk.adviser, 1e9) == expected, at
        desk.file.close()
    assert noticed > 10


def test_an_index_that_hides_a_key_is_noticed(tmp_path: Path) -> None:
    """Every row is there and whole, and the one that is asked for is not found."""
    path = tmp_path / "learned.db"
    _taught(path)
    with sqlite3.connect(path) as db:
        root, size = (
            db.execute(text).fetchone()[0]
            for text in (
                "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_key_1'",
                "PRAGMA page_size",
            )
        )
    db.close()
    data = bytearray(path.read_bytes())
    page = data[(root - 1) * size : root * size]
    at = page.index(b"signature")
    page[at] ^= 1
    data[(root - 1) * size : root * size] = page
    path.write_bytes(data)
    desk = Desk(path)
    assert len(desk.dropped) == 1
    desk.file.close()


@pytest.mark.parametrize("size", [0, 1, 100, 5000])
def test_a_file_that_was_cut_is_begun_anew(tmp_path: Path, size: int) -> None:
    path = tmp_path / "learned.db"
    _taught(path)
    os.truncate(path, size)
    desk = Desk(path)
    assert (len(desk.dropped), desk.file.point) == (0 if size <= 1 else 1, None)
    desk.adviser.learn(run := any_run(random.Random(1), 1, 1e9))
    desk.save(run)
    desk.file.close()
    assert Desk(path).file.point == Point(1, digest(run), 1)


def test_other_code_of_the_same_version_is_another_harp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(name: str, **sources: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        for stem, text in sources.items():
            (folder / f"{stem}.py").write_text(text)
        monkeypatch.setattr(learned, "__file__", str(folder / "learned.py"))
        return maker(AdviseConfig())

    same = {made("a", x="1", y="2"), made("b", x="1", y="2")}
    others = {made("c", x="1", y="3"), made("d", x="1", z="2"), made("e", x="1"), MADE}
    assert len(same) == 1
    assert len(same | others) == 5


def test_what_another_harp_made_is_not_taken_but_its_verdicts_are(tmp_path: Path) -> None:
    path = tmp_path / "learned.db"
    _, run = _taught(path)
    desk = Desk(path)
    verdicts = [
        Verdict("gpu_mem_bytes", 5.0, None, 980_000, 3, 2, 1),
        Verdict("cpu_cores", 6.0, True),
    ]
    desk.file.save(Point(1, "x", 1), [], [], {}, track={"total": 1}, verdicts=verdicts)
    desk.file.close()
    other = Desk(path, maker(AdviseConfig(probe=False)))
    assert other.dropped == ["it was made by another HARP, or with other settings"]
    assert (other.file.point, len(other.file), other.file.parts) == (None, 0, {})
    assert other.file.track == {"total": 1, "last": False}
    assert [*other.file.verdicts()] == verdicts
    other.file.save(Point(1, "x", 1), [], [], {}, since_s=5.0)
    assert [*other.file.verdicts()] == verdicts[1:]
    other.file.close()
    assert run.number == 60


def test_what_was_emptied_stays_so_but_for_what_bounds_did(tmp_path: Path) -> None:
    path = tmp_path / "learned.db"
    _taught(path)
    desk = Desk(path)
    desk.file.save(Point(1, "x", 1), [], [], {}, track={"total": 1})
    desk.file.close()
    for dropped in (1, 0):
        other = Desk(path, maker(AdviseConfig(probe=False)))
        assert len(other.dropped) == dropped
        assert other.file.track == {"total": 1, "last": False}
        other.file.close()


def test_keys_of_a_clock_that_was_ahead_are_dropped_too(tmp_path: Path) -> None:
    path, now_s = tmp_path / "learned.db", 1e9
    desk = Desk(path)
    desk.adviser.learn(run := any_run(random.Random(1), 1, now_s + 500 * DAY_S))
    desk.save(run)  # and is held no more
    assert desk.adviser.prune(now_s) == 0
    desk.file.save(Point(1, digest(run), 1), [], [], {}, now_s=now_s)
    many = len(desk.adviser)
    assert many > 3
    assert desk.adviser.prune(now_s + 91 * DAY_S) == many
    assert len(desk.adviser) == 0
    desk.save(run)
    desk.file.close()
    assert len(Desk(path).file) == 0


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "learned.db"
    file = Learned(path, MADE, print)
    file.save(Point(1, "", 1), [], [], {})
    assert {one.stat().st_mode & 0o777 for one in tmp_path.iterdir()} == {0o600}
    file.close()
    (tmp_path / "link.db").symlink_to(path)
    before = path.read_bytes()
    Learned(tmp_path / "link.db", MADE, lambda _: None).close()
    assert not (tmp_path / "link.db").is_symlink()
    assert path.read_bytes() == before
    with pytest.raises(HistoryError, match="cannot be used"):
        Learned(tmp_path / "none" / "learned.db", MADE, lambda _: None)


def test_what_cannot_be_saved_is_saved_later(tmp_path: Path) -> None:
    desk, rng = Desk(tmp_path / "learned.db"), random.Random(4)
    plain = Adviser()
    for number in range(1, 61):
        run = any_run(rng, number, 1e9 + number)
        plain.learn(run)
        desk.adviser.learn(run)
        if number % 10 == 0:
            with sqlite3.connect(desk.file.path, isolation_level=None) as db:
                db.execute("BEGIN IMMEDIATE")  # as a full disk: nobody else may write
                desk.file._writes.execute("PRAGMA busy_timeout = 0")
                with pytest.raises(HistoryError, match="cannot be written"):
                    desk.save(run)
                db.execute("ROLLBACK")
    desk.save(run)
    assert said(desk.adviser, 1e9 + 60) == said(plain, 1e9 + 60)
    desk.file.close()


def test_what_is_damaged_while_it_is_open_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "learned.db"
    _taught(path)
    desk = Desk(path)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE key SET seen_s = seen_s + 1")
    db.close()
    with pytest.raises(LearnedLost, match="a checksum is wrong"):
        said(desk.adviser, 1e9)
    desk.file.close()


_WRITER = """
import sys, random
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_learned import Desk
from learned_world import any_run
desk, rng = Desk(Path(sys.argv[1])), random.Random(5)
for number in range(1, 100000):
    run = any_run(rng, number, 1e9 + number)
    desk.adviser.learn(run)
    if number % 3 == 0:
        desk.save(run)
        print(number, flush=True)
"""


@pytest.mark.parametrize("after_s", [0.0, 0.003, 0.011])
def test_one_that_is_killed_leaves_what_it_had_saved(tmp_path: Path, after_s: float) -> None:
    path = tmp_path / "learned.db"
    folder = str(Path(__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path), folder], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) >= 60:
                break
        time.sleep(after_s)
        writer.send_signal(signal.SIGKILL)
        rest = [int(line) for line in writer.stdout if line.endswith("\n")]
    desk = Desk(path)
    assert not desk.dropped
    point = desk.file.point
    assert point is not None
    assert point.number >= max([60, *rest])
    plain, rng = Adviser(), random.Random(5)
    for number in range(1, point.number + 1):
        plain.learn(any_run(rng, number, 1e9 + number))
    assert said(desk.adviser, 1e9 + 100) == said(plain, 1e9 + 100)
    desk.file.close()
