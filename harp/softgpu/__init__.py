# SPDX-License-Identifier: Apache-2.0
"""The software GPU by itself: for projects that want a CUDA driver in their CI, without HARP.

`python -m harp.softgpu -- CMD` runs a program on a private one; the pytest fixture `softgpu`
(`pytest_plugin.py`) gives one to tests. `python -m harp.softgpu doc` says what it can and cannot.
"""

from __future__ import annotations

from harp.softgpu.machine import PROFILES, SoftGpu, binaries, software_gpu

__all__ = ["PROFILES", "SoftGpu", "binaries", "software_gpu"]
