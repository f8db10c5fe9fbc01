# SPDX-License-Identifier: Apache-2.0
"""Runs of every kind that an adviser can be told of, made up: it is to keep them, no more."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from dataclasses import dataclass

from job_worlds import DAY_S, DEVICE, GIB

from harp.estimator.advise import Adviser
from harp.estimator.job import Job, Outcome, Run

_WORDS = ("a", "ü'\"\\,\n", "c")


@dataclass(frozen=True)
class Step:
    """One thing that an adviser is told."""

    kind: str  #: "learn", "still", "prune"
    run: Run
    now_s: float


def any_job(rng: random.Random) -> Job:
    program = rng.randrange(6)
    size = 2.0 ** rng.randrange(4)
    return Job(
        program=rng.choice((f"p{program}", "")),
        shape=f"s{program // 2}",
        numbers=(("batch-size", size), ("lr", 0.1))[: rng.randrange(1, 3)],
        user=rng.choice(_WORDS),
        image=rng.choice(("", "image")),
        framework="tinygrad",
        owner=rng.choice(("", "", "ns/Job/x")),
        gpu=rng.choice(("", "A", "B")),
        asked_mem_bytes=rng.choice((0, int(24 * GIB))),
        asked_share_ratio=rng.choice((0.0, 0.5)),
        device_mem_bytes=DEVICE,
        labels=(("x", "y"),) if rng.random() < 0.2 else (),
    )


def any_run(rng: random.Random, number: int, at_s: float, of: Job | None = None) -> Run:
    of = of or any_job(rng)
    peak = GIB * rng.choice((0.0, 1.0, rng.uniform(1, 8), 23.9))
    used = {
        "gpu_mem_bytes": peak,
        "share_ratio": rng.choice((0.0, rng.random())),
        "host_mem_bytes": peak / 2,
        "cpu_cores": rng.uniform(0.1, 4),
        "duration_s": rng.lognormvariate(3, 1),
    }
    for name in [*used]:
        if rng.random() < 0.1:
            del used[name]
    refused = rng.random() < 0.1
    return Run(
        of,
        number=number,
        started_s=at_s - rng.uniform(1, 500),
        ended_s=at_s,
        outcome=rng.choice([Outcome.DONE] * 8 + [*Outcome]),
        used=used,
        mem_limit_bytes=rng.choice((0, int(24 * GIB), int(max(peak, 1)))),
        share_ratio=rng.choice((0.0, 0.5)),
        attempted_bytes=int(peak * 1.3) if refused else 0,
        elastic=rng.random() < 0.1,
    )


def steps(seed: int, count: int) -> Iterator[Step]:
    """What happens, in its order: some runs are looked at before they end."""
    rng = random.Random(seed)
    now_s, going = 1e9, []
    number = 0
    for _ in range(count):
        now_s += rng.expovariate(1 / 300)
        match rng.choice(("learn", "learn", "learn", "begin", "still", "end", "prune")):
            case "learn":
                number += 1
                yield Step("learn", any_run(rng, number, now_s), now_s)
            case "begin":
                one = any_run(rng, 0, now_s)
                going.append(dataclasses.replace(one, started_s=now_s, used={}))
                yield Step("still", going[-1], now_s)
            case "still" if going:
                at = rng.randrange(len(going))
                used = {"gpu_mem_bytes": GIB * 40, "duration_s": now_s - going[at].started_s}
                going[at] = dataclasses.replace(going[at], ended_s=now_s, used=used)
                yield Step("still", going[at], now_s)
            case "end" if going:
                one = going.pop(rng.randrange(len(going)))
                number += 1
                used = {**any_run(rng, 0, now_s).used, **one.used}
                yield Step(
                    "learn",
                    dataclasses.replace(one, number=number, ended_s=now_s, used=used),
                    now_s,
                )
            case "prune" if rng.random() < 0.02:
                now_s += rng.choice((0.0, 30 * DAY_S, 91 * DAY_S))
                yield Step("prune", any_run(rng, 0, now_s), now_s)


def tell(adviser: Adviser, step: Step) -> None:
    match step.kind:
        case "learn":
            adviser.learn(step.run)
        case "still":
            adviser.still(step.run)
        case "prune":
            adviser.prune(step.now_s)


def said(adviser: Adviser, now_s: float, seed: int = 0, jobs: int = 25) -> list[object]:
    """All that it says of some jobs, and why."""
    rng = random.Random(seed)
    asked = [any_job(rng) for _ in range(jobs)]
    words = [(adviser.ask(job, now_s), adviser.explain(job, now_s)) for job in asked]
    return [*words, len(adviser)]
