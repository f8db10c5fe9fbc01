# SPDX-License-Identifier: Apache-2.0
"""The libraries that a program will be given when it starts, found as glibc's loader finds them.

For each name that an object needs, in this order (ld.so(8)): DT_RPATH of the object and of those
that brought it in, unless the object has a DT_RUNPATH; $LD_LIBRARY_PATH; its own DT_RUNPATH;
ld.so.cache; the default folders. A file for another machine is passed over. Not looked at:
glibc-hwcaps folders (other builds of the same libraries), musl's own order, and what is loaded
later with dlopen.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harp.remote.elf import Elf, Source, parse

__all__ = ["File", "Object", "cache", "opened", "read_cache", "walk"]

CACHE = Path("/etc/ld.so.cache")
_OBJECTS_MAX = 2048
_CACHE_BYTES = 16 << 20
_CACHE_MAGIC = b"glibc-ld.so.cache1.1"
_TRIPLES = {62: "x86_64-linux-gnu", 183: "aarch64-linux-gnu"}
_PLATFORMS = {62: "x86_64", 183: "aarch64"}


class File:
    """A Source on disk; read, not mapped: a file that shrinks meanwhile must not kill us."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = os.fstat(fd).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Some bytes of it."""
        if not 0 <= offset < self.size or size <= 0:
            return b""
        return os.pread(self._fd, min(size, self.size - offset), offset)


@dataclass(frozen=True, slots=True)
class Object:
    """A program or library that will be loaded."""

    path: Path
    elf: Elf
    name: str  #: as it was asked for
    parent: Object | None  #: who brought it in

    def chain(self) -> str:
        """How it comes to be loaded, as people read it."""
        names = [self.path.name if self.parent is None else self.name]
        if self.parent is not None:
            names.insert(0, self.parent.chain())
        return " -> ".join(names)


def opened(path: Path) -> int | None:
    """A descriptor of a regular file; None if there is none that can be read."""
    try:
        # Not blocking: it may be a pipe that nobody writes to.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    if not os.path.isfile(fd):  # noqa: PTH113 - of a descriptor
        os.close(fd)
        return None
    return fd


def walk(
    program: Path, env: Mapping[str, str], cached: Mapping[str, tuple[str, ...]]
) -> tuple[list[Object], list[str]]:
    """All that is loaded with a program, itself first, and the names of what is not found.

    Args:
        program: an ELF file.
        env: it will run with.
        cached: {name: paths}, see cache().
    """
    elf = _read(program)
    if elf is None:
        return [], []
    root = Object(program, elf, program.name, None)
    found, missing = [root], []
    known = {program.name}
    waiting: deque[tuple[Object, str]] = deque()
    for name in env.get("LD_PRELOAD", "").replace(":", " ").split():
        waiting.append((root, name))
    waiting.extend((root, name) for name in elf.needed)
    while waiting and len(found) < _OBJECTS_MAX:
        parent, name = waiting.popleft()
        if name in known:
            continue
        known.add(name)
        child = _find(parent, name, env, cached)
        if child is None:
            missing.append(name)
            continue
        found.append(child)
        known.add(child.elf.soname)
        waiting.extend((child, needed) for needed in child.elf.needed)
    return found, missing


def cache(data: bytes) -> dict[str, tuple[str, ...]]:
    """{name: paths} of an ld.so.cache; what cannot be read is left out."""
    base = data.find(_CACHE_MAGIC)  # an older format may come first
    if base < 0 or len(data) < base + 48:
        return {}
    (count,) = struct.unpack_from("<I", data, base + 20)
    found: dict[str, tuple[str, ...]] = {}
    for at in range(base + 48, min(base + 48 + 24 * count, len(data) - 23), 24):
        _, key, value = struct.unpack_from("<iII", data, at)
        name, path = _text(data, base + key), _text(data, base + value)
        if name and path:
            found[name] = (*found.get(name, ()), path)
    return found


def read_cache(path: Path = CACHE) -> dict[str, tuple[str, ...]]:
    """The machine's own."""
    try:
        with path.open("rb") as file:
            return cache(file.read(_CACHE_BYTES))
    except OSError:
        return {}


def _text(data: bytes, at: int) -> str:
    end = data.find(b"\0", at, at + 4096)
    return os.fsdecode(data[at:end]) if end >= 0 else ""


def _find(
    parent: Object, name: str, env: Mapping[str, str], cached: Mapping[str, tuple[str, ...]]
) -> Object | None:
    for path in _candidates(parent, name, env, cached):
        elf = _read(path)
        if elf is not None and elf.machine == parent.elf.machine:
            return Object(path, elf, name, parent)
    return None


def _candidates(
    parent: Object, name: str, env: Mapping[str, str], cached: Mapping[str, tuple[str, ...]]
) -> Iterator[Path]:
    if "/" in name:
        yield Path(_expanded(name, parent))
        return
    if not parent.elf.runpath:
        at: Object | None = parent
        while at is not None:
            if not at.elf.runpath:
                yield from (_folder(entry, at) / name for entry in at.elf.rpath)
            at = at.parent
    search = env.get("LD_LIBRARY_PATH", "")
    if search:
        root = parent
        while root.parent is not None:
            root = root.parent
        yield from (_folder(entry, root) / name for entry in search.replace(";", ":").split(":"))
    yield from (_folder(entry, parent) / name for entry in parent.elf.runpath)
    yield from map(Path, cached.get(name, ()))
    triple = _TRIPLES.get(parent.elf.machine)
    for base in ("/lib", "/usr/lib"):
        if triple:
            yield Path(base, triple, name)
        yield Path(base + "64", name)
        yield Path(base, name)


def _folder(entry: str, of: Object) -> Path:
    return Path(_expanded(entry, of) or ".")  # an empty entry is the working folder


def _expanded(text: str, of: Object) -> str:
    """A path with what the loader puts in its place ($LIB as Debian has it)."""
    triple = _TRIPLES.get(of.elf.machine, "")
    for word, value in (
        ("ORIGIN", str(of.path.resolve().parent)),
        ("LIB", f"lib/{triple}"),
        ("PLATFORM", _PLATFORMS.get(of.elf.machine, "")),
    ):
        text = text.replace(f"${{{word}}}", value).replace(f"${word}", value)
    return text


def _read(path: Path) -> Elf | None:
    fd = opened(path)
    if fd is None:
        return None
    try:
        source: Source = File(fd)
        return parse(source)
    except OSError:
        return None
    finally:
        os.close(fd)
