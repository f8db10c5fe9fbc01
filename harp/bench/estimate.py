# SPDX-License-Identifier: Apache-2.0
"""What estimates cost: a question, a run learned, memory, a start, with a history that is made up.

Its runs say nothing of how good estimates are: `harp estimate replay` does, of recorded jobs.
"""

from __future__ import annotations

import math
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harp.bench.figures import percentile
from harp.bench.verdict import Target, as_json
from harp.estimator.advise import AdviseConfig, Adviser
from harp.estimator.job import Job, Run
from harp.estimator.learned import Learned, Point, digest, maker
from harp.estimator.state import Keys

__all__ = ["Effort", "history", "run_estimate"]

_GIB = float(1 << 30)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
#: what is promised: research/estimator.md, G11
_ASK_MS, _LEARN_MS, _RSS_BYTES, _START_S = 2.0, 1.0, 100e6, 2.0
#: runs after which harpd saves what it learned
_SAVE_RUNS = 2000
#: keys that are not a program's
_USERS, _IMAGES, _FRAMEWORKS = 500, 200, 5
#: programs of one command but for its numbers
_SHAPE = 10


@dataclass(frozen=True, slots=True)
class Effort:
    """How much of it."""

    keys: int = 100_000
    runs: int = 1_000_000
    asks: int = 20_000

    @staticmethod
    def quick() -> Effort:
        """Ends within half a minute."""
        return Effort(keys=10_000, runs=20_000, asks=5_000)


def history(effort: Effort, seed: int = 1) -> Iterator[Run]:
    """Runs of recurring jobs of many users; of each program about as many."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    # A program has a signature, a program's key and a part of a shape's; all others are few.
    programs = max(int(effort.keys / (2 + 1 / _SHAPE)), 1)
    for number in range(effort.runs):
        program = rng.randrange(programs)
        peak = (program % 60 + 1) / 4 * _GIB * rng.uniform(0.97, 1.03)
        began_s = 10.0 * number
        lasts_s = 60.0 * rng.lognormvariate(0, 0.3)
        yield Run(
            _job(program),
            number=number + 1,
            started_s=began_s,
            ended_s=began_s + lasts_s,
            used={
                "gpu_mem_bytes": peak,
                "share_ratio": rng.uniform(0.1, 0.9),
                "host_mem_bytes": peak / 2,
                "cpu_cores": rng.uniform(0.5, 4.0),
                "duration_s": lasts_s,
            },
        )


def _job(program: int) -> Job:
    family, size = divmod(program, _SHAPE)
    return Job(
        program=f"{program:016x}",
        shape=f"{family:016x}",
        numbers=(("batch-size", float(2**size)),),
        user=f"user-{family % _USERS}",
        image=f"image-{family % _IMAGES}",
        framework=f"framework-{family % _FRAMEWORKS}",
        gpu="a GPU",
        asked_mem_bytes=int(24 * _GIB),
        device_mem_bytes=int(80 * _GIB),
    )


def run_estimate(effort: Effort, progress: Callable[[str], None]) -> dict[str, object]:
    """Learn a history, then ask.

    Args:
        effort: how much.
        progress: told now and then.

    Returns:
        `keys`, `runs`, `asks`; `learn_ms_mean`, saves included; a question's `ask_ms_p50`,
        `ask_ms_p99`, and `ask_cpu_ms_p99`: what it took of a CPU, where others keep the machine
        busy; `rss_bytes`, what the history added to the process, and `file_bytes` beside that;
        `start_s`, until the next harpd has it all; `targets`, met or missed.
    """
    with tempfile.TemporaryDirectory(prefix="harp-bench-") as folder:
        return _run(effort, Path(folder) / "learned.db", progress)


def _run(effort: Effort, path: Path, progress: Callable[[str], None]) -> dict[str, object]:
    before_bytes, made_by = _rss_bytes(), maker(AdviseConfig())
    learned = Learned(path, made_by, progress)
    adviser = Adviser(keys=Keys(learned))
    jobs: dict[Job, None] = {}
    last_s = cpu_s = 0.0
    for run in history(effort):
        began_s = time.thread_time()
        adviser.learn(run)
        if run.number % _SAVE_RUNS == 0 or run.number == effort.runs:
            learned.take(adviser, Point(run.number, digest(run), run.number))
        cpu_s += time.thread_time() - began_s
        last_s = run.ended_s
        if len(jobs) < effort.asks:
            jobs[run.job] = None
        if run.number % 50_000 == 0:
            progress(f"{run.number} runs, {len(adviser)} keys, {cpu_s:.0f} s of CPU")
    held_bytes = _rss_bytes() - before_bytes
    wall_ms, cpu_ms = [], []
    asked = list(jobs)
    for number in range(effort.asks):
        job = asked[number % len(asked)]
        wall_s, begin_s = time.perf_counter(), time.thread_time()
        adviser.ask(job, last_s)
        cpu_ms.append((time.thread_time() - begin_s) * 1e3)
        wall_ms.append((time.perf_counter() - wall_s) * 1e3)
    keys, learn_ms = len(adviser), cpu_s / effort.runs * 1e3
    learned.close()
    began_s = time.perf_counter()
    learned = Learned(path, made_by, progress)
    Adviser(keys=Keys(learned)).read(learned.parts)
    start_s = time.perf_counter() - began_s
    learned.close()
    p99 = percentile(wall_ms, 99)
    found = [
        Target("estimate", "ask_ms_p99", p99, _ASK_MS, p99 <= _ASK_MS),
        Target("estimate", "learn_ms_mean", learn_ms, _LEARN_MS, learn_ms <= _LEARN_MS),
        Target("estimate", "rss_bytes", held_bytes, _RSS_BYTES, held_bytes <= _RSS_BYTES),
        Target("estimate", "start_s", start_s, _START_S, start_s <= _START_S),
    ]
    return {
        "bench": "estimate",
        "keys": keys,
        "runs": effort.runs,
        "asks": effort.asks,
        "learn_ms_mean": learn_ms,
        "ask_ms_p50": percentile(wall_ms, 50),
        "ask_ms_p99": p99,
        "ask_cpu_ms_p99": percentile(cpu_ms, 99),
        "rss_bytes": math.floor(held_bytes),
        "file_bytes": path.stat().st_size,
        "start_s": start_s,
        "load_1min": round(os.getloadavg()[0], 2),
        "targets": as_json(found),
    }


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
