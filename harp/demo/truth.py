# SPDX-License-Identifier: Apache-2.0
"""The software GPU's own ledger, as its harp-soft-truth prints it.

Only judges read it (the demo, the benches): nothing that is judged by it may.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harp.errors import NativeError

__all__ = ["Truth", "Use", "read"]

_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Use:
    """What one process has had of one device since it started."""

    pid: int
    compute_ns: int
    copy_ns: int  #: of both copy engines
    modelled_ns: int
    overrun_ns: int
    launches: int
    instructions: int
    peak_bytes: int  #: memory and contexts together
    context_bytes: int  #: of contexts, now


@dataclass(frozen=True, slots=True)
class Truth:
    """The ledger at one moment."""

    now_ns: int  #: device clock
    device: str  #: name of device 0
    capacity_bytes: int  #: its memory
    uses: Mapping[int, Use]  #: by pid, device 0 only

    def shares(self, since: Truth, pids: list[int]) -> list[float]:
        """Part of the engine's busy time each of `pids` had between `since` and now.

        The whole is what these processes had together: 0..1 each, 1 in sum, all 0 if idle.
        """
        spans = [self._span_ns(since, pid) for pid in pids]
        whole = sum(spans)
        return [span / whole if whole else 0.0 for span in spans]

    def busy_ratio(self, since: Truth, pids: list[int]) -> float:
        """Part of the time between `since` and now in which `pids` kept the engine busy."""
        return sum(self._span_ns(since, pid) for pid in pids) / max(1, self.now_ns - since.now_ns)

    def overrun_ratio(self, since: Truth, pids: list[int]) -> float:
        """Execution beyond the modelled time between `since` and now, per busy time."""
        over = sum(
            self.uses[pid].overrun_ns - (since.uses[pid].overrun_ns if pid in since.uses else 0)
            for pid in pids
            if pid in self.uses
        )
        return over / max(1, sum(self._span_ns(since, pid) for pid in pids))

    def _span_ns(self, since: Truth, pid: int) -> int:
        if pid not in self.uses:
            return 0
        return self.uses[pid].compute_ns - (since.uses[pid].compute_ns if pid in since.uses else 0)


def read(native_dir: Path, env: Mapping[str, str]) -> Truth:
    """The ledger now.

    Args:
        native_dir: folder that holds harp-soft-truth.
        env: environment that names the software GPU (HARP_SOFT_DIR, HARP_SOFT_DEVICES).

    Raises:
        NativeError: the program fails or prints something else.
    """
    command = [str(native_dir / "harp-soft-truth"), "--json"]
    try:
        done = subprocess.run(
            command, env=dict(env), capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
        data = json.loads(done.stdout)
        uses = {
            row["pid"]: Use(
                pid=row["pid"],
                compute_ns=row["busy_ns"]["compute"],
                copy_ns=row["busy_ns"]["copy_in"] + row["busy_ns"]["copy_out"],
                modelled_ns=row["modelled_ns"],
                overrun_ns=row["overrun_ns"],
                launches=row["launches"],
                instructions=row["instructions"],
                peak_bytes=row["peak_bytes"],
                context_bytes=row["context_bytes"],
            )
            for row in data["processes"]
            if row["device"] == 0
        }
        device = data["devices"][0]
        name, capacity_bytes = device["name"], device["capacity_bytes"]
    except (OSError, subprocess.SubprocessError) as error:
        detail = (getattr(error, "stderr", "") or "").strip()
        raise NativeError(f"{command[0]} failed: {detail or error}", "harp doctor") from error
    except (ValueError, KeyError, IndexError) as error:
        raise NativeError(f"{command[0]} printed no ledger: {error!r}", "harp doctor") from error
    return Truth(data["now_ns"], name, capacity_bytes, uses)
