# SPDX-License-Identifier: Apache-2.0
"""A private machine: its own run folder, user folder, software GPU and device locks."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["Machine", "machine", "seed_of_this_run", "wait_for"]

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("gpu_program.py")
_T = TypeVar("_T")


def wait_for(look: Callable[[], _T | None], what: str, timeout_s: float = 20) -> _T:
    """Poll until `look` returns something true."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.03)
    raise AssertionError(f"not within {timeout_s:g} s: {what}")


def seed_of_this_run() -> int:
    """Printed; HARP_TEST_SEED repeats it."""
    seed = int(os.environ.get("HARP_TEST_SEED", random.SystemRandom().getrandbits(31)))
    print(f"HARP_TEST_SEED={seed}")
    return seed


class Machine:
    """Runs `harp` commands in the private environment."""

    def __init__(self, base: Path, native_dir: Path, extra: dict[str, str]) -> None:
        self.base = base
        self.native_dir = native_dir
        self.run_dir = base / "run"
        keep = ("HARP_", "LD_", "CUDA_", "XDG_")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(keep)}
        self.env |= {
            "HARP_NATIVE_DIR": str(native_dir),
            "HARP_RUN": str(self.run_dir),
            "HARP_SOFT_DIR": str(base / "soft"),
            "HARP_LOCK_DIR": str(base / "locks"),
            "HARP_SOFT_DEVICES": "tiny",
            "XDG_RUNTIME_DIR": str(base / "user"),
            "XDG_CONFIG_HOME": str(base),
            "PYTHONPATH": str(ROOT),
            **extra,
        }
        for name in ("soft", "locks", "user"):
            (base / name).mkdir()
        self.children: list[subprocess.Popen[str]] = []

    def harp(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "harp", *arguments],
            env={**self.env, **env},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def json(self, *arguments: str) -> dict[str, Any]:
        """Run a command with --json; it must succeed."""
        done = self.harp(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def harp_json(self, *arguments: str) -> dict[str, Any]:
        """Run a command with --json; it may fail."""
        found: dict[str, Any] = json.loads(self.harp(*arguments, "--json").stdout.splitlines()[-1])
        return found

    def start_harpd(self, *arguments: str) -> dict[str, Any]:
        return self.json("daemon", *arguments)

    def tenant(
        self,
        *options: str,
        command: list[str] | None = None,
        session: bool = False,
        **env: str,
    ) -> subprocess.Popen[str]:
        """`harp run OPTIONS -- COMMAND`; the returned process becomes COMMAND.

        `session`: it leads a process group of its own, by which the truth sampler tells tenants.
        """
        child = subprocess.Popen(
            [sys.executable, "-m", "harp", "run", *options, "--", *(command or ["sleep", "600"])],
            env={**self.env, **env},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=session,
        )
        self.children.append(child)
        return child

    def gpu_tenant(
        self, *options: str, mib: int = 0, gpus: int = 1, **env: str
    ) -> subprocess.Popen[str]:
        """A tenant that allocates `mib` MiB on `gpus` devices and holds them until told to end."""
        command = [sys.executable, str(PROGRAM), str(mib), str(gpus)]
        child = self.tenant(*options, command=command, **env)
        first = child.stdout.readline() if child.stdout else ""
        assert first.strip() == "ready", (first, child.stderr.read() if child.stderr else "")
        return child

    def ps(self, name: str) -> dict[str, Any] | None:
        """A tenant as `harp ps` shows it."""
        found = [t for t in self.json("ps")["tenants"] if t["name"] == name]
        return found[0] if found else None

    def truth(self) -> dict[str, Any]:
        """The engine's own ledger now."""
        command = [str(self.native_dir / "harp-soft-truth"), "--json"]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=True)
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    def log(self) -> list[dict[str, Any]]:
        """Events of harpd's log; its last line may still be on its way."""
        whole, _, _ = (self.run_dir / "harpd.log").read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [e for e in self.log() if e["event"] == name]

    def harpd_pid(self) -> int:
        return int((self.run_dir / "harpd.lock").read_text())

    def stop(self) -> None:
        """End everything that was started here."""
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.wait()
            for stream in (child.stdin, child.stdout, child.stderr):
                if stream:
                    stream.close()
        status = self.harp("daemon", "--status", "--json")
        if status.returncode == 0:
            arbiter = json.loads(status.stdout.splitlines()[-1])["arbiter_pid"]
            done = self.harp("daemon", "--stop")
            assert done.returncode == 0, done.stderr
            _end(arbiter)


def _end(pid: int) -> None:
    """End an arbiter that stayed because tenants had not ended yet."""
    if "harp-arbiter" in _command(pid):
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: "harp-arbiter" not in _command(pid), f"arbiter {pid} ends")


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@contextmanager
def machine(native_dir: Path, **extra: str) -> Iterator[Machine]:
    """A machine for one test; nothing of it is left behind."""
    # Short: the paths of sockets have at most 107 bytes, and pytest's own folders are long.
    base = Path(tempfile.mkdtemp(prefix="harp-it-"))
    base.chmod(0o755)
    found = Machine(base, native_dir, extra)
    try:
        yield found
    finally:
        found.stop()
        shutil.rmtree(base, ignore_errors=True)
