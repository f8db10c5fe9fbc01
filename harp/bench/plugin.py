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
from collections.abc import Mapping
from pathlib import Path

from harp.errors import ConfigError, DaemonError

__all__ = ["run_plugin"]

_MODULE = "device_plugin"
_BESIDE = Path(__file__).resolve().parents[2]


def run_plugin(env: Mapping[str, str], *, quick: bool) -> tuple[dict[str, object], bool]:
    """What `python -m device_plugin.bench` says, and whether it says that all is well.

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
    done = subprocess.run(
        command,
        # gRPC tells on stderr of connections that end, which is what the bench does to them.
        env={"GRPC_VERBOSITY": "ERROR", **env, "PYTHONPATH": ":".join(path)},
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
