# SPDX-License-Identifier: Apache-2.0
"""A trace as Perfetto's protobuf, made by Perfetto's own builder (the extra `harp[trace]`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from google.protobuf.runtime_version import VersionError

from harp.errors import ConfigError
from harp.trace.entries import Recording
from harp.trace.timeline import Slice, Track, device_name, timeline

if TYPE_CHECKING:
    from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TrackEvent
    from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder

__all__ = ["perfetto"]

_SEQUENCE = 1  # all packets are of one writer
_DEVICE = "GPU"
_MOST_64 = (1 << 64) - 1


def perfetto(recording: Recording, into: IO[bytes]) -> None:
    """Write the file.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        from perfetto.trace_builder.proto_builder import (  # noqa: PLC0415 - an extra
            StreamingTraceProtoBuilder,
        )
    except ImportError as error:
        raise ConfigError(
            "Perfetto's format is written by its own package, and that is not installed",
            "pip install 'perfetto>=0.16', or --to chrome: Perfetto's UI opens that as well",
        ) from error
    except VersionError as error:
        raise ConfigError(
            f"this perfetto wants another protobuf: {error}",
            "pip install 'perfetto==0.16.0', or a newer protobuf where nothing else minds",
        ) from error
    tracks = timeline(recording)
    builder = StreamingTraceProtoBuilder(into)
    _descriptors(builder, recording, tracks)
    for time_ns, track, begins, one in _in_time(tracks):
        packet = builder.create_packet()
        packet.timestamp = min(time_ns, _MOST_64)
        packet.trusted_packet_sequence_id = _SEQUENCE
        event = packet.track_event
        event.track_uuid = _uuid(recording, track)
        if begins:
            event.type = event.TYPE_SLICE_BEGIN
            _tell(event, one)
        else:
            event.type = event.TYPE_SLICE_END
        builder.write_packet(packet)


def _id(number: int) -> int:
    """A process or a thread as the schema takes it; a system has none above 2^22."""
    return number & 0x7FFF_FFFF or 1


def _text(text: str) -> str:
    """Without halves of pairs, which JSON may have and UTF-8 may not."""
    return text.encode(errors="replace").decode()


def _uuid(recording: Recording, of: Track | str) -> int:
    """One of a process, thread or stream; another one in another program's trace."""
    name = of if isinstance(of, str) else f"{of.device} {of.key} {of.name}"
    text = f"{recording.pid} {recording.program} {name}"
    return int.from_bytes(hashlib.sha256(text.encode(errors="replace")).digest()[:8], "little")


def _descriptors(
    builder: StreamingTraceProtoBuilder, recording: Recording, tracks: list[Track]
) -> None:
    """The process, its threads, and streams below a track of their own."""
    packet = builder.create_packet()
    packet.trusted_packet_sequence_id = _SEQUENCE
    packet.sequence_flags = packet.SEQ_INCREMENTAL_STATE_CLEARED
    packet.track_descriptor.uuid = _uuid(recording, "process")
    packet.track_descriptor.process.pid = _id(recording.pid)
    packet.track_descriptor.process.process_name = recording.program or "program"
    builder.write_packet(packet)
    if any(track.device for track in tracks):
        packet = builder.create_packet()
        packet.trusted_packet_sequence_id = _SEQUENCE
        packet.track_descriptor.uuid = _uuid(recording, _DEVICE)
        packet.track_descriptor.name = _text(device_name(recording))
        packet.track_descriptor.parent_uuid = _uuid(recording, "process")
        builder.write_packet(packet)
    seen: set[int] = set()
    for track in tracks:
        packet = builder.create_packet()
        packet.trusted_packet_sequence_id = _SEQUENCE
        told = packet.track_descriptor
        told.uuid = _uuid(recording, track)
        if not track.device and track.key not in seen:
            seen.add(track.key)
            told.thread.pid = _id(recording.pid)
            told.thread.tid = _id(track.key)
            told.thread.thread_name = track.name
        else:
            # A second track of a thread is one of the process: a thread has one.
            told.name = track.name
            told.parent_uuid = _uuid(recording, _DEVICE if track.device else "process")
        builder.write_packet(packet)


def _in_time(tracks: list[Track]) -> Iterator[tuple[int, Track, bool, Slice]]:
    """Beginnings and ends of all tracks by time; within a track as they nest."""
    rows = [
        ((time_ns, row, order), track, begins, one)
        for row, track in enumerate(tracks)
        for order, (time_ns, begins, one) in enumerate(_edges(track))
    ]
    rows.sort(key=lambda found: found[0])
    for (time_ns, _, _), track, begins, one in rows:
        yield time_ns, track, begins, one


def _edges(track: Track) -> Iterator[tuple[int, bool, Slice]]:
    """The same of one track: what ends, ends before the next begins."""
    stack: list[Slice] = []
    for one in track.slices:
        while stack and stack[-1].end_ns <= one.start_ns:
            done = stack.pop()
            yield done.end_ns, False, done
        stack.append(one)
        yield one.start_ns, True, one
    while stack:
        done = stack.pop()
        yield done.end_ns, False, done


def _tell(event: TrackEvent, one: Slice) -> None:
    """Name, category, facts and the arrow to what belongs to it."""
    event.name = one.name
    event.categories.append(one.category)
    if one.error:
        event.categories.append("error")
    if one.flow is not None:
        event.flow_ids.append(one.flow + 1 & _MOST_64)
    for name, value in one.facts.items():
        note = event.debug_annotations.add()
        note.name = name
        if isinstance(value, str):
            note.string_value = value
        elif value < 0:
            note.int_value = max(value, -1 << 63)
        else:
            note.uint_value = min(value, _MOST_64)
