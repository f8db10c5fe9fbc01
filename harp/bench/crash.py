# SPDX-License-Identifier: Apache-2.0
"""`harp bench crash`: what a death costs the neighbour, and what an upgrade costs everybody.

Deaths: a tenant that holds most of a small device is killed while another waits for as much; the
heir is the next victim. Noticed when the arbiter tells harpd; the device has the memory back after
the last sample of its own ledger that lists the dead; the heir has it when its call returns.

Upgrades: programs allocate, free and launch without a pause while harpd and the arbiter are
replaced over and over. No call may fail, and the longest call of all is what they felt. The same
program without HARP on a software GPU of its own says how long the host makes calls stand still.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field

from harp.bench.figures import percentile
from harp.bench.follow import Deaths, Ledger, following, wait_until
from harp.bench.machine import LABEL, Machine, machine
from harp.bench.program import CODE_BYTES, Program, programs
from harp.bench.verdict import Target, Violation, as_json
from harp.bench.watch import device_name
from harp.client import Client
from harp.errors import HarpError

__all__ = ["CrashOutcome", "Death", "run_crash"]

DETECT_MS, REGRANT_MS, STALL_MS = 100.0, 100.0, 1000.0
LEAST_UPGRADES, LEAST_CALLS = 10, 100_000
#: by fewer samples of the ledger the most that was held cannot be told
_LEAST_SAMPLES_PER_S = 200
_PROGRAMS = 3
_PAUSE_US, _CALLS_PER_S = 100, 5000  #: a program that hogs a core measures the host's scheduler
_LIMIT_BYTES = 96 << 20
_HELD_RATIO = 0.6  #: of the small device: two do not fit
_TEARDOWN_MS = 150  #: how long a device keeps what a dead process held
_UPGRADE_S = 60.0


@dataclass(frozen=True, slots=True)
class Death:
    """One kill, and who inherited. Moments are CLOCK_MONOTONIC."""

    killed_ns: int
    heard_ns: int  #: the arbiter told harpd
    back_ns: int  #: the device's ledger had the dead for the last time
    got_ns: int  #: the heir's call returned
    result: int  #: its CUDA result

    @property
    def detect_ms(self) -> float:
        """From the signal."""
        return (self.heard_ns - self.killed_ns) / 1e6

    @property
    def regrant_ms(self) -> float:
        """From when the device had it back, by up to a sample more; 0 if the heir was faster."""
        return max(0.0, (self.got_ns - self.back_ns) / 1e6)


@dataclass
class CrashOutcome:
    """All of it."""

    device: str = ""
    deaths: list[Death] = field(default_factory=list)
    upgrades: int = 0
    calls: int = 0
    failed_calls: int = 0
    longest_stall_ms: float = 0.0
    host_stall_ms: float = 0.0  #: the same of the program without HARP
    over_limit_bytes: int = 0
    samples_per_s: float = 0.0

    @property
    def detect_ms_p99(self) -> float:
        """Nearest rank."""
        return percentile([d.detect_ms for d in self.deaths], 99)

    @property
    def regrant_ms_p99(self) -> float:
        """Nearest rank."""
        return percentile([d.regrant_ms for d in self.deaths], 99)

    @property
    def neighbour_oom(self) -> int:
        """Heirs that were refused."""
        return sum(d.result != 0 for d in self.deaths)

    @property
    def violations(self) -> list[Violation]:
        """What was lost, and what makes the rest unbelievable."""
        found = [
            Violation("deaths", "neighbour_oom", self.neighbour_oom, 0),
            Violation("upgrades", "failed_calls", self.failed_calls, 0),
            Violation("upgrades", "over_limit_bytes", self.over_limit_bytes, 0),
        ]
        short = max(0.0, _LEAST_SAMPLES_PER_S - self.samples_per_s)
        found.append(Violation("ledger", "samples_per_s_missing", short, 0))
        found.append(Violation("host", "host_stall_ms", self.host_stall_ms, STALL_MS / 2))
        return [one for one in found if one.value > one.limit]

    @property
    def targets(self) -> list[Target]:
        """How fast, and whether it was enough to tell."""
        most = (
            ("deaths", "detect_ms_p99", self.detect_ms_p99, DETECT_MS),
            ("deaths", "regrant_ms_p99", self.regrant_ms_p99, REGRANT_MS),
            ("upgrades", "longest_stall_ms", self.longest_stall_ms, STALL_MS),
        )
        least = (
            ("upgrades", "upgrades", self.upgrades, LEAST_UPGRADES),
            ("upgrades", "calls", self.calls, LEAST_CALLS),
        )
        return [
            *(
                Target(cell, name, value, limit, value <= limit)
                for cell, name, value, limit in most
            ),
            *(
                Target(cell, name, value, limit, value >= limit)
                for cell, name, value, limit in least
            ),
        ]

    @property
    def ok(self) -> bool:
        """Whether nothing was lost; `targets` says whether it was fast."""
        return bool(self.deaths) and self.upgrades > 0 and not self.violations

    def json(self) -> dict[str, object]:
        """As `--json` prints it."""
        return {
            "bench": "crash",
            "label": LABEL,
            "software": True,
            "device": self.device,
            "ok": self.ok,
            "detect_ms_p99": round(self.detect_ms_p99, 3),
            "regrant_ms_p99": round(self.regrant_ms_p99, 3),
            "deaths": len(self.deaths),
            "neighbour_oom": self.neighbour_oom,
            "upgrades": self.upgrades,
            "calls": self.calls,
            "failed_calls": self.failed_calls,
            "longest_stall_ms": round(self.longest_stall_ms, 3),
            "host_stall_ms": round(self.host_stall_ms, 3),
            "over_limit_bytes": self.over_limit_bytes,
            "samples_per_s": round(self.samples_per_s, 1),
            "each": [asdict(d) for d in self.deaths],
            "violations": as_json(self.violations),
            "targets": as_json(self.targets),
            "load_1min": round(os.getloadavg()[0], 2),
        }


def run_crash(
    env: Mapping[str, str],
    *,
    deaths: int,
    upgrades: int,
    calls: int,
    progress: Callable[[str], None],
) -> CrashOutcome:
    """Measure.

    Args:
        env: the environment to measure in.
        deaths: how many.
        upgrades: how many.
        calls: how many must be made meanwhile: it goes on for as long as that may take.
        progress: called with a line per step.

    Raises:
        HarpError: something did not run.
    """
    outcome = CrashOutcome()
    small = {
        "HARP_SOFT_DEVICES": "tiny",
        "HARP_SOFT_TEARDOWN_MS": str(_TEARDOWN_MS),
        "HARP_CONFIG_ADMISSION_OVERCOMMIT_RATIO": "3",
    }
    with machine(env, harp=True, extra=small) as box, following(box) as ledger:
        outcome.device = device_name(box)
        outcome.deaths = _deaths(box, ledger, deaths, progress)
    with (
        machine(env, harp=False) as bare,
        machine(env, harp=True) as box,
        following(box) as ledger,
        programs() as running,
    ):
        _start(bare, box, running)
        begun_s, before = time.monotonic(), ledger.samples
        for number in range(1, upgrades + 1):
            took_s = _upgrade(box)
            outcome.upgrades += 1
            progress(f"upgrade {number}: harpd and arbiter replaced in {took_s:.2f} s")
        # At the least rate that any machine has shown; too few calls are said in the targets.
        time.sleep(max(1.0, calls / _CALLS_PER_S - (time.monotonic() - begun_s)))
        outcome.samples_per_s = (ledger.samples - before) / (time.monotonic() - begun_s)
        _count(running, ledger, outcome)
    return outcome


def _deaths(
    box: Machine, ledger: Ledger, count: int, progress: Callable[[str], None]
) -> list[Death]:
    found: list[Death] = []
    held_bytes = _most_bytes(box)
    limit = ("--mem", f"{held_bytes + CODE_BYTES}")
    with closing(Deaths(box)) as deaths, programs() as running:
        for number in range(count + 1):
            heir = _holder(box, held_bytes, "--name", f"heir-{number}", *limit)
            running.append(heir)
            heir.read()
            if number == 0:
                heir.go()
                if heir.read()["result"] != 0:
                    raise HarpError("the first tenant did not get its memory", "harp doctor")
                continue
            death = _kill(running[-2], heir, deaths, ledger)
            found.append(death)
            running.pop(-2).close()
            progress(
                f"death {number}: told after {death.detect_ms:.1f} ms, given on"
                f" {death.regrant_ms:.1f} ms after the device had it back, result {death.result}"
            )
            if death.result != 0:
                break
    return found


def _kill(victim: Program, heir: Program, deaths: Deaths, ledger: Ledger) -> Death:
    """Before its death is known the heir would be refused at once, and rightly."""
    pid = victim.pid
    killed_ns = time.monotonic_ns()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: deaths.heard_ns(pid) > 0, "the death is told")
    heir.go()
    said = heir.read()
    wait_until(lambda: (seen := ledger.of(pid)) is not None and seen.gone, "the device has it back")
    seen = ledger.of(pid)
    assert seen is not None
    return Death(killed_ns, deaths.heard_ns(pid), seen.last_ns, said["got_ns"], said["result"])


def _churn(box: Machine) -> str:
    return str(box.native.file("harp-bench-churn"))


def _holder(box: Machine, held_bytes: int, *options: str) -> Program:
    return Program(box, [_churn(box), "--hold", str(held_bytes)], *options)


def _most_bytes(box: Machine) -> int:
    """So much that two tenants cannot have it at once."""
    with programs() as running:
        probe = _holder(box, 2 << 20, "--name", "probe")
        running.append(probe)
        probe.read()
        with Client.connect(box.env) as client:
            (device,) = client.state().devices
    free = device.memory_bytes - 2 * device.context_bytes
    return int(free * _HELD_RATIO) >> 21 << 21


def _start(bare: Machine, box: Machine, running: list[Program]) -> None:
    """The first is the one without HARP."""
    options = ("--mem", f"{_LIMIT_BYTES}", "--share", f"{90 // _PROGRAMS}%")
    for number in range(_PROGRAMS + 1):
        side = box if number else bare
        work = [_churn(side), "--seed", str(number), "--pause-us", str(_PAUSE_US)]
        running.append(Program(side, work, "--name", f"program-{number}", *options))
    for one in running:
        one.read()
    for one in running:
        one.go()


def _count(running: Sequence[Program], ledger: Ledger, outcome: CrashOutcome) -> None:
    bare, *counted = [one.finish() for one in running]
    outcome.host_stall_ms = bare["stall_ns"] / 1e6
    outcome.calls = sum(said["calls"] for said in counted)
    outcome.failed_calls = sum(said["failed"] for said in counted)
    outcome.longest_stall_ms = max(said["stall_ns"] for said in counted) / 1e6
    for one in running[1:]:
        seen = ledger.of(one.pid)
        if seen is None:
            raise HarpError(f"the ledger never saw process {one.pid}", "see harpd.log")
        over = max(0, seen.most_bytes - _LIMIT_BYTES)
        outcome.over_limit_bytes = max(outcome.over_limit_bytes, over)


def _upgrade(box: Machine) -> float:
    begun_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "harp", "daemon", "--upgrade", "--json"],
        env=dict(box.env),
        capture_output=True,
        text=True,
        timeout=_UPGRADE_S,
        check=False,
    )
    if done.returncode != 0:
        raise HarpError(f"the upgrade failed: {done.stderr.strip()[-300:]}", "see harpd.log")
    return time.monotonic() - begun_s
