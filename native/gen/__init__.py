# SPDX-License-Identifier: Apache-2.0
"""Emitters: from rows to C."""

from __future__ import annotations

__all__: list[str] = []
