# SPDX-License-Identifier: Apache-2.0
"""`harp demo`: two unmodified trainings share one software GPU."""

from __future__ import annotations

import io
import sys

import click
from rich.console import Console

from harp.cli.output import console, json_option, print_json, progress
from harp.units import PPM, parse_percent

__all__ = ["demo"]


@click.command()
@click.option("--shares", default="30,70", show_default=True, help="One percentage per tenant.")
@click.option("--seconds", type=click.FloatRange(2, 600), default=20.0, show_default=True)
@click.option("--save-svg", type=click.Path(dir_okay=False), help="Also draw the table there.")
@json_option
def demo(*, shares: str, seconds: float, save_svg: str | None, as_json: bool) -> None:
    """Train on scikit-learn's digits, one tenant per share, and compare with the CPU."""
    # Imported late: only the demo needs what it needs.
    from harp.demo import run, table  # noqa: PLC0415

    asked = [parse_percent(part) / PPM for part in shares.split(",")]
    result = run(asked, seconds=seconds, progress=progress)
    if as_json:
        print_json(result)
    else:
        console().print(table(result))
    if save_svg is not None:
        canvas = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
        canvas.print(table(result))
        canvas.save_svg(save_svg, title="harp demo")
    failures = result.get("failures")
    if failures:
        for failure in failures if isinstance(failures, list) else [failures]:
            progress(f"harp demo: {failure}")
        sys.exit(1)
