# SPDX-License-Identifier: Apache-2.0
"""Find harpd, or start it and wait until it is ready."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import harp
from harp.client import Client
from harp.errors import DaemonUnreachable
from harp.native import scrub
from harp.rundir import RunDir, find

__all__ = ["connect_or_start", "spawn"]

#: without getting on. Where the machine lets it run now and then only, it is not given up: the
#: harpd before it has ended already
_READY_S = 15.0
_MOST_S = 120.0
_TAIL_LINES = 3


def connect_or_start(env: Mapping[str, str]) -> tuple[Client, bool]:
    """Connect to the daemon, starting one if none runs; True: we started it.

    Raises:
        DaemonUnreachable: it did not become ready.
    """
    run_dir = find(env)
    if run_dir.path.exists() and run_dir.alive():
        return Client.connect(env), False
    spawn(run_dir, env, ())
    return Client.connect(env), True


def spawn(run_dir: RunDir, env: Mapping[str, str], arguments: Sequence[str]) -> None:
    """Start a detached harpd and wait until it answers.

    Raises:
        DaemonUnreachable: it ended, or was not ready in time; with its last words.
        RunDirUnsafe: the folder cannot be used.
    """
    run_dir.make()
    clean = scrub(env)
    clean.pop("CUDA_VISIBLE_DEVICES", None)  # the daemon sees all devices
    clean["HARP_RUN"] = str(run_dir.path)
    package = str(Path(harp.__file__).parent.parent)
    clean["PYTHONPATH"] = ":".join(p for p in (package, clean.get("PYTHONPATH")) if p)
    words = run_dir.path / "harpd.out"
    with words.open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "harp", "daemon", "--foreground", *arguments],
            env=clean,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    began_s = got_on_s = time.monotonic()
    used = 0
    while time.monotonic() < min(got_on_s + _READY_S, began_s + _MOST_S):
        if run_dir.alive():
            return
        if (now_used := _used_ticks(child.pid)) != used:
            used, got_on_s = now_used, time.monotonic()
        # Status 0: somebody else's was faster and holds the lock; it answers when it is ready.
        if child.poll() not in {None, 0} and not run_dir.alive():
            break
        time.sleep(0.02)
    status = child.returncode or None
    waited = f"not ready in {time.monotonic() - began_s:.0f} s"
    what = f"ended with status {status}" if status is not None else waited
    tail = words.read_text(errors="replace").strip().splitlines()[-_TAIL_LINES:]
    if child.returncode is None:
        os.kill(child.pid, 15)
    raise DaemonUnreachable(
        f"harpd {what}: {' / '.join(tail) or 'it said nothing'}", f"see {run_dir.log}"
    )


def _used_ticks(pid: int) -> int:
    """Processor time of a child and of the children that it has taken in."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return sum(int(word) for word in stat.rpartition(")")[2].split()[11:15])
