# SPDX-License-Identifier: Apache-2.0
"""Two saturating programs under `harp run`: does each get its share of the engine?

    python tests/bench/share.py [--shares 30,70] [--seconds 10] [--no-gate] [--kernel-us 200]

The verdict comes from the engine's own ledger, over a window in which all programs had work
queued at all times. With --no-gate the same programs run with HARP_GATE=off: the verdict must then
be `false`, or the bench could not tell. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

from harp.demo import truth
from harp.native import native_dir

SLEEPER = Path(__file__).with_name("sleeper.py")
#: largest distance of an achieved share from the asked one
TOLERANCE = 0.02
START_TIMEOUT_S = 60.0


@contextmanager
def machine(*, gate: bool) -> Iterator[dict[str, str]]:
    """A private software GPU and harpd, gone afterwards."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with ExitStack() as stack:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("LD_", "CUDA_"))}
        env["HARP_CONFIG_DEVICE_KIND"] = "software"
        env["HARP_SOFT_DIR"] = stack.enter_context(tempfile.TemporaryDirectory(dir=base))
        env["HARP_RUN"] = stack.enter_context(tempfile.TemporaryDirectory(prefix="harp-bench-"))
        env["XDG_RUNTIME_DIR"] = env["HARP_RUN"]
        if not gate:
            env["HARP_GATE"] = "off"
        stack.callback(
            subprocess.run,
            [sys.executable, "-m", "harp", "daemon", "--stop", "--all"],
            env=env,
            capture_output=True,
            check=False,
            timeout=30,
        )
        yield env


def start(env: dict[str, str], number: int, share: int, kernel_us: int) -> subprocess.Popen[str]:
    """`harp run` of the sleeper."""
    command = [
        *(sys.executable, "-m", "harp", "run", "--name", f"sleeper-{number}-{share}"),
        *("--mem", "256MiB", "--share", f"{share}%", "--"),
        *(sys.executable, str(SLEEPER), str(kernel_us)),
    ]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def stop(process: subprocess.Popen[str]) -> None:
    """Ends it and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ready(process: subprocess.Popen[str]) -> int:
    """Waits for the sleeper's first line: its pid."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        sys.exit(f"a program ended with {process.wait()} before it began")
    return int(json.loads(line)["pid"])


def bench(shares: list[int], seconds: float, kernel_us: int, *, gate: bool) -> dict[str, object]:
    """Runs the programs and reads the ledger at both ends of the window, and each second."""
    binaries = native_dir()
    with machine(gate=gate) as env, ExitStack() as stack:
        processes = []
        for share in shares:
            processes.append(start(env, len(processes), share, kernel_us))
            stack.callback(stop, processes[-1])
        pids = [ready(process) for process in processes]
        time.sleep(1)  # all have queues by now
        marks = [truth.read(binaries, env)]
        begin_s = time.monotonic()
        while (spent_s := time.monotonic() - begin_s) < seconds:
            time.sleep(min(1.0, seconds - spent_s))
            marks.append(truth.read(binaries, env))
        dead = [process.args for process in processes if process.poll() is not None]
        if dead:
            sys.exit(f"ended too early: {dead}")
    achieved = marks[-1].shares(marks[0], pids)
    asked = [share / sum(shares) for share in shares]
    worst = [
        max(abs(got - want) for got, want in zip(b.shares(a, pids), asked, strict=True))
        for a, b in pairwise(marks)
        if b.now_ns - a.now_ns > 500_000_000
    ]
    off = max(abs(got - want) for got, want in zip(achieved, asked, strict=True))
    return {
        "device": marks[-1].device,
        "software": True,
        "gate": gate,
        "seconds": (marks[-1].now_ns - marks[0].now_ns) / 1e9,
        "kernel_us": kernel_us,
        "asked": asked,
        "achieved": achieved,
        "off": off,
        "worst_second_off": max(worst, default=off),
        "engine_busy_ratio": marks[-1].busy_ratio(marks[0], pids),
        "overrun_ratio": marks[-1].overrun_ratio(marks[0], pids),
        "ok": off <= TOLERANCE,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shares", default="30,70", help="percent, comma separated")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--kernel-us", type=int, default=200)
    parser.add_argument("--no-gate", action="store_true")
    args = parser.parse_args()
    shares = [int(share) for share in args.shares.split(",")]
    result = bench(shares, args.seconds, args.kernel_us, gate=not args.no_gate)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
