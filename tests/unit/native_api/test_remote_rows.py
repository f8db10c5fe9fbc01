# SPDX-License-Identifier: Apache-2.0
"""What the client of remote sessions has to have by hand, it has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from native.api import cuda, marshal
from native.api.model import Symbol
from native.api.wire import Call, Field, Item
from native.gen import emit_remote

FOLDER = Path(__file__).resolve().parents[3] / "native" / "src" / "shim" / "remote"
_SOURCE = "\n".join(path.read_text() for path in sorted(FOLDER.glob("*.c")))
_BY_HAND = set(re.findall(r"^CUresult harp_remote_(cu\w+)\(", _SOURCE, re.MULTILINE))
#: FILL and RECTANGLE of copy.c make two of a name
_BY_HAND |= {
    f"{name}{end}"
    for name in re.findall(r"^(?:FILL|RECTANGLE)\((\w+),", _SOURCE, re.MULTILINE)
    for end in ("_v2", "Async")
}

#: structs of which a program's own form never crosses
_PREPARED = (
    "struct harp_wire_packed",
    "struct harp_wire_image",
    "CUDA_HOST_NODE_PARAMS_v1",
    "CUDA_HOST_NODE_PARAMS_v2",
)


def _holds(fields: tuple[Field, ...]) -> bool:
    for f in fields:
        if f.type in _PREPARED:
            return True
        inner = (
            marshal.program_of(f.type).fields
            if isinstance(f.type, str) and f.item in (Item.STRUCT, Item.CASE)
            else ()
        )
        if _holds(inner) or any(_holds(case) for _, case in f.cases):
            return True
    return False


@pytest.mark.parametrize("name", emit_remote.LOCAL)
def test_what_is_never_sent_is_written(name: str) -> None:
    assert name in _BY_HAND


@pytest.mark.parametrize(
    "call", [c for c in marshal.CALLS if c.name.startswith("cu")], ids=lambda c: c.name
)
def test_what_is_prepared_is_written(call: Call) -> None:
    """Else the codec would take the program's pointer for what only the client can put there."""
    if call.prepared or _holds(call.program.fields):
        assert call.name in _BY_HAND


def test_what_is_written_is_exported() -> None:
    names = {s.name for s in cuda.SYMBOLS}
    assert names >= _BY_HAND
    twins: list[Symbol] = [s for s in cuda.SYMBOLS if s.plain and s.name in _BY_HAND]
    assert twins == []  # a twin goes to what is written for its plain one
