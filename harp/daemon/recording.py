# SPDX-License-Identifier: Apache-2.0
"""Runs of this machine's tenants, written down as they end.

harpd.tick ── look ──┐                          ┌── history.db (a thread)
arbiter ──── denied ─┼── recorder.py (pure) ── Run ── told (the adviser)
book ──────── ended ─┘     └── notes, once a minute: the next harpd goes on from them
(1) Nothing here ends harpd or holds it up: what history cannot do is logged, and runs wait.
(2) A command is made a signature of and forgotten. Whose it is the kernel has said, never the
    caller: nobody's words come under another's name.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from harp.config import HistoryConfig
from harp.daemon.apart import Apart
from harp.daemon.book import Book
from harp.daemon.exits import Exits
from harp.daemon.picture import Picture
from harp.daemon.profiles import kernels_of
from harp.daemon.recorder import End, How, Recorder, Seen, key_of, owner_of
from harp.daemon.watch import Lineage
from harp.errors import HistoryError
from harp.estimator.history import History
from harp.estimator.job import Job, Run
from harp.estimator.signature import job_of, user_digest
from harp.lease_wire import MemClass, Msg
from harp.model import ClientState, Tenant
from harp.procs import Proc, memory_of, start_of
from harp.units import PPM

__all__ = ["Recording"]

_log = structlog.get_logger(__name__)
_TICKS = os.sysconf("SC_CLK_TCK")
_SALT_BYTES = 32
#: looked at each time harpd looks, not each period: it may have ended by the next
_YOUNG_S = 10.0
_NOTE_S, _PRUNE_S = 60.0, 3600.0
#: runs that wait for a disk with room; the oldest go
_WAITING = 1000
#: a root that left at most so long before its tenant was seen to have ended left last
_SEEN_S = 3.0


@dataclass(slots=True, eq=False)
class _Waiting:
    """A run that is not written yet."""

    tenant: Tenant | None
    key: str  #: of its note
    run: Run
    whole: bool  #: it names its kernels, or nobody can


class Recording:
    """One daemon's. All of it is on the event loop, but for the file.

    Args:
        config: settings.
        state: folder of the file and of the salt.
        book: the tenants.
        lineage: whose processes are whose.
        told: of every run that was written down, with its number, on the event loop.
        still: of every run that goes on, once a minute.
    """

    def __init__(
        self,
        config: HistoryConfig,
        state: Path,
        book: Book,
        lineage: Lineage,
        told: Callable[[Tenant | None, Run], None],
        *,
        still: Callable[[Run], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._state = state
        self._book = book
        self._lineage = lineage
        self._told = told
        self._still = still
        self._recorder = Recorder()
        self._exits = Exits()
        self._salt = secrets.token_bytes(_SALT_BYTES)  # of this harpd alone, if none can be kept
        self._history: History | None = None
        #: why there is none; "": there is
        self.problem = "history is off: history.enabled=no"
        #: oldest first
        self._waiting: deque[_Waiting] = deque(maxlen=_WAITING)
        #: who has no note yet
        self._unnoted: list[Tenant] = []
        #: tenants whose root was gone when this harpd came, and of whom no process was seen since
        self._unseen: set[int] = set()
        self._apart = Apart()
        self._writing = asyncio.Lock()
        self._arrived = asyncio.Event()
        self._failing = False
        #: monotonic s of the last look at all
        self._looked_s = 0.0

    async def begin(self) -> None:
        """Open the file. The book knows who lives."""
        if self._config.enabled == "yes":
            try:
                self._history = await asyncio.to_thread(self._open)
            except (HistoryError, OSError) as error:
                message = error.message if isinstance(error, HistoryError) else str(error)
                hint = error.hint if isinstance(error, HistoryError) else ""
                self.problem = f"history is not kept: {message}"
                _log.error("history_not_kept", reason=message, hint=hint)
                return
            self.problem = ""
            await self._resume(self._history)

    def digest_of(self, uid: int) -> str:
        """A user as history knows them."""
        return user_digest(uid, self._salt)

    def job_of(self, tenant: Tenant) -> Job | None:
        """What a living tenant runs, as far as it is known."""
        return self._recorder.job_of(tenant)

    def made(
        self,
        tenant: Tenant,
        command: Sequence[str] = (),
        *,
        estimated: bool = False,
        asked_mem_bytes: int = 0,
        asked_share_ppm: int = 0,
    ) -> None:
        """A tenant begins.

        Args:
            tenant: it.
            command: of its root process; empty: not known.
            estimated: its limits are what it was said to need; its user asked for what follows.
            asked_mem_bytes: 0: its limit is what its user asked for.
            asked_share_ppm: likewise.
        """
        if self._history is None or tenant.for_root:
            return  # a lease's root is its server, and its programs are another machine's
        device = self._book.devices.get(tenant.device_uuids[0])
        labels = dict(tenant.labels)
        limits = tenant.limits
        asked_ppm = asked_share_ppm or (0 if estimated else limits.share_ppm)
        job = job_of(
            command,
            image=labels.get("image", ""),
            user="" if tenant.held else self.digest_of(tenant.uid),
            owner=labels.get("owner", "") or owner_of(labels),
            gpu=device.name if device else "",
            asked_mem_bytes=asked_mem_bytes or (0 if estimated else limits.mem_bytes),
            asked_share_ratio=asked_ppm / PPM,
            device_mem_bytes=device.memory_bytes if device else 0,
        )
        self._recorder.begin(tenant, job, estimated=estimated)
        self._unnoted.append(tenant)
        self._arrived.set()
        if tenant.root_start and not tenant.held:
            self._exits.watch(tenant.tenant_id, tenant.root_pid, tenant.root_start)

    def look(self, picture: Picture, procs: Mapping[int, Proc]) -> None:
        """A look at all tenants, if it is time; at those that have just begun in any case."""
        if self._history is None:
            return
        now_s, wall_s = time.monotonic(), time.time()
        all_of_them = now_s - self._looked_s >= self._config.period_s
        if all_of_them:
            self._looked_s = now_s
            for key, run in self._recorder.lost(self._book.tenants.values()).items():
                self._write(None, key, run)
        members = self._lineage.members()
        for client in picture.clients.values():
            if client.state is ClientState.LIVE:
                members.setdefault(client.tenant_id, []).append(client.pid)
        for tenant in self._book.tenants.values():
            if not all_of_them and wall_s - tenant.created_s > _YOUNG_S:
                continue
            if not self._recorder.watches(tenant):
                self.made(tenant)
            self._see(tenant, picture, wall_s, members.get(tenant.tenant_id, ()), procs)

    def denied(self, message: Msg) -> None:
        """The arbiter has refused memory."""
        tenant = self._book.tenants.get(message.tenant)
        if tenant is not None:
            of_host = message.cls == MemClass.HOST
            attempted = 0 if of_host else message.leased_bytes + message.amount_bytes
            self._recorder.denied(tenant, time.time(), attempted)

    def ended(self, tenant: Tenant, picture: Picture, reason: str) -> None:
        """A tenant was taken out of the book; the picture is the last one it is in."""
        if not self._recorder.watches(tenant):
            return
        now_s = time.time()
        lost = tenant.tenant_id in self._unseen
        self._unseen.discard(tenant.tenant_id)
        # What the arbiter knows of one that is lost it knew when that was last seen.
        seen_s = self._recorder.seen_s(tenant) if lost else now_s
        self._recorder.see(tenant, Seen.of(tenant, picture, seen_s))
        left = self._exits.of(tenant.tenant_id)
        self._exits.forget(tenant.tenant_id)
        how, at_s = How.ENDED, now_s
        if lost:
            how = How.LOST
        elif tenant.held:
            how = How.REMOVED
        elif reason != "ended":
            live = [c for c in picture.clients_of(tenant.tenant_id) if c.state is ClientState.LIVE]
            rooted = bool(tenant.root_start) and start_of(tenant.root_pid) == tenant.root_start
            how = How.TAKEN if live or rooted else How.ENDED
        elif left is not None and now_s - left.at_s < _SEEN_S:
            at_s = left.at_s
        device = self._book.devices.get(tenant.device_uuids[0])
        end = End(at_s, how, left.status if left else None)
        run = self._recorder.end(tenant, end, device.memory_bytes if device else 0)
        if run is not None:
            page = self._book.pages.get(tenant.tenant_id)
            # Its folder goes now, and its page; another user's folder is read apart.
            if page is not None or (tenant.grant_dir and tenant.uid == os.geteuid()):
                run = replace(run, kernels=kernels_of(tenant, page))
            self._write(tenant, key_of(tenant), run)

    def runs(self, since_number: int = 0) -> Iterable[Run]:
        """Those with larger numbers, in their order.

        Raises:
            HistoryError: there is no history.
        """
        return self._there().runs(since_number)

    def latest(self, limit: int, user: str = "") -> list[Run]:
        """The last ones, newest first; of one user, or of all.

        Raises:
            HistoryError: there is no history.
        """
        return self._there().latest(limit, user)

    async def add_unknown(self, runs: Iterable[Run], learn: Callable[[Run], None]) -> None:
        """Add other machines' runs that are not here; `learn` each before another is written.

        Raises:
            HistoryError: there is no history, or it cannot be written.
        """
        async with self._writing:
            for run in runs:
                if (kept := self._there().add_unknown(run)) is not None:
                    learn(kept)

    async def settle(self) -> None:
        """Write what waits."""
        async with self._writing:
            while self._waiting and self._history is not None:
                one = self._waiting[0]
                await self._complete(one)
                if self._history is None:
                    return
                try:
                    written = await asyncio.to_thread(self._history.add, one.run, one.key)
                except HistoryError as error:
                    if not self._failing:
                        _log.error(
                            "run_not_written",
                            reason=error.message,
                            hint=error.hint,
                            effect="runs wait; more than the last of them are lost",
                        )
                    self._failing = True
                    return
                if self._failing:
                    _log.info("runs_are_written_again", waiting=len(self._waiting))
                self._failing = False
                # It may have been pushed out meanwhile; nobody else takes from the left.
                if self._waiting and self._waiting[0] is one:
                    self._waiting.popleft()
                self._told(one.tenant, written)

    async def _complete(self, one: _Waiting) -> None:
        """Read its kernels, once: when a write is tried again its folder may be gone."""
        if one.whole or one.tenant is None:
            return
        kernels = await self._apart.run(one.tenant.uid, kernels_of, one.tenant)
        one.run, one.whole = replace(one.run, kernels=kernels or ()), True

    def kernels_of(self, job: Job) -> tuple[tuple[str, int, float], ...]:
        """What the last such job launched; empty: not known.

        Raises:
            HistoryError: there is no history.
        """
        return self._there().kernels_of(job)

    async def keep(self) -> None:
        """Write what comes, note who lives, forget what is old; for ever."""
        if self._history is None:
            return
        noted_s = pruned_s = -_PRUNE_S
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_NOTE_S):
                    await self._arrived.wait()
            self._arrived.clear()
            await self.settle()
            now_s = time.monotonic()
            with contextlib.suppress(HistoryError):  # settle() says it
                await self._note(everyone=now_s - noted_s >= _NOTE_S)
                if now_s - noted_s >= _NOTE_S:
                    noted_s = now_s
                    for run in self._recorder.going():
                        self._still(run)
                if now_s - pruned_s >= _PRUNE_S:
                    pruned_s = now_s
                    await asyncio.to_thread(self._history.prune, time.time())

    async def close(self) -> None:
        """Write what waits, and note who lives."""
        self._exits.close()
        if self._history is None:
            return
        await self.settle()
        try:
            await self._note(everyone=True)
        except HistoryError as error:
            _log.error("notes_not_written", reason=error.message, hint=error.hint)
        history, self._history = self._history, None
        await asyncio.to_thread(history.close)

    async def _note(self, *, everyone: bool) -> None:
        """Note who lives, or those of whom nothing is known there yet: what they run above all."""
        notes = self._recorder.notes() if everyone else {}
        unnoted, self._unnoted = self._unnoted, []
        for tenant in unnoted:
            if not everyone and self._recorder.watches(tenant):
                notes |= self._recorder.note_of(tenant)
        if self._history is not None and (everyone or notes):
            write = functools.partial(self._history.keep, others=not everyone)
            await asyncio.to_thread(write, notes, time.time())

    def _there(self) -> History:
        if self._history is None:
            off = self._config.enabled == "no"
            hint = "start harpd with --set history.enabled=yes" if off else "see harpd's log"
            raise HistoryError(self.problem or "history is closed", hint)
        return self._history

    def _open(self) -> History:
        path = self._state / "history.db"
        history = History(path, days=self._config.days, runs_max=self._config.runs_max)
        try:
            self._salt = _salt(self._state / "history.salt")
        except BaseException:
            history.close()
            raise
        return history

    async def _resume(self, history: History) -> None:
        try:
            kept = await asyncio.to_thread(history.kept)
        except HistoryError as error:
            _log.error("notes_not_read", reason=error.message, hint=error.hint)
            return
        notes = {key: text for key, (_, text) in kept.items()}
        for key, run in self._recorder.resume(notes, self._book.tenants.values()).items():
            self._write(None, key, run)
        for tenant in self._book.tenants.values():
            if tenant.held or tenant.for_root or not tenant.root_start:
                continue
            self._exits.watch(tenant.tenant_id, tenant.root_pid, tenant.root_start)
            if start_of(tenant.root_pid) != tenant.root_start:
                self._unseen.add(tenant.tenant_id)

    def _see(
        self,
        tenant: Tenant,
        picture: Picture,
        wall_s: float,
        pids: Iterable[int],
        procs: Mapping[int, Proc],
    ) -> None:
        alone = shared = ticks = 0
        found = False
        for pid in set(pids):
            proc = procs.get(pid)
            if proc is None or proc.zombie:
                continue
            found = True
            ticks += proc.cpu_ticks
            all_bytes, shared_bytes = memory_of(pid)
            alone += max(0, all_bytes - shared_bytes)
            shared = max(shared, shared_bytes)
        if found:
            self._unseen.discard(tenant.tenant_id)
        elif tenant.tenant_id in self._unseen:
            return  # when it ended nobody knows, and not now
        host_bytes, cpu_s = (alone + shared, ticks / _TICKS) if found else (None, None)
        self._recorder.see(tenant, Seen.of(tenant, picture, wall_s, host_bytes, cpu_s))

    def _write(self, tenant: Tenant | None, key: str, run: Run) -> None:
        # Our own user's folder was read already, and a page.
        whole = (
            tenant is None
            or not tenant.grant_dir
            or tenant.uid == os.geteuid()
            or tenant.tenant_id in self._book.pages
        )
        self._waiting.append(_Waiting(tenant, key, run, whole))
        self._arrived.set()


def _salt(path: Path) -> bytes:
    """The machine's own; made at its first start, for its owner alone to read."""
    with contextlib.suppress(FileExistsError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(secrets.token_bytes(_SALT_BYTES))
            file.flush()
            os.fsync(file.fileno())
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as file:
        salt = file.read(_SALT_BYTES)
    if len(salt) != _SALT_BYTES:
        raise HistoryError(
            f"{path} holds {len(salt)} bytes, not {_SALT_BYTES}",
            "remove it: users get new digests, and are strangers to their earlier runs",
        )
    return salt
