# SPDX-License-Identifier: Apache-2.0
"""`harp demo`: two unmodified trainings share one software GPU."""

from __future__ import annotations

import sys

import click

from harp.cli.output import console, json_option, print_json, progress
from harp.units import PPM, parse_percent

__all__ = ["demo"]


@click.command()
@click.option("--shares", default="30,70", show_default=True, help="One percentage per tenant.")
@click.option("--seconds", type=click.FloatRange(2, 600), default=20.0, show_default=True)
@json_option
def demo(*, shares: str, seconds: float, as_json: bool) -> None:
    """Train on scikit-learn's digits, one tenant per share, and compare with the CPU."""
    # Imported late: only the demo needs what it needs.
    from harp.demo import run, table  # noqa: PLC0415

    asked = [parse_percent(part) / PPM for part in shares.split(",")]
    result = run(asked, seconds=seconds, progress=progress)
    if as_json:
        print_json(result)
    else:
        console().print(table(result))
    failures = result.get("failures")
    if failures:
        for failure in failures if isinstance(failures, list) else [failures]:
            progress(f"harp demo: {failure}")
        sys.exit(1)
