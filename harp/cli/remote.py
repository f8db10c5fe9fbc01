# SPDX-License-Identifier: Apache-2.0
"""`harp remote`: GPUs for programs on other hosts."""

from __future__ import annotations

import datetime as dt
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import click
from rich.table import Table

from harp.cli.output import json_option, print_json, print_wide, progress
from harp.cli.pool import pool_folder, this_user
from harp.cli.remote_attach import attach, detach
from harp.cli.remote_keep import keep
from harp.cli.remote_node import drain, sessions
from harp.cli.remote_serve import serve
from harp.errors import CertificateError, ConfigError
from harp.remote.authority import DAYS, DAYS_MAX, check, found, init, issue, renew
from harp.remote.certificate import Certificate, Kind, day

__all__ = ["remote"]


@click.group()
def remote() -> None:
    """GPUs for programs on other hosts."""


for _command in (serve, sessions, drain, attach, detach, keep):
    remote.add_command(_command)


@remote.command("init")
@click.option(
    "--dir",
    "base",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="The pool's folder.  [remote/ beside HARP's settings: /etc/harp, ~/.config/harp]",
)
@click.option(
    "--node",
    "nodes",
    multiple=True,
    metavar="NAME[,HOST...]",
    help="A host with GPUs, and other names or addresses by which clients reach it.",
)
@click.option("--client", "clients", multiple=True, metavar="NAME", help="Who takes leases.")
@click.option(
    "--days",
    type=click.IntRange(1, DAYS_MAX),
    default=DAYS,
    show_default=True,
    help="How long new certificates are good for.",
)
@click.option(
    "--renew",
    "again",
    is_flag=True,
    help="Renew what runs out soon, or what --node and --client name: same key, same names.",
)
@json_option
def init_command(
    *,
    base: Path | None,
    nodes: tuple[str, ...],
    clients: tuple[str, ...],
    days: int,
    again: bool,
    as_json: bool,
) -> None:
    """Make a pool's certificates: an authority, and a folder for each node and client.

    The first call makes them for this host and this user, unless it names others; later calls add
    what they name, or show what there is. Nothing that is there is written over.
    """
    now = dt.datetime.now(dt.UTC)
    folder = (base or pool_folder(os.environ)).absolute()
    if again:
        changed = _renew(folder, nodes, clients, now, days)
    else:
        changed = _make(folder, nodes, clients, now, days)
    certificates = found(folder)
    if as_json:
        print_json(
            {
                "dir": str(folder),
                "certificates": [_json(c, changed, now, again=again) for c in certificates],
            }
        )
    else:
        _show(certificates, changed, now, again=again)
    _advise(folder, certificates, changed, now)


def _make(
    folder: Path, nodes: Sequence[str], clients: Sequence[str], now: dt.datetime, days: int
) -> set[Path]:
    """Make what is named and not there; returns the certificates made."""
    first = not (folder / Kind.AUTHORITY.value).exists()
    if first and not nodes and not clients:
        nodes, clients = (_this_host(),), (this_user(),)
    asked = [(Kind.NODE, *_split(text)) for text in nodes]
    asked += [(Kind.CLIENT, name, []) for name in clients]
    for kind, name, hosts in asked:
        check(kind, name, hosts)  # all of it before any is made
    changed = {folder / "authority" / "ca.crt"} if init(folder, now) else set()
    for kind, name, hosts in asked:
        if issue(folder, kind, name, hosts=hosts, now=now, days=days):
            changed.add(folder / f"{kind.value}-{name}" / "tls.crt")
        elif len(hosts) > 1:
            _same_hosts(folder, name, hosts)
    return changed


def _split(text: str) -> tuple[str, list[str]]:
    """A node's name, and its hosts: that name first."""
    hosts = list(dict.fromkeys(part.strip() for part in text.split(",")))
    return hosts[0], hosts


def _same_hosts(folder: Path, name: str, hosts: Sequence[str]) -> None:
    """Refuse to leave a node with other hosts than were just asked for."""
    (there,) = (c for c in found(folder) if (c.kind, c.name) == (Kind.NODE, name))
    if set(there.names) != set(hosts):
        raise ConfigError(
            f"node {name} has a certificate already, for {', '.join(there.names)}",
            f"remove {there.path.parent} first, or choose another name",
        )


def _renew(
    folder: Path, nodes: Sequence[str], clients: Sequence[str], now: dt.datetime, days: int
) -> set[Path]:
    """Renew what is named, or what runs out soon; returns the certificates renewed."""
    if not (folder / Kind.AUTHORITY.value).exists():
        raise CertificateError(
            f"there is no authority in {folder}", "name the pool's folder with --dir"
        )
    named = {(Kind.NODE, n.partition(",")[0]) for n in nodes}
    named |= {(Kind.CLIENT, n) for n in clients}
    there = {(c.kind, c.name): c for c in found(folder) if c.kind is not Kind.AUTHORITY}
    if strange := sorted(f"{kind.value} {name}" for kind, name in named - there.keys()):
        raise CertificateError(
            f"{folder} has no certificate of {', '.join(strange)}",
            "make it: the same command without --renew",
        )
    wanted = [c for key, c in there.items() if (key in named if named else c.near(now))]
    return {renew(folder, c, now, days).path for c in wanted}


def _this_host() -> str:
    """This host as others reach it: its name and addresses, as far as it knows them."""
    name = socket.gethostname()
    others = [socket.getfqdn(), "localhost", "127.0.0.1", "::1"]
    return ",".join([name, *(o for o in others if o != name)])


def _note(certificate: Certificate, changed: set[Path], now: dt.datetime, *, again: bool) -> str:
    if certificate.path in changed:
        return "renewed" if again else "new"
    if now >= certificate.ends:
        return "run out"
    return "runs out soon" if certificate.near(now) else ""


def _json(
    certificate: Certificate, changed: set[Path], now: dt.datetime, *, again: bool
) -> dict[str, object]:
    return {
        "kind": certificate.kind.value,
        "name": certificate.name,
        "hosts": list(certificate.names),
        "folder": str(certificate.path.parent),
        "ends": certificate.ends.isoformat(),
        "fingerprint_sha256": certificate.fingerprint,
        "runs_out_soon": certificate.near(now),
        "new": certificate.path in changed and not again,
        "renewed": certificate.path in changed and again,
    }


def _show(
    certificates: Sequence[Certificate], changed: set[Path], now: dt.datetime, *, again: bool
) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("kind", "name", "hosts", "until", "folder", ""):
        table.add_column(heading)
    for c in certificates:
        table.add_row(
            c.kind.value,
            c.name,
            ", ".join(c.names) or "-",
            day(c.ends),
            str(c.path.parent),
            _note(c, changed, now, again=again),
        )
    print_wide(table)


def _advise(
    folder: Path, certificates: Sequence[Certificate], changed: set[Path], now: dt.datetime
) -> None:
    """Say what is to be done with what was made, and what will soon be to do."""
    made = [c for c in certificates if c.path in changed and c.kind is not Kind.AUTHORITY]
    if made:
        names = ", ".join(c.path.parent.name for c in made)
        progress(
            f"copy each folder to its host or user over a way that you trust, and whole: {names}."
            f" Whoever has {folder / 'authority' / 'ca.key'} is the pool: it stays here"
        )
    for c in certificates:
        if c.path in changed or not c.near(now):
            continue
        remedy = "harp remote init --renew"
        if c.kind is Kind.AUTHORITY:
            remedy = "make a new pool with --dir, and give its folders out before that"
        ends = "ran out" if now >= c.ends else "runs out"
        progress(f"harp: warning: {c.kind.value} {c.name} {ends} on {day(c.ends)}: {remedy}")
