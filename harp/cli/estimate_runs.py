# SPDX-License-Identifier: Apache-2.0
"""`harp estimate history`, `export`, `import`: the runs that needs are learned from."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import click
from rich.table import Table

from harp.api.jobs import run_message, run_of
from harp.api.v1 import control_pb2 as pb
from harp.cli.estimate_job import figure
from harp.cli.output import json_option, print_json, print_wide, progress
from harp.cli.view import printable, short_size
from harp.client import Client
from harp.errors import HarpError
from harp.estimator.job import TARGETS, Run
from harp.estimator.tables import export_runs, import_runs

__all__ = ["export", "history", "import_"]

_PAGE = 1000
#: runs in one message to harpd, which takes 4 MiB
_SENT = 200
_DIGEST_COLUMNS = 8
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option(
    "--limit",
    type=click.IntRange(1, _PAGE),
    default=20,
    show_default=True,
    help="So many of the last ones.",
)
@json_option
def history(*, limit: int, as_json: bool) -> None:
    """List runs that have ended, the last one first: your own; for root all."""
    with Client.connect(os.environ) as client:
        reply = client.runs(pb.GetRunsRequest(limit=limit, newest=True))
    runs = [run_of(one) for one in reply.runs]
    if as_json:
        print_json({"runs": [_as_json(one) for one in runs]})
        return
    if not runs:
        print("no run is kept: `harp run` makes them, `harp estimate import` takes another's")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("RUN", justify="right", no_wrap=True)
    for column in ("ENDED", "OUTCOME", "JOB", "USER"):
        table.add_column(column, no_wrap=True)
    for column in ("LIMIT", "GPU MEM", "GPU TIME", "MEMORY", "CPUS", "TOOK"):
        table.add_column(column, justify="right", no_wrap=True)
    for run in runs:
        used = [figure(target, run.used.get(target)) for target in TARGETS]
        used[0] = f"{used[0]}{'+' if run.elastic or run.attempted_bytes else ''}"
        table.add_row(
            str(run.number),
            f"{dt.datetime.fromtimestamp(run.ended_s).astimezone():%m-%d %H:%M:%S}",
            run.outcome.value,
            printable(run.job.owner) or run.job.program[:_DIGEST_COLUMNS] or "-",
            run.job.user[:_DIGEST_COLUMNS] or "-",
            short_size(run.mem_limit_bytes),
            *used,
        )
    print_wide(table)
    print("JOB and USER are digests: commands and names are not kept")
    if any(run.elastic or run.attempted_bytes for run in runs):
        print("+: it would have taken more")


@click.command()
@click.argument("file", type=_FILE)
@json_option
def export(*, file: Path, as_json: bool) -> None:
    """Write the runs to FILE, by its name CSV (.csv, .csv.gz) or Parquet (.parquet).

    Your own runs; for root all.
    """
    with Client.connect(os.environ) as client:
        runs = list(_all(client))
    if not runs:
        raise HarpError("no run is kept, so there is none to export", "run jobs with `harp run`")
    export_runs(runs, file)
    if as_json:
        print_json({"file": str(file), "runs": len(runs)})
        return
    print(f"{len(runs)} runs written to {file}")


@click.command("import")
@click.argument("file", type=_FILE)
@json_option
def import_(*, file: Path, as_json: bool) -> None:
    """Add the runs of FILE, which `harp estimate export` wrote: root and harpd's user alone.

    Those that are there already are skipped: the same file may be given again.
    """
    added = sent = 0
    with Client.connect(os.environ) as client:
        runs = import_runs(file)
        while page := list(islice(runs, _SENT)):
            added += client.add_runs(run_message(one) for one in page)
            sent += len(page)
            if sent % (100 * _SENT) == 0:
                progress(f"{sent} runs")
    if as_json:
        print_json({"file": str(file), "runs": added, "skipped": sent - added})
        return
    known = f", {sent - added} were there already" if sent > added else ""
    print(f"{added} runs of {file} added{known}")


def _all(client: Client) -> Iterator[Run]:
    """Page by page."""
    request = pb.GetRunsRequest(limit=_PAGE)
    while True:
        reply = client.runs(request)
        yield from (run_of(one) for one in reply.runs)
        if not reply.more:
            return
        request.after = reply.next


def _as_json(run: Run) -> dict[str, object]:
    return {
        **asdict(run),
        "job": {
            **asdict(run.job),
            "numbers": dict(run.job.numbers),
            "labels": dict(run.job.labels),
        },
        "outcome": run.outcome.value,
    }
