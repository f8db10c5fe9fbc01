# SPDX-License-Identifier: Apache-2.0
"""Private machines to measure on: a software GPU, with harpd or without; gone afterwards."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harp.errors import HarpError
from harp.native import NativeDir, find

__all__ = ["LABEL", "Machine", "machine"]

LABEL = "software GPU, not evidence for hardware"
_MEMORY = "/dev/shm"  # noqa: S108 - the engine's state lies in memory where it can
_TIMEOUT_S = 60.0
#: of the caller's environment, what could change who is measured
_NOT_KEPT = ("HARP_", "LD_", "CUDA_", "XDG_")


@dataclass(frozen=True, slots=True)
class Machine:
    """One software GPU and the environment that leads there."""

    env: Mapping[str, str]
    native: NativeDir
    has_harp: bool  #: harpd runs

    def under_harp(self, command: Sequence[str], *options: str) -> list[str]:
        """The command as `harp run OPTIONS` starts it; as it is where harpd does not run."""
        if not self.has_harp:
            return list(command)
        return [sys.executable, "-m", "harp", "run", *options, "--", *command]


@contextmanager
def machine(
    base: Mapping[str, str],
    *,
    harp: bool,
    slice_us: int | None = None,
    switch_us: int | None = None,
    extra: Mapping[str, str] | None = None,
) -> Iterator[Machine]:
    """Make one, with harpd running if `harp`.

    Args:
        base: environment to start from; HARP's and CUDA's variables are not taken over.
        harp: else programs find the software GPU by themselves.
        slice_us: of the compute engine; None: as the profile.
        switch_us: likewise.
        extra: more of the environment.

    Raises:
        HarpError: harpd did not start.
    """
    native = find(base)
    memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    env = {k: v for k, v in base.items() if not k.startswith(_NOT_KEPT)}
    env["HARP_NATIVE_DIR"] = str(native.path)
    if slice_us is not None:
        env["HARP_SOFT_SLICE_US"] = str(slice_us)
    if switch_us is not None:
        env["HARP_SOFT_SWITCH_US"] = str(switch_us)
    soft = Path(tempfile.mkdtemp(prefix="harp-bench-", dir=memory))
    env["HARP_SOFT_DIR"] = str(soft)
    if not harp:
        env["LD_LIBRARY_PATH"] = str(native.soft_cuda.parent)
        env |= dict(extra or {})
        with _gone_afterwards(env, [soft], "true"):
            yield Machine(env, native, has_harp=False)
        return
    home = Path(tempfile.mkdtemp(prefix="harp-bench-"))
    for name in ("user", "locks"):
        (home / name).mkdir(mode=0o700)
    env |= {
        "HARP_RUN": str(home / "run"),
        "HARP_LOCK_DIR": str(home / "locks"),
        "XDG_RUNTIME_DIR": str(home / "user"),
        "XDG_CONFIG_HOME": str(home),
        "HARP_CONFIG_DEVICE_KIND": "software",
        "PYTHONPATH": os.pathsep.join(
            p for p in (str(Path(__file__).parents[2]), base.get("PYTHONPATH")) if p
        ),
    }
    env |= dict(extra or {})
    stop = f"{shlex.quote(sys.executable)} -m harp daemon --stop --all"
    with _gone_afterwards(env, [soft, home], stop):
        done = _harp(env, "daemon")
        if done.returncode != 0:
            raise HarpError(f"harpd did not start: {done.stderr.strip()[-300:]}", "harp doctor")
        yield Machine(env, native, has_harp=True)


@contextmanager
def _gone_afterwards(env: Mapping[str, str], folders: Sequence[Path], stop: str) -> Iterator[None]:
    """Runs `stop` and removes the folders at the end, or when this process is no more.

    A shell does it, whose input ends with this process: SIGKILL leaves nothing either.
    """
    script = f'trap "" HUP INT TERM; read -r _; {stop}; rm -rf -- "$@"'
    with subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", *map(str, folders)],
        env=dict(env),
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ):
        yield


def _harp(env: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harp", *arguments],
        env=dict(env),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
