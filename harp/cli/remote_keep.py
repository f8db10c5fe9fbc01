# SPDX-License-Identifier: Apache-2.0
"""`harp remote keep`: leases for the containers of a node without a GPU.

What needs grpcio is imported when the command runs, as in remote_serve.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import click
import structlog

from harp.cli.output import json_option, print_json, progress
from harp.cli.pool import default_folder, pool_folder, this_user
from harp.cli.remote_pages import certificates, listening
from harp.cli.remote_serve import configure_log
from harp.config import listen_address
from harp.errors import ConfigError
from harp.keep_wire import SOCKET
from harp.metrics.server import Page
from harp.native import find
from harp.remote.certificate import Kind
from harp.remote.floor import tls13_only
from harp.rundir import find as find_run_dir

if TYPE_CHECKING:
    from harp.remote.keeping import Keeper
    from harp.remote.who import Who

__all__ = ["keep"]

_log = structlog.get_logger(__name__)


@click.command()
@click.option(
    "--pool",
    "where",
    required=True,
    metavar="HOST:PORT[,...]",
    help="Nodes that serve GPUs, or a pool's name or file, as for `harp run --remote`.",
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="The client's folder: ca.crt, tls.crt, tls.key.  [the one that is there]",
)
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="The plugin's --run-dir.  [$HARP_RUN, else as for a daemon]",
)
@click.option(
    "--tls-name",
    default="",
    metavar="NAME",
    help="What all nodes' certificates are for; then each name in --pool is all nodes at its"
    " addresses.  [a node's own name]",
)
@click.option(
    "--health",
    default="",
    metavar="HOST:PORT",
    help="Serve /healthz there: 200 while who asks for a lease is answered; and /metrics: when the"
    " certificate runs out, what sessions carry, their round trips.  [nowhere]",
)
@click.option("--insecure", is_flag=True, help="No certificates: a pool on this host.")
@json_option
def keep(
    *,
    where: str,
    folder: Path | None,
    run_dir: Path | None,
    tls_name: str,
    health: str,
    insecure: bool,
    as_json: bool,
) -> None:
    """Hold leases of a pool for containers of this node, until SIGINT or SIGTERM.

    Asked by HARP's device plugin (`python -m device_plugin remote`), which may be restarted
    meanwhile: what is held ends with this process, not with the plugin.
    """
    env = dict(os.environ)
    tls13_only(os.environ, sys.modules.keys())
    from harp.remote.keeping import Keeper, Pool  # noqa: PLC0415 - see above
    from harp.remote.places import endpoints, identity  # noqa: PLC0415
    from harp.remote.who import Who  # noqa: PLC0415

    if insecure and (folder is not None or tls_name):
        raise ConfigError("--insecure uses no certificates, and --dir names some", "choose one")
    base = pool_folder(env)
    if not insecure:
        folder = folder or default_folder(base, Kind.CLIENT, this_user())
    at = find_run_dir(env)
    at = replace(at, path=run_dir) if run_dir is not None else at

    # What is of no use is said now, not when a pod starts.
    load = None if folder is None else lambda: identity(folder, dt.datetime.now(dt.UTC))
    who = Who(load, tls_name, lambda text: _log.warning("certificate_not_taken", reason=text))
    pool = Pool(endpoints(where, base), folder, who)
    configure_log()
    keeper = Keeper(at.path, find(env), pool, env)

    def ready() -> None:
        socket = at.path / SOCKET
        if as_json:
            print_json({"pid": os.getpid(), "socket": str(socket), "pool": list(pool.nodes)})
        else:
            progress(f"harp: holding leases of {', '.join(pool.nodes)}, asked at {socket}")

    asyncio.run(_until_told(keeper, who, listen_address(health), ready))


async def _until_told(
    keeper: Keeper, who: Who, health: tuple[str, int] | None, ready: Callable[[], None]
) -> None:
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    async with keeper.running(), contextlib.AsyncExitStack() as stack:
        if health is not None:
            await stack.enter_async_context(_pages(keeper, who, *health))
        with contextlib.suppress(BrokenPipeError):
            ready()
        await end.wait()


def _pages(
    keeper: Keeper, who: Who, host: str, port: int
) -> contextlib.AbstractAsyncContextManager[tuple[str, int]]:
    """/healthz, on the event loop that all leases are on: it answers as long as that does."""

    async def healthz(_accept: str) -> Page:
        if fault := keeper.fault():
            return Page(f"{fault}\n".encode(), status=HTTPStatus.SERVICE_UNAVAILABLE)
        return Page(b"ok\n")

    page = certificates("client", lambda: who.identity, traffic=keeper.traffic.seen)
    routes = {"/healthz": healthz, "/metrics": page}
    return listening(routes, host, port, "--health")
