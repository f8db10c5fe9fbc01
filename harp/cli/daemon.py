# SPDX-License-Identifier: Apache-2.0
"""`harp daemon`: start, stop, look."""

from __future__ import annotations

import asyncio
import os
import time

import click

from harp import config
from harp.cli.output import json_option, print_json, progress
from harp.cli.start import spawn
from harp.client import Client
from harp.daemon import app
from harp.errors import DaemonError, DaemonUnreachable, HarpError
from harp.lease_admin import AdminClient
from harp.lease_wire import Msg, Op
from harp.native import find as find_native
from harp.rundir import RunDir, find
from harp.web import open_door

__all__ = ["daemon"]

_STOP_S = 10.0


@click.command()
@click.option("--foreground", is_flag=True, help="Stay; log to the run folder.")
@click.option("--stop", is_flag=True, help="End harpd; tenants and the arbiter go on.")
@click.option("--all", "with_arbiter", is_flag=True, help="With --stop: end the arbiter too.")
@click.option("--status", is_flag=True, help="Say whether it runs.")
@click.option(
    "--upgrade",
    is_flag=True,
    help="Replace harpd and the arbiter by those installed now, with the flags that harpd was"
    " started with and those given now; tenants go on.",
)
@click.option(
    "--metrics",
    metavar="[HOST:]PORT",
    help="Serve /metrics and /healthz there; a PORT alone: on loopback. As daemon.metrics_listen.",
)
@click.option(
    "--web",
    metavar="[HOST:]PORT",
    help="Serve a web page there, read-only; a PORT alone: on loopback. As daemon.web.",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting.")
@json_option
def daemon(
    *,
    foreground: bool,
    stop: bool,
    with_arbiter: bool,
    status: bool,
    upgrade: bool,
    metrics: str | None,
    web: str | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Start harpd for this machine (or this HARP_RUN), or control it."""
    if foreground + stop + status > 1:
        raise click.UsageError("--foreground, --stop and --status exclude each other")
    if with_arbiter and not stop:
        raise click.UsageError("--all goes with --stop")
    if metrics is not None:
        settings = (*settings, f"daemon.metrics_listen={metrics}")
    if web is not None:
        settings = (*settings, f"daemon.web={web}")
    if upgrade and (stop or status):
        raise click.UsageError("--upgrade does not go with --stop or --status")
    run_dir = find(os.environ)
    if stop:
        _stop(with_arbiter=with_arbiter)
        run_dir.flags.unlink(missing_ok=True)  # whoever starts it next says anew how
        if as_json:
            print_json({"running": False, "run_dir": str(run_dir.path)})
        else:
            progress("harpd ended")
        return
    if status:
        _status(as_json=as_json)
        return
    if upgrade and not foreground:
        settings = _with_kept(run_dir, settings)
    settings_tree = config.load(os.environ, settings)  # a wrong one is said here, not in a log
    if foreground:
        native = find_native(os.environ)
        try:
            app.main(run_dir, native, settings_tree, os.environ, upgrade=upgrade, flags=settings)
        except app.AlreadyRuns as error:
            progress(error.message)
        return
    runs = run_dir.path.exists() and run_dir.alive()
    if upgrade and runs:
        _stop(with_arbiter=False)
    door = None
    if upgrade or not runs:
        door = open_door(settings_tree.daemon)  # likewise
        options = [f"--set={s}" for s in settings]
        spawn(run_dir, os.environ, ["--upgrade", *options] if upgrade else options)
    elif settings:
        raise HarpError(
            f"harpd runs already in {run_dir.path}", "its settings change with a restart"
        )
    _status(as_json=as_json)
    if door is not None and door.port and not as_json:
        progress(f"web page: {door.url(door.port)}")


def _with_kept(run_dir: RunDir, settings: tuple[str, ...]) -> tuple[str, ...]:
    """What the harpd before was given as flags, and what is given now, which wins."""
    now = {flag.partition("=")[0].strip() for flag in settings}
    kept = tuple(f for f in run_dir.kept_flags() if f.partition("=")[0].strip() not in now)
    if kept:
        progress(f"as harpd was started: {', '.join(kept)}")
    return (*kept, *settings)


def _status(*, as_json: bool) -> None:
    with Client.connect(os.environ) as client:
        info = client.info()
    if as_json:
        print_json(
            {
                "running": True,
                "pid": info.pid,
                "uid": info.uid,
                "version": info.version,
                "run_dir": info.run_dir,
                "arbiter_pid": info.arbiter_pid,
                "log_path": info.log_path,
            }
        )
    else:
        progress(
            f"harpd {info.version} runs in {info.run_dir} (pid {info.pid}, uid {info.uid},"
            f" arbiter {info.arbiter_pid}), log {info.log_path}"
        )


def _stop(*, with_arbiter: bool) -> None:
    try:
        client = Client.connect(os.environ)
    except DaemonUnreachable:
        if not with_arbiter or not find(os.environ).admin.exists():
            raise
        # An arbiter may have outlived its harpd, and its tenants since.
        asyncio.run(_stop_arbiter(find(os.environ)))
        return
    with client:
        run_dir = client.run_dir
        client.stop(with_arbiter=with_arbiter)
    deadline = time.monotonic() + _STOP_S
    while run_dir.alive() or run_dir.held():
        if time.monotonic() > deadline:
            raise DaemonUnreachable(
                f"harpd in {run_dir.path} did not end within {_STOP_S:g} s", f"see {run_dir.log}"
            )
        time.sleep(0.02)


async def _stop_arbiter(run_dir: RunDir) -> None:
    client = await AdminClient.connect(run_dir.admin, _STOP_S)
    pump = asyncio.create_task(client.pump())
    clients = sum(m.op == Op.SNAP_CLIENT for m in await client.snapshot())
    if clients:
        raise DaemonError(
            f"{clients} processes of tenants hold memory; without an arbiter they could not have"
            " more",
            "end them first",
        )
    await client.request(Msg(op=Op.SHUTDOWN))
    await pump
