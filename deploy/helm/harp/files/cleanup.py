# SPDX-License-Identifier: Apache-2.0
"""Takes HARP's folders off a node, once no container there has a share. Standard library alone.

A container with a share has parts of these folders mounted below /opt/harp: as long as a process of
such a one lives, nothing is removed, and who it is is said. Then /tmp/done is made, and the pod
stays until it is deleted.
"""

from __future__ import annotations

import errno
import shutil
import signal
import sys
import time
from pathlib import Path

_PERIOD_S = 2.0
_INSIDE = "/opt/harp/"


def mounts(process: Path) -> list[tuple[str, str, str]]:
    """What a process sees mounted: device, folder on it, where. proc(5), mountinfo."""
    rows = (line.split(" ", 5) for line in (process / "mountinfo").read_text().splitlines())
    return [(row[2], row[3], row[4]) for row in rows]


def places(folders: list[Path]) -> list[tuple[str, str]]:
    """Where folders lie: device, and folder on it, whatever anybody calls it."""
    found = []
    own = mounts(Path("/proc/self"))
    for folder in folders:
        near = [m for m in own if folder.is_relative_to(m[2])]
        device, root, at = max(near, key=lambda m: len(m[2]))
        found.append((device, str(Path(root) / folder.relative_to(at))))
    return found


def users(folders: list[tuple[str, str]]) -> list[str]:
    """Processes that have a share, as "pid name"."""
    found = []
    for process in sorted(Path("/proc").glob("[0-9]*")):
        try:
            for device, root, at in mounts(process):
                if at.startswith(_INSIDE) and any(
                    device == d and Path(root).is_relative_to(folder) for d, folder in folders
                ):
                    found.append(f"{process.name} {(process / 'comm').read_text().strip()}")
                    break
        except OSError:  # it has ended
            continue
    return found


def remove(path: Path) -> str:
    """A folder with all in it, or a socket; it may be gone already. Says what became of it."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return "removed"
    for inner in path.iterdir():
        if inner.is_dir() and not inner.is_symlink():
            shutil.rmtree(inner)
        else:
            inner.unlink()
    try:
        path.rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return "emptied (something is mounted there, so it stays)"
    return "removed"


def main() -> None:
    """Wait, remove, say so, stay."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    folders = [path for path in map(Path, sys.argv[1:]) if path.is_dir()]
    said: list[str] = []
    while there := users(places(folders)):
        if there != said:
            print(f"waits for processes with a share to end: {', '.join(there)}", flush=True)
            said = there
        time.sleep(_PERIOD_S)
    for path in map(Path, sys.argv[1:]):
        print(f"{path}: {remove(path)}", flush=True)
    Path("/tmp/done").touch()  # noqa: S108 - of this container alone
    signal.pause()


if __name__ == "__main__":
    main()
