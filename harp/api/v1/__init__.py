# SPDX-License-Identifier: Apache-2.0
"""Version 1 of the API; the protos are the contract."""

from __future__ import annotations

__all__: list[str] = []
