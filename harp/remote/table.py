# SPDX-License-Identifier: Apache-2.0
"""What this HARP describes CUDA calls by: both sides of a session must have the same."""

from __future__ import annotations

from harp import __version__
from harp.api.v1 import remote_pb2 as pb
from harp.wire import CUDA, FORMAT, TABLE_HASH

__all__ = ["own_table"]


def own_table() -> pb.TableId:
    """Ours."""
    return pb.TableId(format=FORMAT, cuda=CUDA, hash=bytes.fromhex(TABLE_HASH), version=__version__)
