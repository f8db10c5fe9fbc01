# SPDX-License-Identifier: Apache-2.0
"""Takes HARP's folders off a node, once no container there has a share. Standard library alone.

A container with a share has /opt/harp mounted: as long as a process of such a one lives, nothing is
removed, and who it is is said. Then /tmp/done is made, and the pod stays until it is deleted.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from pathlib import Path

_PERIOD_S = 2.0
_INSIDE = b" /opt/harp/"


def users(proc: Path = Path("/proc")) -> list[str]:
    """Processes that have a share, as "pid name"."""
    found = []
    for process in sorted(proc.glob("[0-9]*")):
        try:
            if _INSIDE in (process / "mountinfo").read_bytes():
                found.append(f"{process.name} {(process / 'comm').read_text().strip()}")
        except OSError:  # it has ended
            continue
    return found


def remove(path: Path) -> None:
    """A folder with all in it, or a socket; it may be gone already."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def main() -> None:
    """Wait, remove, say so, stay."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    said: list[str] = []
    while there := users():
        if there != said:
            print(f"waits for processes with a share to end: {', '.join(there)}", flush=True)
            said = there
        time.sleep(_PERIOD_S)
    for path in map(Path, sys.argv[1:]):
        remove(path)
        print(f"removed {path}", flush=True)
    Path("/tmp/done").touch()  # noqa: S108 - of this container alone
    signal.pause()


if __name__ == "__main__":
    main()
