# SPDX-License-Identifier: Apache-2.0
"""HARP's own cost, measured from outside."""

from __future__ import annotations

from harp.bench.overhead import overhead

__all__ = ["overhead"]
