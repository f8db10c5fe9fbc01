# SPDX-License-Identifier: Apache-2.0
"""A run as a flat row, and back: what history's table and files of runs have in common. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harp.estimator.job import Job, Outcome, Run

__all__ = ["reals", "row_of", "run_of"]


def row_of(run: Run) -> dict[str, Any]:
    """All of a run but its number and what it used, as plain values; what is nested is JSON."""
    job = run.job
    return {
        "started_s": float(run.started_s),
        "ended_s": float(run.ended_s),
        "outcome": run.outcome.value,
        "exit_status": run.exit_status,
        "program": job.program,
        "shape": job.shape,
        "numbers": json.dumps(job.numbers),
        "user": job.user,
        "image": job.image,
        "framework": job.framework,
        "owner": job.owner,
        "gpu": job.gpu,
        "asked_mem_bytes": job.asked_mem_bytes,
        "asked_share_ratio": float(job.asked_share_ratio),
        "device_mem_bytes": job.device_mem_bytes,
        "labels": json.dumps(job.labels),
        "quantiles": json.dumps(run.quantiles),
        "mem_limit_bytes": run.mem_limit_bytes,
        "share_ratio": float(run.share_ratio),
        "attempted_bytes": run.attempted_bytes,
        "elastic": run.elastic,
    }


def run_of(row: Mapping[str, Any], used: Mapping[str, float]) -> Run:
    """The run of a row whose values are of row_of()'s types, with its number.

    Raises:
        ValueError, TypeError, AttributeError: what should be JSON is not, or is something else.
    """
    job = Job(
        program=row["program"],
        shape=row["shape"],
        numbers=tuple((str(name), float(value)) for name, value in json.loads(row["numbers"])),
        user=row["user"],
        image=row["image"],
        framework=row["framework"],
        owner=row["owner"],
        gpu=row["gpu"],
        asked_mem_bytes=row["asked_mem_bytes"],
        asked_share_ratio=row["asked_share_ratio"],
        device_mem_bytes=row["device_mem_bytes"],
        labels=tuple((str(name), str(value)) for name, value in json.loads(row["labels"])),
    )
    return Run(
        job=job,
        number=row["number"],
        started_s=row["started_s"],
        ended_s=row["ended_s"],
        outcome=Outcome(row["outcome"]),
        exit_status=row["exit_status"],
        used=dict(used),
        quantiles=reals(row["quantiles"]),
        mem_limit_bytes=row["mem_limit_bytes"],
        share_ratio=row["share_ratio"],
        attempted_bytes=row["attempted_bytes"],
        elastic=bool(row["elastic"]),
    )


def reals(text: str) -> dict[str, float]:
    """Figures by name, of JSON."""
    return {str(name): float(value) for name, value in json.loads(text).items()}
