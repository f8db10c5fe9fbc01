# SPDX-License-Identifier: Apache-2.0
"""Bodies of calls, as remote sessions and traces have them: read and written from Python."""

from __future__ import annotations

from harp.errors import WireError
from harp.wire._tables import CUDA, FORMAT, SYMBOLS, TABLE_HASH
from harp.wire.codec import (
    OPS,
    Transfer,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)

__all__ = [
    "CUDA",
    "FORMAT",
    "OPS",
    "SYMBOLS",
    "TABLE_HASH",
    "Transfer",
    "WireError",
    "decode_reply",
    "decode_request",
    "encode_reply",
    "encode_request",
]
