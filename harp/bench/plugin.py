# SPDX-License-Identifier: Apache-2.0
"""The device plugin's own bench, run where the plugin is installed.

The plugin lies beside this package, in checkouts and in its own image, and is not in the wheel: so
it is no import of ours but a program.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harp.errors import ConfigError, DaemonError
from harp.scheduler import WHOLE_MILLI, Pod

__all__ = ["run_plugin", "slots_of"]

_MODULE = "device_plugin"
_BESIDE = Path(__file__).resolve().parents[2]
_PER_GPU = 100


def slots_of(pods: Iterable[Pod]) -> list[int]:
    """What pods of a list ask for on HARP's nodes, in its order: parts of a GPU rounded up.

    Raises:
        ConfigError: none of them asks for a GPU.
    """
    found = [_slots(pod.num_gpu, pod.gpu_milli) for pod in pods if pod.num_gpu]
    if not found:
        raise ConfigError("none of the pods asks for a GPU", "list some with num_gpu above 0")
    return found


def _slots(gpus: int, milli: int) -> int:
    part = -(-milli * _PER_GPU // WHOLE_MILLI)
    return part if gpus == 1 else gpus * _PER_GPU


def run_plugin(
    env: Mapping[str, str], *, quick: bool, sizes: Sequence[int] = ()
) -> tuple[dict[str, object], bool]:
    """What `python -m device_plugin.bench` says, and whether it says that all is well.

    Args:
        env: of its process.
        quick: with fewer pods.
        sizes: slots that pods ask for, drawn from these; empty: small ones.

    Raises:
        ConfigError: the plugin is not installed.
        DaemonError: it said nothing.
    """
    path = [p for p in (env.get("PYTHONPATH"),) if p]
    if (_BESIDE / _MODULE / "bench.py").is_file():
        path.insert(0, str(_BESIDE))
    elif importlib.util.find_spec(_MODULE) is None:
        raise ConfigError(
            "the device plugin is not installed here, and not part of HARP's wheel",
            "run this in a checkout or in the plugin's image",
        )
    command = [sys.executable, "-m", f"{_MODULE}.bench", "--json", *(["--quick"] if quick else [])]
    if sizes:
        command.append("--sizes")
    done = subprocess.run(
        command,
        # gRPC tells on stderr of connections that end, which is what the bench does to them.
        env={"GRPC_VERBOSITY": "ERROR", **env, "PYTHONPATH": ":".join(path)},
        input=json.dumps(list(sizes)),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    try:
        figures: dict[str, object] = json.loads(done.stdout.rstrip().rpartition("\n")[2])
    except ValueError as error:
        raise DaemonError(
            f"the device plugin's bench ended with {done.returncode} and no figures", "see above"
        ) from error
    return figures, done.returncode == 0
