# SPDX-License-Identifier: Apache-2.0
"""HARP splits a GPU's memory and time among containers and plain jobs."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
