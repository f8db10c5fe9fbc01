# SPDX-License-Identifier: Apache-2.0
"""The command line."""

from __future__ import annotations

__all__: list[str] = []
