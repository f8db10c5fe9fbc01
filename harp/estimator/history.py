# SPDX-License-Identifier: Apache-2.0
"""Runs that have ended, in sqlite: what estimates are made from.

One process writes (a lock on a file beside it says which), others may read. A run is one
transaction: a writer that is killed leaves all of it or nothing. WAL without a sync at each run:
what a power cut takes is the last seconds, never the file. Whatever the file, the disk or sqlite
does not do is a HistoryError; what was not written may be given again.

The schema has a version (PRAGMA user_version). An older file is brought up to date by its writer, a
newer one is refused. Beside the runs are the notes of what still runs (`keep`), for the next harpd.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from harp.errors import HistoryError
from harp.estimator.job import Job, Run
from harp.estimator.rows import reals, row_of, run_of

__all__ = ["VERSION", "History"]

#: what makes a file of version n one of version n + 1; the first makes one of a new file
_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE run (
            number INTEGER PRIMARY KEY AUTOINCREMENT, started_s REAL NOT NULL,
            ended_s REAL NOT NULL, outcome TEXT NOT NULL, exit_status INTEGER,
            program TEXT NOT NULL, shape TEXT NOT NULL, numbers TEXT NOT NULL, user TEXT NOT NULL,
            image TEXT NOT NULL, framework TEXT NOT NULL, owner TEXT NOT NULL, gpu TEXT NOT NULL,
            asked_mem_bytes INTEGER NOT NULL, asked_share_ratio REAL NOT NULL,
            device_mem_bytes INTEGER NOT NULL, labels TEXT NOT NULL,
            used TEXT NOT NULL, quantiles TEXT NOT NULL, mem_limit_bytes INTEGER NOT NULL,
            share_ratio REAL NOT NULL, attempted_bytes INTEGER NOT NULL, elastic INTEGER NOT NULL
        ) STRICT""",
        "CREATE INDEX run_ended ON run (ended_s)",
        "CREATE TABLE note (key TEXT PRIMARY KEY, seen_s REAL NOT NULL, text TEXT NOT NULL) STRICT",
    ),
    (
        "ALTER TABLE run ADD COLUMN kernels TEXT NOT NULL DEFAULT '[]'",
        "CREATE INDEX run_kernels ON run (program, shape, user, number) WHERE kernels != '[]'",
    ),
)
VERSION = len(_MIGRATIONS)
_DAY_S = 86400.0
_PAGE = 500  #: runs read at a time
_FREED_PAGES = 1000  #: given back to the file system by one prune()
_BUSY_S = 2.0
_LARGEST = 2**63 - 1  #: sqlite's


class History:
    """An open file. Its methods may be called from any thread; each is one transaction.

    Args:
        path: the file; made with mode 0600, as its folder is with 0700, if need be.
        days: older runs go.
        runs_max: of more than so many the oldest go.
        writes: False: to be read alone, while another process may write.

    Raises:
        HistoryError: another process writes it, a newer HARP wrote it, or it is none.
    """

    def __init__(
        self, path: Path, *, days: float = 90.0, runs_max: int = 200_000, writes: bool = True
    ) -> None:
        self.path = path
        self._age_s = days * _DAY_S
        self._runs_max = runs_max
        self._busy = threading.Lock()
        self._lock_fd = -1
        try:
            if writes:
                self._lock_fd = _lock(path)
            with _named(path, "opened"):
                self._db = _connect(path, writes=writes)
                try:
                    self._begin(writes=writes)
                except BaseException:
                    self._db.close()
                    raise
        except BaseException:
            self._unlock()
            raise

    def __enter__(self) -> Self:
        """Close it afterwards."""
        return self

    def __exit__(self, *_: object) -> None:
        """See close()."""
        self.close()

    def add(self, run: Run, key: str = "") -> Run:
        """Write a run down, in the place of its note, if it had one; returns it with its number.

        Raises:
            HistoryError: it was not.
        """
        with self._transaction("written") as db:
            written = _insert(db, run)
            if key:
                db.execute("DELETE FROM note WHERE key = ?", (key,))
        return written

    def add_unknown(self, run: Run) -> Run | None:
        """Write a run down unless it is here already; returns it with its number, or None.

        Two runs are one if all but their numbers is equal: the job's digests, when it began and
        ended to the last bit, how, and what it used. Numbers are each file's own.

        Raises:
            HistoryError: it was not.
        """
        as_read = _run({**_row(run), "number": 0})
        with self._transaction("written") as db:
            rows = db.execute(
                "SELECT * FROM run WHERE ended_s = ? AND started_s = ?",
                (run.ended_s, run.started_s),
            )
            if any(replace(self._run(row), number=0) == as_read for row in rows):
                return None
            return _insert(db, run)

    def runs(self, since_number: int = 0) -> Iterator[Run]:
        """Runs with a larger number than that, in its order; those added meanwhile too.

        Raises:
            HistoryError: it cannot be read.
        """
        while True:
            with self._busy, _named(self.path, "read"):
                rows = self._db.execute(
                    "SELECT * FROM run WHERE number > ? ORDER BY number LIMIT ?",
                    (since_number, _PAGE),
                ).fetchall()
            if not rows:
                return
            for row in rows:
                yield self._run(row)
            since_number = rows[-1]["number"]

    def latest(self, limit: int, user: str = "") -> list[Run]:
        """The last runs, the newest first; of one user (a digest) or of all.

        Raises:
            HistoryError: it cannot be read.
        """
        with self._busy, _named(self.path, "read"):
            rows = self._db.execute(
                "SELECT * FROM run WHERE ? IN ('', user) ORDER BY number DESC LIMIT ?",
                (user, limit),
            ).fetchall()
        return [self._run(row) for row in rows]

    def kernels_of(self, job: Job) -> tuple[tuple[str, int, float], ...]:
        """What the last such job of this user's launched, as Run.kernels says; empty: not known.

        Raises:
            HistoryError: it cannot be read.
        """
        with self._busy, _named(self.path, "read"):
            row = self._db.execute(
                "SELECT * FROM run WHERE program = ? AND shape = ? AND user = ?"
                " AND kernels != '[]' ORDER BY number DESC LIMIT 1",
                (job.program, job.shape, job.user),
            ).fetchone()
        return self._run(row).kernels if row is not None else ()

    def count(self) -> int:
        """Runs in it.

        Raises:
            HistoryError: it cannot be read.
        """
        with self._busy, _named(self.path, "read"):
            return int(self._db.execute("SELECT count(*) FROM run").fetchone()[0])

    def prune(self, now_s: float) -> int:
        """Forget what is too old, and of too many the oldest; returns how many went.

        Raises:
            HistoryError: they stay.
        """
        with self._transaction("pruned") as db:
            gone = db.execute("DELETE FROM run WHERE ended_s < ?", (now_s - self._age_s,)).rowcount
            gone += db.execute(
                "DELETE FROM run WHERE number <="
                " (SELECT number FROM run ORDER BY number DESC LIMIT 1 OFFSET ?)",
                (self._runs_max,),
            ).rowcount
        if gone:
            with self._busy, _named(self.path, "pruned"):
                # Each step of it frees one page, and execute() makes one step.
                self._db.executescript(f"PRAGMA incremental_vacuum({_FREED_PAGES})")
        return gone

    def keep(self, notes: Mapping[str, str], now_s: float, *, others: bool = False) -> None:
        """Notes of what still runs take the place of all those before, or of these alone.

        Raises:
            HistoryError: those before stay.
        """
        with self._transaction("written") as db:
            if not others:
                db.execute("DELETE FROM note")
            db.executemany(
                "INSERT OR REPLACE INTO note (key, seen_s, text) VALUES (?, ?, ?)",
                [(key, now_s, text) for key, text in notes.items()],
            )

    def kept(self) -> dict[str, tuple[float, str]]:
        """{key: (when it was kept, note)}.

        Raises:
            HistoryError: it cannot be read.
        """
        with self._busy, _named(self.path, "read"):
            rows = self._db.execute("SELECT key, seen_s, text FROM note ORDER BY key").fetchall()
        return {row["key"]: (row["seen_s"], row["text"]) for row in rows}

    def close(self) -> None:
        """Close the file, and let others write it."""
        with self._busy, contextlib.suppress(sqlite3.Error):
            self._db.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _begin(self, *, writes: bool) -> None:
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version > VERSION:
            raise HistoryError(
                f"{self.path} has version {version}, this HARP reads versions up to {VERSION}",
                "use the newer HARP, or move the file away: history begins anew",
            )
        if not writes:
            if version < VERSION:
                raise HistoryError(
                    f"{self.path} has version {version}, this HARP reads version {VERSION}",
                    "start this HARP's harpd once: it brings the file up to date",
                )
            return
        self._db.execute("BEGIN IMMEDIATE")
        with _or_back(self._db):
            for statements in _MIGRATIONS[version:]:
                for statement in statements:
                    self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {VERSION}")

    @contextlib.contextmanager
    def _transaction(self, what: str) -> Iterator[sqlite3.Connection]:
        with self._busy, _named(self.path, what):
            self._db.execute("BEGIN IMMEDIATE")
            with _or_back(self._db):
                yield self._db

    def _run(self, row: sqlite3.Row) -> Run:
        try:
            return _run(row)
        except (ValueError, TypeError, AttributeError) as error:
            raise HistoryError(
                f"run {row['number']} of {self.path} cannot be read: {error}",
                "move the file away: history begins anew",
            ) from error


def _lock(path: Path) -> int:
    """Take the place of the one writer; it is given up when the descriptor closes, however.

    Not on the file itself: closing any descriptor of it would drop sqlite's own locks.
    """
    beside = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HistoryError(
            f"{path.parent} cannot hold history: {error.strerror}",
            "set HARP_STATE to a folder of your own, or history.enabled=no",
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise HistoryError(
            f"{path} is written by another process", "give each harpd a HARP_STATE of its own"
        ) from error
    return fd


def _connect(path: Path, *, writes: bool) -> sqlite3.Connection:
    if writes:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    uri = f"{path.absolute().as_uri()}?mode={'rw' if writes else 'ro'}"
    db = sqlite3.connect(
        uri, uri=True, isolation_level=None, timeout=_BUSY_S, check_same_thread=False
    )
    db.row_factory = sqlite3.Row
    if writes:
        try:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the first table
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(f"PRAGMA journal_size_limit = {4 << 20}")
        except BaseException:
            db.close()
            raise
    return db


@contextlib.contextmanager
def _named(path: Path, what: str) -> Iterator[None]:
    """What sqlite or the disk says, as ours."""
    try:
        yield
    except (sqlite3.Error, OSError, ValueError, OverflowError) as error:
        broken = isinstance(error, sqlite3.DatabaseError) and not isinstance(
            error, sqlite3.OperationalError
        )
        raise HistoryError(
            f"{path} cannot be {what}: {error}",
            "move the file away: history begins anew"
            if broken
            else "see that it is there, its disk has room and its user may write to it",
        ) from error


@contextlib.contextmanager
def _or_back(db: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back already
            db.execute("ROLLBACK")
        raise


def _insert(db: sqlite3.Connection, run: Run) -> Run:
    row = _row(run)
    places = ", ".join("?" * len(row))
    # The names are ours.
    text = f"INSERT INTO run ({', '.join(row)}) VALUES ({places})"  # noqa: S608
    return replace(run, number=db.execute(text, tuple(row.values())).lastrowid or 0)


def _row(run: Run) -> dict[str, str | int | float | None]:
    row = {
        name: min(value, _LARGEST) if name.endswith("_bytes") else value
        for name, value in row_of(run).items()
    }
    nested = {"used": json.dumps(run.used), "kernels": json.dumps(run.kernels)}
    return row | nested | {"elastic": int(run.elastic)}


def _run(row: sqlite3.Row | Mapping[str, Any]) -> Run:
    kernels = tuple(
        (str(name), int(launches), float(seconds))
        for name, launches, seconds in json.loads(row["kernels"])
    )
    return replace(run_of(dict(row), reals(row["used"])), kernels=kernels)
