# SPDX-License-Identifier: Apache-2.0
"""The CUDA driver API and NVML as rows of data."""

from __future__ import annotations

__all__: list[str] = []
