# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' scheduler extender: which node has the share on one GPU, and binding to it."""

from __future__ import annotations

__all__: list[str] = []
