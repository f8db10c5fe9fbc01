# SPDX-License-Identifier: Apache-2.0
"""Random expressions of random C programs: any type, no side effect, no undefined behaviour."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from random_c_tree import FLOATS, INTEGERS, TYPES, Expr

#: what has an operation for each type of integer in random_c.h
UNARY = ("neg", "abs", "popc", "clz", "ctz", "swap", "rev")
BINARY = ("add", "add", "sub", "mul", "div", "rem", "min", "max", "avg", "over", "sat")
COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
SPECIAL = (0, 1, 2, 3, 5, 7, 8, 31, 63, 127, 128, 255, 0x7FFF, 0x8000, 0x7FFFFFFF, 0x80000000)
REAL = ("0.0", "-0.0", "1.0", "-1.5", "0.1", "3e-40", "1e30", "65504.0", "2147483648.0", "-7e9")


@dataclass
class Scope:
    """What an expression may name.

    Attributes:
        names: of each type, variables and other things that are read.
        inputs: how many words of `in` a thread has; 0 where there are none (functions).
        calls: functions to call: name, result, parameters.
        threads: whether threads have numbers here.
    """

    names: dict[str, list[str]] = field(default_factory=dict)
    inputs: int = 0
    calls: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)

    def inside(self, name: str) -> Scope:
        """The same with one more u32, a loop's."""
        names = {kind: list(found) for kind, found in self.names.items()}
        names.setdefault("u32", []).append(name)
        return Scope(names, self.inputs, self.calls)


class Expressions:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def of(self, kind: str, scope: Scope, depth: int) -> Expr:
        """An expression of a type; `depth` bounds how deep it nests."""
        if depth <= 0 or self.rng.random() < 0.12:
            return self.leaf(kind, scope)
        if self.rng.random() < 0.08:
            parts = [self.condition(scope, depth - 1)]
            parts += [self.of(kind, scope, depth - 1) for _ in range(2)]
            return Expr(kind, "($0 ? $1 : $2)", tuple(parts))
        calls = [call for call in scope.calls if call[1] == kind]
        if calls and self.rng.random() < 0.12:
            name, _, kinds = self.rng.choice(calls)
            form = ", ".join(f"${i}" for i in range(len(kinds)))
            parts = [self.of(k, scope, depth - 2) for k in kinds]
            return Expr(kind, f"{name}({form})", tuple(parts))
        if self.rng.random() < 0.2:
            return self.cast(kind, scope, depth)
        return (self._real if kind in FLOATS else self._integer)(kind, scope, depth)

    def leaf(self, kind: str, scope: Scope) -> Expr:
        rng, found = self.rng, scope.names.get(kind, [])
        if found and rng.random() < 0.65:
            return Expr(kind, rng.choice(found))
        if rng.random() < 0.3 and any(scope.names.values()):
            other = rng.choice([k for k, names in scope.names.items() if names])
            return convert(kind, Expr(other, rng.choice(scope.names[other])))
        if scope.inputs and rng.random() < 0.3:
            return read_input(kind, rng.randrange(scope.inputs))
        return self.constant(kind)

    def constant(self, kind: str) -> Expr:
        rng = self.rng
        if kind in FLOATS:
            return Expr(kind, f"(({kind}){rng.choice(REAL)})")
        value = rng.choice([*SPECIAL, rng.getrandbits(8), rng.getrandbits(INTEGERS[kind])])
        if rng.random() < 0.2:
            value = ~value & 0xFFFFFFFFFFFFFFFF
        return Expr(kind, f"(({kind}){value}ull)")

    def cast(self, kind: str, scope: Scope, depth: int) -> Expr:
        return convert(kind, self.of(self.rng.choice(TYPES), scope, depth - 1))

    def condition(self, scope: Scope, depth: int) -> Expr:
        """0 or 1."""
        rng = self.rng
        if depth > 0 and rng.random() < 0.25:
            parts = tuple(self.condition(scope, depth - 1) for _ in range(2))
            return Expr("bool", f"($0 {rng.choice(['&&', '||', '!=', '=='])} $1)", parts)
        kind = rng.choice(TYPES)
        parts = tuple(self.of(kind, scope, depth - 1) for _ in range(2))
        return Expr("bool", f"($0 {rng.choice(COMPARISONS)} $1)", parts)

    def _integer(self, kind: str, scope: Scope, depth: int) -> Expr:
        rng = self.rng

        def some(*kinds: str) -> tuple[Expr, ...]:
            return tuple(self.of(k, scope, depth - 1) for k in kinds)

        def binary() -> Expr:
            return Expr(kind, f"{rng.choice(BINARY)}_{kind}($0, $1)", some(kind, kind))

        def logic() -> Expr:
            return Expr(kind, f"(({kind})($0 {rng.choice('&|^')} $1))", some(kind, kind))

        def shift() -> Expr:
            return Expr(
                kind, f"{rng.choice(['shl', 'shr', 'rot'])}_{kind}($0, $1)", some(kind, "u32")
            )

        def unary() -> Expr:
            return Expr(kind, f"{rng.choice(UNARY)}_{kind}($0)", some(kind))

        def mad() -> Expr:
            return Expr(kind, f"mad_{kind}($0, $1, $2)", some(kind, kind, kind))

        def flip() -> Expr:
            return Expr(kind, f"(({kind})~$0)", some(kind))

        def truth() -> Expr:
            return Expr(kind, f"(({kind})$0)", (self.condition(scope, depth - 1),))

        def bits() -> Expr:
            float_kind, word = rng.choice([("f32", "u32"), ("f64", "u64")])
            return convert(kind, Expr(word, f"bits_{float_kind}($0)", some(float_kind)))

        def wide() -> Expr:
            name, kinds = rng.choice(
                [
                    *((f"high_{k}", (k, k)) for k in ("u32", "i32", "u64", "i64")),
                    ("wide_u64", ("u32", "u32")),
                    ("wide_i64", ("i32", "i32")),
                    ("funnel_u32", ("u32", "u32", "u32")),
                    ("small_i32", ("i32", "i32")),
                ]
            )
            form = ", ".join(f"${i}" for i in range(len(kinds)))
            return convert(kind, Expr(name.split("_")[1], f"{name}({form})", some(*kinds)))

        def table() -> Expr:
            return convert(kind, Expr("u32", "table[$0 & 15]", some("u32")))

        def special() -> Expr:
            name = rng.choice(["twist", "fold", "tell", "dive"])
            form = rng.choice(
                [f"{name}($0, $1)", f"pick({name}, $0, $1)", "functions[$0 & 3]($1, $0)"]
            )
            return convert(kind, Expr("u32", form, some("u32", "u32")))

        makers: list[Callable[[], Expr]] = [binary, logic, shift, unary, mad, flip]
        makers += [truth, bits, wide, table, special]
        return rng.choices(makers, [10, 5, 5, 3, 2, 1, 2, 2, 3, 1, 0.7])[0]()

    def _real(self, kind: str, scope: Scope, depth: int) -> Expr:
        rng, suffix = self.rng, "f" if kind == "f32" else ""

        def some(*kinds: str) -> tuple[Expr, ...]:
            return tuple(self.of(k, scope, depth - 1) for k in kinds)

        def binary() -> Expr:
            return Expr(kind, f"($0 {rng.choice('++--**/')} $1)", some(kind, kind))

        def fused() -> Expr:
            return Expr(kind, f"__builtin_fma{suffix}($0, $1, $2)", some(kind, kind, kind))

        def rounded() -> Expr:
            name = rng.choice(["floor", "ceil", "trunc", "rint", "fabs"])
            return Expr(kind, f"__builtin_{name}{suffix}($0)", some(kind))

        def other() -> Expr:
            name = rng.choice(["min", "max", "sign"])
            return Expr(kind, f"{name}_{kind}($0, $1)", some(kind, kind))

        def root() -> Expr:
            return Expr(kind, rng.choice([f"root_{kind}($0)", "(-$0)"]), some(kind))

        def of_bits() -> Expr:
            word = "u32" if kind == "f32" else "u64"
            return Expr(kind, f"of_bits_{kind}($0)", some(word))

        def half() -> Expr:
            name = rng.choice(["add", "sub", "mul", "less", "neg"])
            return convert(kind, Expr("f32", f"half_{name}($0, $1)", some("f32", "f32")))

        makers: list[Callable[[], Expr]] = [binary, fused, rounded, other, root, of_bits, half]
        return rng.choices(makers, [10, 2, 3, 2, 2, 1, 2])[0]()


def convert(kind: str, value: Expr) -> Expr:
    """The same value in another type, as far as it goes."""
    if value.type == kind:
        return value
    if value.type in FLOATS and kind in INTEGERS:
        return Expr(kind, f"of_{kind}_{value.type}($0)", (value,))
    return Expr(kind, f"(({kind})$0)", (value,))


def read_input(kind: str, at: int) -> Expr:
    if kind in FLOATS:
        word = "u32" if kind == "f32" else "u64"
        return Expr(kind, f"of_bits_{kind}(({word})IN({at}))")
    return Expr(kind, f"(({kind})IN({at}))")
