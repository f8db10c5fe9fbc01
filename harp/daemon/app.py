# SPDX-License-Identifier: Apache-2.0
"""harpd's life: one per run folder; start, serve, end.

    lock -> devices -> arbiter -> grants -> control.sock -> auth.sock (= ready) ... SIGTERM
SIGKILL at any point is harmless: tenants and the arbiter go on, and the next harpd starts at the
top with what the store and the arbiter tell it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TextIO

import grpc.aio
import structlog

from harp import __version__
from harp.api.v1 import control_pb2_grpc
from harp.config import Config, listen_address
from harp.daemon.advice import Advice, Ended
from harp.daemon.auth import Auth
from harp.daemon.book import Book
from harp.daemon.checkpoint import driver_calls
from harp.daemon.estimates import Estimates
from harp.daemon.harpd import Harpd
from harp.daemon.link import ArbiterLink
from harp.daemon.metrics import Reporter
from harp.daemon.overheads import ContextCost
from harp.daemon.picture import Picture
from harp.daemon.pools import Pools
from harp.daemon.recording import Recording
from harp.daemon.samples import Sampler, Watching
from harp.daemon.service import ControlService
from harp.daemon.store import Store
from harp.daemon.suspend import Suspender
from harp.daemon.web import serve_web
from harp.discovery import Found, discover, measure_overhead
from harp.errors import DaemonError, HarpError
from harp.estimator.advise import Adviser
from harp.estimator.job import Run
from harp.estimator.packing import Buffer
from harp.estimator.track import Track
from harp.lease_wire import Msg
from harp.metrics import Server, keep
from harp.model import Device, Policy, Tenant
from harp.native import NativeDir
from harp.procs import Proc
from harp.rundir import RunDir, state_dir
from harp.web import open_door

__all__ = ["AlreadyRuns", "main", "run"]

_log = structlog.get_logger(__name__)
_GRACE_S = 1.0
#: how long another harpd may hold the folder's lock without answering
_QUIET_S = 5.0
_QUIET_PERIOD_S = 0.02


class AlreadyRuns(DaemonError):  # noqa: N818 - as its tree
    """Another harpd holds this run folder; that is as good as having started."""


def main(
    run_dir: RunDir,
    native: NativeDir,
    config: Config,
    env: Mapping[str, str],
    *,
    upgrade: bool = False,
    flags: Sequence[str] = (),
) -> None:
    """Run harpd until it is told to end.

    Args:
        run_dir: its folder.
        native: the programs and libraries to use.
        config: settings.
        env: environment.
        upgrade: an arbiter that runs is replaced by one of `native`.
        flags: settings of the command line ("KEY=VALUE"); noted for the next upgrade.

    Raises:
        AlreadyRuns: this folder has one.
        HarpError: it cannot start.
    """
    run_dir.make()
    with _only_one(run_dir), run_dir.log.open("a") as log:
        run_dir.keep_flags(flags)
        _configure_log(config, log)
        try:
            asyncio.run(run(run_dir, native, config, env, upgrade=upgrade))
        except* HarpError as group:
            error = _first(group)
            _log.error("harpd_failed", reason=error.message, hint=error.hint)
            raise error from None


async def run(
    run_dir: RunDir,
    native: NativeDir,
    config: Config,
    env: Mapping[str, str],
    *,
    upgrade: bool = False,
) -> None:
    """Everything between the lock and the end; on an event loop of its own."""
    door = open_door(config.daemon)  # a wrong one is said before anything begins
    found = await asyncio.to_thread(discover, native, env, config.device.kind)
    store = Store(run_dir.store)
    devices = await _devices(found, store, config, env)
    _log.info(
        "harpd_starting",
        version=__version__,
        kind=found.kind.value,
        devices=[f"{d.index} {d.name}" for d in devices],
    )
    link = ArbiterLink(run_dir, native, config.daemon.arbiter_timeout_s, env, config.time)
    buffer = Buffer()
    book = Book(store, link, run_dir.path, config.admission, buffer.ratio)
    harpd = Harpd(config, book, link, found, store)
    link.on_event = harpd.on_event
    suspender = Suspender(book, link, lambda: driver_calls(found.cuda_path, env))
    track, state = Track(), state_dir(env)
    keeps = config.history.enabled == "yes"
    advice = Advice(Adviser(), file=state / "learned.db" if keeps else None, track=track)

    def told(tenant: Tenant | None, run: Run) -> None:
        advice.learn(run)
        if tenant is not None:
            advice.remember(tenant.name, Ended(tenant.uid, run))
        pools.told(tenant, run)

    lineage = harpd.evaders.lineage
    recording = Recording(config.history, state, book, lineage, told, still=advice.still)
    pools = Pools(config.estimate, advice.ask, recording.job_of, book, buffer, track=track)
    reporter = Reporter(book, link, harpd, pools, config)

    def looked(picture: Picture, procs: Mapping[int, Proc]) -> None:
        recording.look(picture, procs)
        pools.look(picture)

    def denied(message: Msg) -> None:
        recording.denied(message)
        pools.denied(message)

    book.on_removed, book.duty_of = recording.ended, pools.duty_ppm
    harpd.on_look, harpd.on_denied = looked, denied
    estimates = Estimates(
        advice,
        book,
        recording,
        digest_of=recording.digest_of,
        job_of_tenant=recording.job_of,
    )
    watching = Watching(Sampler(book, harpd).sample)
    auth = Auth(run_dir.auth, config.daemon.reply_timeout_s)
    end = asyncio.Event()
    with_arbiter = False

    def stop(also_arbiter: bool) -> None:  # noqa: FBT001 - a callback's one operand
        nonlocal with_arbiter
        with_arbiter = also_arbiter
        end.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    server = grpc.aio.server()
    try:
        client = await link.open()
        pump = asyncio.create_task(client.pump())
        await harpd.attach(client, devices)
        if upgrade and not link.started_count:
            pump = await harpd.renew_arbiter(pump)
        await recording.begin()
        control_pb2_grpc.add_ControlServicer_to_server(
            ControlService(
                run_dir=run_dir,
                native=native,
                auth=auth,
                book=book,
                link=link,
                harpd=harpd,
                suspender=suspender,
                reporter=reporter,
                estimates=estimates,
                recording=recording,
                pools=pools,
                watching=watching,
                default_policy=Policy(config.watchdog.policy),
                stop=stop,
            ),
            server,
        )
        server.add_insecure_port(f"unix:{run_dir.control}")
        await server.start()
        run_dir.control.chmod(0o666)
        auth.listen()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(auth.serve()),
                group.create_task(advice.keep(recording.runs)),
                group.create_task(harpd.keep_arbiter(pump)),
                group.create_task(harpd.watch()),
                group.create_task(recording.keep()),
                group.create_task(harpd.drain()),
                group.create_task(watching.keep()),
                group.create_task(suspender.keep(harpd.replaced)),
            ]
            if listen := listen_address(config.daemon.metrics_listen):
                pages = Server(reporter.routes())
                tasks.append(group.create_task(keep(pages, *listen, "daemon.metrics_listen")))
            if door is not None:
                tasks.append(group.create_task(serve_web(door, book, harpd, pools)))
            _log.info("harpd_ready", run_dir=str(run_dir.path), pid=os.getpid())
            await end.wait()
            for task in tasks:
                task.cancel()
    finally:
        # An arbiter without tenants has nothing to keep; nor has one whose devices another holds.
        with contextlib.suppress(HarpError, TimeoutError):
            await harpd.make_room()
        if with_arbiter or not book.tenants:
            with contextlib.suppress(HarpError, TimeoutError):
                await link.shutdown()
        await server.stop(_GRACE_S)
        for path in (run_dir.control, run_dir.auth):
            path.unlink(missing_ok=True)
        await recording.close()
        await advice.close()
        book.close()
        store.close()
        found.nvml.close()
    _log.info("harpd_ended")


async def _devices(
    found: Found, store: Store, config: Config, env: Mapping[str, str]
) -> list[Device]:
    driver = await asyncio.to_thread(found.nvml.driver_version)
    devices = []
    for one in found.devices:
        cost = store.context_cost(one.name, driver)
        source = "cached" if cost is not None and cost.source == "measured" else "seen"
        if cost is None:
            probe = await measure_overhead(found.nvml, found.cuda_path, one.uuid, env)
            source = "measured"
            cost = ContextCost(probe.cost_bytes, source, unlisted_bytes=probe.unlisted_bytes)
            if probe.problem:
                source = "default"
                cost = ContextCost(config.device.overhead_bytes, source)
                _log.warning(
                    "overhead_not_measured",
                    gpu=one.index,
                    reason=probe.problem,
                    taken_bytes=cost.size_bytes,
                )
            else:
                store.put_context_cost(one.name, driver, cost)
        devices.append(
            Device(
                index=one.index,
                uuid=one.uuid,
                name=one.name,
                kind=found.kind_of(one.uuid),
                memory_bytes=one.memory_bytes,
                overhead_bytes=cost.size_bytes,
                overhead_source=source,
                driver_version=driver,
                overhead_seen=len(cost.seen),
                unlisted_bytes=cost.unlisted_bytes,
            )
        )
    return devices


def _locked(fd: int, run_dir: RunDir) -> bool:
    """Whether the lock is ours. Who has it and answers nobody is about to begin, or to end."""
    end = time.monotonic() + _QUIET_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if run_dir.alive() or time.monotonic() > end:
                return False
            time.sleep(_QUIET_PERIOD_S)
        else:
            return True


@contextlib.contextmanager
def _only_one(run_dir: RunDir) -> Iterator[None]:
    """Hold the folder's lock; the kernel drops it however we end."""
    fd = os.open(run_dir.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not _locked(fd, run_dir):
            pid = os.pread(fd, 32, 0).decode().strip()
            raise AlreadyRuns(f"harpd runs already in {run_dir.path} (pid {pid})")
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def _configure_log(config: Config, log: TextIO) -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[config.log.level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(log if not log.isatty() else sys.stderr),
        cache_logger_on_first_use=False,
    )


def _first(group: BaseExceptionGroup[HarpError]) -> HarpError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, HarpError)
    return error
