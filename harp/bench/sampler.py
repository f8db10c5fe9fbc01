# SPDX-License-Identifier: Apache-2.0
"""The engine's own ledger, looked at hundreds of times a second while programs run.

`harp-soft-truth --sample` does the looking, in C: this process only starts it and hears the end.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harp.errors import NativeError

__all__ = ["Sampled", "Sampler", "sampling"]

#: asked for, so that a busy host still gives what is promised (LEAST_HZ of memory_figures)
HZ = 400.0
_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Sampled:
    """What was seen in all. Memory without contexts; the dead count until the device has it."""

    seconds: float
    samples: int
    exact: int  #: samples of one moment in all processes; only they say what a group held
    longest_gap_ms: float
    peak_bytes: Mapping[int, int]  #: {device: most at once}, of every sample
    last_bytes: Mapping[int, int]  #: {device: in the last sample}
    group_peak_bytes: Mapping[tuple[int, int], int]  #: {(process group, device): most at once}

    @property
    def hz(self) -> float:
        """How often it looked."""
        return self.samples / max(1e-9, self.seconds)


class Sampler:
    """A sampling that runs."""

    def __init__(self, program: Path, env: Mapping[str, str], hz: float) -> None:
        self._process = subprocess.Popen(
            [str(program), "--sample", f"{hz:g}"],
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise NativeError(f"{program.name} --sample ended: {self._end()[1].strip()[-300:]}")

    def stop(self) -> Sampled:
        """End it.

        Raises:
            NativeError: it failed, or printed something else.
        """
        out, err = self._end()
        try:
            said = json.loads(out.splitlines()[-1])
            return Sampled(
                seconds=said["seconds"],
                samples=said["samples"],
                exact=said["exact"],
                longest_gap_ms=said["longest_gap_ms"],
                peak_bytes={row["device"]: row["peak_bytes"] for row in said["devices"]},
                last_bytes={row["device"]: row["last_bytes"] for row in said["devices"]},
                group_peak_bytes={
                    (row["group"], row["device"]): row["peak_bytes"] for row in said["groups"]
                },
            )
        except (ValueError, KeyError, IndexError) as error:
            raise NativeError(f"harp-soft-truth --sample: {error!r}: {err[-300:]}") from error

    def close(self) -> None:
        """End it without asking what it saw."""
        if self._process.poll() is None:
            self._process.kill()
            self._end()

    def _end(self) -> tuple[str, str]:
        return self._process.communicate(timeout=_TIMEOUT_S)


@contextmanager
def sampling(native_dir: Path, env: Mapping[str, str], hz: float = HZ) -> Iterator[Sampler]:
    """Sample while the block runs; `stop()` inside it says what was seen.

    Args:
        native_dir: folder that holds harp-soft-truth.
        env: environment that names the software GPU.
        hz: samples a second.

    Raises:
        NativeError: it does not start.
    """
    sampler = Sampler(native_dir / "harp-soft-truth", env, hz)
    try:
        yield sampler
    finally:
        sampler.close()
