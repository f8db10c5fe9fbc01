# SPDX-License-Identifier: Apache-2.0
"""`harp run --remote`: the command's GPU is at another host.

    harp ─┬─ CMD ─ libharp ───┐
          └─ harp-link near ──┴── TLS ── harp-link far ── harp-worker

This process stays: it holds the lease and makes a session for each process of CMD that asks for
one. Nothing of this host is needed, neither harpd nor a driver.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import harp
from harp.api.v1 import remote_pb2 as pb
from harp.cli.child import Child
from harp.cli.output import fail, progress
from harp.cli.pool import default_folder, pool_folder, this_user
from harp.cli.switch import RUNS, SOCKET, detached, listening
from harp.cli.view import printable
from harp.errors import ConfigError, HarpError, NativeError
from harp.inject import remote_env, shim_dir
from harp.model import Limits, TenantClass
from harp.native import find
from harp.remote.addresses import addresses
from harp.remote.beside import beside
from harp.remote.certificate import Kind
from harp.remote.cudart import judge
from harp.remote.holder import Holder
from harp.remote.offers import Offers
from harp.remote.places import authority, endpoints, identity, read_token
from harp.remote.renewing import Told, again_and_again
from harp.remote.taking import Taker, Taking
from harp.remote.who import Who
from harp.rundir import check_socket, make_user_dir, sweep
from harp.trace.control import VARIABLE, Wish
from harp.units import format_percent, format_size

__all__ = ["Where", "run_remote", "wanted"]

_FAILED = 125


@dataclass(frozen=True, slots=True)
class Where:
    """What the options of `harp run` say of the other side."""

    remote: str  #: HOST:PORT[,...], or a pool
    folder: Path | None  #: of the client; None: the one there is
    insecure: bool  #: plaintext, on loopback
    tls_name: str = ""  #: what all nodes' certificates are for; "": each one's host
    token: Path | None = None  #: file with that of a lease that somebody took
    detached: bool = False  #: without a lease, until `harp remote attach`
    trace: Wish | None = None  #: of CMD's calls


@dataclass(frozen=True, slots=True)
class _Command:
    program: Path
    words: Sequence[str]
    env: Mapping[str, str]  #: as the user gave it


def run_remote(
    where: Where,
    want: pb.LeaseRequest,
    program: Path,
    words: Sequence[str],
    env: Mapping[str, str],
    *,
    as_json: bool,
) -> NoReturn:
    """Run CMD under a lease of another host; exits as it does."""
    command = _Command(program, words, env)
    try:
        _judge(command)
        status = _run(where, want, command, as_json=as_json)
    except HarpError as error:
        # The words may be another machine's.
        told = HarpError(printable(" ".join(error.message.split())), printable(error.hint))
        status = fail(told, as_json=False, status=_FAILED)
    sys.exit(status)


def wanted(limits: Limits, *, gpu: str, name: str) -> pb.LeaseRequest:
    """What is asked of a node."""
    return pb.LeaseRequest(
        gpu=gpu,
        mem_limit_bytes=limits.mem_bytes,
        share_ppm=limits.share_ppm,
        limit_ppm=limits.limit_ppm,
        lease_class=pb.LeaseClass.ValueType(limits.tenant_class.value),
        name=name,
    )


def _judge(command: _Command) -> None:
    """Refuse what would find no GPU there, before anything of it runs."""
    verdict = judge(command.program, command.words, command.env)
    if verdict.refused:
        raise NativeError(
            f"{command.words[0]} cannot use a GPU elsewhere: {verdict.reason}", verdict.way_out
        )
    if sys.stderr.isatty():
        for note in verdict.notes:
            progress(f"harp: note: {note}")


def _run(where: Where, want: pb.LeaseRequest, command: _Command, *, as_json: bool) -> int:
    env = command.env
    base = pool_folder(env)
    nodes = endpoints(where.remote, base)
    load, folder, trust = None, where.folder, b""
    token = read_token(where.token) if where.token else ""
    if token and len(nodes) != 1:
        raise ConfigError(f"a lease's token is for one node, not for {len(nodes)}", "name it alone")
    if where.insecure:
        folder = None
    elif token:
        folder = folder or default_folder(base, Kind.CLIENT, this_user())
        trust = authority(folder)
    else:
        folder = folder or default_folder(base, Kind.CLIENT, this_user())
        mine = folder
        load = lambda: identity(mine, dt.datetime.now(dt.UTC))  # noqa: E731 - None elsewhere
    who = Who(load, where.tls_name, _warn, trust)
    if who.identity is not None and who.identity.warning:
        _warn(who.identity.warning)
    native, user = find(env), make_user_dir(env)
    shim = shim_dir(native, user)

    async def hold(child: Child, link: subprocess.Popen[bytes], place: Path) -> int:
        finds = addresses if who.name and not token else None
        taker = Taker(want, nodes, who.connect, token, addresses=finds)
        holder = Holder(
            taker,
            Offers(place / "sessions"),
            Path(command.words[0]).name,
            say=lambda text: progress(printable(text)),
            name=place.name,
        )
        child_env = remote_env(env, shim=shim, socket=place / "near.sock", log=place / "shim.log")
        if where.trace is not None:
            said = {"harp": harp.__version__, "remote": where.remote}
            child_env[VARIABLE] = os.fsdecode(replace(where.trace, about=said).text())
        serving = _Serving(holder, child, link, who, place, child_env, want, as_json=as_json)
        return await serving.run(take=not where.detached)

    # The child last: gRPC has no threads yet, which a fork would not take along, and harp-link must
    # not inherit the signals that are blocked for it.
    with (
        _place(user / RUNS, want.name or command.words[0]) as place,
        beside(
            native,
            place / "near.sock",
            place / "sessions",
            folder,
            env,
            certificate=who.identity is not None,
            name=who.name,
        ) as link,
        Child(command.program, command.words) as child,
    ):
        return asyncio.run(hold(child, link, place))


def _warn(text: str) -> None:
    progress(f"harp: warning: {printable(text)}")


@dataclass(frozen=True, slots=True)
class _Serving:
    """A command that runs, and who holds its lease."""

    holder: Holder
    child: Child
    link: subprocess.Popen[bytes]  #: harp-link
    who: Who
    place: Path
    env: Mapping[str, str]
    want: pb.LeaseRequest
    as_json: bool

    async def run(self, *, take: bool) -> int:
        """From the lease to the child's end; its exit status."""
        reader = asyncio.StreamReader()
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self.link.stdout
        )
        ended = asyncio.create_task(self.child.ended())
        hearing = asyncio.create_task(self.holder.hear(reader))
        renewing = asyncio.create_task(again_and_again(self._renewer(), _failed))
        try:
            async with self.holder.running(), listening(self.holder, self.place):
                if not take:
                    await self.holder.drop(detached(self.place))
                    self._tell(None)
                elif taking := await self._first(ended):
                    self._tell(taking)
                self.child.start(self.env)
                await asyncio.wait({ended, hearing}, return_when=asyncio.FIRST_COMPLETED)
                # By its end CMD may have ended before we hear of it.
                if hearing.done() or self.link.poll() is not None:
                    progress("harp: harp-link has ended: programs of CMD get no GPU any more")
                    await self.holder.drop("harp-link has ended")
                return await ended
        finally:
            for task in (ended, hearing, renewing):
                task.cancel()
            pipe.close()

    def _renewer(self) -> Callable[[], Awaitable[None]]:
        """What has all go on with the certificate of now, if it is another one."""
        told, shown = Told(self.who.stamp), self.who.stamp

        async def look() -> None:
            nonlocal shown
            self.who.look()
            if told.due(self.who.stamp, look=True):
                self.link.send_signal(signal.SIGUSR2)
            stamp = self.who.stamp
            if shown != stamp and await self.holder.reconnect():
                shown = stamp

        return look

    async def _first(self, ended: asyncio.Task[int]) -> Taking | None:
        """The first lease; None: a signal came first, and has ended the child."""
        taking = asyncio.create_task(self.holder.take())
        await asyncio.wait({ended, taking}, return_when=asyncio.FIRST_COMPLETED)
        if taking.done():
            return taking.result()
        taking.cancel()
        return None

    def _tell(self, taking: Taking | None) -> None:
        if self.as_json:
            about = {"run": self.place.name, "pid": self.child.pid, **_described(self.want, taking)}
            sys.stderr.write(json.dumps(about) + "\n")
            sys.stderr.flush()
        elif sys.stderr.isatty():
            progress(f"harp: {_sentence(taking) if taking else detached(self.place)}")


def _failed(error: Exception) -> None:
    _warn(f"a renewed certificate is not looked for: {type(error).__name__}: {error}")


def _described(want: pb.LeaseRequest, taking: Taking | None) -> dict[str, object]:
    asked = {"name": want.name, "class": TenantClass(want.lease_class).label}
    if taking is None:
        return {**asked, "lease": None}
    lease = taking.lease
    return {
        **asked,
        "node": taking.node_id,
        "endpoint": taking.endpoint,
        "lease": lease.lease_id,
        "software": any(d.software for d in lease.devices),
        "ttl_s": lease.ttl_s,
        "devices": [
            {
                "uuid": d.uuid,
                "name": d.name,
                "software": d.software,
                "mem_limit_bytes": d.mem_limit_bytes,
                "share_ppm": d.share_ppm,
                "limit_ppm": d.limit_ppm,
            }
            for d in lease.devices
        ],
    }


def _sentence(taking: Taking) -> str:
    """One line on what was granted; names come from another machine."""
    parts = []
    for d in taking.lease.devices:
        words = [d.name + (" (not a real GPU)" if d.software else "")]
        if d.mem_limit_bytes:
            words.append(f"memory {format_size(d.mem_limit_bytes)}")
        if d.share_ppm:
            words.append(f"share {format_percent(d.share_ppm)}")
        parts.append(", ".join(words))
    return printable(f"lease on {taking.node_id} at {taking.endpoint}: {'; '.join(parts)}")


@contextlib.contextmanager
def _place(base: Path, name: str) -> Iterator[Path]:
    """A folder of this run's own, for the socket and the sessions; gone afterwards."""
    base.mkdir(mode=0o700, exist_ok=True)
    sweep(base, "near.sock", socket.SOCK_STREAM)
    stem = "".join(c for c in Path(name).name if c.isalnum())[:16]
    place = base / f"{stem or 'run'}-{secrets.token_hex(4)}"
    check_socket(place / SOCKET)
    (place / "sessions").mkdir(mode=0o700, parents=True)
    place.chmod(0o700)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
