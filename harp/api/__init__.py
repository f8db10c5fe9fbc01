# SPDX-License-Identifier: Apache-2.0
"""The control API: protos and their generated stubs."""

from __future__ import annotations

__all__: list[str] = []
