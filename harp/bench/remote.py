# SPDX-License-Identifier: Apache-2.0
"""`harp bench remote`: what a GPU elsewhere costs, beside a raw connection of the same host.

A call that waits is a cuCtxSynchronize of a C program: libharp, ring, near link, TCP (or TLS), far
link, ring, worker, and a driver that does nothing but count, and all the way back. The baseline
sends as many bytes there and back, is written in 40 lines, and has nothing of HARP's in it. Both
run in turn, on the same CPUs. What the driver has counted must be what the program has asked for.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harp.bench.follow import Seen, following, wait_until
from harp.bench.machine import Machine, machine
from harp.bench.remote_figures import LAUNCHES, Compared, Counted, RemoteOutcome, mismatches
from harp.bench.remote_path import Host, counts_of, far, host, near, shm
from harp.bench.remote_step import Plan, steps
from harp.bench.remote_tap import tap
from harp.errors import HarpError

__all__ = ["Effort", "run_remote"]

_PROGRAM, _START = "harp-bench-remote", "harp-bench-memory"
_RAW = {False: "harp-bench-raw-tcp", True: "harp-bench-raw-tls"}
_TIMEOUT_S = 120.0
_MIB = 1 << 20
_MODULE_BYTES = 4 * _MIB
_HELD_MIB = 256
#: calls whose bytes are counted on the wire
_COUNTED = 500
_STEPS = Plan(count=60, runs=2, training=True)
_QUICK_STEPS = Plan(count=15, runs=1, training=False)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is taken."""

    runs: int = 9  #: of each side, in turn
    calls: int = 5000  #: that wait, a run
    batches: int = 50  #: of 1000 launches, a run
    bulk_mib: int = 64  #: a copy
    copies: int = 6  #: a run
    starts: int = 40
    kills: int = 5
    steps: Plan = _STEPS

    @staticmethod
    def quick() -> Effort:
        """Ends within a minute."""
        return Effort(3, 1500, 10, copies=3, starts=10, kills=2, steps=_QUICK_STEPS)


def run_remote(
    env: Mapping[str, str], effort: Effort, *, progress: Callable[[str], None]
) -> RemoteOutcome:
    """Measure, with links and workers of its own.

    Args:
        env: the environment to measure in.
        effort: how much.
        progress: called with a line per figure.

    Raises:
        HarpError: something did not run, or something else was counted than was asked for.
    """
    outcome = RemoteOutcome()
    with host(env) as at:
        _sizes(at, outcome)
        there, back = outcome.frame_bytes
        progress(f"a call that waits: {there} bytes there, {back} back")
        for tls in (False, True):
            _compare(at, outcome, effort, tls=tls)
            for one in outcome.compared[-3 + tls :]:
                progress(_said(one))
        _launches(at, outcome, effort)
        progress(
            f"a launch: {min(outcome.async_us):.2f} to {max(outcome.async_us):.2f} us; 1000 and a"
            f" synchronisation wait {max(outcome.trips)} times ({outcome.strict_trips} if all must)"
        )
        progress(
            f"a module of {_MODULE_BYTES} bytes: {outcome.first_module_bytes} sent by the first"
            f" process, {outcome.second_module_bytes} by the second"
        )
    _on_the_software_gpu(env, outcome, effort)
    progress(
        f"to the first allocation: {sorted(outcome.init_ms)[len(outcome.init_ms) // 2]:.2f} ms;"
        f" memory back {max(outcome.back_s):.3f} s after SIGKILL"
    )
    steps(env, outcome, effort.steps, progress=progress)
    return outcome


def _said(one: Compared) -> str:
    return (
        f"{one.name}: raw {one.us('raw'):.1f} us, HARP {one.us('harp'):.1f} us, x{one.ratio():.2f}"
        f" ({min(one.ratios()):.2f} to {max(one.ratios()):.2f})"
    )


# --- programs -----------------------------------------------------------------------------------


def _asked(at: Host, path: Path, *mode: object, strict: bool = False) -> dict[str, Any]:
    """What harp-bench-remote says; counted by nobody."""
    at.settle()
    env = at.client_env(path) | ({"HARP_STRICT": "1"} if strict else {})
    command = at.cpus.command([str(at.native.file(_PROGRAM)), *map(str, mode)])
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode != 0 or not done.stdout:
        raise HarpError(f"{_PROGRAM} {mode[0]}: {done.returncode}: {done.stderr.strip()[-300:]}")
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def _counted(at: Host, path: Path, *mode: object, strict: bool = False) -> dict[str, Any]:
    """The same, and the driver must have been asked for just that.

    Raises:
        HarpError: it was not, so that the figure would be of something else.
    """
    before = counts_of(at.counts)
    said = _asked(at, path, *mode, strict=strict)
    after = counts_of(at.counts)
    asked = Counted(said["syncs"], said["launches"], said["copied_bytes"], said["sum"])
    applied = Counted(
        after.syncs - before.syncs,
        after.launches - before.launches,
        after.copied_bytes - before.copied_bytes,
        (after.sum - before.sum) % (1 << 64),
    )
    if wrong := mismatches(asked, applied):
        raise HarpError(f"{mode[0]}: {'; '.join(wrong)}")
    return said


def _raw(
    at: Host, there: int, back: int, rounds: int, *, tls: bool, same: bool = False
) -> tuple[int, ...]:
    """Rounds on a raw connection, ns each; `same`: within one host."""
    program = at.native.optional(_RAW[tls])
    if program is None:
        raise HarpError(f"{_RAW[tls]} is not built", "install libssl-dev, then deploy/bootstrap")
    own = [str(part) for part in at.certificates[:2]] if tls else []
    what = [*map(str, (there, back, rounds)), *own]
    with subprocess.Popen(
        at.cpus.command([str(program), "0", *what], far=not same), stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            done = subprocess.run(
                at.cpus.command([str(program), port, *what]),
                stdout=subprocess.PIPE,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        finally:
            server.kill()
    took = tuple(map(int, done.stdout.split()))
    if len(took) != rounds:
        raise HarpError(f"{_RAW[tls]}: {len(took)} rounds of {rounds}: status {done.returncode}")
    return took


@contextmanager
def _linked(at: Host, *, tls: bool) -> Iterator[Path]:
    with far(at, tls=tls) as there, near(at, f"localhost:{there.port}", tls=tls) as here:
        yield here


# --- figures ------------------------------------------------------------------------------------


def _sizes(at: Host, outcome: RemoteOutcome) -> None:
    """Bytes on the wire, by a relay between the links, which is not there when time is taken."""
    with (
        far(at, tls=False) as there,
        tap(there.port) as wire,
        near(at, f"localhost:{wire.port}", tls=False) as here,
    ):

        def sent(*mode: object) -> tuple[int, int]:
            at.settle()
            before = wire.counts()
            _asked(at, here, *mode)
            at.settle()
            after = wire.counts()
            return after[0] - before[0], after[1] - before[1]

        few, many = sent("rtt", 1), sent("rtt", 1 + _COUNTED)
        outcome.frame_bytes = (
            round((many[0] - few[0]) / _COUNTED),
            round((many[1] - few[1]) / _COUNTED),
        )
        small = sent("module", 1)[0]
        outcome.module_bytes = _MODULE_BYTES
        outcome.first_module_bytes = sent("module", _MODULE_BYTES)[0] - small
        outcome.second_module_bytes = max(0, sent("module", _MODULE_BYTES)[0] - small)


def _compare(at: Host, outcome: RemoteOutcome, effort: Effort, *, tls: bool) -> None:
    there, back = outcome.frame_bytes
    whole = effort.bulk_mib * _MIB
    took: dict[str, list[tuple[int, ...]]] = {
        name: [] for name in ("raw", "rtt", "raw_here", "shm", "raw_bulk", "bulk")
    }
    with ExitStack() as stack:
        path = stack.enter_context(_linked(at, tls=tls))
        local = None if tls else stack.enter_context(shm(at))
        for _ in range(effort.runs):
            took["raw"].append(_raw(at, there, back, effort.calls, tls=tls))
            took["rtt"].append(tuple(_counted(at, path, "rtt", effort.calls)["ns"]))
            if local is not None:
                took["raw_here"].append(_raw(at, there, back, effort.calls, tls=False, same=True))
                took["shm"].append(tuple(_counted(at, local, "rtt", effort.calls)["ns"]))
            took["raw_bulk"].append(_raw(at, whole, 1, effort.copies, tls=tls))
            copied = _counted(at, path, "bulk", effort.bulk_mib, effort.copies)
            took["bulk"].append(tuple(copied["ns"]))
    end = "_tls" if tls else ""
    pairs = [(f"rtt{end}", "raw", "rtt"), (f"bulk{end}", "raw_bulk", "bulk")]
    if not tls:
        pairs.insert(1, ("shm", "raw_here", "shm"))
    outcome.compared += [
        Compared(name, tuple(took[raw]), tuple(took[ours])) for name, raw, ours in pairs
    ]


def _launches(at: Host, outcome: RemoteOutcome, effort: Effort) -> None:
    with _linked(at, tls=True) as path:
        said = _counted(at, path, "async", effort.batches)
        outcome.async_us = [ns / 1e3 / LAUNCHES for ns in said["ns"]]
        for _ in range(3):  # one batch each, so that a batch that waits more is not averaged away
            outcome.trips.append(_counted(at, path, "async", 1)["trips"])
        outcome.strict_trips = _counted(at, path, "async", 1, strict=True)["trips"]


# --- the software GPU ---------------------------------------------------------------------------


def _on_the_software_gpu(env: Mapping[str, str], outcome: RemoteOutcome, effort: Effort) -> None:
    with machine(env, harp=False) as box:
        soft = {"HARP_SOFT_DIR": box.env["HARP_SOFT_DIR"]}
        with host(env, driver=box.native.soft_cuda, more=soft) as at:
            for tls, found in ((False, outcome.init_plain_ms), (True, outcome.init_ms)):
                with _linked(at, tls=tls) as path:
                    for _ in range(effort.starts):
                        at.settle()
                        found.append(_start_ms(at, at.client_env(path)))
                        if tls:
                            outcome.init_local_ms.append(_start_ms(at, box.env))
            outcome.back_s += [_back_s(at, box) for _ in range(effort.kills)]


def _start_ms(at: Host, env: Mapping[str, str]) -> float:
    command = [str(at.native.file(_START)), "start", "1", "--at-once", "1", "--devices", "1"]
    done = subprocess.run(
        at.cpus.command([*command, "--leave"]),
        env=dict(env),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise HarpError(f"{_START} start: {done.returncode}: {done.stderr.strip()[-300:]}")
    return float(json.loads(done.stdout)["init_ms"][0])


def _back_s(at: Host, box: Machine) -> float:
    """From SIGKILL of the program to the last moment in which the device had its memory."""
    at.settle()
    with (
        far(at, tls=True) as there,
        near(at, f"localhost:{there.port}", tls=True) as path,
        following(box) as ledger,
        subprocess.Popen(
            at.cpus.command([str(at.native.file(_PROGRAM)), "hold", str(_HELD_MIB)]),
            env=at.client_env(path),
            stdout=subprocess.PIPE,
            text=True,
        ) as program,
    ):
        try:
            assert program.stdout is not None
            if not program.stdout.readline():
                raise HarpError(f"{_PROGRAM} hold ended")
            worker = there.worker()
            wait_until(lambda: _held(ledger.of(worker)), "the memory's being there")
            killed_ns = time.monotonic_ns()
            program.kill()
            wait_until(lambda: _gone(ledger.of(worker)), "the memory's being back")
            seen = ledger.of(worker)
            assert seen is not None
            return max(0, seen.last_ns - killed_ns) / 1e9
        finally:
            program.kill()


def _held(seen: Seen | None) -> bool:
    return seen is not None and seen.most_bytes >= _HELD_MIB * _MIB


def _gone(seen: Seen | None) -> bool:
    return seen is not None and seen.gone
