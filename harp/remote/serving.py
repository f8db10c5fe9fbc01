# SPDX-License-Identifier: Apache-2.0
"""A node's remote service as a process of its own: what faces the network is not harpd.

    clients ══ TLS, gRPC ══ RemoteService ─ Tenants ── harpd   (a lease is a tenant)
       ╚══════ TLS, gRPC ══ harp-link far ─ harp-worker ── libharp ── driver   (a session)
Should this process die, its child and the workers die with it, and harpd ends the tenants.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path

import grpc.aio
import structlog

from harp import __version__
from harp.api.v1 import remote_pb2 as pb
from harp.api.v1 import remote_pb2_grpc
from harp.errors import ConfigError, HarpError
from harp.metrics import RemoteSeen
from harp.native import NativeDir
from harp.remote.callers import LOOPBACK
from harp.remote.certificate import Kind
from harp.remote.far import Far, FarOptions
from harp.remote.homes import Homes, passable, serving_folder
from harp.remote.renewing import Renewing, Told, again_and_again
from harp.remote.room import Place
from harp.remote.service import Node, RemoteService
from harp.remote.tenants import Harpd, Tenants
from harp.remote.traffic import Traffic
from harp.remote.trust import Callers, Identity, address, listen, load
from harp.remote.uids import Range, Uids, lock_dir
from harp.remote.workers import Workers
from harp.rundir import find, make_user_dir
from harp.wire import CUDA, FORMAT, TABLE_HASH

__all__ = ["FOLDER", "Options", "Ready", "serve"]

#: in the run folder; a server that starts sweeps it, so it is nobody else's
FOLDER = "remote"

_log = structlog.get_logger(__name__)
_GRACE_S = 1.0
#: above what nodes of a pool and their clients ask at a time, who watches included; what more may
#: cost is bounded so
_RPCS_MAX = 4096


@dataclass(frozen=True, slots=True)
class Options:
    """What `harp remote serve` was told."""

    listen: str  #: host:port of Remote
    data_port: int  #: of GpuSession, on the same host; 0: any
    identity: Identity | None  #: None: plaintext, on loopback
    token_listen: str = ""  #: host:port for those that have no certificate; "": nobody
    name: str = ""  #: by which clients reach this host; "": as its certificate says
    node_id: str = ""  #: in its pool; "": its certificate's name
    administrators: AbstractSet[str] = frozenset()
    uids: Range | None = None  #: of leases, if we are root; None: ours


@dataclass(frozen=True, slots=True)
class Ready:
    """What there is for clients, once there is."""

    node: str
    endpoint: str
    data_endpoint: str
    token_endpoint: str  #: "": none
    token_data_endpoint: str
    places: Sequence[Place]
    seen: Callable[[], RemoteSeen]  #: how many are here


async def serve(
    options: Options, native: NativeDir, env: Mapping[str, str], ready: Callable[[Ready], None]
) -> None:
    """Serve until SIGINT or SIGTERM; then nothing is left of it.

    Args:
        options: what is served, and to whom.
        native: the programs and libraries to use.
        env: our environment.
        ready: called once clients may come.

    Raises:
        HarpError: it cannot begin.
    """
    base = make_user_dir(env)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(serving_folder(base / "remote", 0o700))
        homes = Homes(folder, base, native, None)
        if options.uids is not None:
            homes = _homes_of_others(options.uids, native, env, stack)
        elif os.geteuid() == 0:
            _log.warning("workers_run_as_root", reason="--worker-uids none")
        await _Serving(options, native, folder, homes, env).run(ready)


def _homes_of_others(
    uids: Range, native: NativeDir, env: Mapping[str, str], stack: contextlib.ExitStack
) -> Homes:
    """Where users without any other right get to: below harpd's folder, which is root's."""
    if os.geteuid() != 0:
        raise ConfigError(f"only root can run workers as {uids}", "leave out --worker-uids")
    run_dir = find(env).path
    passable(run_dir / FOLDER, owner=0)
    users = Uids(uids, lock_dir(env.get("HARP_LOCK_DIR", "")))
    stack.callback(users.close)
    folder = stack.enter_context(serving_folder(run_dir / FOLDER, 0o711, users))
    homes = Homes(folder, run_dir, native, users)
    homes.check(env)
    return homes


class _Serving:
    """The parts, put together."""

    def __init__(
        self,
        options: Options,
        native: NativeDir,
        folder: Path,
        homes: Homes,
        env: Mapping[str, str],
    ) -> None:
        if options.token_listen and options.identity is None:
            raise ConfigError(
                "lease tokens would go over the network in plaintext",
                "--token-listen needs certificates: harp remote init",
            )
        self._options = options
        self._folder = folder
        self._shim = homes.shim()
        self._worker = [
            str(native.file("harp-worker")), "--driver", str(self._shim / "libcuda.so.1")
        ]  # fmt: skip
        self._link = native.file("harp-link")
        self._harpd = Harpd(env)
        self._tenants = Tenants(self._harpd, homes, self._shim, env)
        self._traffic = Traffic()
        self._far = self._data_side(Callers.CERTIFICATE, options.listen, options.data_port)
        self._token_far: Far | None = None
        if options.token_listen:
            port = address(options.token_listen)[1]
            self._token_far = self._data_side(
                Callers.TOKEN, options.token_listen, port and port + 1
            )
        self._service: RemoteService | None = None
        self._mine: Renewing | None = None
        if options.identity is not None:
            self._mine = _renewing(options.identity)

    async def run(self, ready: Callable[[Ready], None]) -> None:
        """Until a signal."""
        end = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end.set)
        # Or two of us could have one port, and each half of the clients.
        server = grpc.aio.server(
            options=(("grpc.so_reuseport", 0),), maximum_concurrent_rpcs=_RPCS_MAX
        )
        fars = [far for far in (self._far, self._token_far) if far is not None]
        try:
            await self._tenants.look()
            ports = self._listen(server)
            for far in fars:
                await far.start()
            told = self._told(*ports)
            self._service = self._serving(told)
            remote_pb2_grpc.add_RemoteServicer_to_server(self._service, server)
            async with asyncio.TaskGroup() as group:
                beside = [group.create_task(far.keep()) for far in fars]
                beside.append(group.create_task(self._tenants.watch()))
                beside.append(group.create_task(self._keep_certificate(fars)))
                serving = group.create_task(self._service.serve())
                await server.start()
                ready(told)
                _log.info("remote_ready", endpoint=told.endpoint, data=told.data_endpoint)
                await end.wait()
                _log.info("remote_stops")
                serving.cancel()  # sessions end while their processes are still heard
                await asyncio.wait([serving])
                for task in beside:
                    task.cancel()
        finally:
            await server.stop(_GRACE_S)
            for far in fars:
                await far.stop()
            await self._tenants.close()
            self._harpd.close()
        _log.info("remote_ended")

    async def _keep_certificate(self, fars: Sequence[Far]) -> None:
        """Show the one that lies in our folder by now: here, and at the data side."""
        if (mine := self._mine) is None:
            return
        told = [(far, Told(mine.stamp)) for far in fars]

        async def look() -> None:
            if mine.look():
                _log.info("certificate_renewed", ends=mine.now.certificate.ends.isoformat())
            for far, heard in told:
                if heard.due(mine.stamp, look=True):
                    far.read_again()

        await again_and_again(look)

    def _listen(self, server: grpc.aio.Server) -> tuple[int, int]:
        """The ports for certificates and for tokens; 0: none."""
        options, mine = self._options, self._mine
        if mine is None:
            return listen(server, options.listen, None, insecure=True), 0
        port = listen(server, options.listen, mine.now, now=lambda: mine.now)
        if not options.token_listen:
            return port, 0
        return port, listen(
            server, options.token_listen, mine.now, Callers.TOKEN, now=lambda: mine.now
        )

    def _told(self, port: int, token_port: int) -> Ready:
        identity = self._options.identity
        host = _reached_at(self._options)
        by_token = self._token_far
        return Ready(
            node=self._options.node_id
            or (identity.certificate.name if identity else socket.gethostname()),
            endpoint=f"{host}:{port}",
            data_endpoint=f"{host}:{self._far.port}",
            token_endpoint=f"{host}:{token_port}" if by_token else "",
            token_data_endpoint=f"{host}:{by_token.port}" if by_token else "",
            places=self._tenants.places,
            seen=self._seen,
        )

    def _seen(self) -> RemoteSeen:
        if self._service is None:
            return RemoteSeen()
        traffic = self._traffic.seen(self._tenants.names())
        return replace(self._service.seen(), traffic=traffic)

    def _serving(self, told: Ready) -> RemoteService:
        insecure = self._options.identity is None
        table = pb.TableId(
            format=FORMAT, cuda=CUDA, hash=bytes.fromhex(TABLE_HASH), version=__version__
        )
        node = Node(
            node_id=told.node,
            endpoint=told.endpoint,
            table=table,
            administrators=self._options.administrators | ({LOOPBACK} if insecure else set()),
            insecure=insecure,
        )
        workers = Workers(
            self._tenants, self._far, self._token_far, _reached_at(self._options), self._traffic
        )
        service = RemoteService(node, self._tenants, workers)
        self._tenants.changed = service.room_changed
        return service

    def _data_side(self, callers: Callers, where: str, port: int) -> Far:
        sessions = self._folder / callers.value
        sessions.mkdir(mode=0o700)
        tls: dict[str, Path] = {}
        if self._options.identity is not None:
            folder = self._options.identity.certificate.path.parent
            tls = {"cert": folder / "tls.crt", "key": folder / "tls.key"}
            if callers is Callers.CERTIFICATE:
                tls["ca"] = folder / "ca.crt"
        host = address(where)[0]
        return Far(
            FarOptions(
                program=self._link,
                worker=self._worker,
                sessions=sessions,
                host=_bracketed(host),
                port=port,
                tls=tls,
                # Named here the libraries are not swept away as unused (harp/inject.py).
                environment={"HARP_SHIM": str(self._shim)},
                bulk_streams=_bulk_streams(tls=bool(tls)),
            ),
            self._worker_ended,
            self._traffic,
        )

    def _worker_ended(self, session_id: str) -> None:
        if self._service is not None:
            with contextlib.suppress(HarpError):  # we stop: it is ended with the others
                self._service.worker_ended(session_id)


def _renewing(identity: Identity) -> Renewing:
    folder = identity.certificate.path.parent
    return Renewing(
        lambda: load(folder, Kind.NODE, dt.datetime.now(dt.UTC)),
        lambda text: _log.warning("certificate_not_taken", reason=text),
    )


def _bulk_streams(*, tls: bool) -> int:
    """As harp-link beside the program does it by itself: a cipher, and CPUs for several of it."""
    return 2 if tls and (os.cpu_count() or 1) >= 4 else 0


def _reached_at(options: Options) -> str:
    """This host as clients reach it."""
    host = address(options.listen)[0]
    if options.name:
        return _bracketed(options.name)
    if options.identity is None or host in options.identity.certificate.names:
        return _bracketed(host)
    return _bracketed(options.identity.certificate.names[0])


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
