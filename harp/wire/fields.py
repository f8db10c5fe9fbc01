# SPDX-License-Identifier: Apache-2.0
"""What the tables are made of: native/src/wire/table.h in Python."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["IN", "OUT", "Field", "Op"]

IN, OUT = 1, 2


@dataclass(frozen=True, slots=True)
class Field:
    """A parameter, or a member of a struct."""

    name: str
    item: str  # SCALAR, HANDLE, ...: enum harp_wire_item
    hold: str  # VALUE, POINTER, LENT, LENT_AT
    dir: int  # IN, OUT or both
    kind: int | str = 0  # bytes of a scalar; kind of a handle; struct; enum that gives meanings
    new: bool = False  # a handle that the call makes
    length: str = "FIXED"
    fixed: int = 1
    by: tuple[str, ...] = ()
    less: int = 0
    tag: str = ""
    cases: dict[int, tuple[Field, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Op:
    """One op."""

    number: int
    name: str  # the driver's symbol, or harp...
    cls: str  # async, sync, cached
    always: bool  # outputs count also when the result is an error
    fields: tuple[Field, ...]
