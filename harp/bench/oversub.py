# SPDX-License-Identifier: Apache-2.0
"""`harp bench oversub`: two jobs of 80 % of a device each, together and one after the other.

native/bench/swap.c is the job: memory it fills, rounds of host time and a burst, and every word
checked at the end. One alone, both together, the other alone: so a host that grows busier weighs
on both sides. Alone it runs under a plain limit; together, both with --oversubscribe. Two
controls: the same two without HARP must not both get their memory, and a word that is changed on
the sly must be found.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from harp.bench.machine import Machine, machine
from harp.bench.oversub_figures import Control, Job, OversubOutcome, Pair, Side
from harp.bench.sampler import sampling
from harp.client import Client
from harp.errors import BuildMissing, HarpError

__all__ = ["Plan", "expected_s", "run_oversub"]

_MIB = 1 << 20
_GRANULE = 2 * _MIB
_PART = 0.8  #: of the device, for each program
_SLACK_BYTES = _GRANULE  #: of the limit: what is charged beside a program's own allocations
_LINE_S = 120.0
_SAID = ("result", "wrong", "begun_ns", "ended_ns", "made_ns", "longest_ns", "checked_ns")
_WHO = ("first", "second")
#: contexts of these profiles in granules: harpd's own default is a large card's
_CONTEXT_BYTES = {"tiny": 24 * _MIB, "h100-mini": 2 * _MIB}


@dataclass(frozen=True, slots=True)
class Plan:
    """A device and what is done on it.

    A burst is longer than ten swaps: swaps take a tenth of the time at most, so nobody leaves
    before, and shorter bursts cannot be hidden.
    """

    device: str
    job: Job

    @staticmethod
    def all(*, quick: bool) -> list[Plan]:
        """Swaps take 0.07 s on h100-mini, 0.17 s on tiny, where hosts are slower. Quick: one."""
        if quick:
            return [Plan("h100-mini", Job(rounds=2, host_s=1.0, burst_s=1.0))]
        return [
            Plan("h100-mini", Job(rounds=3, host_s=1.5, burst_s=1.5)),
            Plan("h100-mini", Job(rounds=1, host_s=0.0, burst_s=6.0)),
            Plan("tiny", Job(rounds=2, host_s=8.0, burst_s=8.0)),
            Plan("tiny", Job(rounds=1, host_s=0.0, burst_s=15.0)),
        ]


def expected_s(plans: Sequence[Plan]) -> float:
    """How long it will take."""
    each = [plan.job.rounds * (plan.job.host_s + plan.job.burst_s) for plan in plans]
    return 3 + sum(4 * took_s + 4 for took_s in each)


def run_oversub(
    env: Mapping[str, str], plans: Sequence[Plan], *, progress: Callable[[str], None]
) -> OversubOutcome:
    """Measure, on private machines.

    Args:
        env: the environment to measure in.
        plans: what.
        progress: called with a line per pair.

    Raises:
        HarpError: something did not run.
    """
    outcome = OversubOutcome()
    for plan in plans:
        extra = {
            "HARP_SOFT_DEVICES": plan.device,
            "HARP_CONFIG_DEVICE_OVERHEAD_BYTES": str(_CONTEXT_BYTES[plan.device]),
            # Who has ended is promised its memory until harpd has seen that.
            "HARP_CONFIG_ADMISSION_OVERCOMMIT_RATIO": "3",
        }
        if outcome.control is None:
            with machine(env, harp=False, extra=extra) as bare:
                outcome.control = _control(bare, plan)
            said = "fails, as it must" if outcome.control.fails else "PASSES: cannot tell"
            progress(f"control without HARP, and with a word changed: {said}")
        with machine(env, harp=True, extra=extra) as box:
            pair = _pair(box, plan)
        outcome.pairs.append(pair)
        progress(
            f"{pair.name}: x{pair.speedup:.2f} of sequential (bound x{pair.bound:.2f}), swapping"
            f" {pair.swap_ratio:.1%}, longest wait {pair.longest_wait_s:.1f} s"
        )
    return outcome


class _Program:
    """A tenant that runs harp-bench-swap, or the same without HARP."""

    def __init__(self, box: Machine, run: Sequence[str], work: Sequence[str]) -> None:
        program = box.native.optional("harp-bench-swap")
        if program is None:
            raise BuildMissing(f"{box.native.path} has no harp-bench-swap", "build native/bench")
        self._process = subprocess.Popen(
            [*run, str(program), *work],
            env=dict(box.env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._read()

    @property
    def pid(self) -> int:
        """The tenant's: `harp run` becomes it."""
        return self._process.pid

    def _read(self) -> dict[str, int]:
        assert self._process.stdout is not None
        watchdog = threading.Timer(_LINE_S, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            assert self._process.stderr is not None
            words = self._process.stderr.read().strip()[-300:]
            raise HarpError(f"a program ended with {self._process.wait()}: {words}")
        said: dict[str, int] = json.loads(line)
        return said

    def go(self) -> None:
        """Let it begin."""
        assert self._process.stdin is not None
        self._process.stdin.write("g")
        self._process.stdin.flush()

    def ended(self) -> Side:
        """What it says when all is checked; it stays, without its memory."""
        said = self._read()
        return Side(*(said[name] for name in _SAID))

    def close(self) -> None:
        """End it and forget it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


@contextmanager
def _programs() -> Iterator[list[_Program]]:
    """Ends those that are in the list afterwards."""
    found: list[_Program] = []
    try:
        yield found
    finally:
        for one in found:
            one.close()


def _work(job: Job, number: int, each_bytes: int) -> list[str]:
    counts = {
        "bytes": each_bytes,
        "rounds": job.rounds,
        "gpu-ms": round(job.burst_s * 1e3),
        "host-ms": round(job.host_s * 1e3),
        "seed": number + 1,
    }
    return [word for name, count in counts.items() for word in (f"--{name}", str(count))]


def _pair(box: Machine, plan: Plan) -> Pair:
    memory_bytes = _memory_bytes(box)
    each_bytes = int(memory_bytes * _PART) // _GRANULE * _GRANULE
    limit = ["--mem", f"{each_bytes + _SLACK_BYTES}"]
    work = [_work(plan.job, number, each_bytes) for number in range(len(_WHO))]

    def alone(number: int) -> Side:
        (side,) = _run(box, [(f"{_WHO[number]}-alone", limit)], [work[number]])
        return side

    first = alone(0)
    with Client.connect(box.env) as client, sampling(box.native.path, box.env) as sampler:
        names = [(who, [*limit, "--oversubscribe"]) for who in _WHO]
        moved: list[tuple[int, int]] = []
        together = _run(box, names, work, lambda: moved.extend(_moved(client)))
        seen = sampler.stop()
    second = alone(1)
    copied_ns = (first.copy_ns + second.copy_ns) / 2  # each reads all it has back, once
    return Pair(
        device=plan.device,
        job=plan.job,
        memory_bytes=memory_bytes,
        each_bytes=each_bytes,
        alone=(first, second),
        together=(together[0], together[1]),
        one_way_s=copied_ns / 1e9,
        swapping_s=sum(took_ns for took_ns, _ in moved) / 1e9,
        swaps=sum(swaps for _, swaps in moved),
        peak_bytes=seen.peak_bytes.get(0, 0),
        hz=seen.hz,
    )


def _run(
    box: Machine,
    tenants: Sequence[tuple[str, list[str]]],
    work: Sequence[list[str]],
    at_end: Callable[[], None] = lambda: None,
) -> list[Side]:
    """Start them all at once; what each says. `at_end` is called while they are still there."""
    with _programs() as programs:
        for (name, options), told in zip(tenants, work, strict=True):
            run = [sys.executable, "-m", "harp", "run", "--name", name, *options, "--"]
            programs.append(_Program(box, run if box.has_harp else [], told))
        for one in programs:
            one.go()
        sides = [one.ended() for one in programs]
        at_end()
        used = {row["pid"]: row for row in _ledger(box)["processes"]}
        return [_with(side, used[one.pid]) for side, one in zip(sides, programs, strict=True)]


def _with(side: Side, used: Mapping[str, Any]) -> Side:
    busy = used["busy_ns"]
    return replace(
        side,
        copy_ns=busy["copy_in"] + busy["copy_out"],
        busy_ns=sum(busy.values()),
        overrun_ns=used["overrun_ns"],
    )


def _moved(client: Client) -> list[tuple[int, int]]:
    """Of each tenant: time spent swapping, and how often."""
    return [
        (use.residency.swapping_ns, use.residency.swaps)
        for tenant in client.state().tenants
        if tenant.name in _WHO
        for use in tenant.uses
    ]


def _control(bare: Machine, plan: Plan) -> Control:
    """Short: who is refused is so at once."""
    job = replace(plan.job, rounds=1, host_s=0.5, burst_s=0.1)
    each_bytes = int(_memory_bytes(bare) * _PART) // _GRANULE * _GRANULE
    work = [_work(job, number, each_bytes) for number in range(len(_WHO))]
    both = _run(bare, [(who, []) for who in _WHO], work)
    (spoilt,) = _run(bare, [(_WHO[0], [])], [[*work[0], "--spoil", "1"]])
    return Control(refused=sum(side.result != 0 for side in both), found_wrong=spoilt.wrong)


def _ledger(box: Machine) -> dict[str, list[dict[str, Any]]]:
    said = subprocess.run(
        [box.native.path / "harp-soft-truth", "--json"],
        env=dict(box.env),
        capture_output=True,
        check=True,
        timeout=_LINE_S,
    )
    found: dict[str, list[dict[str, Any]]] = json.loads(said.stdout)
    return found


def _memory_bytes(box: Machine) -> int:
    return int(_ledger(box)["devices"][0]["capacity_bytes"])
