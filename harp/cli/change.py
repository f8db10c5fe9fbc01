# SPDX-License-Identifier: Apache-2.0
"""`harp set`: change a living tenant's limits."""

from __future__ import annotations

import os

import click

from harp.api.v1 import control_pb2 as pb
from harp.cli.output import (
    CLASS_HELP,
    CLASSES,
    HOST_HELP,
    PERCENT,
    SIZE,
    json_option,
    print_json,
    progress,
)
from harp.cli.view import memory_notes, tenant_json
from harp.client import Client
from harp.model import TenantClass
from harp.units import format_percent, format_size

__all__ = ["set_limits"]

_CLASS_OF = {
    TenantClass.STANDARD.label: pb.TENANT_CLASS_STANDARD,
    TenantClass.LATENCY.label: pb.TENANT_CLASS_LATENCY,
    TenantClass.BEST_EFFORT.label: pb.TENANT_CLASS_BEST_EFFORT,
}


@click.command("set")
@click.argument("tenant")
@click.option("--mem", type=SIZE, default=None, help="Memory limit per GPU; none lifts it.")
@click.option("--host-mem", type=SIZE, default=None, help=HOST_HELP)
@click.option(
    "--share", type=PERCENT, default=None, help="Guaranteed part of each GPU's time; none lifts it."
)
@click.option("--limit", type=PERCENT, default=None, help="Most time of each GPU; none lifts it.")
@click.option("--class", "klass", type=click.Choice(CLASSES), default=None, help=CLASS_HELP)
@click.option(
    "--gang/--no-gang", default=None, help="Whether turns on its GPUs wait for each other."
)
@click.option(
    "--oversubscribe/--no-oversubscribe",
    default=None,
    help="Whether its memory may leave the GPU; only before its first process uses one.",
)
@json_option
def set_limits(
    *,
    tenant: str,
    mem: int | None,
    host_mem: int | None,
    share: int | None,
    limit: int | None,
    klass: str | None,
    gang: bool | None,
    oversubscribe: bool | None,
    as_json: bool,
) -> None:
    """Change TENANT's limits on all its GPUs; they hold within one quantum."""
    said = (mem, host_mem, share, limit, klass, gang, oversubscribe)
    if all(one is None for one in said):
        raise click.UsageError(
            "say what to change: --mem, --host-mem, --share, --limit, --class, --gang or"
            " --oversubscribe"
        )
    request = pb.SetTenantRequest(name=tenant)
    if mem is not None:
        request.mem_limit_bytes = mem
    if host_mem is not None:
        request.host_limit_bytes = host_mem
    if share is not None:
        request.share_ppm = share
    if limit is not None:
        request.limit_ppm = limit
    if klass is not None:
        request.tenant_class = _CLASS_OF[klass]
    if gang is not None:
        request.no_gang = not gang
    if oversubscribe is not None:
        request.oversubscribe = oversubscribe
    with Client.connect(os.environ) as client:
        changed = client.set(request)
        devices = {d.uuid: d for d in client.state().devices}
    if as_json:
        print_json({"tenant": tenant_json(changed, devices)})
        return
    progress(in_force(changed, devices))
    for note in memory_notes(changed, devices):
        progress(note)


def in_force(tenant: pb.Tenant, devices: dict[str, pb.Device]) -> str:
    """A tenant's grant as it is now, in one line; what is given is given on each of its GPUs."""
    numbers = [devices[u].index for u in tenant.device_uuids if u in devices]
    several = len(tenant.device_uuids) > 1
    gpus = f"GPU {','.join(map(str, numbers))}{' each' if several else ''}"
    memory = format_size(tenant.mem_limit_bytes) if tenant.mem_limit_bytes else "no limit"
    host = f", pinned {format_size(tenant.host_limit_bytes)}" if tenant.host_limit_bytes else ""
    gang = f", gang {'off' if tenant.no_gang else 'on'}" if several else ""
    return (
        f"{tenant.name}: {gpus}: memory {memory}{host}, share {_percent(tenant.share_ppm)},"
        f" limit {_percent(tenant.limit_ppm)}, class {TenantClass(tenant.tenant_class).label}{gang}"
        f"{', oversubscribing' if tenant.oversubscribe else ''}"
    )


def _percent(ppm: int) -> str:
    return format_percent(ppm) if ppm else "none"
