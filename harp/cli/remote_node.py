# SPDX-License-Identifier: Apache-2.0
"""`harp remote sessions` and `harp remote drain`: look at a node that serves, and empty it.

What needs grpcio is imported when a command runs, as in remote_serve.py.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
from rich.table import Table

from harp.cli.output import json_option, print_json, print_wide, progress
from harp.cli.pool import default_folder, pool_folder, this_user
from harp.errors import ConfigError
from harp.remote.certificate import Kind
from harp.remote.floor import tls13_only
from harp.units import format_duration, format_percent, format_size

if TYPE_CHECKING:
    from harp.api.v1 import remote_pb2 as pb
    from harp.remote.trust import Identity

__all__ = ["drain", "sessions"]

_F = TypeVar("_F", bound=Callable[..., object])
_STATES = {1: "ready", 2: "draining"}


def _who(command: _F) -> _F:
    """Add what says who asks."""
    command = click.option("--insecure", is_flag=True, help="The node has no certificates.")(
        command
    )
    return click.option(
        "--dir",
        "folder",
        type=click.Path(path_type=Path, file_okay=False, exists=True),
        default=None,
        help="Your folder that `harp remote init` made.  [the one that is there]",
    )(command)


@click.command()
@click.option(
    "--node", default="localhost:7443", show_default=True, metavar="HOST:PORT", help="Which node."
)
@_who
@json_option
def sessions(*, node: str, folder: Path | None, insecure: bool, as_json: bool) -> None:
    """List the leases of a node and their sessions: yours; to an administrator, all."""
    identity = _identity(folder, insecure=insecure)
    from harp.remote import asking  # noqa: PLC0415 - after tls13_only()

    reply = asyncio.run(asking.leases(node, identity, insecure=insecure))
    if as_json:
        state = _STATES.get(reply.state, "")
        print_json({"node": node, "state": state, "leases": [_json(x) for x in reply.leases]})
        return
    _show(reply.leases)
    if reply.state == 2:
        progress(f"{node} is being drained")


@click.command()
@click.argument("node", metavar="HOST:PORT")
@click.option(
    "--deadline",
    "deadline_s",
    type=click.FloatRange(0, 86_400),
    default=0.0,
    metavar="SECONDS",
    help="End the sessions that are there then.  [none is ended]",
)
@click.option("--stop", is_flag=True, help="Take leases again.")
@_who
@json_option
def drain(
    *,
    node: str,
    deadline_s: float,
    stop: bool,
    folder: Path | None,
    insecure: bool,
    as_json: bool,
) -> None:
    """Let a node take no new leases and sessions. For its administrators."""
    if stop and deadline_s:
        raise click.UsageError("--stop and --deadline exclude each other")

    identity = _identity(folder, insecure=insecure)
    from harp.api.v1 import remote_pb2  # noqa: PLC0415 - after tls13_only()
    from harp.remote import asking  # noqa: PLC0415

    request = remote_pb2.DrainRequest(deadline_s=deadline_s, stop=stop)
    reply = asyncio.run(asking.drain(node, identity, request, insecure=insecure))
    state = _STATES.get(reply.state, "")
    if as_json:
        print_json(
            {"node": node, "state": state, "leases": reply.leases, "sessions": reply.sessions}
        )
        return
    until = f", which end in {format_duration(deadline_s)}" if deadline_s and not stop else ""
    progress(f"{node} is {state}: {reply.leases} leases, {reply.sessions} sessions{until}")


def _identity(folder: Path | None, *, insecure: bool) -> Identity | None:
    """Who asks; None: nobody need know."""
    tls13_only(os.environ, sys.modules.keys())
    from harp.remote.trust import load  # noqa: PLC0415 - it imports grpcio

    if insecure and folder is not None:
        raise ConfigError("--insecure uses no certificates, and --dir names some", "choose one")
    if insecure:
        return None
    mine = folder or default_folder(pool_folder(os.environ), Kind.CLIENT, this_user())
    identity = load(mine, Kind.CLIENT, dt.datetime.now(dt.UTC))
    if identity.warning:
        progress(f"harp: warning: {identity.warning}")
    return identity


def _json(lease: pb.HeldLease) -> dict[str, object]:
    return {
        "lease": lease.lease_id,
        "owner": lease.owner,
        "tenant": lease.tenant,
        "expires_s": lease.expires_s,
        "max_sessions": lease.max_sessions,
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
        "sessions": [
            {"session": s.session_id, "program": s.program, "held_bytes": s.held_bytes}
            for s in lease.sessions
        ],
    }


def _show(leases: Sequence[pb.HeldLease]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("tenant", "owner", "GPUs", "memory", "share", "session", "program", "holds"):
        table.add_column(heading)
    for lease in leases:
        first = lease.devices[0] if lease.devices else None
        row = (
            lease.tenant,
            lease.owner,
            ", ".join(d.name for d in lease.devices),
            format_size(first.mem_limit_bytes) if first and first.mem_limit_bytes else "no limit",
            format_percent(first.share_ppm) if first and first.share_ppm else "none",
        )
        for session in lease.sessions:
            held = format_size(session.held_bytes)
            table.add_row(*row, session.session_id, session.program, held)
            row = ("", "", "", "", "")
        if not lease.sessions:
            table.add_row(*row, "-", "", "")
    print_wide(table)
