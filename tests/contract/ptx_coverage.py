# SPDX-License-Identifier: Apache-2.0
"""native/soft/ptxc/COVERAGE.md: the instruction table, who tests each form, what is refused.

    python tests/contract/ptx_coverage.py [--check]

From text alone: that what is listed as refused is refused, test_ptx_coverage.py sees.
"""

from __future__ import annotations

import importlib
import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ptx_refused
from ptx_rows import BYTES, Row

HERE = Path(__file__).parent
PTXC = HERE.parents[1] / "native" / "soft" / "ptxc"
PAGE = PTXC / "COVERAGE.md"
STRING = r'"(?:[^"\\]|\\.)*"'
# What the modifiers of a table row may stand for, besides types and words.
TYPES = frozenset({*BYTES, "b128", "e4m3x2", "e5m2x2", "texref", "samplerref", "surfref"})


@dataclass(frozen=True)
class Form:
    """A row of ops.c."""

    op: str
    types: tuple[str, ...]
    mods: str

    def takes(self, instruction: str) -> bool:
        """Is the instruction, with its modifiers, of this form? As ops.c matches them."""
        op, *words = instruction.split(".")
        kinds = [w for w in words if w in TYPES]
        others = [w for w in words if w not in TYPES]
        if op != self.op:
            return False
        if self.types != ("*",) and (
            bool(kinds) != bool(self.types) or (kinds and kinds[-1] not in self.types)
        ):
            return False
        if self.mods == "*":
            return True
        for group in self.mods.split():
            found = [w for w in others if w in group.rstrip("?").split("|")]
            if not found and not group.endswith("?"):
                return False
            if found:
                others.remove(found[0])
        return not others


def forms() -> list[Form]:
    """The table, in its order, from the C text."""
    text = (PTXC / "ops.c").read_text()
    macros = {
        name: "".join(part.strip('"') for part in re.findall(STRING, body))
        for name, body in re.findall(r"#define (\w+)\s+((?:.*\\\n)*.*)\n", text)
    }

    def plain(expression: str) -> str:
        parts = re.findall(rf"{STRING}|\w+", expression)
        return "".join(p[1:-1] if p[0] == '"' else macros[p] for p in parts)

    table = text[text.index("ptx_rows[] = {") : text.index("ptx_row_count")]
    found = []
    for line in re.findall(r"^    \{(.*)\},$", table, re.MULTILINE):
        op, types, mods = (plain(p) for p in re.split(rf",(?=(?:[^\"]|{STRING})*$)", line)[:3])
        found.append(Form(op, tuple(types.split()), mods))
    return found


def rows() -> Iterator[Row]:
    """The conformance tables."""
    opcodes, reals, narrow = (
        importlib.import_module(f"test_ptx_{name}") for name in ("opcodes", "float", "narrow")
    )
    tables: list[Iterator[Row]] = [
        *(make() for make in (opcodes.arithmetic, opcodes.carry, opcodes.bits)),
        *(make() for make in (opcodes.compare, opcodes.conversions)),
        *(make() for make in reals.TABLES.values()),
        *(make() for make in (narrow.eights, narrow.satfinite, narrow.signs)),
    ]
    yield from itertools.chain(*tables)


def instructions_of(row: Row) -> Iterator[str]:
    """A row's instructions, with their modifiers."""
    for statement in row.text.split(";"):
        words = [w for w in statement.split() if w[0] not in "@{}"]
        if words and words[0][0] != ".":
            yield words[0]


def mentions() -> dict[str, set[str]]:
    """Instructions in the other tests' PTX: as written, modifiers and all -> tests that have it."""
    products = importlib.import_module("test_ptx_threads").MMA
    found: dict[str, set[str]] = {f"mma.sync.aligned.{form}": {"threads"} for form in products}
    for path in sorted(HERE.glob("test_ptx_*.py")):
        name = path.stem.removeprefix("test_ptx_")
        if name not in {"opcodes", "float", "errors", "alone"}:  # the last runs nothing
            for text in re.findall(
                r"(?<![\w%$.])([a-z][a-z0-9]*(?:\.[\w:]+)*)(?=[; \"])", path.read_text()
            ):
                found.setdefault(text, set()).add(name)
    return found


def tested() -> list[tuple[Form, int, list[str]]]:
    """Each form, how many rows it has, which other tests have it."""
    known = forms()
    counts = dict.fromkeys(range(len(known)), 0)
    for name in itertools.chain.from_iterable(map(instructions_of, rows())):
        matching = [i for i, form in enumerate(known) if form.takes(name)]
        assert matching, f"no form takes {name}"
        counts[matching[0]] += 1
    elsewhere = mentions()
    out = []
    for i, form in enumerate(known):
        places: set[str] = set()
        if not counts[i]:
            places.update(*(where for text, where in elsewhere.items() if form.takes(text)))
        out.append((form, counts[i], sorted(places)))
    return out


def table() -> Iterator[str]:
    found = tested()
    yield f"{len(found)} forms; {sum(n for _, n, _ in found)} instructions in the tables."
    yield ""
    yield "| instruction | types | modifiers | rows | other tests |"
    yield "|---|---|---|---|---|"
    for form, count, places in found:
        mods = form.mods.replace("|", r"\|")
        yield (
            f"| {form.op} | {' '.join(form.types)} | {mods} | {count or ''} | {' '.join(places)} |"
        )


def page() -> str:
    lines = [
        "<!-- made by tests/contract/ptx_coverage.py -->",
        "# PTX that harp-ptxc knows",
        "",
        "A form is a row of `ops.c`: `*` is decided by a function, `a|b` is one of them, `?` may",
        "be missing. A row of the conformance tables is an instruction with its own model in",
        "Python, over edge cases and random bits; other tests are `tests/contract/test_ptx_*.py`.",
        "Besides, `test_ptx_corpus.py` runs what clang makes of some 50 kernels, and",
        "`test_ptx_builtins.py` compiles what it prints for each of its NVPTX built-ins,",
        "`test_ptx_intrinsics.py` what LLVM prints for the intrinsics that have none.",
        "",
        *table(),
        "",
        "## Refused by name",
        "",
        "These exist for sm_70 to sm_90, and a kernel that has one is refused with its line.",
        "",
    ]
    for group, instructions in ptx_refused.GROUPS.items():
        lines.append(
            f"- {group}: " + ", ".join(f"`{i.split(maxsplit=1)[0]}`" for i in instructions)
        )
    lines += [
        "- calls of the device's runtime (`cuda*`, `cnp*`) but for `vprintf`, `__assertfail`,",
        "  `malloc`, `free`, `cudaCGGetIntrinsicHandle`, `cudaCGSynchronize`; variables of",
        "  textures, samplers and surfaces; `.reqnctapercluster` and its like; `.reg` parameters;",
        "  32-bit generic addresses (`cvta.u32`, `isspacep` of 32 bits).",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        sys.exit(
            f"{PAGE} is not what the tables say; remedy: python tests/contract/ptx_coverage.py"
        )


if __name__ == "__main__":
    main()
