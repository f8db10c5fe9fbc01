# SPDX-License-Identifier: Apache-2.0
"""`harp suspend` and `harp resume`."""

from __future__ import annotations

import os

import click

from harp.api.v1 import control_pb2 as pb
from harp.cli.change import in_force
from harp.cli.output import json_option, print_json, progress
from harp.cli.view import tenant_json
from harp.client import Client
from harp.units import format_size

__all__ = ["resume", "suspend"]


@click.command()
@click.argument("tenant")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.001),
    default=10.0,
    show_default=True,
    help="Seconds for the work of each of its processes to end.",
)
@json_option
def suspend(*, tenant: str, timeout: float, as_json: bool) -> None:
    """Take all of TENANT's memory off its GPUs.

    Its programs wait in their next CUDA call until `harp resume`; their threads go on. The host
    needs room for what is on the GPUs.
    """
    with Client.connect(os.environ) as client:
        done = client.suspend(pb.SuspendTenantRequest(name=tenant, timeout_s=timeout))
        devices = {d.uuid: d for d in client.state().devices}
    if as_json:
        print_json({"tenant": tenant_json(done, devices)})
        return
    progress(f"{done.name}: suspended, {format_size(done.host_bytes)} on the host")


@click.command()
@click.argument("tenant")
@click.option(
    "--gpu", default="", help="Another GPU of the same model; several: as many as it has."
)
@json_option
def resume(*, tenant: str, gpu: str, as_json: bool) -> None:
    """Bring TENANT back, to the GPUs where it was or to those of --gpu.

    Room is reserved first; without it TENANT stays suspended.
    """
    with Client.connect(os.environ) as client:
        done = client.resume(pb.ResumeTenantRequest(name=tenant, gpu=gpu))
        devices = {d.uuid: d for d in client.state().devices}
    if as_json:
        print_json({"tenant": tenant_json(done, devices)})
        return
    progress(in_force(done, devices))
