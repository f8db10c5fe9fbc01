# SPDX-License-Identifier: Apache-2.0
"""`harp version`."""

from __future__ import annotations

import os

import click

import harp
from harp.cli.output import json_option, print_json
from harp.native import find

__all__ = ["version"]


@click.command()
@json_option
def version(*, as_json: bool) -> None:
    """Say the version, and where the compiled parts are."""
    native = find(os.environ).path
    if as_json:
        print_json({"version": harp.__version__, "native_dir": str(native)})
    else:
        print(f"harp {harp.__version__} ({native})")
