# SPDX-License-Identifier: Apache-2.0
"""`harp remote serve`: this host's GPUs for programs on others.

grpcio reads the lowest version of TLS when it is imported (harp/remote/floor.py), so what needs it
is imported when the command runs, and not before.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import structlog

from harp import config
from harp.cli.output import json_option, print_json, progress
from harp.cli.pool import default_folder, pool_folder
from harp.cli.remote_pages import renewing
from harp.config import listen_address
from harp.errors import ConfigError, HarpError
from harp.native import find
from harp.remote.certificate import Kind
from harp.remote.floor import CIPHERS, tls13_only
from harp.remote.uids import DEFAULT, parse
from harp.units import format_size

if TYPE_CHECKING:
    from harp.remote.serving import Ready
    from harp.remote.trust import Identity

__all__ = ["configure_log", "serve"]

_PORT = 7443


@click.command()
@click.option(
    "--listen",
    default="",
    metavar="HOST:PORT",
    help=f"Where clients take leases.  [0.0.0.0:{_PORT}; with --insecure 127.0.0.1:{_PORT}]",
)
@click.option(
    "--data-port",
    type=click.IntRange(0, 65535),
    default=None,
    help="Where their programs' calls come, on the same host.  [the next port]",
)
@click.option(
    "--token-listen",
    default="",
    metavar="HOST:PORT",
    help="Also serve programs that have a lease's token and no certificate: here, and at the next"
    " port.",
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=None,
    help="The node's folder that `harp remote init` made.  [the one that is there]",
)
@click.option(
    "--name",
    default="",
    metavar="HOST",
    help="This host as clients reach it.  [the first name of its certificate]",
)
@click.option(
    "--id",
    "node_id",
    default="",
    metavar="NAME",
    help="What this node is called in its pool, where several have one certificate."
    "  [the certificate's name]",
)
@click.option("--admin", "admins", multiple=True, metavar="CLIENT", help="Who may drain this node.")
@click.option(
    "--worker-uids",
    default="",
    metavar="FIRST-LAST",
    help="Users of leases where root serves: each lease has one of its own. none: all are root."
    f"  [{DEFAULT}]",
)
@click.option(
    "--metrics",
    default="",
    metavar="[HOST:]PORT",
    help="Serve /metrics there: when the certificates run out; a PORT alone: on loopback."
    "  [nowhere]",
)
@click.option("--insecure", is_flag=True, help="No certificates: for programs of this host only.")
@json_option
def serve(
    *,
    listen: str,
    data_port: int | None,
    token_listen: str,
    folder: Path | None,
    name: str,
    node_id: str,
    admins: tuple[str, ...],
    worker_uids: str,
    metrics: str,
    insecure: bool,
    as_json: bool,
) -> None:
    """Serve this host's GPUs to clients with certificates of its pool, until SIGINT or SIGTERM.

    Each lease is a tenant of this host: `harp ps` shows it, and its limits hold beside those of
    local tenants. With --json the object is written when clients may come.
    """
    env = dict(os.environ)  # as it was given: what follows is for us alone
    tls13_only(os.environ, sys.modules.keys())
    from harp.cli.start import connect_or_start  # noqa: PLC0415 - see above
    from harp.remote.renewing import Renewing  # noqa: PLC0415
    from harp.remote.serving import Options  # noqa: PLC0415
    from harp.remote.serving import serve as run  # noqa: PLC0415
    from harp.remote.trust import address, load  # noqa: PLC0415

    where = listen or (f"127.0.0.1:{_PORT}" if insecure else f"0.0.0.0:{_PORT}")
    port = address(where)[1]
    identity = None
    if insecure and folder is not None:
        raise ConfigError("--insecure uses no certificates, and --dir names some", "choose one")
    if not insecure:
        identity = load(
            folder or default_folder(pool_folder(os.environ), Kind.NODE, socket.gethostname()),
            Kind.NODE,
            dt.datetime.now(dt.UTC),
        )
        if identity.warning:
            progress(f"harp: warning: {identity.warning}")
    options = Options(
        listen=where,
        data_port=data_port if data_port is not None else port and port + 1,
        identity=identity,
        token_listen=token_listen,
        name=name,
        node_id=node_id,
        administrators=frozenset(admins),
        uids=parse(worker_uids or (str(DEFAULT) if os.geteuid() == 0 else "none")),
    )
    env.pop(CIPHERS[0], None)
    client, started = connect_or_start(env)
    with client:
        info = client.info()
    if started:
        progress(f"harp: started harpd (pid {info.pid}, log {info.log_path})")
    configure_log()

    def ready(told: Ready) -> None:
        if as_json:
            print_json(_json(told, identity))
        else:
            progress(_sentence(told, identity))

    mine = None
    if identity is not None:
        folder = identity.certificate.path.parent
        # Beside the server's own, which says what it cannot take.
        mine = Renewing(
            lambda: load(folder, Kind.NODE, dt.datetime.now(dt.UTC)), lambda _text: None
        )

    async def until_told() -> None:
        async with contextlib.AsyncExitStack() as stack:
            if at := listen_address(metrics):
                await stack.enter_async_context(renewing(mine, *at))
            await run(options, find(env), env, ready)

    try:
        asyncio.run(until_told())
    except* HarpError as group:
        raise _first(group) from None


def _json(told: Ready, identity: Identity | None) -> dict[str, object]:
    return {
        "node": told.node,
        "pid": os.getpid(),
        "endpoint": told.endpoint,
        "data_endpoint": told.data_endpoint,
        "token_endpoint": told.token_endpoint,
        "token_data_endpoint": told.token_data_endpoint,
        "insecure": identity is None,
        "certificate_ends": identity.certificate.ends.isoformat() if identity else "",
        "devices": [
            {
                "uuid": place.uuid,
                "name": place.name,
                "software": place.software,
                "memory_bytes": place.memory_bytes,
                "free_bytes": place.free_bytes,
                "free_ppm": place.free_ppm,
            }
            for place in told.places
        ],
    }


def _sentence(told: Ready, identity: Identity | None) -> str:
    gpus = ", ".join(
        f"{place.name} ({format_size(place.memory_bytes)}{', not a real GPU' * place.software})"
        for place in told.places
    )
    need = "no certificate: any program of this host may come"
    if identity is not None:
        need = "a certificate of its pool (harp remote init --client NAME)"
    tokens = f"; with a lease's token at {told.token_endpoint}" if told.token_endpoint else ""
    return (
        f"harp: serving {gpus} at {told.endpoint}, calls at {told.data_endpoint};"
        f" clients need {need}{tokens}"
    )


def configure_log() -> None:
    """JSON lines on stderr, at the level of HARP's settings."""
    level = config.load(os.environ).log.level.upper()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _first(group: BaseExceptionGroup[HarpError]) -> HarpError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, HarpError)
    return error
