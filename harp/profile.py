# SPDX-License-Identifier: Apache-2.0
"""What a tenant's kernels did, by name: the file `profile` of its grant folder, or a sealed page.

Made with the folder, or by harpd where the two share none (Page), added to by the tenant's
processes (native/include/harp/profile.h), read by harpd. It is the tenant's own, who may write
anything to it: so it is read whole or not at all, never mapped; numbers are bounded, and names are
short, printable text. There are ROWS of them, whatever a program launches; names that come later
are one row, OTHER.

Seconds are of two kinds. Measured: launches between two events on the device. Predicted: launches
that nobody measured, taken for as long as the mean of the measured ones of their name. A name that
was never measured has none of either. Kernels that overlap on the device count in full, each.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from harp.units import PPM

__all__ = [
    "COPIES",
    "GRAPHS",
    "NAME",
    "OTHER",
    "Kernel",
    "Page",
    "Profile",
    "decode",
    "largest",
    "make",
    "read",
    "read_bytes",
    "top",
]

NAME = "profile"
MAGIC, VERSION, ROWS, NAME_BYTES = 0x464F525050524148, 1, 256, 120
#: what no kernel can be called: of names that found no row, and of graphs, whole ones
OTHER, GRAPHS = "(other)", "(graphs)"
#: which way, in the file's order; `other`: only the driver knows
COPIES = ("htod", "dtoh", "dtod", "other", "fill")

_HEAD = struct.Struct(f"<QII{len(COPIES)}Q")
_HEAD_BYTES = 256
_ROW = struct.Struct(f"<7Q4I{NAME_BYTES}s")
SIZE = _HEAD_BYTES + ROWS * _ROW.size
#: no count of an honest tenant is so large, and a double holds it exactly
_MOST = 1 << 53
_MOST_THREADS = 1024
#: what the kernel must answer about a page of ours: nobody can make it longer or shorter
_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
#: Linux 6.3; where vm.memfd_noexec=2, only with it
_NOEXEC_SEAL = 0x8
_PLAIN = bytes(c if 32 < c < 127 else ord("?") for c in range(256))


class Kernel(NamedTuple):
    """Totals of one name, of all processes of a tenant."""

    name: str
    launches: int = 0
    blocks: int = 0
    measured_launches: int = 0
    measured_ns: int = 0
    predicted_launches: int = 0
    predicted_ns: int = 0
    block_threads: int = 0  #: of a block, when the driver was asked last; 0: it was not
    occupancy_ratio: float | None = None  #: of a multiprocessor's threads; None: not known

    @property
    def counts(self) -> tuple[int, ...]:
        """What adds up over names and time, from `launches` to `predicted_ns`."""
        _name, *counts, _threads, _ratio = self
        return tuple(counts)

    @property
    def whole_ns(self) -> int:
        """The same, and as much by the mean for each launch that is in neither."""
        rest = max(0, self.launches - self.measured_launches - self.predicted_launches)
        counted = self.measured_launches + self.predicted_launches
        return self.ns + (rest * self.ns // counted if counted else 0)

    @property
    def ns(self) -> int:
        """Device time, measured and predicted."""
        return self.measured_ns + self.predicted_ns


@dataclass(frozen=True, slots=True)
class Profile:
    """Of a tenant, since its grant."""

    kernels: tuple[Kernel, ...] = ()
    copied_bytes: Mapping[str, int] = field(default_factory=dict)  #: {way: bytes asked for}


class Page:
    """The same without a folder: memory that every process with a descriptor of it may write.

    Its descriptor goes with the last reference, so a thread may read while its tenant ends.
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        """Own a descriptor of one.

        Raises:
            OSError: it is none, or somebody could grow or cut it; the descriptor is closed.
        """
        self.fd = fd
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size != SIZE:
            raise OSError(f"a page has {SIZE} bytes, not {found.st_size}")
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise OSError("it is not sealed")

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.fd)

    @classmethod
    def make(cls) -> Page:
        """A new one; all its memory is there.

        Raises:
            OSError: no memory, no descriptor, or no memfd_create.
        """
        fd = _memfd()
        try:
            os.fchmod(fd, 0o600)
            os.posix_fallocate(fd, 0, SIZE)
            os.pwrite(fd, _HEAD.pack(MAGIC, VERSION, ROWS, *[0] * len(COPIES)), 0)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        except OSError:
            os.close(fd)
            raise
        return cls(fd)

    def read(self) -> bytes | None:
        """What is in it; None: it cannot be read."""
        try:
            return os.pread(self.fd, SIZE, 0)
        except OSError:
            return None


def _memfd() -> int:
    if not hasattr(os, "memfd_create"):  # Pythons built for an old libc
        raise OSError("this Python has no os.memfd_create")
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("harp-profile", flags | _NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create("harp-profile", flags)


def make(folder: Path, uid: int | None = None) -> None:
    """Make the file, in a folder that nobody else can write to yet. Without room there is none.

    Args:
        folder: the grant's.
        uid: whose it shall be; None: ours.
    """
    path = folder / NAME
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return
    with os.fdopen(fd, "wb") as file:
        try:
            # Its pages are there from now on: a program that adds to it never meets a full disk.
            os.posix_fallocate(fd, 0, SIZE)
            file.write(_HEAD.pack(MAGIC, VERSION, ROWS, *[0] * len(COPIES)))
            file.flush()
            if uid is not None:
                os.fchown(fd, uid, -1)
        except OSError:
            with contextlib.suppress(OSError):
                path.unlink()


def read(source: Path | Page, uid: int | None = None) -> Profile | None:
    """What is in the folder's file, or the page; None: there is none, or it is none of ours."""
    text = read_bytes(source, uid)
    return decode(text) if text is not None else None


def read_bytes(source: Path | Page, uid: int | None = None) -> bytes | None:
    """The folder's file as it is, or the page; None: there is none, or it is of another size.

    Args:
        source: a folder as its tenant said: any words.
        uid: whose the file must be, or it is another's folder; None: anybody's. Pages are ours.
    """
    if isinstance(source, Page):
        return source.read()
    folder = source
    try:
        fd = os.open(folder / NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb", buffering=0) as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size != SIZE:
                return None
            if uid not in (None, found.st_uid):
                return None
            return file.read(SIZE)
    except (OSError, ValueError):  # no name of a file at all
        return None


def decode(text: bytes) -> Profile | None:
    """A file's bytes; None: another version, or no such file.

    Rows that were counted nothing are left out, and so are those whose name is not written yet.
    Of several of a name, which no honest tenant has, the first counts.
    """
    if len(text) != SIZE:
        return None
    magic, version, rows, *copied = _HEAD.unpack_from(text)
    if (magic, version, rows) != (MAGIC, VERSION, ROWS):
        return None
    kernels: dict[str, Kernel] = {}
    launches = memoryview(text)[_HEAD_BYTES:].cast("Q")[1 :: _ROW.size // 8].tolist()
    for i, any_launch in enumerate(launches):
        if any_launch:
            kernel = _kernel(i, _ROW.unpack_from(text, _HEAD_BYTES + i * _ROW.size))
            if kernel is not None:
                kernels.setdefault(kernel.name, kernel)
    ways = {way: min(n, _MOST) for way, n in zip(COPIES, copied, strict=True)}
    return Profile(tuple(kernels.values()), ways)


def _kernel(i: int, row: Sequence[Any]) -> Kernel | None:
    _key, *counts, named, _asked, threads, ppm, text = row
    if max(counts) > _MOST:
        counts = [min(n, _MOST) for n in counts]
    launches, blocks, measured, measured_ns, predicted, predicted_ns = counts
    name = (OTHER, GRAPHS)[i] if i < 2 else _name(text) if named else ""
    if not name:
        return None
    known = 0 < int(threads) <= _MOST_THREADS and 0 < int(ppm) <= PPM
    return Kernel(
        name,
        launches,
        blocks,
        measured,
        measured_ns,
        predicted,
        predicted_ns,
        int(threads) if known else 0,
        int(ppm) / PPM if known else None,
    )


def _name(text: bytes) -> str:
    """Printable ASCII, as compilers' names are; what is not is a question mark."""
    plain = text.split(b"\0", 1)[0][: NAME_BYTES - 1]
    name = plain.translate(_PLAIN).decode("ascii")
    return "" if name in (OTHER, GRAPHS) else name


def largest(kernel: Kernel) -> tuple[int, int, str]:
    """To sort by: the most device time first."""
    return -kernel.ns, -kernel.launches, kernel.name


def top(profile: Profile, most: int) -> tuple[Kernel, ...]:
    """The kernels with the most device time, at most so many, and the rest as one: OTHER."""
    own = sorted((kernel for kernel in profile.kernels if kernel.name != OTHER), key=largest)
    rest = [*own[most:], *(k for k in profile.kernels if k.name == OTHER)]
    sums = map(sum, zip(*(kernel.counts for kernel in rest), strict=True))
    return (*own[:most], *((Kernel(OTHER, *sums),) if rest else ()))
