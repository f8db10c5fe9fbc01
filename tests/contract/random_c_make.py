# SPDX-License-Identifier: Apache-2.0
"""Random C programs: a function of the seed alone.

Statements with barriers stand where all threads of a block come by, those with warp instructions
where all lanes of their mask do. Results of atomics are the same in any order.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from random_c_expr import Expressions, Scope, convert, read_input
from random_c_tree import TYPES, Expr, Program, Stmt

INPUTS, CELLS = 6, 16
LEVELS = ("0", "1", "2", "3")  # LLVM 14 cannot lower a struct's copy at -Os
TARGETS = (60, 70, 75, 80, 86, 90)
Block = tuple[Stmt, ...]


class Maker:
    """Grows one program.

    Args:
        rng: decides everything.
        steps: statements in the kernel, inner ones not counted.
    """

    def __init__(self, rng: random.Random, steps: int) -> None:
        self.rng = rng
        self.expressions = Expressions(rng)
        self.loops = 0
        self.threads = rng.choice([32, 64, 64, 96, 128, 45])
        self.blocks = rng.randrange(1, 4)
        self.sm = rng.choice(TARGETS)
        self.functions: list[tuple[str, Stmt]] = []
        self.calls: list[tuple[str, str, tuple[str, ...]]] = []
        for i in range(rng.randrange(4)):
            self._function(f"f{i}")
        self.scope = Scope({}, INPUTS, self.calls)
        self.body = [*self._begin()]
        for _ in range(steps):
            self.body.append(self._whole_block_statement())
        self.body += self._end()

    def program(self) -> Program:
        return Program(
            self.blocks,
            self.threads,
            tuple(self.functions),
            tuple(self.body),
            self.rng.choice(LEVELS),
            self.sm,
        )

    # ------------------------------------------------------------------------ begin, end --------
    def _function(self, name: str) -> None:
        rng = self.rng
        kinds = tuple(rng.choice(TYPES) for _ in range(rng.randrange(1, 5)))
        result = rng.choice(TYPES)
        scope = Scope({}, 0, list(self.calls))
        self.variables = []
        for i, kind in enumerate(kinds):
            scope.names.setdefault(kind, []).append(f"p{i}")
            self.variables.append((kind, f"p{i}"))
        self.scope = scope
        body = [self._statement(scope, 2) for _ in range(rng.randrange(4))]
        head = ", ".join(f"{kind} p{i}" for i, kind in enumerate(kinds))
        early = self.expressions.condition(scope, 1)
        last = self.expressions.of(result, scope, 3)
        how = rng.choice(["NOINLINE", "NOINLINE", "FN"])
        body.append(
            Stmt(("if ($0)", "    return $1;"), (early, self.expressions.leaf(result, scope)))
        )
        pieces = (f"{how} {result} {name}({head})\n{{", "    return $0;\n}")
        self.functions.append((name, Stmt(pieces, (last,), (tuple(body),))))
        self.calls.append((name, result, kinds))

    def _begin(self) -> list[Stmt]:
        rng, out, names = self.rng, [], self.scope.names
        self.variables = []
        for i in range(rng.randrange(6, 14)):
            kind = rng.choice(TYPES)
            volatile = "volatile " if rng.random() < 0.05 else ""
            value = read_input(kind, rng.randrange(INPUTS))
            out.append(Stmt((f"{volatile}{kind} v{i} = $0;",), (value,)))
            self.variables.append((kind, f"v{i}"))
            names.setdefault(kind, []).append(f"v{i}")
        array = rng.choice(TYPES)
        self.array = array
        out.append(Stmt((f"{array} row[8] = {{0}};",)))
        out.append(Stmt(("struct mix one = {3, 4, 5, 6, 1.5f, {7, 8, 9}}, two = one;",)))
        out.append(Stmt(("struct quad four = {{1, 2, 3, 4}}, more = four;",)))
        names.setdefault(array, []).append("row[3]")
        for kind, name in (
            *(("i64", "one.a"), ("u16", "two.b"), ("i32", "one.c"), ("u32", "two.d")),
            *(("f32", "one.e"), ("i8", "two.g[1]"), ("u32", "four.x[2]"), ("u32", "more.x[1]")),
            *(("u32", "TID"), ("u32", "BID"), ("u32", "LIN")),
        ):
            names.setdefault(kind, []).append(name)
        return out

    def _end(self) -> list[Stmt]:
        kept = [Expr(kind, name) for kind, name in self.variables]
        kept += [Expr(self.array, f"row[{i}]") for i in range(8)]
        kept += [Expr("i64", "one.a"), Expr("u16", "one.b"), Expr("i32", "two.c")]
        kept += [Expr("u32", "one.d"), Expr("f32", "two.e"), Expr("i8", "one.g[2]")]
        kept += [Expr("u32", f"four.x[{i}]") for i in range(4)]
        self.outputs = len(kept)
        return [Stmt((f"OUT({i}) = $0;",), (observe(value),)) for i, value in enumerate(kept)]

    # ------------------------------------------------------------------- statements of a thread --
    def _expr(self, kind: str, scope: Scope, depth: int | None = None) -> Expr:
        return self.expressions.of(
            kind, scope, self.rng.randrange(1, 5) if depth is None else depth
        )

    def _block(self, scope: Scope, depth: int) -> Block:
        return tuple(self._statement(scope, depth) for _ in range(self.rng.randrange(1, 4)))

    def _statement(self, scope: Scope, depth: int) -> Stmt:
        """Of one thread, in any control flow."""
        makers: list[tuple[Callable[[Scope, int], Stmt], float]] = [(self._assign, 10)]
        if depth > 0:
            makers += [(self._if, 4), (self._for, 3), (self._while, 1.5), (self._switch, 2)]
        if scope.inputs:  # in the kernel
            makers += [(self._element, 3), (self._field, 2), (self._pointer, 1.5)]
            makers += [(self._copy, 1), (self._atomic, 1.5)]
        weights = [weight for _, weight in makers]
        return self.rng.choices([maker for maker, _ in makers], weights)[0](scope, depth)

    def _assign(self, scope: Scope, _depth: int) -> Stmt:
        kind, name = self.rng.choice(self.variables)
        return Stmt((f"{name} = $0;",), (self._expr(kind, scope),))

    def _if(self, scope: Scope, depth: int) -> Stmt:
        condition = self.expressions.condition(scope, 2)
        then = self._block(scope, depth - 1)
        if self.rng.random() < 0.5:
            return Stmt(("if ($0) {", "}"), (condition,), (then,))
        blocks = (then, self._block(scope, depth - 1))
        return Stmt(("if ($0) {", "} else {", "}"), (condition,), blocks)

    def _loop_name(self) -> str:
        self.loops += 1
        return f"n{self.loops}"

    def _for(self, scope: Scope, depth: int) -> Stmt:
        name = self._loop_name()
        times = self._expr("u32", scope, 1)
        inner = scope.inside(name)
        block = self._block(inner, depth - 1)
        if self.rng.random() < 0.3:
            leave = self.rng.choice(["break", "continue"])
            at = self.rng.randrange(len(block) + 1)
            stop = Stmt((f"if ($0) {leave};",), (self.expressions.condition(inner, 1),))
            block = (*block[:at], stop, *block[at:])
        mask = self.rng.choice([1, 3, 7])
        head = f"for (u32 {name} = 0, end = $0 & {mask}; {name} < end; {name}++) {{"
        return Stmt((head, "}"), (times,), (block,))

    def _while(self, scope: Scope, depth: int) -> Stmt:
        name = self._loop_name()
        times = self._expr("u32", scope, 1)
        block = self._block(scope.inside(name), depth - 1)
        tail = f"}} while ({name}-- > 0);" if self.rng.random() < 0.5 else "}"
        head = f"u32 {name} = $0 & 7;\n" + ("do {" if tail != "}" else f"while ({name} >>= 1) {{")
        return Stmt(("{ " + head, tail + " }"), (times,), (block,))

    def _switch(self, scope: Scope, depth: int) -> Stmt:
        rng = self.rng
        cases = rng.sample(range(16), rng.randrange(2, 8)) + [-1] * rng.randrange(2)
        pieces = ["switch ($0 & 15) {"]
        blocks: list[Block] = []
        for i, case in enumerate(cases):
            label = "default:" if case < 0 else f"case {case}:"
            pieces[-1] += f"\n    {label} {{"
            leave = "" if rng.random() < 0.25 and i + 1 < len(cases) else " break;"
            blocks.append(self._block(scope, depth - 2))
            pieces.append("    }" + leave)
        pieces[-1] += "\n}"
        kind = rng.choice(["u32", "i64", "u8"])
        return Stmt(tuple(pieces), (self._expr(kind, scope, 2),), tuple(blocks))

    def _element(self, scope: Scope, _depth: int) -> Stmt:
        parts = (self._expr("u32", scope, 1), self._expr(self.array, scope, 2))
        return Stmt(("row[$0 & 7] = $1;",), parts)

    def _field(self, scope: Scope, _depth: int) -> Stmt:
        name, kind = self.rng.choice(
            [("a", "i64"), ("b", "u16"), ("c", "i32"), ("d", "u32"), ("e", "f32"), ("g[0]", "i8")]
        )
        value = self._expr(kind, scope, 2)
        if name in "cd":  # a bit-field takes what fits
            value = Expr(kind, "($0 & 63)", (value,))
        return Stmt((f"{self.rng.choice(['one', 'two'])}.{name} = $0;",), (value,))

    def _pointer(self, scope: Scope, _depth: int) -> Stmt:
        rng = self.rng
        if rng.random() < 0.5:
            name = self._loop_name()
            end = f"for ({self.array} *at = row + ($0 & 3), *end = at + 4; at < end; at++)"
            value = self._expr(self.array, scope, 2)
            moved = Expr(self.array, f"*at + ({self.array})$0", (value,))
            if self.array not in ("f32", "f64"):
                moved = Expr(self.array, f"add_{self.array}(*at, $0)", (value,))
            return Stmt(
                ("{ " + end, f"    *at = $1; }} /* {name} */"), (self._expr("u32", scope, 1), moved)
            )
        kind, first = rng.choice(self.variables)
        second = rng.choice([name for k, name in self.variables if k == kind])
        pick = self.expressions.condition(scope, 1)
        text = f"{{ volatile {kind} *at = $0 ? &{first} : &{second};"
        return Stmt((text, "  *at = $1; }"), (pick, self._expr(kind, scope, 2)))

    def _copy(self, scope: Scope, _depth: int) -> Stmt:
        text = self.rng.choice(
            [
                *("one = two;", "two = one;", "more = four;", "four = more;"),
                *("four.x[$0 & 3] = $1;", "more.x[$0 & 3] = $1;"),
                "if ($0 & 1) one = two; else four.x[1] = $1;",
            ]
        )
        return Stmt((text,), (self._expr("u32", scope, 1), self._expr("u32", scope, 2)))

    def _atomic(self, scope: Scope, _depth: int) -> Stmt:
        """Each cell knows one operation, so that the order of threads does not show."""
        rng = self.rng
        names = ("add", "xor", "or", "and", "min", "max", "umin", "umax")
        at = rng.randrange(len(names))
        wide = rng.random() < 0.3
        kind, cells = ("u64", "wide_cells") if wide else ("u32", "cells")
        value = self._expr(kind, scope, 2)
        name = names[at]
        cast = "" if name not in ("min", "max") else "(i64 *)" if wide else "(i32 *)"
        name = name.removeprefix("u")
        if rng.random() < 0.15:  # by compare and swap
            text = (
                f"{{ {kind} was = __atomic_load_n(&{cells}[9], __ATOMIC_RELAXED), add = $0;\n"
                f"while (!__atomic_compare_exchange_n(&{cells}[9], &was, was + add, 0,"
                " __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {} }"
            )
            return Stmt((text,), (value,))
        if cast:
            value = convert("i64" if wide else "i32", value)
        text = f"__atomic_fetch_{name}({cast}&{cells}[{at}], $0, __ATOMIC_RELAXED);"
        return Stmt((text,), (value,))

    # ------------------------------------------------------------------ statements of a block ----
    def _whole_block_statement(self) -> Stmt:
        """Where all threads of a block come by."""
        rng, scope = self.rng, self.scope
        chance = rng.random()
        if chance < 0.12:
            return self._exchange()
        if chance < 0.26 and self.threads % 32 == 0:
            return self._warp()
        if chance < 0.30:
            name = self._loop_name()
            head = f"for (u32 {name} = 0; {name} < {rng.randrange(2, 4)}; {name}++) {{"
            parts = (self._exchange(), self._statement(scope.inside(name), 1))
            return Stmt((head, "}"), (), (parts,))
        if chance < 0.33:
            return Stmt(("if (BID & 1) {", "}"), (), ((self._exchange(),),))
        return self._statement(scope, 3)

    def _exchange(self) -> Stmt:
        """Through shared memory; one piece, for without its barriers it is a race."""
        rng, scope = self.rng, self.scope
        kind, name = rng.choice(self.variables)
        value = observe(self._expr(rng.choice(TYPES), scope, 2))
        got = convert(kind, Expr("u64", "box[(TID + ($1 & 15)) % THREADS]"))
        other = convert(kind, Expr("u32", "SYNC_COUNT($2)"))
        total = convert(kind, Expr("u32", "box_total[1]"))
        parts = (value, self._expr("u32", scope, 1), self.expressions.condition(scope, 2))
        store = f"box[TID] = $0;\nSYNC();\n{name} = {got.text()};\nSYNC();"
        tree = (
            "box[TID] = $0;\nSYNC();\nfor (u32 s = 64; s; s >>= 1) {\n"
            "if (TID < s && TID + s < THREADS)\n    box[TID] += box[TID + s];\nSYNC();\n}\n"
            f"{name} = ({kind})(u32)box[0];\nSYNC();"
        )
        count = f"{name} = {other.text()};"
        shared = (
            "if (TID < 8)\n    box_total[TID] = 0;\nSYNC();\n"
            "__atomic_fetch_add(&box_total[$1 & 7], (u32)$0, __ATOMIC_RELAXED);\nSYNC();\n"
            f"{name} = {total.text()};\nSYNC();"
        )
        text = rng.choice([store, store, tree, count, shared])
        return Stmt(("{\n" + text + "\n}",), parts)

    def _warp(self) -> Stmt:
        """Lanes of a warp meet: all of them, or those of a mask in a branch of their own."""
        rng, scope = self.rng, self.scope
        kind, name = rng.choice(self.variables)
        shuffles = ("SHFL_BFLY", "SHFL_DOWN", "SHFL_UP", "SHFL_IDX")
        votes = ("BALLOT", "ALL", "ANY")
        what = rng.choice([*shuffles, *votes, *(("MATCH",) if self.sm >= 70 else ())])
        by = rng.randrange(1, 32)
        mask, condition = "0xffffffffu", ""
        chance = rng.random()
        if chance < 0.2:
            mask, condition = "0x0000ffffu", "if ((TID & 31) < 16) "
            what = rng.choice(["SHFL_BFLY", *votes])
            by = rng.randrange(1, 16)
        elif chance < 0.35:
            mask, condition = "0xaaaaaaaau", "if (TID & 1) "
            what = rng.choice(["SHFL_BFLY", *votes])
            by = rng.choice([2, 4, 8, 6, 16, 30])
        elif chance < 0.5:
            condition = "if ((TID / 32 + BID) & 1) "
        value = self._expr("u32", scope, 2)
        if what in votes:
            value = self.expressions.condition(scope, 2)
        index = self._expr("u32", scope, 1)
        last = {"SHFL_IDX": ", $1 & 31"}.get(what, f", {by}" if what in shuffles else "")
        got = convert(kind, Expr("u32", f"{what}({mask}, $0{last})"))
        return Stmt((f"{condition}{name} = {got.text()};",), (value, index))


def observe(value: Expr) -> Expr:
    """64 bits in which it can be compared."""
    if value.type in ("f32", "f64"):
        value = Expr("u32" if value.type == "f32" else "u64", f"bits_{value.type}($0)", (value,))
    return convert("u64", value)


def make(seed: int, index: int, steps: int) -> tuple[Program, int]:
    """A program and how many words it stores per thread."""
    maker = Maker(random.Random(f"{seed}/{index}"), steps)
    return maker.program(), maker.outputs
