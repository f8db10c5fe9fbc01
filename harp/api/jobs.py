# SPDX-License-Identifier: Apache-2.0
"""Jobs, runs and needs as messages of the control API, and back."""

from __future__ import annotations

import math

from harp.api.v1 import control_pb2 as pb
from harp.errors import ConfigError
from harp.estimator.job import Job, Need, Outcome, Run

__all__ = ["job_message", "need_message", "need_of", "run_message", "run_of"]


def job_message(job: Job) -> pb.Job:
    """A job."""
    return pb.Job(
        program=job.program,
        shape=job.shape,
        numbers=[pb.JobNumber(name=name, value=value) for name, value in job.numbers],
        user=job.user,
        image=job.image,
        framework=job.framework,
        owner=job.owner,
        gpu=job.gpu,
        asked_mem_bytes=job.asked_mem_bytes,
        asked_share_ratio=job.asked_share_ratio,
        device_mem_bytes=job.device_mem_bytes,
        labels=[pb.JobLabel(name=name, value=value) for name, value in job.labels],
    )


def run_message(run: Run) -> pb.Run:
    """A run."""
    return pb.Run(
        job=job_message(run.job),
        number=run.number,
        started_s=run.started_s,
        ended_s=run.ended_s,
        outcome=run.outcome.value,
        exit_status=run.exit_status,
        used=run.used,
        quantiles=run.quantiles,
        mem_limit_bytes=run.mem_limit_bytes,
        share_ratio=run.share_ratio,
        attempted_bytes=run.attempted_bytes,
        elastic=run.elastic,
    )


def run_of(message: pb.Run) -> Run:
    """The run that a message tells of.

    Raises:
        ConfigError: there is no such run.
    """
    job = message.job
    if message.outcome not in set(Outcome):
        raise ConfigError(
            f"outcome {message.outcome!r} of a run is unknown", f"one of {', '.join(Outcome)}"
        )
    figures = {**message.used, **message.quantiles}
    for name, value in figures.items():
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{name} = {value} of a run is no use", "a number of 0 or more")
    return Run(
        job=Job(
            program=job.program,
            shape=job.shape,
            numbers=tuple((n.name, n.value) for n in job.numbers),
            user=job.user,
            image=job.image,
            framework=job.framework,
            owner=job.owner,
            gpu=job.gpu,
            asked_mem_bytes=job.asked_mem_bytes,
            asked_share_ratio=job.asked_share_ratio,
            device_mem_bytes=job.device_mem_bytes,
            labels=tuple((one.name, one.value) for one in job.labels),
        ),
        number=message.number,
        started_s=message.started_s,
        ended_s=message.ended_s,
        outcome=Outcome(message.outcome),
        exit_status=message.exit_status if message.HasField("exit_status") else None,
        used=dict(message.used),
        quantiles=dict(message.quantiles),
        mem_limit_bytes=message.mem_limit_bytes,
        share_ratio=message.share_ratio,
        attempted_bytes=message.attempted_bytes,
        elastic=message.elastic,
    )


def need_message(need: Need) -> pb.Need:
    """A need."""
    return pb.Need(
        target=need.target,
        typical=need.typical,
        bound=need.bound,
        confidence=need.confidence,
        known=need.known,
        level=need.level,
        runs=need.runs,
        reason=need.reason,
    )


def need_of(message: pb.Need) -> Need:
    """The need that a message tells of."""
    return Need(
        target=message.target,
        typical=message.typical if message.HasField("typical") else None,
        bound=message.bound if message.HasField("bound") else None,
        confidence=message.confidence,
        known=message.known,
        level=message.level,
        runs=message.runs,
        reason=message.reason,
    )
