# SPDX-License-Identifier: Apache-2.0
"""`harp trace start` and `stop`, and what `harp run --trace` shares with them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import click

import harp
from harp.api.v1 import control_pb2 as pb
from harp.cli.output import SIZE, json_option, print_json, progress
from harp.cli.view import printable
from harp.client import Client
from harp.errors import TraceError, UnknownTenant
from harp.trace.control import Wish, files_of, is_on, tell, untell

__all__ = ["about", "start", "stop", "trace_options", "wish_of"]

_F = TypeVar("_F", bound=Callable[..., object])
#: a process looks at once; without a service thread, at its next start of one
_ANSWER_S = 3.0
_DATA_BYTES = 64 << 10
_BYTES_HELP = "Most that each process's file may have.  [256MiB]"
_KEEP_HELP = "When it is full: overwrite the oldest, or drop what comes.  [last]"


def trace_options(command: _F) -> _F:
    """Add `--trace-bytes`, `--trace-data` and `--trace-keep`."""
    options = (
        click.option("--trace-bytes", type=SIZE, default=256 << 20, help=_BYTES_HELP),
        click.option(
            "--trace-data",
            type=SIZE,
            default=None,
            is_flag=False,
            flag_value="64KiB",
            metavar="[SIZE]",
            help="Also keep images, and so much of each call's host bytes: what a replay needs."
            " They may be secrets.  [none; without a SIZE 64KiB]",
        ),
        click.option(
            "--trace-keep", type=click.Choice(["first", "last"]), default="last", help=_KEEP_HELP
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def wish_of(
    file: Path,
    trace_bytes: int,
    trace_data: int | None,
    trace_keep: str,
    said: Mapping[str, object] | None = None,
) -> Wish:
    """What the options ask for. Raises ConfigError."""
    wish = Wish(
        file=Path(os.path.abspath(file)),  # noqa: PTH100 - no link is to be resolved
        size_bytes=trace_bytes,
        data_bytes=trace_data or 0,
        keep_first=trace_keep == "first",
        about=said or {},
    )
    wish.check()
    return wish


def about(tenant: pb.Tenant, devices: Mapping[str, pb.Device]) -> dict[str, object]:
    """What a trace's header says of where it was made."""
    return {
        "harp": harp.__version__,
        "tenant": tenant.name,
        "devices": [
            {
                "index": d.index,
                "uuid": d.uuid,
                "name": d.name,
                "software": d.kind == pb.DEVICE_KIND_SOFTWARE,
            }
            for d in (devices[u] for u in tenant.device_uuids if u in devices)
        ],
    }


def _tenant(client: Client, name: str) -> tuple[pb.Tenant, dict[str, pb.Device]]:
    state = client.state()
    found = next((t for t in state.tenants if t.name == name), None)
    if found is None:
        raise UnknownTenant(f"no tenant is called {name}", "`harp ps` lists them")
    if not found.grant_dir:
        raise TraceError(f"{name} has no folder that it could be told in", "use `harp run --trace`")
    return found, {d.uuid: d for d in state.devices}


@click.command()
@click.argument("tenant")
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="The first process writes this, others FILE.PID.  [TENANT.harptrace]",
)
@trace_options
@json_option
def start(
    *,
    tenant: str,
    file: Path | None,
    trace_bytes: int,
    trace_data: int | None,
    trace_keep: str,
    as_json: bool,
) -> None:
    """Record TENANT's calls of the driver from now on: of its processes, and those to come."""
    with Client.connect(os.environ) as client:
        found, devices = _tenant(client, tenant)
    grant = Path(found.grant_dir)
    if (old := is_on(grant)) is not None:
        raise TraceError(
            f"{tenant} is being traced to {printable(str(old))}", f"harp trace stop {tenant}"
        )
    where = file or Path(f"{tenant}.harptrace")
    wish = wish_of(where, trace_bytes, trace_data, trace_keep, about(found, devices))
    tell(grant, wish)
    _poke(tenant)
    files = _wait(wish.file, len(found.clients))
    if as_json:
        answer = {"tenant": tenant, "file": str(wish.file), "files": [str(f) for f in files]}
        print_json({"trace": answer | {"processes": len(found.clients)}})
        return
    progress(f"{printable(tenant)}: recorded in {printable(str(wish.file))}")
    if len(files) < len(found.clients):
        progress(
            f"harp: {len(found.clients) - len(files)} of its {len(found.clients)} processes have"
            f" not begun: {grant}/shim.log says why, if one cannot; else they will"
        )


def _poke(tenant: str) -> None:
    """Have its limits said to its processes again: then they look."""
    with Client.connect(os.environ) as client:
        client.set(pb.SetTenantRequest(name=tenant))


def _wait(file: Path, processes: int) -> list[Path]:
    """Files that are there when all processes have answered, or had time to."""
    end = time.monotonic() + _ANSWER_S
    while len(files := files_of(file)) < processes and time.monotonic() < end:
        time.sleep(0.02)
    return files


@click.command()
@click.argument("tenant")
@json_option
def stop(*, tenant: str, as_json: bool) -> None:
    """End TENANT's trace; what is recorded stays."""
    with Client.connect(os.environ) as client:
        found, _ = _tenant(client, tenant)
    grant = Path(found.grant_dir)
    file = is_on(grant)
    if not untell(grant) or file is None:
        raise TraceError(f"{tenant} is not being traced", f"harp trace start {tenant}")
    _poke(tenant)
    files = files_of(file)
    if as_json:
        answer = {"tenant": tenant, "file": str(file), "files": [str(f) for f in files]}
        print_json({"trace": answer})
        return
    progress(f"{printable(tenant)}: no longer recorded; {len(files)} files: {printable(str(file))}")
