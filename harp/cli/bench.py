# SPDX-License-Identifier: Apache-2.0
"""`harp bench`: HARP's own cost."""

from __future__ import annotations

import os

import click

from harp.cli.output import json_option, print_json, progress
from harp.cli.start import connect_or_start

__all__ = ["bench"]


@click.group()
def bench() -> None:
    """Measure HARP's own cost."""


@bench.command()
@click.option("--rounds", type=click.IntRange(1, 10_000), default=201, show_default=True)
@json_option
def overhead(*, rounds: int, as_json: bool) -> None:
    """What a kernel launch costs more under HARP."""
    # Imported late: only this command needs it.
    from harp.bench import overhead as measure  # noqa: PLC0415

    client, _ = connect_or_start(os.environ)
    client.close()
    result = measure(os.environ, rounds=rounds, progress=progress)
    if as_json:
        print_json(result)
        return
    noop = result["noop_added_ns"]
    assert isinstance(noop, dict)
    label = " (software: no GPU's figure)" if result["software"] else ""
    print(f"{result['device']}{label}, {result['n']} launches on each side")
    print(
        f"launch: bare {result['launch_ns_bare']:.0f} ns, under HARP"
        f" {result['launch_ns_harp']:.0f} ns, added {result['added_ns']:.0f} ns"
        f" (x{result['ratio']:.2f})"
    )
    for name, value in noop.items():
        print(f"added to a launch that costs nothing, {name}: {value:.1f} ns")
