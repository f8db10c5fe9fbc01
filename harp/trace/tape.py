# SPDX-License-Identifier: Apache-2.0
"""What a replay plays: calls in the order in which they began, host bytes, images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harp.errors import TraceError
from harp.trace.format import Reader
from harp.trace.records import Call, Data, Header, Image, Record, Way

__all__ = ["Tape", "images_of", "tape", "tape_of"]

_Pieces = dict[int, bytes]
_NOTHING: Mapping[tuple[int, Way], bytes] = {}


@dataclass(slots=True)
class Tape:
    """A trace to be played.

    Attributes:
        data: {call: {(transfer, way): bytes}}, of those that are kept from their first byte on.
        images: {sha256: bytes}.
        missing: hashes of images that calls name and nobody has.
    """

    header: Header
    calls: list[Call]
    data: dict[int, dict[tuple[int, Way], bytes]] = field(default_factory=dict)
    images: dict[bytes, bytes] = field(default_factory=dict)
    missing: frozenset[bytes] = frozenset()

    def data_of(self, call: int) -> Mapping[tuple[int, Way], bytes]:
        """Host bytes of a call, where the trace has them."""
        return self.data.get(call, _NOTHING)


def tape(path: Path, *, images: Mapping[bytes, bytes] | None = None) -> Tape:
    """Read a trace; `images`: others that there are.

    Raises:
        TraceError: it is none, cannot be read, or is of another HARP's tables.
    """
    try:
        with path.open("rb") as file:
            reader = Reader(file)
            if not reader.header.decodable:
                raise TraceError(
                    f"{path} was made by a HARP that describes CUDA calls differently",
                    "replay it with the HARP that recorded it; summary and export work with any",
                )
            return tape_of(reader.header, reader, images=images or {})
    except OSError as error:
        raise TraceError(
            f"{path}: {error.strerror}", "a trace is made by harp run --trace FILE -- CMD"
        ) from error


def tape_of(
    header: Header, records: Iterable[Record], *, images: Mapping[bytes, bytes] | None = None
) -> Tape:
    """The same of records."""
    calls: list[Call] = []
    pieces: dict[int, dict[tuple[int, Way], _Pieces]] = {}
    drawn: dict[bytes, _Pieces] = {}
    for record in records:
        match record:
            case Call():
                calls.append(record)
            case Data() if record.data:
                of = pieces.setdefault(record.sequence, {})
                of.setdefault((record.transfer, record.way), {})[record.offset] = record.data
            case Image():
                drawn.setdefault(record.sha256, {})[record.offset] = record.data
            case _:
                pass
    calls.sort(key=lambda call: call.sequence)
    whole = {
        sha256: image
        for sha256, parts in drawn.items()
        if hashlib.sha256(image := _joined(parts)).digest() == sha256
    }
    whole |= {s: i for s, i in (images or {}).items() if s in drawn}
    return Tape(
        header=header,
        calls=calls,
        data={
            call: {key: _joined(parts) for key, parts in of.items()} for call, of in pieces.items()
        },
        images=whole,
        missing=frozenset(drawn) - frozenset(whole),
    )


def _joined(parts: _Pieces) -> bytes:
    """Pieces one after the other, up to the first that is not there."""
    out = b""
    while len(out) in parts and parts[len(out)]:
        out += parts[len(out)]
    return out


def images_of(folder: Path) -> dict[bytes, bytes]:
    """Files that may be images that a trace does not have, by hash; as they are, and ended by NUL.

    Raises:
        TraceError: the folder cannot be read.
    """
    found: dict[bytes, bytes] = {}
    try:
        files = [path for path in sorted(folder.iterdir()) if path.is_file()]
        for path in files:
            data = path.read_bytes()
            for image in (data, data + b"\0"):
                found[hashlib.sha256(image).digest()] = image
    except OSError as error:
        raise TraceError(f"{folder}: {error.strerror}", "name a folder of images") from error
    return found
