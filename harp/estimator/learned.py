# SPDX-License-Identifier: Apache-2.0
"""What was learned, in sqlite beside history: a start reads it, and of history the rest alone.

Of each key its state, loaded when it is asked for; the adviser's rest in parts; the verdicts of the
last week. One save is one transaction, so the file is always what the adviser was after one run,
whose number and digest are in it. It is worth nothing but time: one that is damaged, that another
HARP made or that does not fit the history beside it is emptied, and all is learned anew. Every part
has a checksum; a new Learned has read them all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import ddsketch

from harp import __version__
from harp.errors import HistoryError, LearnedLost
from harp.estimator.advise import AdviseConfig, Adviser
from harp.estimator.estimate import Key
from harp.estimator.job import Run
from harp.estimator.rules import JOB_RULES
from harp.estimator.state import State
from harp.estimator.track import Verdict

__all__ = ["VERSION", "Learned", "Point", "digest", "maker"]

#: of the tables, and of what is in their blobs; another one's file is emptied
VERSION = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS key (key TEXT PRIMARY KEY, seen_s REAL, crc INTEGER NOT NULL,
    data BLOB NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS key_seen ON key (seen_s);
CREATE TABLE IF NOT EXISTS part (name TEXT PRIMARY KEY, crc INTEGER NOT NULL,
    data BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS verdict (number INTEGER PRIMARY KEY AUTOINCREMENT, target TEXT NOT NULL,
    ended_s REAL NOT NULL, held INTEGER, confidence_ppm INTEGER NOT NULL, asked INTEGER NOT NULL,
    bound INTEGER NOT NULL, used INTEGER NOT NULL, crc INTEGER NOT NULL) STRICT;
"""
_POINT, _TRACK = "point", "track"
#: beside the track: nothing was counted since
_LAST = "last"
_BUSY_S = 2.0
_VERDICTS_MAX = 50_000
_LARGEST = 2**63 - 1  #: sqlite's
_COLUMNS = "target, ended_s, held, confidence_ppm, asked, bound, used"


@dataclass(frozen=True, slots=True)
class Point:
    """Where in history it is."""

    number: int  #: of the last run learned; 0: none
    digest: str  #: of that run
    runs: int  #: learned until then


def digest(run: Run) -> str:
    """A run in few letters: another one has others."""
    used = sorted((name, float(value)) for name, value in run.used.items())
    when = float(run.started_s), float(run.ended_s)
    text = json.dumps([run.number, run.job.program, run.job.user, run.outcome, when, used])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def maker(config: AdviseConfig) -> str:
    """What makes the same of the same runs: code and settings, in few letters."""
    rules = [repr(rule) for rule in JOB_RULES.values()]
    code = _code(Path(__file__).parent)
    text = repr((VERSION, __version__, ddsketch.__version__, code, rules, config))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@cache
def _code(folder: Path) -> str:
    """Of a folder's sources: one version may have had others before."""
    found = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.glob("*.py")):
        source = path.read_bytes()
        found.update(f"{path.name} {len(source)}\n".encode())
        found.update(source)
    return found.hexdigest()


class Learned:
    """An open file, of one process. It reads in one thread at a time and saves in any other.

    Args:
        path: the file; made with mode 0600 if need be.
        made_by: see maker().
        dropped: told why what was in the file is not used.

    Raises:
        HistoryError: no file can be made there.
    """

    def __init__(self, path: Path, made_by: str, dropped: Callable[[str], None]) -> None:
        self.path = path
        self._made_by = made_by
        #: where it is; None: nothing was learned
        self.point: Point | None = None
        self.parts: dict[str, bytes] = {}
        self.track: dict[str, object] | None = None  #: see Track.plain()
        self._crcs: dict[str, int] = {}
        self._keys = 0
        self._busy = threading.Lock()
        for attempt in (0, 1):
            try:
                self._open()
                self._check()
            except (sqlite3.Error, OSError, ValueError, TypeError, KeyError) as error:
                with contextlib.suppress(AttributeError):
                    self.close()
                if attempt:
                    raise HistoryError(
                        f"{path} cannot be used: {error}", "see that its disk has room"
                    ) from error
                dropped(f"it is damaged: {error}")
                self.remove()
            else:
                break
        if not self._fits():
            dropped("it was made by another HARP, or with other settings")
            self.empty()

    def __len__(self) -> int:
        """Keys in it."""
        return self._keys

    def load(self, key: Key) -> State | None:
        """What a key has shown; None: nothing.

        Raises:
            LearnedLost: it cannot be read.
        """
        try:
            row = self._reads.execute(
                "SELECT seen_s, crc, data FROM key WHERE key = ?", (_name(key),)
            ).fetchone()
            if row is None:
                return None
            seen_s, crc, data = row
            _check(crc, _name(key), seen_s, data)
            return State.of(data, seen_s)
        except (sqlite3.Error, ValueError, TypeError, KeyError, IndexError) as error:
            raise LearnedLost(f"{self.path} cannot be read: {error}") from error

    def older(self, than_s: float) -> Iterable[Key]:
        """Keys last seen before that.

        Raises:
            LearnedLost: likewise.
        """
        try:
            rows = self._reads.execute("SELECT key FROM key WHERE seen_s < ?", (than_s,)).fetchall()
            return [tuple(json.loads(name)) for (name,) in rows]
        except (sqlite3.Error, ValueError) as error:
            raise LearnedLost(f"{self.path} cannot be read: {error}") from error

    def verdicts(self) -> Iterator[Verdict]:
        """Those kept, in the order of the runs' ends.

        Raises:
            LearnedLost: likewise.
        """
        try:
            rows = self._reads.execute(
                f"SELECT {_COLUMNS}, crc FROM verdict ORDER BY number"  # noqa: S608
            ).fetchall()
            for *row, crc in rows:
                _check(crc, *row)
        except (sqlite3.Error, ValueError) as error:
            raise LearnedLost(f"{self.path} cannot be read: {error}") from error
        for target, ended_s, held, *rest in rows:
            yield Verdict(target, ended_s, None if held is None else bool(held), *rest[:-1])

    def take(self, adviser: Adviser, point: Point) -> None:
        """Save all that an adviser has learned since.

        Args:
            adviser: whose keys are this file's.
            point: where it is.

        Raises:
            HistoryError: nothing was saved; it is to be, yet.
        """
        changed, gone = adviser.keys.take()
        rows = [(key, state.seen_s, state.packed()) for key, state in changed]
        try:
            self.save(point, rows, gone, adviser.write())
        except HistoryError:
            adviser.keys.not_saved(changed)
            raise
        adviser.keys.saved(gone)

    def save(
        self,
        point: Point,
        changed: Sequence[tuple[Key, float | None, bytes]],
        gone: Sequence[Key],
        parts: Mapping[str, bytes],
        *,
        track: Mapping[str, object] | None = None,
        last: bool = False,
        verdicts: Sequence[Verdict] = (),
        since_s: float | None = None,
        now_s: float | None = None,
    ) -> None:
        """Take all of it, or nothing.

        Args:
            point: what it is of.
            changed: keys, when they were last seen, their states.
            gone: keys to drop.
            parts: all but the keys.
            track: figures of what bounds did.
            last: there will be no others; see go_on().
            verdicts: new ones.
            since_s: older verdicts go; None: none does.
            now_s: keys seen later were seen then; None: no matter.

        Raises:
            HistoryError: nothing was taken.
        """
        text = json.dumps([self._made_by, point.number, point.digest, point.runs]).encode()
        every = {**parts, _POINT: text}
        if track is not None:
            every[_TRACK] = json.dumps({**track, _LAST: last}).encode()
        crcs = {name: _crc(name, data) for name, data in every.items()}
        new = [
            (name, crc, every[name]) for name, crc in crcs.items() if self._crcs.get(name) != crc
        ]
        rows = [_key_row(_name(key), seen_s, data) for key, seen_s, data in changed]
        with self._transaction() as db:
            db.executemany("DELETE FROM key WHERE key = ?", [(_name(key),) for key in gone])
            db.executemany("INSERT OR REPLACE INTO key VALUES (?, ?, ?, ?)", rows)
            db.executemany("INSERT OR REPLACE INTO part VALUES (?, ?, ?)", new)
            db.executemany(
                f"INSERT INTO verdict ({_COLUMNS}, crc) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                [_verdict_row(one) for one in verdicts],
            )
            db.execute(
                "DELETE FROM verdict WHERE number <= (SELECT max(number) FROM verdict) - ?",
                (_VERDICTS_MAX,),
            )
            if since_s is not None:
                db.execute("DELETE FROM verdict WHERE ended_s <= ?", (since_s,))
            if now_s is not None:
                late = db.execute("SELECT key, data FROM key WHERE seen_s > ?", (now_s,)).fetchall()
                db.executemany(
                    "INSERT OR REPLACE INTO key VALUES (?, ?, ?, ?)",
                    [_key_row(name, now_s, data) for name, data in late],
                )
        self._crcs |= crcs

    def go_on(self) -> bool:
        """Whether the track's totals were the last; from now on they are not.

        Raises:
            HistoryError: that cannot be written; they may not be gone on from.
        """
        if self.track is None or not self.track.get(_LAST):
            return False
        data = json.dumps({**self.track, _LAST: False}).encode()
        crc = _crc(_TRACK, data)
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO part VALUES (?, ?, ?)", (_TRACK, crc, data))
        self._crcs[_TRACK] = crc
        return True

    def empty(self) -> None:
        """Nothing is learned; what bounds did is kept.

        Raises:
            HistoryError: it cannot be written.
        """
        with self._transaction() as db:
            db.execute("DELETE FROM key")
            db.execute("DELETE FROM part WHERE name <> ?", (_TRACK,))
        self.point, self.parts, self._keys = None, {}, 0
        self._crcs = {}

    def close(self) -> None:
        """Close it."""
        with self._busy:
            for db in (self._reads, self._writes):
                with contextlib.suppress(sqlite3.Error):
                    db.close()

    def remove(self) -> None:
        """Remove the file; the next Learned begins anew."""
        for end in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + end).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._busy:
            try:
                self._writes.execute("BEGIN IMMEDIATE")
                try:
                    yield self._writes
                    self._writes.execute("COMMIT")
                except BaseException:
                    with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back already
                        self._writes.execute("ROLLBACK")
                    raise
            except (sqlite3.Error, OverflowError) as error:
                raise HistoryError(
                    f"{self.path} cannot be written: {error}", "see that its disk has room"
                ) from error

    def _fits(self) -> bool:
        """What is in it is of this HARP; or there is nothing."""
        return self.point is not None or not (self.parts or self._keys)

    def _open(self) -> None:
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        self._writes, self._reads = (
            sqlite3.connect(
                self.path, isolation_level=None, timeout=_BUSY_S, check_same_thread=False
            )
            for _ in range(2)
        )
        self._writes.execute("PRAGMA journal_mode = WAL")
        self._writes.execute("PRAGMA synchronous = NORMAL")
        self._writes.execute(f"PRAGMA journal_size_limit = {4 << 20}")
        version = int(self._writes.execute("PRAGMA user_version").fetchone()[0])
        if version not in (0, VERSION):
            raise ValueError(f"its version is {version}, not {VERSION}")
        self._writes.executescript(_TABLES)
        self._writes.execute(f"PRAGMA user_version = {VERSION}")

    def _check(self) -> None:
        """Read every byte once."""
        self.point, self.track, self.parts, self._keys, self._crcs = None, None, {}, 0, {}
        problem = self._reads.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if problem != "ok":
            raise ValueError(problem)
        for name, seen_s, crc, data in self._reads.execute("SELECT * FROM key"):
            self._keys += 1
            _check(crc, name, seen_s, data)
        for name, crc, data in self._reads.execute("SELECT * FROM part"):
            _check(crc, name, data)
            self.parts[name] = data
            self._crcs[name] = crc
        if (text := self.parts.pop(_TRACK, None)) is not None:
            self.track = json.loads(text)
        if (text := self.parts.pop(_POINT, None)) is not None:
            made_by, *point = json.loads(text)
            if made_by == self._made_by:
                self.point = Point(*point)


@lru_cache(4096)
def _name(key: Key) -> str:
    return json.dumps(key)


def _crc(*values: object) -> int:
    """Of a row; of bytes there is one value at most, the last."""
    crc = 0
    if isinstance(values[-1], bytes):
        crc = zlib.crc32(values[-1])
        values = values[:-1]
    return zlib.crc32(repr(values).encode(errors="surrogatepass"), crc)


def _check(crc: int, *values: object) -> None:
    if _crc(*values) != crc:
        raise ValueError("a checksum is wrong")


def _key_row(name: str, seen_s: float | None, data: bytes) -> tuple[object, ...]:
    seen_s = None if seen_s is None else float(seen_s)
    return name, seen_s, _crc(name, seen_s, data), data


def _verdict_row(one: Verdict) -> tuple[object, ...]:
    whole = (one.confidence_ppm, one.asked, one.bound, one.used)
    held = None if one.held is None else int(one.held)
    row = (one.target, float(one.ended_s), held, *(min(value, _LARGEST) for value in whole))
    return *row, _crc(*row)
