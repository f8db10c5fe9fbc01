# SPDX-License-Identifier: Apache-2.0
"""Everything compiled, and what writes part of it."""

from __future__ import annotations

__all__: list[str] = []
