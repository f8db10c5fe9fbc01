# SPDX-License-Identifier: Apache-2.0
"""What libharp is told about a trace: the lines of native/src/shim/trace/control.c.

In a tenant's grant folder they are the file `trace`, which its processes look at when they begin
and whenever it changes; a process without a grant has them in HARP_TRACE.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harp.errors import ConfigError, TraceError

__all__ = ["NAME", "VARIABLE", "Wish", "files_of", "is_on", "tell", "told", "untell"]

NAME = "trace"
VARIABLE = "HARP_TRACE"
MIB = 1 << 20
_LEAST_BYTES = 2 * MIB
#: what libharp has room for
_FILE_BYTES, _ABOUT_BYTES, _TEXT_BYTES = 1024, 3584, 8192


@dataclass(frozen=True, slots=True)
class Wish:
    """A trace that is wanted.

    Raises:
        ConfigError: the file cannot be made, or is there.
    """

    file: Path  #: absolute
    size_bytes: int = 256 * MIB  #: of the file of each process, at most
    data_bytes: int = 0  #: of host bytes a call; 0: none, and no images
    keep_first: bool = False
    measured: bool = True  #: launches and copies, on the device
    about: Mapping[str, object] = field(default_factory=dict)
    ident: str = field(default_factory=lambda: secrets.token_hex(8))

    def __post_init__(self) -> None:
        if self.size_bytes < _LEAST_BYTES:
            raise ConfigError(
                f"a trace of {self.size_bytes} bytes", "it takes 2MiB or more: --trace-bytes"
            )
        name = os.fsencode(self.file)
        if not self.file.is_absolute() or b"\n" in name or len(name) >= _FILE_BYTES - 32:
            raise ConfigError(f"{self.file} cannot be a trace's name", "give a shorter, plain one")

    def check(self) -> None:
        """See that the file can be made. Raises ConfigError."""
        if self.file.exists() or any(files_of(self.file)):
            raise ConfigError(
                f"{self.file} is there, or has files of an earlier trace beside it",
                f"give another name, or remove {self.file} and {self.file}.PID",
            )
        folder = self.file.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(
                f"no file can be made in {folder}", "make the folder, or give another"
            )

    def text(self) -> bytes:
        """The lines."""
        lines = [
            b"file=" + os.fsencode(self.file),
            f"id={self.ident}".encode(),
            f"bytes={self.size_bytes}".encode(),
            f"data={self.data_bytes}".encode(),
        ]
        if self.keep_first:
            lines.append(b"keep=first")
        if not self.measured:
            lines.append(b"device=off")
        about = json.dumps(self.about).encode()
        if len(about) < _ABOUT_BYTES:
            lines.append(b"about=" + about)
        return b"\n".join(lines) + b"\n"


def tell(grant: Path, wish: Wish) -> None:
    """Have the tenant of this grant folder traced. Raises TraceError.

    Root's file is for another user's processes to read: there is no secret in it.
    """
    new = grant / f".{NAME}.{secrets.token_hex(4)}"
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            if os.geteuid() == 0:
                os.fchmod(fd, 0o644)  # whatever the umask
            file.write(wish.text())
        new.rename(grant / NAME)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        raise TraceError(
            f"the tenant's folder {grant} cannot be written to: {error.strerror}",
            "start a trace as the user that the tenant belongs to, on its host",
        ) from error


def untell(grant: Path) -> bool:
    """End the trace; False: there was none. Raises TraceError."""
    try:
        (grant / NAME).unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise TraceError(
            f"the tenant's folder {grant} cannot be written to: {error.strerror}",
            "stop a trace as the user that the tenant belongs to, on its host",
        ) from error
    return True


def is_on(grant: Path) -> Path | None:
    """The file of the trace that is wanted; None: none is."""
    found = told(grant)
    return found[0] if found else None


def told(grant: Path, uid: int | None = None) -> tuple[Path, str] | None:
    """The file of the trace that is wanted, and what it is known by; None: none is.

    Args:
        grant: the folder.
        uid: who may have wanted it, besides root; None: anybody.
    """
    try:  # the folder is its tenant's, who may have put anything there
        fd = os.open(grant / NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or (
                uid is not None and found.st_uid not in (0, uid)
            ):
                return None
            text = file.read(_TEXT_BYTES)
    except (OSError, ValueError):  # no name of a file at all
        return None
    said = dict(line.split(b"=", 1) for line in text.splitlines() if b"=" in line)
    if b"file" not in said:
        return None
    return Path(os.fsdecode(said[b"file"])), said.get(b"id", b"").decode("ascii", "replace")


def files_of(file: Path) -> list[Path]:
    """FILE, and what later processes made beside it: FILE.PID, FILE.PID.2, ..."""
    beside = []
    with contextlib.suppress(OSError):
        for path in file.parent.iterdir():
            rest = path.name.removeprefix(file.name)
            parts = rest.split(".")[1:] if path.name.startswith(f"{file.name}.") else []
            if rest == "" or (parts and len(parts) <= 2 and all(p.isdigit() for p in parts)):
                beside.append(path)
    return sorted(beside)
