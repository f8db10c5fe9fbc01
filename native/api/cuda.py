# SPDX-License-Identifier: Apache-2.0
"""The CUDA driver API as a whole: all rows, all types, and look-ups over them."""

from __future__ import annotations

from native.api.model import Function, Symbol
from native.api.rows import ROWS
from native.api.types import CONSTS, TYPES

__all__ = ["CONSTS", "FUNCTIONS", "SYMBOLS", "TYPES", "VERSION", "function_of"]

#: The CUDA version whose driver these rows describe.
VERSION = 13000

#: Rows in the order of their names.
FUNCTIONS: tuple[Function, ...] = tuple(sorted(ROWS, key=lambda row: row.name))

_OWNER: dict[str, Function] = {s.name: row for row in FUNCTIONS for s in row.symbols}

#: Exported symbols in strcmp order: the index in this tuple is the symbol's number everywhere.
SYMBOLS: tuple[Symbol, ...] = tuple(
    sorted((s for row in FUNCTIONS for s in row.symbols), key=lambda s: s.name.encode())
)

if len(_OWNER) != len(SYMBOLS):
    raise ValueError("two rows export the same symbol")


def function_of(symbol: str) -> Function:
    """The row that exports a symbol."""
    return _OWNER[symbol]
