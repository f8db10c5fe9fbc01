# SPDX-License-Identifier: Apache-2.0
"""`harp metrics`: what Prometheus would be told, asked of harpd over its socket."""

from __future__ import annotations

import os
import sys

import click

from harp.cli.output import json_option, print_json
from harp.client import Client
from harp.metrics import parse

__all__ = ["metrics"]

_OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@click.command()
@click.option("--openmetrics", is_flag=True, help="OpenMetrics instead of Prometheus's text.")
@json_option
def metrics(*, openmetrics: bool, as_json: bool) -> None:
    """Print all series of this machine's harpd, as a scrape would see them.

    Nothing need be served for that: `harp daemon --metrics PORT` serves them to Prometheus.
    """
    if openmetrics and as_json:
        raise click.UsageError("--openmetrics and --json exclude each other")
    with Client.connect(os.environ) as client:
        text = client.metrics(_OPENMETRICS if openmetrics else "")
    if as_json:
        print_json({"families": parse(text)})
    else:
        sys.stdout.write(text)
