# SPDX-License-Identifier: Apache-2.0
"""Which symbols the software GPU implements: text files beside this one, one name per line."""

from __future__ import annotations

from pathlib import Path

from native.api import cuda

_HERE = Path(__file__).parent
FILES = tuple(
    path.name
    for path in sorted(_HERE.glob("soft_implemented_*.txt"))
    if path.name != "soft_implemented_nvml.txt"
)


def implemented() -> frozenset[str]:
    """Names of the implemented symbols.

    Raises:
        ValueError: for a name that no row exports, or that is listed twice.
    """
    seen: set[str] = set()
    known = {s.name for s in cuda.SYMBOLS}
    for file in FILES:
        for line in (_HERE / file).read_text().splitlines():
            name = line.split("#")[0].strip()
            if not name:
                continue
            if name not in known:
                raise ValueError(f"{file}: {name}: no row exports this symbol")
            if name in seen:
                raise ValueError(f"{file}: {name}: listed twice")
            seen.add(name)
    return frozenset(seen)
