# SPDX-License-Identifier: Apache-2.0
"""A host without GPU, harpd and driver, on which `harp run --remote` is called."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from shim_world import ROOT

__all__ = ["Here"]


class Here:
    """A host without GPU, harpd and driver."""

    def __init__(self, native: Path) -> None:
        keep = ("HARP_", "LD_", "CUDA_", "XDG_", "GRPC_")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(keep)}
        self.user = Path(tempfile.mkdtemp(prefix="harp-"))  # short: sockets lie in it
        self.env |= {
            "HARP_NATIVE_DIR": str(native),
            "XDG_RUNTIME_DIR": str(self.user),
            "PYTHONPATH": str(ROOT),
        }
        self.children: list[subprocess.Popen[str]] = []

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        """`harp run WORDS`."""
        child = subprocess.Popen(
            [sys.executable, "-m", "harp", "run", *words],
            env=self.env | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.children.append(child)
        return child

    def ready(self, *words: str) -> subprocess.Popen[str]:
        """The same, with a command that says so once it has something on the GPU."""
        child = self.start(*words)
        assert child.stdout is not None
        line = child.stdout.readline()
        if line != "ready\n":
            raise AssertionError(f"{line}{child.communicate(timeout=60)}")
        return child

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """The same to its end."""
        child = self.start(*words, **env)
        out, err = child.communicate(timeout=120)
        return subprocess.CompletedProcess(words, child.returncode, out, err)

    def remote(self, *words: str) -> dict[str, Any]:
        """`harp remote WORDS --json`; it may fail."""
        done = subprocess.run(
            [sys.executable, "-m", "harp", "remote", *words, "--json"],
            env=self.env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        said: dict[str, Any] = json.loads(done.stdout)
        assert (done.returncode == 0) == ("error" not in said), done.stderr
        return said

    def left(self) -> list[str]:
        """Folders of runs."""
        base = self.user / "harp" / "runs"
        return [p.name for p in base.iterdir()] if base.exists() else []

    def close(self) -> None:
        """Whatever still runs."""
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.communicate()
        shutil.rmtree(self.user)
