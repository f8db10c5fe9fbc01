# SPDX-License-Identifier: Apache-2.0
"""`harp top`: tenants, what they may have and what they get; here, one picture of that.

What moves is top_app.py's, which is loaded when it is needed. Both fit 80 columns and 24 lines.
"""

from __future__ import annotations

import os
import sys

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harp.api.v1 import control_pb2 as pb
from harp.cli.output import console, json_option, print_json
from harp.cli.view import (
    device_json,
    gpus,
    is_software,
    printable,
    short_class,
    short_percent,
    short_size,
    swapping_lines,
    tenant_json,
    uncovered_json,
)
from harp.client import Client
from harp.errors import ConfigError

__all__ = ["render", "top"]

_SORTS = {
    "used": lambda t: -t.used_ratio,
    "mem": lambda t: -t.leased_bytes,
    "wait": lambda t: -t.wait_ns,
    "name": lambda t: t.name,
}


@click.command()
@click.option("--once", is_flag=True, help="Print one picture and end.")
@click.option("--sort", type=click.Choice(list(_SORTS)), default="used", show_default=True)
@click.option("--interval", type=click.FloatRange(0.2, 60), default=1.0, help="Seconds.")
@json_option
def top(*, once: bool, sort: str, interval: float, as_json: bool) -> None:
    """Watch the tenants; ? says which keys there are, q ends."""
    with Client.connect(os.environ) as client:
        if as_json or once:
            state = client.state()
            if as_json:
                by_uuid = {d.uuid: d for d in state.devices}
                tenants = sorted(state.tenants, key=_SORTS[sort])
                print_json(
                    {
                        "now_s": state.now_s,
                        "devices": [device_json(d) for d in state.devices],
                        "tenants": [tenant_json(t, by_uuid) for t in tenants],
                        "uncovered": [uncovered_json(u) for u in state.uncovered],
                    }
                )
            else:
                console().print(render(state, sort, None))
            return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError(
            "harp top draws on a terminal and hears its keys; stdin or stdout is none",
            "harp top --once, or --json",
        )
    # A quarter of a second of imports, for this alone.
    from harp.cli.feed import Feed  # noqa: PLC0415
    from harp.cli.top_app import TopApp  # noqa: PLC0415

    TopApp(Feed(lambda: Client.connect(os.environ), interval), interval, sort).run()


def render(state: pb.GetStateReply, sort: str, height: int | None) -> RenderableType:
    """The picture: a line per device, a row per tenant, what evades; at most `height` lines."""
    head = [_device_line(d) for d in state.devices]
    alarms = [
        Text(
            f"UNCOVERED pid {u.pid} {printable(u.name)} {u.tenant or 'outside HARP'}"
            f" {short_size(u.mem_bytes)} {u.action}",
            style="bold red",
            no_wrap=True,
            overflow="ellipsis",
        )
        for u in state.uncovered
    ]
    by_uuid = {d.uuid: d for d in state.devices}
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("TENANT", no_wrap=True, overflow="ellipsis", max_width=15)
    table.add_column("USER", no_wrap=True, overflow="ellipsis", max_width=8)
    table.add_column("G", no_wrap=True, overflow="ellipsis", max_width=5)
    table.add_column("CLASS", no_wrap=True)
    table.add_column("MEM", justify="right", no_wrap=True)
    table.add_column("LIMIT", justify="right", no_wrap=True)
    table.add_column("ASKED", justify="right", no_wrap=True)
    table.add_column("GETS", justify="right", no_wrap=True)
    table.add_column("CAP", justify="right", no_wrap=True)
    table.add_column("WAIT", justify="right", no_wrap=True)
    table.add_column("PR", justify="right", no_wrap=True)
    tenants = sorted(state.tenants, key=_SORTS[sort])
    moves = [
        Text(line, no_wrap=True, overflow="ellipsis")
        for tenant in tenants
        for line in (
            *_suspended_lines(tenant),
            *swapping_lines(tenant, by_uuid, state.now_s),
        )
    ]
    moves = moves if height is None else moves[:4]
    room = len(tenants)
    if height is not None:
        room = max(1, height - len(head) - len(moves) - len(alarms[:4]) - 3)
    for tenant in tenants[:room]:
        table.add_row(
            tenant.name,
            tenant.user,
            gpus(tenant, by_uuid),
            short_class(tenant),
            short_size(tenant.leased_bytes),
            short_size(tenant.mem_limit_bytes),
            short_percent(tenant.share_ppm),
            f"{tenant.used_ratio:.1%}" if tenant.window_s else "-",
            short_percent(tenant.limit_ppm),
            _duration(tenant.wait_ns),
            str(len(tenant.clients)),
        )
    rest = [Text(f"... {len(tenants) - room} more")] if len(tenants) > room else []
    if not tenants:
        rest = [Text("no tenants; harp run -- CMD makes one")]
    return Group(*head, table, *rest, *moves, *(alarms[:4] if height is not None else alarms))


def _suspended_lines(tenant: pb.Tenant) -> list[str]:
    held = short_size(tenant.host_bytes)
    return [f"suspended: {tenant.name}, {held} on the host"] if tenant.suspended else []


def _duration(ns: int) -> str:
    """A duration in at most 7 columns."""
    seconds = ns / 1e9
    if seconds < 1000:
        return f"{seconds:.1f}s"
    return f"{seconds / 60:.0f}min" if seconds < 60_000 else f"{seconds / 3600:.0f}h"


def _device_line(device: pb.Device) -> Text:
    kind = " (software)" if is_software(device) else ""
    return Text(
        f"GPU {device.index}{kind} {short_size(device.used_bytes)} of"
        f" {short_size(device.memory_bytes)} used, {device.promised_ppm / 10_000:.3g}% promised:"
        f" {device.name}",
        no_wrap=True,
        overflow="ellipsis",
    )
