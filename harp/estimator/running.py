# SPDX-License-Identifier: Apache-2.0
"""A run that goes on, and what was said of it when it began. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from harp.estimator.estimate import Estimate
from harp.estimator.job import Job, Need

__all__ = ["Running", "running_of", "running_plain"]


@dataclass(slots=True)
class Running:
    """One that has not ended."""

    said: dict[str, tuple[Estimate, Need]]  #: when it started
    beyond: set[str] = field(default_factory=set)  #: targets


def running_plain(name: tuple[Job, float], running: Running) -> list[object]:
    """It and its name, as JSON knows them."""
    job, started_s = name
    said = [
        [target, asdict(estimate), asdict(need)]
        for target, (estimate, need) in running.said.items()
    ]
    return [asdict(job), started_s, said, sorted(running.beyond)]


def running_of(plain: list[Any]) -> tuple[tuple[Job, float], Running]:
    """The one that running_plain() told of.

    Raises:
        ValueError, TypeError, KeyError: it told of something else.
    """
    of, started_s, said, beyond = plain
    job = Job(
        **of
        | {
            "numbers": tuple((name, value) for name, value in of["numbers"]),
            "labels": tuple((name, value) for name, value in of["labels"]),
        }
    )
    found = {
        target: (Estimate(**estimate | {"bounds": tuple(estimate["bounds"])}), Need(**need))
        for target, estimate, need in said
    }
    return (job, started_s), Running(found, set(beyond))
