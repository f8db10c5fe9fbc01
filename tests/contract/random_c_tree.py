# SPDX-License-Identifier: Apache-2.0
"""A C program as a tree: what a generator builds, what a reducer cuts, and its text.

Every expression has a type of its own and every part is in parentheses, so any expression may
stand for any other of its type. A statement that must not be torn apart (a store to shared memory,
the barrier and the load behind it) is one node.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

INTEGERS = {"i8": 8, "u8": 8, "i16": 16, "u16": 16, "i32": 32, "u32": 32, "i64": 64, "u64": 64}
FLOATS = ("f32", "f64")
TYPES = (*INTEGERS, *FLOATS)


def _fill(form: str, texts: list[str]) -> str:
    """What has no text yet keeps its place for later."""
    return re.sub(r"\$(\d)", lambda m: texts[int(m[1])] if int(m[1]) < len(texts) else m[0], form)


@dataclass(frozen=True, slots=True)
class Expr:
    """`form` with $0, $1... for its parts."""

    type: str
    form: str
    parts: tuple[Expr, ...] = ()

    def text(self) -> str:
        return _fill(self.form, [part.text() for part in self.parts])


@dataclass(frozen=True, slots=True)
class Stmt:
    """Text around blocks: pieces[0] block[0] pieces[1] block[1] ... pieces[-1].

    $0, $1... in any piece are the expressions. A `whole` statement stays as it is or goes.
    """

    pieces: tuple[str, ...]
    exprs: tuple[Expr, ...] = ()
    blocks: tuple[tuple[Stmt, ...], ...] = ()

    def lines(self, indent: int) -> Iterator[str]:
        texts = [expr.text() for expr in self.exprs]
        for i, piece in enumerate(self.pieces):
            yield "    " * indent + _fill(piece, texts)
            if i < len(self.blocks):
                for stmt in self.blocks[i]:
                    yield from stmt.lines(indent + 1)


@dataclass(frozen=True, slots=True)
class Program:
    """A kernel for `blocks` blocks of `threads` threads.

    Attributes:
        functions: of the device, in order; those that nothing mentions are left out of the text.
        body: of the kernel.
        level: of the optimizer for PTX, as in -O2.
        sm: compute capability the PTX is for.
    """

    blocks: int
    threads: int
    functions: tuple[tuple[str, Stmt], ...]
    body: tuple[Stmt, ...]
    level: str = "2"
    sm: int = 70

    @property
    def count(self) -> int:
        return self.blocks * self.threads

    def text(self) -> str:
        kernel = "\n".join(line for stmt in self.body for line in stmt.lines(1))
        wanted = [kernel]
        kept = []
        for name, function in reversed(self.functions):
            text = "\n".join(function.lines(0))
            if any(re.search(rf"\b{name}\b", other) for other in wanted):
                wanted.append(text)
                kept.append(text)
        head = f"#define THREADS {self.threads}u\n#define BLOCKS {self.blocks}u"
        return "\n\n".join(
            [head, '#include "random_c.h"', *reversed(kept), "KERNEL\n{\n" + kernel + "\n}\n"]
        )

    def with_body(self, body: tuple[Stmt, ...]) -> Program:
        return replace(self, body=body)


def statements(block: tuple[Stmt, ...]) -> int:
    """How many there are, inner ones counted."""
    return sum(1 + sum(map(statements, stmt.blocks)) for stmt in block)
