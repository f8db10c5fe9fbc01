# SPDX-License-Identifier: Apache-2.0
"""What kubelet speaks: our description of its protocols, and the generated stubs."""

from __future__ import annotations

__all__: list[str] = []
