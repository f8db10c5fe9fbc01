# SPDX-License-Identifier: Apache-2.0
"""Integer and bit instructions against plain Python integers, one row per form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ptx_rows import Row, check

SIZES = {"u16": 16, "s16": 16, "u32": 32, "s32": 32, "u64": 64, "s64": 64}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ptx")


def limits(kind: str) -> tuple[int, int]:
    n = int(kind[1:])
    return (-(1 << (n - 1)), (1 << (n - 1)) - 1) if kind[0] == "s" else (0, (1 << n) - 1)


def clamp(kind: str, v: int) -> int:
    low, high = limits(kind)
    return max(low, min(high, v))


def mask(v: int, bits: int) -> int:
    return v & ((1 << bits) - 1)


def quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def signed(v: int, bits: int) -> int:
    v = mask(v, bits)
    return v - (1 << bits) if v >> (bits - 1) else v


def reverse(v: int, bits: int) -> int:
    return int(f"{v:0{bits}b}"[::-1], 2)


def arithmetic() -> Iterator[Row]:
    for t, n in SIZES.items():
        two, three = (t, t), (t, t, t)
        yield Row(f"add.{t} {{d}}, {{a}}, {{b}}", t, two, lambda a, b: a + b)
        yield Row(f"sub.{t} {{d}}, {{a}}, {{b}}", t, two, lambda a, b: a - b)
        yield Row(f"mul.lo.{t} {{d}}, {{a}}, {{b}}", t, two, lambda a, b: a * b)
        yield Row(f"mul.hi.{t} {{d}}, {{a}}, {{b}}", t, two, lambda a, b, n=n: a * b >> n)
        yield Row(f"mad.lo.{t} {{d}}, {{a}}, {{b}}, {{c}}", t, three, lambda a, b, c: a * b + c)
        yield Row(
            f"mad.hi.{t} {{d}}, {{a}}, {{b}}, {{c}}",
            t,
            three,
            lambda a, b, c, n=n: (a * b >> n) + c,
        )
        yield Row(f"sad.{t} {{d}}, {{a}}, {{b}}, {{c}}", t, three, lambda a, b, c: c + abs(a - b))
        yield Row(f"min.{t} {{d}}, {{a}}, {{b}}", t, two, min)
        yield Row(f"max.{t} {{d}}, {{a}}, {{b}}", t, two, max)
        yield Row(f"div.{t} {{d}}, {{a}}, {{b}}", t, two, lambda a, b: quotient(a, b) if b else -1)
        yield Row(
            f"rem.{t} {{d}}, {{a}}, {{b}}", t, two, lambda a, b: a - b * quotient(a, b) if b else a
        )
        if t[0] == "s":
            yield Row(f"abs.{t} {{d}}, {{a}}", t, (t,), abs)
            yield Row(f"neg.{t} {{d}}, {{a}}", t, (t,), lambda a: -a)
        if n < 64:
            w = f"{t[0]}{2 * n}"
            yield Row(f"mul.wide.{t} {{d}}, {{a}}, {{b}}", w, two, lambda a, b: a * b)
            yield Row(
                f"mad.wide.{t} {{d}}, {{a}}, {{b}}, {{c}}", w, (t, t, w), lambda a, b, c: a * b + c
            )
    s, u = ("s32", "s32"), ("u32", "u32")
    yield Row("add.sat.s32 {d}, {a}, {b}", "s32", s, lambda a, b: clamp("s32", a + b))
    yield Row("sub.sat.s32 {d}, {a}, {b}", "s32", s, lambda a, b: clamp("s32", a - b))
    yield Row(
        "mad.hi.sat.s32 {d}, {a}, {b}, {c}",
        "s32",
        (*s, "s32"),
        lambda a, b, c: clamp("s32", (a * b >> 32) + c),
    )
    yield Row("min.relu.s32 {d}, {a}, {b}", "s32", s, lambda a, b: max(0, min(a, b)))
    yield Row("max.relu.s32 {d}, {a}, {b}", "s32", s, lambda a, b: max(0, a, b))
    for t, two in (("u32", u), ("s32", s)):
        cut = (lambda v: signed(v, 24)) if t == "s32" else (lambda v: mask(v, 24))
        yield Row(f"mul24.lo.{t} {{d}}, {{a}}, {{b}}", t, two, lambda a, b, c=cut: c(a) * c(b))
        yield Row(
            f"mul24.hi.{t} {{d}}, {{a}}, {{b}}", t, two, lambda a, b, c=cut: c(a) * c(b) >> 16
        )
        yield Row(
            f"mad24.lo.{t} {{d}}, {{a}}, {{b}}, {{c}}",
            t,
            (*two, t),
            lambda a, b, c, k=cut: k(a) * k(b) + c,
        )
        yield Row(
            f"mad24.hi.{t} {{d}}, {{a}}, {{b}}, {{c}}",
            t,
            (*two, t),
            lambda a, b, c, k=cut: (k(a) * k(b) >> 16) + c,
        )
    yield Row(
        "mad24.hi.sat.s32 {d}, {a}, {b}, {c}",
        "s32",
        ("s32",) * 3,
        lambda a, b, c: clamp("s32", (signed(a, 24) * signed(b, 24) >> 16) + c),
    )
    for x in ("u32", "s32"):
        for y in ("u32", "s32"):
            yield Row(
                f"dp4a.{x}.{y} {{d}}, {{a}}, {{b}}, {{c}}", "b32", ("b32",) * 3, dot(x, y, 8, 0)
            )
            for half in (0, 1):
                text = f"dp2a.{'hi' if half else 'lo'}.{x}.{y} {{d}}, {{a}}, {{b}}, {{c}}"
                yield Row(text, "b32", ("b32",) * 3, dot(x, y, 16, half))
    for t, n in (("u16x2", 16), ("s16x2", 16)):

        def lanes(op: Any, t: str = t, n: int = n) -> Any:
            cast = (lambda v: signed(v, n)) if t[0] == "s" else (lambda v: mask(v, n))
            return lambda a, b: sum(mask(op(cast(a >> k), cast(b >> k)), n) << k for k in (0, n))

        for name, op in (("add", lambda x, y: x + y), ("min", min), ("max", max)):
            yield Row(f"{name}.{t} {{d}}, {{a}}, {{b}}", "b32", ("b32", "b32"), lanes(op))
    for name, pick in (("min", min), ("max", max)):
        relu = lambda a, b, pick=pick: sum(
            max(0, pick(signed(a >> k, 16), signed(b >> k, 16))) << k for k in (0, 16)
        )
        yield Row(f"{name}.relu.s16x2 {{d}}, {{a}}, {{b}}", "b32", ("b32", "b32"), relu)


def dot(x: str, y: str, bits: int, half: int) -> Any:
    def part(v: int, kind: str, width: int, i: int) -> int:
        v = mask(v >> (width * i), width)
        return signed(v, width) if kind == "s32" else v

    if bits == 8:
        return lambda a, b, c: c + sum(part(a, x, 8, i) * part(b, y, 8, i) for i in range(4))
    return lambda a, b, c: (
        c + sum(part(a, x, 16, i) * part(b, y, 8, i + 2 * half) for i in range(2))
    )


def carry() -> Iterator[Row]:
    """Chains: the carry goes from one instruction to the next."""
    for t, n in (("u32", 32), ("u64", 64)):
        r = "v" if n == 32 else "w"
        two = (t, t, t)
        wide = 1 << n
        text = f"add.cc.{t} %{r}0, {{a}}, {{b}}; addc.{t} {{d}}, {{a}}, {{c}}"
        yield Row(text, t, two, lambda a, b, c, w=wide: a + c + (a + b >= w))
        text = f"add.cc.{t} %{r}0, {{a}}, {{b}}; addc.cc.{t} %{r}1, {{b}}, {{c}}; addc.{t} {{d}}, {{a}}, 0"
        yield Row(text, t, two, lambda a, b, c, w=wide: a + (b + c + (a + b >= w) >= w))
        text = f"sub.cc.{t} %{r}0, {{a}}, {{b}}; subc.{t} {{d}}, {{a}}, {{c}}"
        yield Row(text, t, two, lambda a, b, c: a - c - (a < b))
        text = f"sub.cc.{t} %{r}0, {{a}}, {{b}}; subc.cc.{t} %{r}1, {{b}}, {{c}}; subc.{t} {{d}}, {{c}}, 0"
        yield Row(text, t, two, lambda a, b, c: c - (b - c - (a < b) < 0))
        text = f"mad.lo.cc.{t} %{r}0, {{a}}, {{b}}, {{c}}; madc.hi.{t} {{d}}, {{a}}, {{b}}, {{c}}"
        yield Row(
            text, t, two, lambda a, b, c, n=n, w=wide: (a * b >> n) + c + (a * b % w + c >= w)
        )
        text = f"mad.hi.cc.{t} %{r}0, {{a}}, {{b}}, {{c}}; madc.lo.{t} {{d}}, {{a}}, {{b}}, 0"
        yield Row(text, t, two, lambda a, b, c, n=n, w=wide: a * b + ((a * b >> n) + c >= w))


def bits() -> Iterator[Row]:
    for n in (16, 32, 64):
        t = f"b{n}"
        two = (t, t)
        yield Row(f"and.{t} {{d}}, {{a}}, {{b}}", t, two, lambda a, b: a & b)
        yield Row(f"or.{t} {{d}}, {{a}}, {{b}}", t, two, lambda a, b: a | b)
        yield Row(f"xor.{t} {{d}}, {{a}}, {{b}}", t, two, lambda a, b: a ^ b)
        yield Row(f"not.{t} {{d}}, {{a}}", t, (t,), lambda a: ~a)
        yield Row(f"cnot.{t} {{d}}, {{a}}", t, (t,), lambda a: a == 0)
        yield Row(
            f"shl.{t} {{d}}, {{a}}, {{b}}",
            t,
            (t, "u32"),
            lambda a, s, n=n: a << s if s < n else 0,
            imm=True,
        )
        yield Row(
            f"shr.{t} {{d}}, {{a}}, {{b}}",
            t,
            (t, "u32"),
            lambda a, s, n=n: a >> s if s < n else 0,
            imm=True,
        )
        for k in "us":
            text = f"shr.{k}{n} {{d}}, {{a}}, {{b}}"
            yield Row(
                text, f"{k}{n}", (f"{k}{n}", "u32"), lambda a, s, n=n: a >> min(s, n), imm=True
            )
        text = f"shl.{t} {{d}}, {{a}}, {{b}}"
        yield Row(text, t, (t, "u32"), lambda a, s, n=n: a << s if s < n else 0)
    for name, op in (
        ("and", lambda a, b: a and b),
        ("or", lambda a, b: a or b),
        ("xor", lambda a, b: a != b),
    ):
        yield Row(f"{name}.pred {{d}}, {{a}}, {{b}}", "pred", ("pred", "pred"), op)
    yield Row("not.pred {d}, {a}", "pred", ("pred",), lambda a: not a)
    for n in (32, 64):
        t = f"b{n}"
        yield Row(f"popc.{t} {{d}}, {{a}}", "u32", (t,), lambda a: a.bit_count())
        yield Row(f"clz.{t} {{d}}, {{a}}", "u32", (t,), lambda a, n=n: n - a.bit_length())
        yield Row(f"brev.{t} {{d}}, {{a}}", t, (t,), lambda a, n=n: reverse(a, n))
        for k in "us":
            kind = f"{k}{n}"

            def top(a: int) -> int:
                return (~a if a < 0 else a).bit_length() - 1

            yield Row(f"bfind.{kind} {{d}}, {{a}}", "u32", (kind,), top)
            yield Row(
                f"bfind.shiftamt.{kind} {{d}}, {{a}}",
                "u32",
                (kind,),
                lambda a, n=n, top=top: n - 1 - top(a) if top(a) >= 0 else -1,
            )
            yield Row(
                f"bfe.{kind} {{d}}, {{a}}, {{b}}, {{c}}",
                kind,
                (kind, "u32", "u32"),
                field(n, k),
                imm=True,
            )
            yield Row(
                f"bfe.{kind} {{d}}, {{a}}, {{b}}, 5",
                kind,
                (kind, "u32"),
                lambda a, p, f=field(n, k): f(a, p, 5),
                imm=True,
            )
        yield Row(
            f"bfi.{t} {{d}}, {{a}}, {{b}}, {{c}}, 7", t, (t, t, "u32"), insert(n, 7), imm=True
        )
        yield Row(
            f"bfi.{t} {{d}}, {{a}}, {{b}}, 3, {{c}}",
            t,
            (t, t, "u32"),
            lambda a, b, c, n=n: insert(n, c & 255)(a, b, 3),
            imm=True,
        )
    b3 = ("b32", "b32", "b32")
    for lut in (0x00, 0x01, 0x80, 0x96, 0xE8, 0xCA, 0x3F, 0xFF, 0x1B):
        yield Row(f"lop3.b32 {{d}}, {{a}}, {{b}}, {{c}}, {lut}", "b32", b3, look_up(lut))
    yield Row(
        "lop3.or.b32 %v0|{d}, {a}, {b}, {c}, 0x80, 0", "pred", b3, lambda a, b, c: (a & b & c) != 0
    )
    for mode in ("wrap", "clamp"):
        for way in "lr":
            text = f"shf.{way}.{mode}.b32 {{d}}, {{a}}, {{b}}, {{c}}"
            yield Row(text, "b32", ("b32", "b32", "u32"), funnel(way, mode), imm=True)
    yield Row("prmt.b32 {d}, {a}, {b}, {c}", "b32", b3, permute)
    for mode, picks in PRMT.items():
        yield Row(f"prmt.b32.{mode} {{d}}, {{a}}, {{b}}, {{c}}", "b32", b3, permute_mode(picks))
    for m, cut in (("clamp", lambda v: min(v, 32)), ("wrap", lambda v: v & 31)):
        yield Row(
            f"bmsk.{m}.b32 {{d}}, {{a}}, {{b}}",
            "b32",
            ("b32", "u32"),
            lambda a, b, c=cut: mask(((1 << c(b)) - 1) << c(a), 32),
            imm=True,
        )
        yield Row(
            f"szext.{m}.u32 {{d}}, {{a}}, {{b}}",
            "u32",
            ("u32", "u32"),
            lambda a, b, c=cut: mask(a, c(b)),
            imm=True,
        )
        yield Row(
            f"szext.{m}.s32 {{d}}, {{a}}, {{b}}",
            "s32",
            ("s32", "u32"),
            lambda a, b, c=cut: signed(a, c(b)) if c(b) else 0,
            imm=True,
        )
    yield Row("fns.b32 {d}, {a}, 0, 3", "b32", ("b32",), nth_set(0, 3))
    yield Row("fns.b32 {d}, {a}, 31, -2", "b32", ("b32",), nth_set(31, -2))
    yield Row("fns.b32 {d}, {a}, 4, 0", "b32", ("b32",), nth_set(4, 0))


def field(n: int, kind: str) -> Any:
    def pick(a: int, pos: int, length: int) -> int:
        pos, length = pos & 255, length & 255
        sign = 0 if kind == "u" or not length else mask(a, n) >> min(pos + length - 1, n - 1) & 1
        out = 0
        for i in range(n):
            inside = i < length and pos + i < n
            out |= (mask(a, n) >> (pos + i) & 1 if inside else sign) << i
        return out

    return pick


def insert(n: int, length: int) -> Any:
    def put(a: int, b: int, pos: int) -> int:
        pos &= 255
        for i in range(length):
            if pos + i < n:
                b = (b & ~(1 << (pos + i))) | ((a >> i & 1) << (pos + i))
        return b

    return put


def look_up(lut: int) -> Any:
    return lambda a, b, c: sum(
        (lut >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1)) & 1) << i for i in range(32)
    )


def funnel(way: str, mode: str) -> Any:
    def shift(a: int, b: int, c: int) -> int:
        n = c & 31 if mode == "wrap" else min(c, 32)
        both = b << 32 | a
        return mask(both << n >> 32 if way == "l" else both >> n, 32)

    return shift


PRMT = {
    "f4e": lambda c: [c, c + 1, c + 2, c + 3],
    "b4e": lambda c: [c, c + 7, c + 6, c + 5],
    "rc8": lambda c: [c] * 4,
    "ecl": lambda c: [c, max(c, 1), max(c, 2), 3],
    "ecr": lambda c: [0, min(c, 1), min(c, 2), c],
    "rc16": lambda c: [(c & 1) * 2, (c & 1) * 2 + 1] * 2,
}


def byte_of(a: int, b: int, i: int) -> int:
    return (b << 32 | a) >> (8 * (i % 8)) & 255


def permute(a: int, b: int, c: int) -> int:
    out = 0
    for i in range(4):
        sel = c >> (4 * i) & 15
        byte = byte_of(a, b, sel & 7)
        out |= (byte if sel < 8 else 255 * (byte >> 7)) << (8 * i)
    return out


def permute_mode(picks: Any) -> Any:
    return lambda a, b, c: sum(byte_of(a, b, s) << (8 * i) for i, s in enumerate(picks(c & 3)))


def nth_set(base: int, offset: int) -> Any:
    def find(a: int) -> int:
        if offset == 0:
            return base if a >> base & 1 else -1
        places = range(base, 32) if offset > 0 else range(base, -1, -1)
        found = [i for i in places if a >> i & 1]
        return found[abs(offset) - 1] if len(found) >= abs(offset) else -1

    return find


def compare() -> Iterator[Row]:
    ops = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
    unsigned = {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}
    for t in SIZES:
        for name, op in (ops | (unsigned if t[0] == "u" else {})).items():
            test = eval(f"lambda a, b: a {op} b")
            yield Row(f"setp.{name}.{t} {{d}}, {{a}}, {{b}}", "pred", (t, t), test)
    for n in (16, 32, 64):
        yield Row(
            f"setp.eq.b{n} {{d}}, {{a}}, {{b}}", "pred", (f"b{n}", f"b{n}"), lambda a, b: a == b
        )
        for k in ("b", "u", "s"):
            t = f"{k}{n}"
            yield Row(
                f"selp.{t} {{d}}, {{a}}, {{b}}, {{c}}",
                t,
                (t, t, "pred"),
                lambda a, b, c: a if c else b,
            )
    p = ("s32", "s32", "pred")
    yield Row("setp.lt.and.s32 {d}, {a}, {b}, {c}", "pred", p, lambda a, b, c: a < b and c)
    yield Row("setp.lt.or.s32 {d}, {a}, {b}, !{c}", "pred", p, lambda a, b, c: a < b or not c)
    yield Row("setp.lt.xor.s32 {d}, {a}, {b}, {c}", "pred", p, lambda a, b, c: (a < b) != c)
    yield Row("setp.lt.and.s32 %p0|{d}, {a}, {b}, {c}", "pred", p, lambda a, b, c: a >= b and c)
    yield Row("setp.gt.s32 {d}|%p0, {a}, {b}", "pred", p[:2], lambda a, b: a > b)
    yield Row("set.ge.u32.s32 {d}, {a}, {b}", "u32", p[:2], lambda a, b: -1 if a >= b else 0)
    yield Row(
        "set.ne.and.s32.u32 {d}, {a}, {b}, {c}",
        "s32",
        ("u32", "u32", "pred"),
        lambda a, b, c: -1 if a != b and c else 0,
    )
    yield Row("set.eq.f32.s32 {d}, {a}, {b}", "f32", p[:2], lambda a, b: 1.0 if a == b else 0.0)
    yield Row(
        "slct.u64.s32 {d}, {a}, {b}, {c}",
        "u64",
        ("u64", "u64", "s32"),
        lambda a, b, c: a if c >= 0 else b,
    )
    yield Row(
        "slct.b32.f32 {d}, {a}, {b}, {c}",
        "b32",
        ("b32", "b32", "f32"),
        lambda a, b, c: a if c >= 0 else b,
    )
    yield Row("mov.b64 {d}, {{{a}, {b}}}", "b64", ("b32", "b32"), lambda a, b: b << 32 | a)
    yield Row("mov.b64 {{%v0, {d}}}, {a}", "b32", ("b64",), lambda a: a >> 32)
    yield Row("mov.b32 {{_, {d}}}, {a}", "b16", ("b32",), lambda a: a >> 16)
    yield Row("mov.b32 {d}, {{{a}, {b}}}", "b32", ("b16", "b16"), lambda a, b: b << 16 | a)
    yield Row(
        "mov.b64 {d}, {{{a}, {b}, {c}, {a}}}",
        "b64",
        ("b16", "b16", "b16"),
        lambda a, b, c: a << 48 | c << 32 | b << 16 | a,
    )
    yield Row("mov.pred {d}, {a}", "pred", ("pred",), lambda a: a)
    yield Row("mov.b32 {d}, (1 << 4) | 3 + 2 * 5", "b32", (), lambda: 16 | 13)
    yield Row("mov.u32 {d}, 4294967295U", "u32", (), lambda: 0xFFFFFFFF)
    yield Row("mov.u16 {d}, 0b101", "u16", (), lambda: 5)
    yield Row("mov.u32 {d}, 017", "u32", (), lambda: 15)


def conversions() -> Iterator[Row]:
    kinds = [f"{k}{n}" for k in "us" for n in (8, 16, 32, 64)]
    for to in kinds:
        for of in kinds:
            # The destination register is wider than 8 bits: it gets the value extended.
            wide = to if to[1:] != "8" else f"{to[0]}16"
            low = lambda a, t=to: signed(a, int(t[1:])) if t[0] == "s" else mask(a, int(t[1:]))
            yield Row(f"cvt.{to}.{of} {{d}}, {{a}}", wide, (of,), low)
            yield Row(f"cvt.sat.{to}.{of} {{d}}, {{a}}", wide, (of,), lambda a, t=to: clamp(t, a))
    yield Row("cvt.u16.u32 {d}, {a}", "u32", ("u32",), lambda a: a & 0xFFFF)
    yield Row("cvt.s8.s32 {d}, {a}", "s64", ("s32",), lambda a: signed(a, 8))


@pytest.mark.parametrize(
    "rows", [arithmetic, carry, bits, compare, conversions], ids=lambda f: f.__name__
)
def test_rows(rows: Any, cache: Path) -> None:
    check(list(rows()), cache)
