# SPDX-License-Identifier: Apache-2.0
"""`harp devices` and `harp ps`."""

from __future__ import annotations

import os

import click
from rich.table import Table

from harp.api.v1 import control_pb2 as pb
from harp.cli.output import console, json_option, print_json, print_wide
from harp.cli.view import (
    device_json,
    gpus,
    is_software,
    memory_notes,
    printable,
    short_class,
    short_percent,
    short_size,
    swapping_lines,
    tenant_json,
    uncovered_json,
    where_memory_is,
)
from harp.client import Client
from harp.units import format_percent

__all__ = ["devices", "ps"]


@click.command()
@json_option
def devices(*, as_json: bool) -> None:
    """List the devices and what is promised on them."""
    with Client.connect(os.environ) as client:
        state = client.state()
    if as_json:
        print_json({"devices": [device_json(d) for d in state.devices]})
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("GPU", "KIND", "NAME"):
        table.add_column(column, overflow="fold")
    for column in ("MEMORY", "USED", "PROMISED", "SHARES", "CONTEXT"):
        table.add_column(column, justify="right", no_wrap=True)
    for d in state.devices:
        table.add_row(
            str(d.index),
            "software" if is_software(d) else "nvidia",
            d.name,
            short_size(d.memory_bytes),
            short_size(d.used_bytes),
            short_size(d.promised_bytes),
            format_percent(d.promised_ppm),
            f"{short_size(d.context_bytes)}{'*' if d.context_source == 'default' else ''}",
        )
    out = console()
    out.print(table)
    if any(is_software(d) for d in state.devices):
        out.print("software: HARP's software GPU; no number measured on it is a GPU's")
    if any(d.context_source == "default" for d in state.devices):
        out.print("*: not measured; device.overhead_bytes is taken")


@click.command()
@json_option
def ps(*, as_json: bool) -> None:
    """List tenants, their processes, and processes that evade HARP."""
    with Client.connect(os.environ) as client:
        state, info = client.state(), client.info()
    by_uuid = {d.uuid: d for d in state.devices}
    if as_json:
        print_json(
            {
                "tenants": [tenant_json(t, by_uuid) for t in state.tenants],
                "uncovered": [uncovered_json(u) for u in state.uncovered],
                "uncovered_total": info.uncovered_total,
                "devices": [device_json(d) for d in state.devices],
            }
        )
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("TENANT", "USER", "GPU", "CLASS"):
        table.add_column(column, no_wrap=True)
    table.add_column("GETS/ASK/CAP", justify="right", no_wrap=True)
    table.add_column("PID", justify="right", no_wrap=True)
    table.add_column("PROGRAM", overflow="ellipsis", no_wrap=True)
    table.add_column("MEM/LIMIT", justify="right", no_wrap=True)
    table.add_column("STATE", no_wrap=True)
    for tenant in state.tenants:
        _tenant_rows(table, tenant, by_uuid)
    for one in state.uncovered:
        device = by_uuid.get(one.device_uuid)
        table.add_row(
            one.tenant or "(outside)",
            one.user,
            f"{device.index}{' soft' if is_software(device) else ''}" if device else "?",
            "-",
            "-",
            str(one.pid),
            printable(one.name),
            short_size(one.mem_bytes),
            f"UNCOVERED, {one.action}",
        )
    print_wide(table)
    for tenant in state.tenants:
        for note in memory_notes(tenant, by_uuid):
            print(note)
        for line in swapping_lines(tenant, by_uuid, state.now_s):
            print(line)
    for one in state.uncovered:
        whose = f"of tenant {one.tenant} (by {one.evidence})" if one.tenant else "outside HARP"
        name = printable(one.name)
        print(f"uncovered: pid {one.pid} ({name}) {whose} uses the GPU without a session")


def _state(tenant: pb.Tenant, client: pb.Client) -> str:
    if client.state != pb.CLIENT_STATE_LIVE:
        return "draining"
    if tenant.suspended:
        return f"suspended, {short_size(client.leased_bytes)} on the host"
    return where_memory_is(tenant) or "live"


def _tenant_rows(table: Table, tenant: pb.Tenant, by_uuid: dict[str, pb.Device]) -> None:
    soft = any(is_software(by_uuid[u]) for u in tenant.device_uuids if u in by_uuid)
    gets = f"{tenant.used_ratio:.1%}" if tenant.window_s else "-"
    head = (
        tenant.name,
        tenant.user,
        gpus(tenant, by_uuid) + (" soft" if soft else ""),
        short_class(tenant),
        f"{gets}/{short_percent(tenant.share_ppm)}/{short_percent(tenant.limit_ppm)}",
    )
    limit = short_size(tenant.mem_limit_bytes)
    if not tenant.clients:
        state = "no GPU use yet" if tenant.root_alive or tenant.held else "ended"
        table.add_row(*head, str(tenant.root_pid), "", f"-/{limit}", state)
    for client in tenant.clients:
        table.add_row(
            *head,
            str(client.pid),
            printable(client.program),
            f"{short_size(client.leased_bytes)}/{limit}",
            _state(tenant, client),
        )
        head = ("", "", "", "", "")
