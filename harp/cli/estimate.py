# SPDX-License-Identifier: Apache-2.0
"""`harp estimate`: what jobs will need, from what jobs like them needed; and how good that is."""

from __future__ import annotations

import time
from pathlib import Path

import click

from harp.cli.estimate_job import JOB, explain, job
from harp.cli.estimate_runs import export, history, import_
from harp.cli.output import json_option, print_json, progress

__all__ = ["estimate"]

#: as harp.estimator.replay.tables.TABLES, which a test compares
TABLE_NAMES = ("pods", "requests", "philly", "dlrm")
_FOLDER = click.Path(path_type=Path, file_okay=False)
_SAY_S = 2.0
_warmup = click.option(
    "--warmup", type=_FOLDER, help="Folder of earlier tables: learned from, not scored."
)
_score = click.option("--score", type=_FOLDER, required=True, help="Folder of the tables to score.")
_begin = click.option(
    "--from",
    "begin_ratio",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.6,
    show_default=True,
    help="Without --warmup: the part of the time of --score that is only learned from.",
)


class _WithJob(click.Group):
    """`harp estimate JOB` is `harp estimate job JOB`, where JOB is none of the commands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the command's name in where it was left out."""
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [JOB, *args]
        return super().parse_args(ctx, args)


@click.group(cls=_WithJob, subcommand_metavar="[COMMAND] JOB|--command LINE|--pod FILE|-- CMD...")
def estimate() -> None:
    """What a job will need, learned from jobs like it.

    `harp estimate JOB` says it of a tenant, `harp estimate --command LINE` of a command that is not
    run yet, `harp estimate --pod FILE` of a pod. A tenant that is called as a command is called
    here: `harp estimate job replay`.
    """


for _one in (job, explain, history, export, import_):
    estimate.add_command(_one)


@estimate.command()
@click.option("--table", type=click.Choice(TABLE_NAMES), required=True, help="Which table.")
@_warmup
@_score
@_begin
@json_option
def replay(
    *, table: str, warmup: Path | None, score: Path, begin_ratio: float, as_json: bool
) -> None:
    """Walk through recorded jobs in time; say how good each estimate would have been.

    Each row is estimated from rows that had ended before it began. Beside the estimator: the
    request itself, the last value, decayed quantiles as the Kubernetes autoscaler takes them, the
    largest so far. Same tables, same output.
    """
    from harp.estimator.replay import run  # noqa: PLC0415

    found = run.replay(table, warmup, score, begin_ratio=begin_ratio, progress=_seldom())
    if as_json:
        print_json(found)
        return
    for line in _as_text(found):
        print(line)


@estimate.command()
@_warmup
@_score
@click.option(
    "--device-bytes", type=click.FloatRange(min=1), required=True, help="Memory of a GPU: 80e9."
)
@_begin
@json_option
def pack(
    *,
    warmup: Path | None,
    score: Path,
    device_bytes: float,
    begin_ratio: float,
    as_json: bool,
) -> None:
    """Pack recorded containers onto GPUs by what they are expected to need.

    One buffer for each GPU, chosen on the warm-up alone, stands for what its containers may need
    beyond that together. Beside it: no buffer, an upper bound for each container, an oracle.
    """
    from harp.estimator.replay import run  # noqa: PLC0415

    found = run.pack(warmup, score, device_bytes, begin_ratio=begin_ratio, progress=_seldom())
    if as_json:
        print_json(found)
        return
    beside = found["beside"]
    assert isinstance(beside, dict)
    for name, figures in {"HARP": found, **beside}.items():
        print(
            f"{name:15} {figures['containers_per_gpu']:.2f} containers a GPU,"
            f" {figures['overload_ratio']:.2%} of GPU-windows over"
        )


class _seldom:  # noqa: N801 - used as a function
    """progress(), not more often than a reader can follow."""

    def __init__(self) -> None:
        self._said_s = 0.0

    def __call__(self, text: str) -> None:
        now_s = time.monotonic()
        if now_s - self._said_s >= _SAY_S:
            self._said_s = now_s
            progress(text)


def _as_text(found: dict[str, object]) -> list[str]:
    targets, baselines = found["targets"], found["baselines"]
    assert isinstance(targets, dict)
    assert isinstance(baselines, dict)
    lines = []
    for target, figures in targets.items():
        lines.append(f"{target}, {figures['n']} cases, {figures['unknown']} unknown")
        for name, one in {"HARP": figures, **baselines[target]}.items():
            saved = "" if one["saved"] is None else f", {one['saved']:6.1%} saved"
            ratio = one["median_ratio"]
            middle = "" if ratio is None else f", median ratio {ratio:.2f}"
            lines.append(f"  {name:12} {one['coverage']:6.1%} covered{saved}{middle}")
        if "within_25" in figures:
            lines.append(
                f"  typical value within 25 %: {figures['within_25']:.1%}, off by 2x or more:"
                f" {figures['off_2x']:.1%}"
            )
    return lines
