# SPDX-License-Identifier: Apache-2.0
"""HARP's device plugin for kubelet: parts of GPUs as `harp.dev/gpu-share`."""

from __future__ import annotations

__all__: list[str] = []
