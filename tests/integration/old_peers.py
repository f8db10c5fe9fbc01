# SPDX-License-Identifier: Apache-2.0
"""Peers that speak version 1 of the lease protocol alone: built from the same sources, with a
definition that takes version 2 away. harpd likewise, by the same constant.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "release"

#: the harp command as it would be if it knew version 1 alone
OLD_HARP = "import harp.lease_wire as w; w.VERSION = 1; from harp.cli.main import main; main()"


def build() -> dict[str, Path]:
    """The arbiter and libharp of version 1."""
    cache = str(ROOT / "build" / "zig-cache")
    env = os.environ | {
        "HARP_ZIG_PYTHON": sys.executable,
        "ZIG_GLOBAL_CACHE_DIR": cache,
        "ZIG_LOCAL_CACHE_DIR": cache,
    }
    done = subprocess.run(
        ["cmake", "--build", BUILD, "--target", "harp-arbiter-v1", "libharp-v1"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nremedy: deploy/bootstrap dev"
    return {
        "harp-arbiter": BUILD / "src" / "arbiter" / "harp-arbiter-v1",
        "libharp.so": BUILD / "src" / "shim" / "libharp-v1.so",
    }


def native_with(native: Path, folder: Path, replaced: dict[str, Path]) -> Path:
    """A folder like `native` in which some files are others."""
    shutil.copytree(native, folder, dirs_exist_ok=True)
    for name, source in replaced.items():
        (folder / name).unlink()
        shutil.copy(source, folder / name)
    return folder
