# SPDX-License-Identifier: Apache-2.0
"""`harp bench pairing`: two jobs that compute and two that wait, on two GPUs, paired either way.

native/bench/swap.c is each job: rounds of host time and a burst. All four do as much work in both
pairings, and take as long alone. Opposites: one of each on either GPU; equals: both that compute on
one. In turn, in as many rounds as are asked for, so a host that grows busier weighs on both sides.
What is judged is the makespan: from the first begin to the last end of the four.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from harp.bench.machine import Machine, machine
from harp.bench.program import Program, programs
from harp.errors import HarpError

__all__ = ["PairingOutcome", "run_pairing"]

_DEVICE = "h100-mini"
_BYTES = 4 << 20
#: rounds, host time, burst: one computes for 2 s; one waits for 1.5 s of them
_COMPUTES, _WAITS = (1, 0, 2000), (5, 300, 100)
#: GPU of each of the four, in the order (computes, computes, waits, waits)
_PAIRINGS = {"opposites": (0, 1, 0, 1), "equals": (0, 0, 1, 1)}


@dataclass(slots=True)
class PairingOutcome:
    """What was measured."""

    #: {pairing: makespans, round by round}
    makespan_s: dict[str, list[float]] = field(
        default_factory=lambda: {name: [] for name in _PAIRINGS}
    )

    @property
    def ratio(self) -> float:
        """Median makespan of opposites in parts of that of equals."""
        return statistics.median(self.makespan_s["opposites"]) / statistics.median(
            self.makespan_s["equals"]
        )

    @property
    def ok(self) -> bool:
        """Opposites were faster in every round."""
        pairs = zip(self.makespan_s["opposites"], self.makespan_s["equals"], strict=True)
        return all(opposite < equal for opposite, equal in pairs)

    def json(self, *, load_1min: float, label: str) -> dict[str, object]:
        """For `--json`."""
        sides = {
            name: {
                "makespan_s_median": statistics.median(times),
                "makespan_s_min": min(times),
                "makespan_s_max": max(times),
            }
            for name, times in self.makespan_s.items()
        }
        rounds = len(self.makespan_s["equals"])
        return {
            "device": f"2 x {_DEVICE}",
            "label": label,
            "rounds": rounds,
            "pairings": sides,
            "ratio": self.ratio,
            "ok": self.ok,
            "load_1min": load_1min,
        }


def run_pairing(
    env: Mapping[str, str], rounds: int, *, progress: Callable[[str], None]
) -> PairingOutcome:
    """Measure, on a private machine.

    Args:
        env: the environment to measure in.
        rounds: of both pairings, in turn.
        progress: called with a line per round.

    Raises:
        HarpError: something did not run.
    """
    outcome = PairingOutcome()
    extra = {
        "HARP_SOFT_DEVICES": f"{_DEVICE},{_DEVICE}",
        "HARP_CONFIG_DEVICE_OVERHEAD_BYTES": str(2 << 20),
    }
    with machine(env, harp=True, extra=extra) as box:
        for number in range(rounds):
            # Who is first changes from round to round.
            names = list(_PAIRINGS) if number % 2 == 0 else list(_PAIRINGS)[::-1]
            for name in names:
                outcome.makespan_s[name].append(_makespan_s(box, _PAIRINGS[name]))
            last = {name: times[-1] for name, times in outcome.makespan_s.items()}
            progress(f"opposites {last['opposites']:.2f} s, equals {last['equals']:.2f} s")
    return outcome


def _makespan_s(box: Machine, gpus: tuple[int, ...]) -> float:
    program = str(box.native.file("harp-bench-swap"))
    with programs() as running:
        for number, gpu in enumerate(gpus):
            rounds, host_ms, gpu_ms = _COMPUTES if number < 2 else _WAITS
            counts = {"bytes": _BYTES, "rounds": rounds, "host-ms": host_ms, "gpu-ms": gpu_ms}
            told = [word for name, count in counts.items() for word in (f"--{name}", str(count))]
            options = ["--name", f"job-{number}", "--gpu", str(gpu)]
            running.append(Program(box, [program, *told], *options))
            running[-1].read()
        for one in running:
            one.go()
        said = [one.read() for one in running]
    if any(one["result"] or one["wrong"] for one in said):
        raise HarpError(f"not all jobs did their work: {said}", "is there room on the device?")
    took_ns: int = max(one["ended_ns"] for one in said) - min(one["begun_ns"] for one in said)
    return took_ns / 1e9
