# SPDX-License-Identifier: Apache-2.0
"""`harp bench oversub`: two jobs of 80 % of a device each, together and one after the other.

native/bench/swap.c is the job: memory it fills, rounds of host time and a burst, and every word
checked at the end. One alone, both together, the other alone: so a host that grows busier weighs
on both sides. Alone it runs under a plain limit; together, both with --oversubscribe. Two
controls: the same two without HARP must not both get their memory, and a word that is changed on
the sly must be found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from harp.bench.machine import Machine, machine
from harp.bench.oversub_figures import Control, Job, OversubOutcome, Pair, Side
from harp.bench.program import CODE_BYTES, Program, programs
from harp.bench.sampler import sampling
from harp.client import Client
from harp.demo.truth import Use
from harp.demo.truth import read as read_truth

__all__ = ["Plan", "expected_s", "run_oversub"]

_MIB = 1 << 20
_GRANULE = 2 * _MIB
_PART = 0.8  #: of the device, for each program
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
    limit = ["--mem", f"{each_bytes + CODE_BYTES}"]
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
    program = str(box.native.file("harp-bench-swap"))
    with programs() as running:
        for (name, options), told in zip(tenants, work, strict=True):
            running.append(Program(box, [program, *told], "--name", name, *options))
            running[-1].read()
        for one in running:
            one.go()
        said = [one.read() for one in running]  # they stay, without their memory
        at_end()
        uses = read_truth(box.native.path, box.env).uses
        return [_side(words, uses[one.pid]) for words, one in zip(said, running, strict=True)]


def _side(said: Mapping[str, int], use: Use) -> Side:
    return Side(
        **{name: said[name] for name in _SAID},
        copy_ns=use.copy_ns,
        busy_ns=use.compute_ns + use.copy_ns,
        overrun_ns=use.overrun_ns,
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


def _memory_bytes(box: Machine) -> int:
    return read_truth(box.native.path, box.env).capacity_bytes
