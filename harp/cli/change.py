# SPDX-License-Identifier: Apache-2.0
"""`harp set`: change a living tenant's limits."""

from __future__ import annotations

import os

import click

from harp.api.v1 import control_pb2 as pb
from harp.cli.output import CLASSES, PERCENT, SIZE, json_option, print_json, progress
from harp.cli.view import tenant_json
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
@click.option("--mem", type=SIZE, default=None, help="Memory limit; none lifts it.")
@click.option("--share", type=PERCENT, default=None, help="Guaranteed device time; none lifts it.")
@click.option("--limit", type=PERCENT, default=None, help="Most device time; none lifts it.")
@click.option("--class", "klass", type=click.Choice(CLASSES), default=None)
@json_option
def set_limits(
    *,
    tenant: str,
    mem: int | None,
    share: int | None,
    limit: int | None,
    klass: str | None,
    as_json: bool,
) -> None:
    """Change TENANT's limits; they hold at once."""
    if mem is None and share is None and limit is None and klass is None:
        raise click.UsageError("say what to change: --mem, --share, --limit or --class")
    request = pb.SetTenantRequest(name=tenant)
    if mem is not None:
        request.mem_limit_bytes = mem
    if share is not None:
        request.share_ppm = share
    if limit is not None:
        request.limit_ppm = limit
    if klass is not None:
        request.tenant_class = _CLASS_OF[klass]
    with Client.connect(os.environ) as client:
        changed = client.set(request)
        devices = {d.uuid: d for d in client.state().devices}
    if as_json:
        print_json({"tenant": tenant_json(changed, devices)})
        return
    memory = format_size(changed.mem_limit_bytes) if changed.mem_limit_bytes else "no limit"
    progress(
        f"{changed.name}: memory {memory}, share {format_percent(changed.share_ppm)},"
        f" limit {format_percent(changed.limit_ppm) if changed.limit_ppm else 'none'},"
        f" class {TenantClass(changed.tenant_class).label}"
    )
