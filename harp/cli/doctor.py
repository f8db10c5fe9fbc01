# SPDX-License-Identifier: Apache-2.0
"""`harp doctor`: why something does not work."""

from __future__ import annotations

import os
import sys

import click
from rich.table import Table
from rich.text import Text

import harp
from harp.cli import checks
from harp.cli.checks import Check, Verdict
from harp.cli.output import console, json_option, print_json, progress
from harp.client import Client
from harp.config import load
from harp.errors import HarpError
from harp.native import find
from harp.procs import environ_of

__all__ = ["doctor"]

_STYLES = {Verdict.OK: "green", Verdict.NOTE: "cyan", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


@click.command()
@click.option("--pid", type=click.IntRange(min=1), default=None, help="Look at one process.")
@click.option("--probe", "probing", is_flag=True, help="Measure what the driver of a GPU does.")
@click.option("--gpu", default=None, help="With --probe: index or UUID; the first one otherwise.")
@json_option
def doctor(*, pid: int | None, probing: bool, gpu: str | None, as_json: bool) -> None:
    """Look at the installation, the daemon, the devices, or one process; 1 if something fails.

    --probe works on the GPU for about a minute, beside HARP and without it: nothing else should use
    the GPU meanwhile. It needs cuda-python (the extra "cuda"). What it cannot find out is said to
    be unknown.
    """
    if probing:
        if pid is not None:
            raise click.UsageError("--probe and --pid exclude each other")
        _probe(gpu, as_json=as_json)
        return
    if gpu is not None:
        raise click.UsageError("--gpu goes with --probe")
    found = _process(pid) if pid is not None else _all()
    failed = any(check.verdict is Verdict.FAIL for check in found)
    if as_json:
        print_json(
            {
                "ok": not failed,
                "checks": [
                    {"name": c.name, "verdict": c.verdict.value, "text": c.text, "remedy": c.remedy}
                    for c in found
                ],
            }
        )
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for check in found:
            remedy = f"\n-> {check.remedy}" if check.remedy else ""
            verdict = Text(check.verdict.value, style=_STYLES[check.verdict])
            table.add_row(verdict, check.name, check.text + remedy)
        console().print(table)
    if failed:
        sys.exit(1)


def _probe(gpu: str | None, *, as_json: bool) -> None:
    # Imported late: only this needs it.
    from harp.cli import probed  # noqa: PLC0415
    from harp.probe.ask import probe  # noqa: PLC0415

    kind = load(os.environ).device.kind
    found = probe(find(os.environ), os.environ, kind, gpu, progress)
    if as_json:
        print_json(probed.shape(found))
    else:
        console().print(probed.table(found))
        console().print(probed.words(found))


def _all() -> list[Check]:
    found = list(checks.installation(find(os.environ), os.environ))
    try:
        with Client.connect(os.environ) as client:
            found += checks.machine(client.run_dir, client.info(), client.state(), harp.__version__)
    except HarpError as error:
        found.append(checks.unreachable(error))
    return found


def _process(pid: int) -> list[Check]:
    # The daemon that the process was started under, whatever ours is.
    env = {**os.environ}
    theirs = environ_of(pid, "HARP_RUN")
    if theirs:
        env["HARP_RUN"] = theirs
    with Client.connect(env) as client:
        return list(checks.process(pid, client.state()))
