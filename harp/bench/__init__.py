# SPDX-License-Identifier: Apache-2.0
"""HARP measured from outside: shares, latency, and its own cost."""

from __future__ import annotations

from harp.bench.overhead import overhead
from harp.bench.share import run_share

__all__ = ["overhead", "run_share"]
