# SPDX-License-Identifier: Apache-2.0
"""NVML as a whole: all functions, those with prototypes, those the software GPU implements."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from native.api.model import Param, params
from native.api.nvml_calls import CALLS
from native.api.nvml_names import NAMES
from native.api.nvml_types import CONSTS, TYPES

__all__ = ["CONSTS", "FUNCTIONS", "SYMBOLS", "TYPES", "NvmlFunction", "implemented"]

NOT_SUPPORTED = 3  # NVML_ERROR_NOT_SUPPORTED


@dataclass(frozen=True, slots=True)
class NvmlFunction:
    """One exported function. NVML has no look-up by version: every generation is its own symbol."""

    name: str
    params: tuple[Param, ...] | None  # None: prototype not needed by us
    ret: str = "nvmlReturn_t"
    fail: int = NOT_SUPPORTED

    @property
    def args(self) -> str:
        """The parameter list in C."""
        return ", ".join(p.decl for p in self.params or ()) or "void"


def _calls() -> list[NvmlFunction]:
    rows = re.findall(r"^(\w+) \(([^)]*)\)$", CALLS, re.MULTILINE)
    if len(rows) != sum(1 for line in CALLS.splitlines() if line):
        raise ValueError("nvml_calls: a line is not `name (parameters)`")
    return [NvmlFunction(name, params(args)) for name, args in rows]


#: All functions in strcmp order.
FUNCTIONS: tuple[NvmlFunction, ...] = tuple(
    sorted(
        [
            *_calls(),
            NvmlFunction("nvmlErrorString", params("nvmlReturn_t result"), "const char *"),
            *(NvmlFunction(name, None) for name in NAMES.split()),
        ],
        key=lambda f: f.name.encode(),
    )
)

#: Their names.
SYMBOLS: tuple[str, ...] = tuple(f.name for f in FUNCTIONS)

if len(set(SYMBOLS)) != len(SYMBOLS):
    raise ValueError("an NVML function is listed twice")


def implemented() -> frozenset[str]:
    """Names that native/soft/nvml implements by hand.

    Raises:
        ValueError: for a name that has no row, or is listed twice.
    """
    seen: set[str] = set()
    for line in (Path(__file__).parent / "soft_implemented_nvml.txt").read_text().splitlines():
        name = line.split("#")[0].strip()
        if not name:
            continue
        if name not in SYMBOLS or name in seen:
            raise ValueError(f"soft_implemented_nvml.txt: {name}: unknown or listed twice")
        seen.add(name)
    return frozenset(seen)
