# SPDX-License-Identifier: Apache-2.0
"""The demo: programs that know nothing of HARP train side by side on one software GPU.

Each tenant is `harp run --mem M --share S -- python digits.py`. Once all of them train, their use
of the engine is read from the engine's own ledger at both ends of a common window; then they are
told to stop, and the same program trains again on the CPU, with the same seeds, for comparison.
"""

from __future__ import annotations

from harp.demo.scene import run
from harp.demo.table import table

__all__ = ["run", "table"]
