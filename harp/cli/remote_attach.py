# SPDX-License-Identifier: Apache-2.0
"""`harp remote attach` and `detach`: a GPU for a command that runs already."""

from __future__ import annotations

import os
from pathlib import Path

import click

from harp.cli.output import json_option, print_json, progress
from harp.cli.switch import RUNS, ask, runs
from harp.cli.view import printable
from harp.errors import ConfigError
from harp.rundir import user_dir

__all__ = ["attach", "detach"]


@click.command()
@click.argument("name")
@click.option("--to", default="", metavar="HOST:PORT", help="The node.  [the best of its pool]")
@json_option
def attach(*, name: str, to: str, as_json: bool) -> None:
    """Take a lease for a command of `harp run --remote` that has none."""
    said = ask(_one(name), {"do": "attach", "to": to})
    if as_json:
        print_json(said)
    else:
        progress(printable(f"harp: {name} has a lease on {said['node']} at {said['endpoint']}"))


@click.command()
@click.argument("name")
@json_option
def detach(*, name: str, as_json: bool) -> None:
    """Give the lease of a command back; what it has on the GPU is lost.

    A process that has a context there gets errors from CUDA until it has released that. Then, or
    if it had none, it is attached again by cuInit once there is a lease; so are others.
    """
    said = ask(_one(name), {"do": "detach"})
    if as_json:
        print_json(said)
    elif not said["detached"]:
        progress(f"harp: {name} had no lease")


def _one(name: str) -> Path:
    base = user_dir(os.environ) / RUNS
    found = runs(base, name)
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(
            f"no command called {name!r} runs with --remote",
            f"its name is that of its folder in {base}, or what is before the dash",
        )
    raise ConfigError(
        f"{len(found)} commands are called {name!r}",
        f"say which: {', '.join(place.name for place in found)}",
    )
