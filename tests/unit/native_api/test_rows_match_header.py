# SPDX-License-Identifier: Apache-2.0
"""The rows say what NVIDIA's headers say: symbols, versions, prototypes, layouts, values."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from header_facts import INCLUDES, TYPEDEFS, Compile, Header

from native.api import cuda
from native.api.model import Type

ROOT = Path(__file__).resolve().parents[3]
#: Names the graphics headers bring: not in NVIDIA's files.
FOREIGN_TYPES = re.compile(r"^(GL(uint|enum)|EGL(int|ImageKHR|StreamKHR|SyncKHR)|Vdp\w+)$")


def declared(header: Header, compile_c: Compile, tmp_path: Path) -> set[str]:
    done = compile_c(INCLUDES, "-E", "-P", *header.flags)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out").read_text()
    return set(re.findall(r"CUresult\s+(cu[A-Z]\w+)\s*\(", text))


def described() -> set[str]:
    return {s.name for s in cuda.SYMBOLS if not s.name.startswith("cudbg")}


def test_rows_export_exactly_the_symbols_that_the_headers_declare(
    header: Header, compile_c: Compile, tmp_path: Path
) -> None:
    names = declared(header, compile_c, tmp_path)
    assert len(names) > 650
    assert described() - names == set()
    assert names - described() == set()


def test_versions_are_those_of_the_typedefs(header: Header) -> None:
    ours = {(r.name, s.since, s.per_thread) for r in cuda.FUNCTIONS for s in r.symbols if s.since}
    assert ours == header.pfn()


def test_each_version_has_the_prototype_of_its_typedef(header: Header, compile_c: Compile) -> None:
    """The compiler compares: a symbol may only initialise a pointer of its own type."""
    lines = [INCLUDES, *(f"#include <{stem}Typedefs.h>" for stem in TYPEDEFS)]
    for row in cuda.FUNCTIONS:
        for s in row.symbols:
            if s.since:
                twin = s.name[-5:] if s.per_thread else ""
                lines.append(f"PFN_{row.name}_v{s.since}{twin} const is_{s.name} = {s.name};")
    done = compile_c("\n".join(lines), "-c", "-Werror=incompatible-pointer-types", *header.flags)
    assert done.returncode == 0, done.stderr[:2000]


def test_prototypes_agree_when_both_are_declared(header: Header, compile_c: Compile) -> None:
    """The compiler compares: a second declaration must be of the same type."""
    ours = "\n".join(
        f"{row.ret} {s.name}({s.args});" for row in cuda.FUNCTIONS for s in row.symbols
    )
    done = compile_c(INCLUDES + ours, "-c", *header.flags)
    assert done.returncode == 0, done.stderr[:2000]


def test_a_wrong_prototype_would_be_seen(header: Header, compile_c: Compile) -> None:
    done = compile_c(INCLUDES + "CUresult cuMemFree_v2(unsigned int p);", "-c", *header.flags)
    assert done.returncode != 0


def members(item: Type) -> list[str]:
    """Names of the outermost members of a struct."""
    body = re.sub(r"__attribute__\(\(.*?\)\)\)", "", item.body)
    while "{" in body:
        body = re.sub(r"(struct|union)\s*\{[^{}]*\}", "int", body)
    last = (
        re.search(r"(\w+)(\[\w+\])*\s*$", part)
        for declaration in body.split(";")
        for part in declaration.split(",")
    )
    return [match[1] for match in last if match and match[1] != "int"]


def facts() -> str:
    """A program that prints every size, offset and value that the rows speak of."""
    lines = ["#include <stdio.h>", "#include <stddef.h>", "int main(void) {"]
    for item in cuda.TYPES:
        if FOREIGN_TYPES.match(item.name):
            continue
        lines.append(f'printf("{item.name} %zu\\n", sizeof({item.name}));')
        if item.kind in ("struct", "union"):
            lines += [
                f'printf("{item.name}.{field} %zu %zu\\n", offsetof({item.name}, {field}), '
                f"sizeof((({item.name} *)0)->{field}));"
                for field in members(item)
            ]
        lines += [f'printf("{name} %lld\\n", (long long){name});' for name, _ in item.members]
    lines += [f'printf("{c.name} %lld\\n", (long long){c.name});' for c in cuda.CONSTS]
    return "\n".join([*lines, "return 0; }"])


def test_sizes_offsets_and_values_are_the_same(
    header: Header, compile_c: Compile, tmp_path: Path
) -> None:
    text = facts()
    outputs = []
    for includes, flags in (
        (INCLUDES, header.flags),
        ('#include "generated/cuda_abi.h"\n', (f"-I{ROOT / 'native'}",)),
    ):
        done = compile_c(includes + text, *flags)
        assert done.returncode == 0, done.stderr[:2000]
        outputs.append(
            subprocess.run([tmp_path / "out"], capture_output=True, text=True, check=True).stdout
        )
    theirs, ours = (o.splitlines() for o in outputs)
    assert len(ours) > 1700
    assert [pair for pair in zip(theirs, ours, strict=True) if pair[0] != pair[1]] == []


def test_every_enum_value_of_the_header_is_in_the_rows(
    header: Header, compile_c: Compile, tmp_path: Path
) -> None:
    done = compile_c(INCLUDES, "-E", "-P", *header.flags)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out").read_text()
    bodies = re.findall(r"enum\s+CU\w+\s*\{([^}]*)\}|enum\s+cudaError_enum\s*\{([^}]*)\}", text)
    names = {
        m[1]
        for pair in bodies
        for part in "".join(pair).split(",")
        if (m := re.match(r"\s*(C\w+)", part))
    }
    assert len(names) > 900
    assert names - {name for t in cuda.TYPES for name, _ in t.members} == set()
