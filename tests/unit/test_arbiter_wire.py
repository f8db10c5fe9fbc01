# SPDX-License-Identifier: Apache-2.0
"""The C header and its Python mirrors agree: sizes, offsets, numbers."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from arbiter_core import NATIVE
from arbiter_core import Msg as CtypesMsg

from harp import lease_wire
from harp.lease_wire import ALIASES, Deny, Gate, Kind, Lane, MemClass, Msg, Op, Residency

HEADER = NATIVE / "include" / "harp" / "lease.h"
ENUMS = {
    "harp_kind": (Kind, "HARP_KIND_"),
    "harp_lane": (Lane, "HARP_LANE_"),
    "harp_mem_class": (MemClass, "HARP_MEM_"),
    "harp_deny": (Deny, "HARP_DENY_"),
    "harp_gate": (Gate, "HARP_GATE_"),
    "harp_residency": (Residency, "HARP_"),
    "harp_op": (Op, "HARP_"),
}

MACROS = ("VERSION", "MSG_BYTES", "NAME_BYTES", "GRANULE_BYTES", "ALL_DEVICES", "TIME_LANES")
MACROS += ("OLDEST", "GRANT_NO_GANG", "GRANT_OVERSUBSCRIBE", "TOGETHER")
MACROS += ("STANDING_CREDIT", "STANDING_LIMIT")


def c_name(field: str) -> str:
    """`bytes` is a type in Python."""
    return "bytes" if field == "amount_bytes" else field


def text_without_comments() -> str:
    return re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)


def names_in(enum: str) -> list[str]:
    body = re.search(rf"enum {enum} \{{(.*?)\}}", text_without_comments(), re.DOTALL)
    assert body, enum
    return re.findall(r"\b(HARP_\w+)", re.sub(r"=[^,]*", "", body[1]))


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """What the C compiler says of the header."""
    folder: Path = tmp_path_factory.mktemp("wire")
    offsets = "".join(
        f'P("offset {c_name(f)}", offsetof(struct harp_msg, {c_name(f)}));' for f in Msg._fields
    )
    offsets += "".join(f'P("offset {n}", offsetof(struct harp_msg, {n}));' for n in ALIASES)
    numbers = "".join(f'P("{name}", {name});' for enum in ENUMS for name in names_in(enum))
    macros = MACROS
    defines = "".join(
        f'P("{m}", HARP_{"LEASE_" if m in ("VERSION", "OLDEST") else ""}{m});' for m in macros
    )
    (folder / "facts.c").write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <harp/lease.h>\n"
        '#define P(n, v) printf("%s=%llu\\n", n, (unsigned long long)(v))\n'
        f'int main(void) {{ P("size", sizeof(struct harp_msg)); {offsets}{numbers}{defines} }}\n'
    )
    subprocess.run(
        ["cc", f"-I{NATIVE / 'include'}", "facts.c", "-o", "facts"], cwd=folder, check=True
    )
    out = subprocess.run([folder / "facts"], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in (line.split("=") for line in out.splitlines())}


def test_sizes_and_macros(facts: dict[str, int]) -> None:
    assert facts["size"] == lease_wire.MSG_BYTES == len(Msg(op=Op.HELLO).pack())
    for name in MACROS:
        assert facts[name] == getattr(lease_wire, name), name


@pytest.mark.parametrize("field", list(Msg._fields))
def test_offset_of_each_field(facts: dict[str, int], field: str) -> None:
    """Found by packing: the mirror writes a value there and nowhere else."""
    value: int | bytes | str = {"uuid": b"\xaa" * 16, "text": "z" * 63}.get(field, 0x5A)
    empty = Msg(op=0).pack()
    packed = Msg(**{"op": 0, field: value}).pack()
    first = next(i for i in range(len(packed)) if packed[i] != empty[i])
    assert first == facts[f"offset {c_name(field)}"]
    assert getattr(Msg.unpack(packed), field) == value


def test_the_header_has_no_field_that_the_mirror_lacks() -> None:
    body = re.search(r"struct harp_msg \{(.*?)\n\};", text_without_comments(), re.DOTALL)
    assert body
    declared = re.findall(r"(\w+)(?:\[\w+\])?\s*[,;]", body[1])
    mirrored = ["version", *map(c_name, Msg._fields), *ALIASES]
    assert sorted(declared) == sorted(mirrored)


@pytest.mark.parametrize("name", sorted(ALIASES))
def test_names_that_share_a_place(facts: dict[str, int], name: str) -> None:
    other = ALIASES[name]
    assert facts[f"offset {name}"] == facts[f"offset {other}"]
    assert getattr(Msg(**{"op": 0, other: 7}), name) == 7


def test_the_ctypes_mirror_of_these_tests(facts: dict[str, int]) -> None:
    for name, *_ in CtypesMsg._fields_:
        if name != "version":
            assert getattr(CtypesMsg, name).offset == facts[f"offset {name}"], name


@pytest.mark.parametrize("enum", sorted(ENUMS))
def test_numbers_of_each_enum(facts: dict[str, int], enum: str) -> None:
    mirror, prefix = ENUMS[enum]
    names = [n for n in names_in(enum) if n != "HARP_MEM_CLASSES"]
    assert {n.removeprefix(prefix): facts[n] for n in names} == {m.name: m.value for m in mirror}
