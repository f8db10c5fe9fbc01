# SPDX-License-Identifier: Apache-2.0
"""`harp estimate JOB`, `harp estimate explain JOB`: what a job will need, and why."""

from __future__ import annotations

import os
from dataclasses import asdict

import click
from rich.table import Table

from harp.api.jobs import need_of
from harp.api.v1 import control_pb2 as pb
from harp.cli.output import json_option, print_json, print_wide, progress
from harp.cli.subject import Subject, SubjectCommand, subject_options
from harp.cli.view import printable, short_size
from harp.client import Client
from harp.estimator.job import Need

__all__ = ["JOB", "explain", "figure", "job"]

#: name of the command that `harp estimate` without another one's name is
JOB = "job"
_NAMES = {
    "gpu_mem_bytes": "GPU memory",
    "share_ratio": "GPU time",
    "host_mem_bytes": "memory",
    "cpu_cores": "processors",
    "duration_s": "duration",
}


@click.command(JOB, cls=SubjectCommand)
@subject_options
@json_option
def job(*, subject: Subject, as_json: bool) -> None:
    """Say what a job will need: a tenant JOB, a command, or a pod. `job` may be left out.

    Each need has a typical value (half of such jobs need less), a bound at a stated confidence, and
    which likeness it was learned from. Nobody's run like it: unknown, and the bound is what is
    asked for.
    """
    with Client.connect(os.environ) as client:
        reply = subject.ask(client, explain=False)
    if as_json:
        print_json(_as_json(subject, reply))
        return
    needs = _show(subject, reply)
    for need in needs:
        print(f"{_NAMES.get(need.target, need.target)}: {printable(need.reason)}")


@click.command(cls=SubjectCommand)
@subject_options
@json_option
def explain(*, subject: Subject, as_json: bool) -> None:
    """Say why: what was looked at for a job, and what its last runs needed."""
    with Client.connect(os.environ) as client:
        reply = subject.ask(client, explain=True)
    if as_json:
        print_json(_as_json(subject, reply))
        return
    _show(subject, reply)
    for line in reply.explained:
        print(printable(line))


def figure(target: str, value: float | None) -> str:
    """A value of a target, as people read it."""
    if value is None:
        return "-"
    match target:
        case "gpu_mem_bytes" | "host_mem_bytes":
            return short_size(int(value)) if value else "0"
        case "share_ratio":
            return f"{value:.0%}"
        case "duration_s":
            return _duration(value)
    return f"{value:.2f}"


def _show(subject: Subject, reply: pb.EstimateReply) -> list[Need]:
    """The table; the rest of the page is the caller's."""
    if reply.state:
        progress(f"harp: nothing is known: {printable(reply.state)}")
    elif not reply.runs:
        progress("harp: no run has ended yet under this harpd: nothing is known; use `harp run`")
    needs = [need_of(one) for one in reply.needs]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("NEED", no_wrap=True)
    for column in ("TYPICAL", "BOUND", "AT"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("FROM", no_wrap=True)
    table.add_column("RUNS", justify="right", no_wrap=True)
    for need in needs:
        table.add_row(
            _NAMES.get(need.target, need.target),
            figure(need.target, need.typical),
            figure(need.target, need.bound),
            f"{need.confidence:.0%}" if need.known else "-",
            printable(need.level) if need.known else "unknown",
            str(need.runs),
        )
    print(subject.text)
    print_wide(table)
    return needs


def _as_json(subject: Subject, reply: pb.EstimateReply) -> dict[str, object]:
    of = reply.job
    found: dict[str, object] = {
        "subject": subject.text,
        "job": {
            "program": of.program,
            "shape": of.shape,
            "numbers": {one.name: one.value for one in of.numbers},
            "user": of.user,
            "image": of.image,
            "framework": of.framework,
            "owner": of.owner,
            "gpu": of.gpu,
            "asked_mem_bytes": of.asked_mem_bytes,
            "asked_share_ratio": of.asked_share_ratio,
            "labels": {one.name: one.value for one in of.labels},
        },
        "needs": {one.target: asdict(need_of(one)) for one in reply.needs},
        "runs": reply.runs,
        "state": reply.state,
        "explained": list(reply.explained),
        "ended": reply.ended.outcome or None,
    }
    if subject.pod:
        found["annotations"] = dict(subject.pod.annotations)
    return found


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}min" if hours else f"{minutes}min{rest:02d}s"
