# SPDX-License-Identifier: Apache-2.0
"""Leases for the containers of a node: `harp remote keep`.

A container has a folder with a socket in it (its box), a harp-link that listens there, and a lease.
Who asks is a device plugin, which may come and go: what is held here is held until it is given
back, or until we end. Then all of it ends: each harp-link with its pipe, each lease with its ttl.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog

from harp.api.v1 import remote_pb2 as pb
from harp.errors import ConfigError, DaemonUnreachable, HarpError, NativeError
from harp.keep_wire import (
    BOXES,
    LINE_BYTES,
    NEAR,
    SESSIONS,
    SOCKET,
    Answer,
    Device,
    Held,
    Hold,
    Look,
    Looked,
    Refused,
    Release,
    Released,
    Request,
    encode,
    read_request,
)
from harp.native import NativeDir
from harp.remote.addresses import addresses
from harp.remote.beside import beside, said_by
from harp.remote.holder import Holder
from harp.remote.offers import Offers
from harp.remote.renewing import Told, again_and_again
from harp.remote.taking import Taker, Taking
from harp.remote.traffic import Traffic
from harp.remote.turns import Turns
from harp.remote.who import Who
from harp.rundir import check_socket

__all__ = ["Keeper", "Pool"]

_log = structlog.get_logger(__name__)
_HEAR_S = 5.0
#: sessions end behind harp-link, and say what they carried
_LAST_S = 2.0
#: what a tenant at the node may be called
_NAME_CHARS = 64


@dataclass(frozen=True, slots=True)
class Pool:
    """Where leases come from, and who we are there."""

    nodes: Sequence[str]  #: host:port each
    folder: Path | None  #: of the client; None: plaintext, on loopback
    who: Who


@dataclass(slots=True, eq=False)
class _Kept:
    """One container's."""

    asked: Hold
    holder: Holder
    told: Told  #: of which certificate its harp-link was
    stamp: bytes  #: of the one that its lease's connection shows
    said: str = ""  #: last, for people
    link: int = 0  #: pid of that
    end: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        return self.task is not None and not self.task.done()


class Keeper:
    """All leases of a node's containers.

    Args:
        run_dir: HARP's; boxes, sessions and our socket lie in it.
        native: what is built.
        pool: where leases come from.
        env: ours.
    """

    def __init__(
        self, run_dir: Path, native: NativeDir, pool: Pool, env: Mapping[str, str]
    ) -> None:
        self._run_dir = run_dir
        self._native = native
        self._pool = pool
        self._env = env
        #: what the containers' sessions carry
        self.traffic = Traffic()
        #: {key: it}
        self._kept: dict[str, _Kept] = {}
        self._inode = 0  #: of our socket
        self._ends = False  #: nothing new is begun
        self._turns = Turns()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer on our socket while the block runs; then all is given back.

        Raises:
            ConfigError: another one runs, or the socket's path is too long.
        """
        path = self._run_dir / SOCKET
        check_socket(path)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        await _not_there(path)
        path.unlink(missing_ok=True)
        # Left by one that was killed: sessions of leases that are over, or soon will be.
        shutil.rmtree(self._run_dir / SESSIONS, ignore_errors=True)
        before = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(self._hear, path, limit=LINE_BYTES)
        finally:
            os.umask(before)
        self._inode = path.stat().st_ino
        renewing = asyncio.create_task(again_and_again(self._renew))
        try:
            async with server:
                try:
                    yield
                finally:  # before the server, which may wait for those that it answers
                    self._ends = True
                    for kept in self._kept.values():
                        kept.end.set()
        finally:
            renewing.cancel()
            if not self.fault():  # another's stays
                path.unlink()
            await asyncio.gather(*map(self._release, tuple(self._kept)))

    def fault(self) -> str:
        """Why nobody can ask us any more; "": who asks is answered."""
        path = self._run_dir / SOCKET
        try:
            if path.stat().st_ino == self._inode:
                return ""
        except OSError as error:
            return f"{path}: {error.strerror}"
        return f"{path} is another's"

    async def do(self, request: Request) -> Answer:
        """Do what is asked; what stands in the way is an answer, too."""
        try:
            match request:
                case Hold():
                    return await self._hold(request)
                case Release(key):
                    return Released(await self._release(key))
                case Look():
                    held = (self._held(key, kept) for key, kept in self._kept.items())
                    return Looked(tuple(sorted(held, key=lambda h: h.key)))
        except HarpError as error:
            return Refused(error)

    # --- one who asks ---

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HEAR_S):
                line = await reader.readline()
            try:
                answer = await self.do(read_request(line))
            except HarpError as error:
                answer = Refused(error)
            except Exception as error:  # noqa: BLE001 - one odd container may not end the others
                _log.exception("keep_broken")
                answer = Refused(HarpError(f"harp remote keep failed: {type(error).__name__}"))
            writer.write(encode(answer))
            await writer.drain()
        except (TimeoutError, ValueError, OSError):
            pass  # whoever asked has gone, or says no line
        finally:
            writer.close()

    # --- one container ---

    async def _hold(self, asked: Hold) -> Held:
        async with self._turns.at(asked.key):
            self._renew_links()
            kept = self._kept.get(asked.key)
            # Another name is no other wish: a plugin of another version may call it otherwise.
            if kept is not None and kept.alive and replace(kept.asked, name=asked.name) == asked:
                kept.asked = asked
                # A node that was restarted, or is away: no container shall start with that. Nothing
                # is lost where no process uses it.
                known = await kept.holder.look()
                present = kept.holder.present
                if present is not None and (known or present[1]):
                    return self._held(asked.key, kept)
            if kept is not None:
                await self._end(asked.key)
            return self._held(asked.key, await self._begin(asked))

    def _renew_links(self, *, look: bool = False) -> None:
        """Give harp-links the certificate of now: at SIGUSR2 one reads it, and keeps its socket."""
        who = self._pool.who
        if who.look() and who.identity is not None:
            _log.info("certificate_renewed", ends=who.identity.certificate.ends.isoformat())
        for kept in self._kept.values():
            if kept.link and kept.alive and kept.told.due(who.stamp, look=look):
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(kept.link, signal.SIGUSR2)

    async def _renew(self) -> None:
        """Have all go on with the certificate of now."""
        self._renew_links(look=True)
        await asyncio.gather(*map(self._reconnect, tuple(self._kept.values())))

    async def _reconnect(self, kept: _Kept) -> None:
        stamp = self._pool.who.stamp
        if kept.stamp != stamp and kept.alive and await kept.holder.reconnect():
            kept.stamp = stamp

    async def _release(self, key: str) -> bool:
        async with self._turns.at(key):
            return await self._end(key)

    async def _begin(self, asked: Hold) -> _Kept:
        sessions, box = self._run_dir / SESSIONS / asked.key, self._run_dir / BOXES / asked.key
        if self._ends:
            raise _ended()
        if not box.is_dir():
            raise ConfigError(
                f"{box} is not there", "give the plugin and `harp remote keep` the same --run-dir"
            )
        check_socket(box / NEAR)
        sessions.mkdir(mode=0o700, parents=True, exist_ok=True)
        where = addresses if self._pool.who.name else None
        taker = Taker(_wanted(asked), self._pool.nodes, self._pool.who.connect, addresses=where)

        def say(text: str) -> None:
            kept.said = text.removeprefix("harp: ")
            _log.warning("remote_lease", key=asked.key, container=asked.name, said=kept.said)

        holder = Holder(taker, Offers(sessions), asked.name, say, asked.key)
        holder.traffic = self.traffic
        stamp = self._pool.who.stamp
        kept = _Kept(asked, holder, Told(stamp), stamp)
        taken: asyncio.Future[Taking] = asyncio.get_running_loop().create_future()
        kept.task = asyncio.create_task(self._keep(kept, sessions, box / NEAR, taken))
        self._kept[asked.key] = kept
        try:
            taking = await taken
        except BaseException:
            await self._end(asked.key)
            raise
        _log.info("lease_taken", key=asked.key, container=asked.name, node=taking.node_id)
        return kept

    async def _end(self, key: str) -> bool:
        kept = self._kept.pop(key, None)
        if kept is None or kept.task is None:
            return False
        kept.end.set()
        await asyncio.wait([kept.task])
        _log.info("lease_ended", key=key, container=kept.asked.name)
        return True

    async def _keep(
        self, kept: _Kept, sessions: Path, socket: Path, taken: asyncio.Future[Taking]
    ) -> None:
        """From harp-link's begin to its end; what is in the way of the first lease is `taken`'s."""
        try:
            async with (
                self._beside(sessions, socket, kept.holder) as (kept.link, hearing),
                kept.holder.running(),
            ):
                beside_it = {
                    "end": asyncio.create_task(kept.end.wait()),
                    "take": (take := asyncio.create_task(kept.holder.take())),
                }
                try:
                    await _first({hearing, *beside_it.values()})
                    if take.done():
                        taken.set_result(take.result())
                        await _first({hearing, beside_it["end"]})
                    if not kept.end.is_set():
                        raise NativeError("harp-link has ended", "it is begun again when asked for")
                finally:
                    for task in beside_it.values():
                        task.cancel()
        except Exception as error:  # noqa: BLE001 - whoever asked hears of it, or the log
            if not taken.done():
                taken.set_exception(error)
            else:
                _log.exception("container_lost", key=kept.asked.key)
        finally:
            if not taken.done():
                taken.set_exception(_ended())
            await asyncio.to_thread(shutil.rmtree, sessions, ignore_errors=True)
            if self._kept.get(kept.asked.key) is kept:  # nobody ended it: who asks sees it gone
                del self._kept[kept.asked.key]

    @contextlib.asynccontextmanager
    async def _beside(
        self, sessions: Path, socket: Path, holder: Holder
    ) -> AsyncIterator[tuple[int, asyncio.Task[None]]]:
        """harp-link, and who hears it; to wait for begin and end may take seconds, not others'."""
        with contextlib.ExitStack() as stack:
            made = beside(
                self._native,
                socket,
                sessions,
                self._pool.folder,
                self._env,
                certificate=self._pool.folder is not None,
                name=self._pool.who.name,
                traffic=True,
            )
            link = await asyncio.to_thread(stack.enter_context, made)
            leaving = stack.pop_all()
        try:
            # Any user of the container may be who uses the GPU; on the host its box is root's.
            await asyncio.to_thread(socket.chmod, 0o666)
            reader, pipe = await said_by(link)
            hearing = asyncio.create_task(holder.hear(reader))
            try:
                yield link.pid, hearing
            finally:
                await asyncio.to_thread(leaving.close)
                await asyncio.wait([hearing], timeout=_LAST_S)
                hearing.cancel()
                pipe.close()
        except OSError as error:
            raise NativeError(f"harp-link's socket: {error}", "see the log") from error
        finally:
            await asyncio.to_thread(leaving.close)

    def _held(self, key: str, kept: _Kept) -> Held:
        present = kept.holder.present if kept.alive else None
        if present is None:
            why = kept.said or "no lease was taken yet"
            return Held(key, kept.asked.name, why=why if kept.alive else "harp-link has ended")
        taking, sessions = present
        return Held(
            key,
            kept.asked.name,
            taking.node_id,
            taking.endpoint,
            taking.lease.lease_id,
            tuple(
                Device(d.uuid, d.name, d.software, d.mem_limit_bytes, d.share_ppm, d.limit_ppm)
                for d in taking.lease.devices
            ),
            sessions,
        )


def _ended() -> DaemonUnreachable:
    return DaemonUnreachable("harp remote keep ends", "ask again")


def _wanted(asked: Hold) -> pb.LeaseRequest:
    limits = asked.limits
    return pb.LeaseRequest(
        mem_limit_bytes=limits.mem_bytes,
        mem_ppm=asked.mem_ppm,
        share_ppm=limits.share_ppm,
        limit_ppm=limits.limit_ppm,
        lease_class=pb.LeaseClass.ValueType(limits.tenant_class.value),
        name=asked.name[:_NAME_CHARS],
    )


async def _first(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


async def _not_there(path: Path) -> None:
    """Refuse to be the second: each would end what the other's containers have."""
    try:
        async with asyncio.timeout(_HEAR_S):
            _, writer = await asyncio.open_unix_connection(path)
    except (OSError, TimeoutError):
        return
    writer.close()
    raise ConfigError(f"another `harp remote keep` listens at {path}", "one a node is enough")
