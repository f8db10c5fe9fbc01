# SPDX-License-Identifier: Apache-2.0
"""`harp sim`: what would happen, on a virtual clock or to a list of pods."""

from __future__ import annotations

import os
import time as clock
from pathlib import Path

import click

from harp.cli.output import json_option, print_json, progress
from harp.cli.sim_place import place
from harp.native import find
from harp.sim import Scenario, TenantSpec, as_text, generate, read, simulate
from harp.sim import as_json as result_json
from harp.sim.scenario import Change, keys, override, parse

__all__ = ["sim"]

_EXAMPLE = """\b
Example of a scenario file (TOML; .json holds the same keys):
  seconds = 5
  policy = "drr"
  [[tenant]]
  name = "chat"
  class = "latency"
  load = "request"
  rate_hz = 50
  queue = 4
  [[tenant]]
  name = "train"
  count = 3
  share = "20%"
  kernel_us = 1000
  [[change]]
  tenant = "train"
  at_s = 2
  share = "30%"
"""


class _Documented(click.Command):
    """Help that lists the scenario's keys."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The keys of a scenario file, from their one description."""
        for title, kind in (
            ("Keys of a scenario file", Scenario),
            ("Keys of [[tenant]]", TenantSpec),
            ("Keys of [[change]]", Change),
        ):
            with formatter.section(title):
                formatter.write_dl(
                    [(name, f"{text} [{legal}]") for name, (legal, text) in keys(kind).items()]
                )
        super().format_epilog(ctx, formatter)


@click.group()
def sim() -> None:
    """Try policies on a virtual clock or a list of pods: a model, not a GPU result."""


sim.add_command(place)


@sim.command("time", cls=_Documented, epilog=_EXAMPLE)
@click.option(
    "--scenario",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Scenario file; the options below win over it.",
)
@click.option("--tenants", type=int, default=None, help="So many tenants of mixed kinds.")
@click.option("--shares", default=None, metavar="P,P,...", help="Saturating tenants, e.g. 10,90.")
@click.option("--kernel-us", type=float, default=None, help="Kernels of --shares.  [200]")
@click.option("--policy", default=None, metavar="drr|priority|fifo", help="The arbiter's policy.")
@click.option("--quantum-us", type=int, default=None, help="The arbiter's quantum.")
@click.option("--burst-us", type=int, default=None, help="The arbiter's burst.")
@click.option("--seconds", type=float, default=None, help="Virtual time.  [10]")
@click.option("--seed", type=int, default=None, help="Same seed, same result.  [1]")
@click.option("--rows", type=click.IntRange(0), default=20, show_default=True, help="Shown rows.")
@json_option
def time(
    *,
    path: Path | None,
    tenants: int | None,
    shares: str | None,
    kernel_us: float | None,
    rows: int,
    as_json: bool,
    **settings: float | str | None,
) -> None:
    """Run harp-arbiter's own policy for modelled tenants on a modelled device."""
    sources = sum(given is not None for given in (path, tenants, shares))
    if sources != 1:
        raise click.UsageError("say one of --scenario FILE, --tenants N, --shares P,P,...")
    if kernel_us is not None and shares is None:
        raise click.UsageError("--kernel-us goes with --shares; a scenario has kernel_us")
    scenario = _scenario(path, tenants, shares, kernel_us, settings)
    core = find(os.environ).arbiter_core
    began = clock.monotonic()
    found = simulate(scenario, core)
    progress(
        f"{len(found.tenants)} tenants, {scenario.seconds:g} s simulated in"
        f" {clock.monotonic() - began:.1f} s"
    )
    if as_json:
        print_json(result_json(found))
        return
    for line in as_text(found, rows):
        print(line)


def _scenario(
    path: Path | None,
    tenants: int | None,
    shares: str | None,
    kernel_us: float | None,
    settings: dict[str, float | str | None],
) -> Scenario:
    said = {name: value for name, value in settings.items() if value is not None}
    source = "the command line"
    if path is not None:
        return override(read(path), said, source)
    if tenants is not None:
        return generate(override(Scenario(), said, source), tenants)
    rows: list[dict[str, object]] = []
    for number, share in enumerate((shares or "").split(",")):
        percent = share.strip()
        rows.append(
            {
                "name": f"t{number}",
                "share": percent if percent.endswith("%") else f"{percent}%",
                "kernel_us": 200.0 if kernel_us is None else kernel_us,
            }
        )
    return parse({**said, "tenant": rows}, source)
