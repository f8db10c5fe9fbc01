# SPDX-License-Identifier: Apache-2.0
"""Makes a failing random C program small: cuts what it can do without and still fail."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from random_c_tree import Expr, Program, Stmt

Block = tuple[Stmt, ...]


def reduced(program: Program, fails: Callable[[Program], bool], tries: int) -> Program:
    """The smallest program found that fails still.

    Args:
        fails: whether a candidate fails in the way that is looked for; one that is no program at
            all does not.
        tries: how many candidates are tried at most.
    """
    tried: set[str] = set()
    cut = True
    while cut and tries > 0:
        cut, skip = False, 0
        while True:
            # What was in vain before a success is not tried again before the next round.
            for at, candidate in enumerate(smaller(program)):
                text = candidate.text()
                if 0 < at < skip or text in tried or not _less(candidate, program):
                    continue
                tried.add(text)
                tries -= 1
                if fails(candidate):
                    program, cut, skip = candidate, True, at
                    break
                if tries <= 0:
                    return program
            else:
                break
    return program


def _less(one: Program, other: Program) -> bool:
    return (one.count, len(one.text())) < (other.count, len(other.text()))


def smaller(program: Program) -> Iterator[Program]:
    """What one cut makes of it, big cuts first. Not all of them are programs."""
    yield replace(program, body=_without_idle(program.body))
    for count in sorted({1, program.blocks // 2} - {0, program.blocks}):
        yield replace(program, blocks=count)
    for body in _chunks(program.body):
        yield replace(program, body=body)
    for i in range(len(program.functions)):
        yield replace(program, functions=program.functions[:i] + program.functions[i + 1 :])
    for count in (1, 2, 32, 64):
        if count < program.threads:
            yield replace(program, threads=count)
    for body in _parts(program.body):
        yield replace(program, body=body)
    for i, (name, function) in enumerate(program.functions):
        for changed in _inside(function):
            yield replace(
                program,
                functions=(*program.functions[:i], (name, changed), *program.functions[i + 1 :]),
            )


def _without_idle(body: Block) -> Block:
    """Without the variables that nothing else names, all at once."""
    texts = ["\n".join(stmt.lines(0)) for stmt in body]
    kept = []
    for i, stmt in enumerate(body):
        name = re.fullmatch(r"(?:volatile )?\w+ (v\d+) = \$0;", stmt.pieces[0])
        others = (text for k, text in enumerate(texts) if k != i)
        if not name or any(re.search(rf"\b{name[1]}\b", text) for text in others):
            kept.append(stmt)
    return tuple(kept)


def _chunks(block: Block) -> Iterator[Block]:
    size = len(block) // 2
    while size >= 1:
        for at in range(len(block) - 1, -1, -size):
            yield block[: max(0, at + 1 - size)] + block[at + 1 :]
        size //= 2
    if len(block) == 1:
        yield ()


def _parts(block: Block) -> Iterator[Block]:
    """One statement is something less."""
    for i, stmt in enumerate(block):
        for inner in stmt.blocks:
            yield block[:i] + inner + block[i + 1 :]
        for changed in _inside(stmt):
            yield (*block[:i], changed, *block[i + 1 :])


def _inside(stmt: Stmt) -> Iterator[Stmt]:
    for i, block in enumerate(stmt.blocks):
        for inner in (*_chunks(block), *_parts(block)):
            yield replace(stmt, blocks=(*stmt.blocks[:i], inner, *stmt.blocks[i + 1 :]))
    for i, expr in enumerate(stmt.exprs):
        for simpler in expressions(expr):
            yield replace(stmt, exprs=(*stmt.exprs[:i], simpler, *stmt.exprs[i + 1 :]))


def expressions(expr: Expr) -> Iterator[Expr]:
    """A constant, an inner expression of the same type, or the same with a simpler part."""
    if expr.type == "bool":
        yield from (Expr("bool", "false"), Expr("bool", "true"))
    else:
        yield from (Expr(expr.type, f"(({expr.type}){i})") for i in range(2))
    yield from (inner for inner in _all_parts(expr) if inner.type == expr.type)
    for i, part in enumerate(expr.parts):
        for simpler in expressions(part):
            yield replace(expr, parts=(*expr.parts[:i], simpler, *expr.parts[i + 1 :]))


def _all_parts(expr: Expr) -> Iterator[Expr]:
    yield from expr.parts
    for part in expr.parts:
        yield from _all_parts(part)
