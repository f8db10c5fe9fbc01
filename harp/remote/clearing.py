# SPDX-License-Identifier: Apache-2.0
"""What a lease leaves, ended and deleted: a program of its own, which becomes the lease's user.

    clearing.py kill UID              all processes of that uid
    clearing.py clear UID FOLDER...   what is in these folders; UID 0: as who starts it

Started by its path, with `python -I -S`: it reads nothing once it is another user. What that user
put there is deleted with that user's rights alone: whatever it is, it leads to nothing else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

#: below are users of the system
_LOWEST = 1000


def clear(top: str) -> None:
    """Delete what is in a folder, however deep: step by step, since no path reaches all of it.

    Raises:
        OSError: something cannot be deleted; all else is.
    """
    fault: OSError | None = None
    way: list[
        tuple[str, tuple[int, int], list[str]]
    ] = []  # name, the one above, what is left there
    _enter(top)
    left = _flat()
    while left or way:
        if left:
            name, above = left.pop(), _here()
            try:
                _enter(name)
            except OSError as error:
                fault = error
                continue
            way.append((name, above, left))
            left = []
            try:
                left = _flat()
            except OSError as error:
                fault = error
            continue
        name, above, left = way.pop()
        os.chdir("..")
        if _here() != above:
            raise FileNotFoundError(f"{name} was moved meanwhile")
        try:
            os.rmdir(name)  # noqa: PTH106 - as above
        except OSError as error:
            fault = error
    if fault is not None:
        raise fault


def _enter(folder: str) -> None:
    os.chmod(folder, 0o700)  # noqa: PTH101 - without pathlib it starts in a third of the time
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    os.fchdir(fd)
    os.close(fd)


def _here() -> tuple[int, int]:
    found = os.stat(".")  # noqa: PTH116 - as above
    return found.st_dev, found.st_ino


def _flat() -> list[str]:
    """The folders in this one; all else in it is deleted."""
    folders = []
    with os.scandir(".") as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            else:
                os.unlink(entry.name)  # noqa: PTH108 - as above
    return folders


def _become(uid: int) -> None:
    """Another user for good, or an error: never root, and never who started this."""
    if uid < _LOWEST or uid in (os.getuid(), os.geteuid()):
        raise PermissionError(f"uid {uid} is no lease's")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (uid, uid, uid):
        raise PermissionError(f"this is not uid {uid}")


def _main(what: str, uid: int, folders: list[str]) -> None:
    if what == "kill":
        _become(uid)
        with contextlib.suppress(ProcessLookupError):  # it has none
            os.kill(-1, signal.SIGKILL)
    elif what == "clear":
        if uid:
            _become(uid)
        for folder in folders:
            if os.path.lexists(folder):
                clear(folder)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
