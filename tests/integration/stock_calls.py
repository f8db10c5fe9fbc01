# SPDX-License-Identifier: Apache-2.0
"""Calls of a session in frames, for clients that are a stock gRPC library and no link."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ring_client import NUMBERS

from harp.api.v1 import session_pb2 as pb
from harp.wire import decode_reply, encode_request

#: op of an acknowledgement
TAKEN = 2


def call_frame(seq: int, name: str, values: Mapping[str, Any]) -> pb.Frame:
    """A call that is waited for."""
    op = NUMBERS[name]
    body = encode_request(op, values)
    return pb.Frame(seq=seq, op=op, flags=pb.FRAME_FLAG_WANTED, lane=1, body=body)


def reply_of(
    frames: Iterator[pb.Frame], seq: int, name: str, values: Mapping[str, Any]
) -> dict[str, Any]:
    """What the call's reply says: acknowledgements and bytes of transfers are passed over."""
    frame = next(frames)
    while frame.op == TAKEN or frame.flags & pb.FRAME_FLAG_BULK:
        frame = next(frames)
    assert (frame.op, frame.ack) == (NUMBERS[name], seq)
    if len(frame.body) == 4:
        assert frame.body == bytes(4), name
        return dict(values)
    result, answer = decode_reply(frame.op, dict(values), frame.body)
    assert result == 0, name
    return answer
