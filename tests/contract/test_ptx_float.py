# SPDX-License-Identifier: Apache-2.0
"""Floating point against exact fractions (rounding modes) and NumPy (the rest)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from ptx_floats import (
    FORMATS,
    SIZE,
    bits_of,
    bits_one,
    decode,
    encode,
    exact_add,
    exact_div,
    exact_fma,
    exact_mul,
    exact_sqrt,
    flush,
    is_nan,
    minmax,
    number,
    saturate,
    sign,
    wrap,
)
from ptx_harness import DONE, HEAD, Device, entry, load, pointers
from ptx_rows import Row, check


# mantissa bits stored, least exponent of a normal number, greatest exponent
@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ptx")


def row(text: str, kind: str, count: int, f: Callable[..., int], **how: bool) -> Row:
    operands = ", ".join(f"{{{x}}}" for x in "dabc"[: count + 1])
    return Row(f"{text} {operands}", kind, (kind,) * count, wrap(kind, f, **how))


def approximate_div(a: int, b: int) -> int:
    """Correctly rounded here, but for divisors whose reciprocal underflows."""
    x, y = decode("f32", a), decode("f32", b)
    if isinstance(y, float) or abs(y) <= Fraction(2) ** 126:
        return exact_div("f32", a, b, "rn")
    return encode("f32", math.nan) if isinstance(x, float) else (a ^ b) & 0x80000000


def rounding(k: str) -> Iterator[Row]:
    for mode in ("rn", "rz", "rm", "rp"):
        yield row(f"add.{mode}.{k}", k, 2, lambda a, b, m=mode: exact_add(k, a, b, m))
        yield row(f"sub.{mode}.{k}", k, 2, lambda a, b, m=mode: exact_add(k, a, b, m, minus=True))
        yield row(f"mul.{mode}.{k}", k, 2, lambda a, b, m=mode: exact_mul(k, a, b, m))
        yield row(f"fma.{mode}.{k}", k, 3, lambda a, b, c, m=mode: exact_fma(k, a, b, c, m))
        yield row(f"mad.{mode}.{k}", k, 3, lambda a, b, c, m=mode: exact_fma(k, a, b, c, m))
        yield row(f"div.{mode}.{k}", k, 2, lambda a, b, m=mode: exact_div(k, a, b, m))
        one = bits_one(k)
        yield row(f"rcp.{mode}.{k}", k, 1, lambda a, m=mode, o=one: exact_div(k, o, a, m))
        yield row(f"sqrt.{mode}.{k}", k, 1, lambda a, m=mode: exact_sqrt(k, a, m))
    for name in ("add", "sub", "mul"):
        f = {"add": exact_add, "mul": exact_mul}.get(name)
        g = f or (lambda t, a, b, m: exact_add(t, a, b, m, minus=True))
        yield row(f"{name}.{k}", k, 2, lambda a, b, g=g: g(k, a, b, "rn"))
    if k == "f32":
        yield row("add.ftz.f32", k, 2, lambda a, b: exact_add(k, a, b, "rn"), ftz=True)
        yield row(
            "mul.rz.ftz.sat.f32", k, 2, lambda a, b: exact_mul(k, a, b, "rz"), ftz=True, sat=True
        )
        yield row("sub.sat.f32", k, 2, lambda a, b: exact_add(k, a, b, "rn", minus=True), sat=True)
        yield row("fma.rp.ftz.f32", k, 3, lambda a, b, c: exact_fma(k, a, b, c, "rp"), ftz=True)
        yield row("fma.rn.sat.f32", k, 3, lambda a, b, c: exact_fma(k, a, b, c, "rn"), sat=True)
        yield row("div.rm.ftz.f32", k, 2, lambda a, b: exact_div(k, a, b, "rm"), ftz=True)
        yield row("div.full.f32", k, 2, lambda a, b: exact_div(k, a, b, "rn"))
        yield row("div.approx.f32", k, 2, approximate_div)
        yield row("sqrt.rn.ftz.f32", k, 1, lambda a: exact_sqrt(k, a, "rn"), ftz=True)


def simple() -> Iterator[Row]:
    """min, max, abs, neg, copysign, testp on all types."""
    for kind in ("f32", "f64", "f16", "bf16"):
        top = 1 << (SIZE[kind] - 1)
        for name in ("min", "max"):
            two, big = (kind, kind), name == "max"
            yield Row(
                f"{name}.{kind} {{d}}, {{a}}, {{b}}",
                kind,
                two,
                minmax(kind, largest=big, nan=False),
            )
            if kind != "f64":
                yield Row(
                    f"{name}.NaN.{kind} {{d}}, {{a}}, {{b}}",
                    kind,
                    two,
                    minmax(kind, largest=big, nan=True),
                )
        yield row(f"abs.{kind}", kind, 1, lambda a, t=top: a & ~t)
        yield row(f"neg.{kind}", kind, 1, lambda a, t=top: a ^ t)
    two = ("f32", "f32")
    yield Row(
        "min.ftz.f32 {d}, {a}, {b}", "f32", two, minmax("f32", largest=False, nan=False, ftz=True)
    )
    yield row("abs.ftz.f32", "f32", 1, lambda a: a & 0x7FFFFFFF, ftz=True)

    def xorsign(a: int, b: int) -> int:
        x, y = decode("f32", a), decode("f32", b)
        m = minmax("f32", largest=True, nan=False)(
            number("f32", a & 0x7FFFFFFF), number("f32", b & 0x7FFFFFFF)
        )
        return (
            (bits_of("f32", m) & 0x7FFFFFFF) | ((a ^ b) & 0x80000000)
            if not is_nan(x) and not is_nan(y)
            else encode("f32", math.nan)
            if is_nan(x) and is_nan(y)
            else (bits_of("f32", m) & 0x7FFFFFFF) | ((a ^ b) & 0x80000000)
        )

    yield row("max.xorsign.abs.f32", "f32", 2, xorsign)
    for kind in ("f32", "f64"):
        top = 1 << (SIZE[kind] - 1)
        yield row(f"copysign.{kind}", kind, 2, lambda a, b, t=top: (a & t) | (b & (t - 1)))
        least = Fraction(2) ** FORMATS[kind][1]
        tests: dict[str, Callable[[Any], bool]] = {
            "finite": lambda x: not isinstance(x, float),
            "infinite": lambda x: isinstance(x, float) and not is_nan(x),
            "number": lambda x: not is_nan(x),
            "notanumber": is_nan,
            "normal": lambda x, n=least: not isinstance(x, float) and abs(x) >= n,
            "subnormal": lambda x, n=least: not isinstance(x, float) and 0 < abs(x) < n,
        }
        for name, test in tests.items():
            yield Row(
                f"testp.{name}.{kind} {{d}}, {{a}}",
                "pred",
                (kind,),
                lambda v, k=kind, t=test: t(decode(k, bits_of(k, v))),
            )


def halves() -> Iterator[Row]:
    for k in ("f16", "bf16"):
        ops: dict[str, tuple[int, Any]] = {
            "add": (2, lambda a, b, k=k: exact_add(k, a, b, "rn")),
            "sub": (2, lambda a, b, k=k: exact_add(k, a, b, "rn", minus=True)),
            "mul": (2, lambda a, b, k=k: exact_mul(k, a, b, "rn")),
            "fma.rn": (3, lambda a, b, c, k=k: exact_fma(k, a, b, c, "rn")),
        }
        for name, (count, f) in ops.items():
            yield row(f"{name}.{k}", k, count, f)
            pair = lambda *v, f=f: sum(f(*(x >> s & 0xFFFF for x in v)) << s for s in (0, 16))
            text = f"{name}.{k}x2 " + ", ".join(f"{{{x}}}" for x in "dabc"[: count + 1])
            yield Row(text, f"{k}x2", (f"{k}x2",) * count, pair)
        yield row(
            f"fma.rn.relu.{k}", k, 3, lambda a, b, c, k=k: exact_fma(k, a, b, c, "rn"), relu=True
        )
        pick = lambda op: (
            lambda a, b: sum(op(a >> s & 0xFFFF, b >> s & 0xFFFF) << s for s in (0, 16))
        )
        yield Row(
            f"max.{k}x2 {{d}}, {{a}}, {{b}}",
            f"{k}x2",
            (f"{k}x2",) * 2,
            pick(minmax(k, largest=True, nan=False)),
        )
        yield Row(
            f"min.NaN.{k}x2 {{d}}, {{a}}, {{b}}",
            f"{k}x2",
            (f"{k}x2",) * 2,
            pick(minmax(k, largest=False, nan=True)),
        )
        yield Row(f"neg.{k}x2 {{d}}, {{a}}", f"{k}x2", (f"{k}x2",), lambda a: a ^ 0x80008000)
    k = "f16"
    yield row("add.sat.f16", k, 2, lambda a, b: exact_add(k, a, b, "rn"), sat=True)
    yield row("mul.ftz.f16", k, 2, lambda a, b: exact_mul(k, a, b, "rn"), ftz=True)
    yield row(
        "fma.rn.ftz.sat.f16", k, 3, lambda a, b, c: exact_fma(k, a, b, c, "rn"), ftz=True, sat=True
    )


def comparisons() -> Iterator[Row]:
    ordered = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
    for kind in ("f32", "f64", "f16", "bf16"):

        def test(op: str, otherwise: bool, k: str = kind) -> Any:
            compare = eval(f"lambda a, b: a {op} b")

            def run(a: Any, b: Any) -> bool:
                x, y = decode(k, bits_of(k, a)), decode(k, bits_of(k, b))
                return otherwise if is_nan(x) or is_nan(y) else compare(x, y)

            return run

        two = (kind, kind)
        for name, op in ordered.items():
            yield Row(f"setp.{name}.{kind} {{d}}, {{a}}, {{b}}", "pred", two, test(op, False))
            yield Row(f"setp.{name}u.{kind} {{d}}, {{a}}, {{b}}", "pred", two, test(op, True))
        yield Row(
            f"setp.num.{kind} {{d}}, {{a}}, {{b}}",
            "pred",
            two,
            test("is not", False)
            if False
            else lambda a, b, k=kind: all(
                decode(k, bits_of(k, v)) == decode(k, bits_of(k, v)) for v in (a, b)
            ),
        )
        yield Row(
            f"setp.nan.{kind} {{d}}, {{a}}, {{b}}",
            "pred",
            two,
            lambda a, b, k=kind: any(
                decode(k, bits_of(k, v)) != decode(k, bits_of(k, v)) for v in (a, b)
            ),
        )
    ftz = lambda a, b: bool(
        decode("f32", flush("f32", bits_of("f32", a)))
        < decode("f32", flush("f32", bits_of("f32", b)))
    )
    yield Row("setp.lt.ftz.f32 {d}, {a}, {b}", "pred", ("f32", "f32"), ftz)
    yield Row(
        "set.gt.f32.f32 {d}, {a}, {b}", "f32", ("f32", "f32"), lambda a, b: 1.0 if a > b else 0.0
    )
    yield Row(
        "setp.lt.f16x2 %p0|{d}, {a}, {b}",
        "pred",
        ("f16x2", "f16x2"),
        lambda a, b: bool(decode("f16", a >> 16) < decode("f16", b >> 16)),
    )
    yield Row(
        "selp.f32 {d}, {a}, {b}, {c}", "f32", ("f32", "f32", "pred"), lambda a, b, c: a if c else b
    )


def to_integer(x: Fraction | float, mode: str) -> Fraction | float:
    if isinstance(x, float):
        return x
    if mode == "rni":
        return Fraction(round(x))
    return Fraction({"rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}[mode](x))


def conversions() -> Iterator[Row]:
    floats = ("f16", "bf16", "f32", "f64")
    ints = [f"{k}{n}" for k in "us" for n in (8, 16, 32, 64)]
    for of in floats:
        for to in ints:
            n = int(to[1:])
            low, high = (-(1 << (n - 1)), (1 << (n - 1)) - 1) if to[0] == "s" else (0, (1 << n) - 1)
            for mode in ("rni", "rzi", "rmi", "rpi"):
                if mode != "rzi" and to not in ("s32", "u64", "s8"):
                    continue

                def cut(  # noqa: PLR0917 - loop variables are bound here
                    v: Any,
                    of: str = of,
                    mode: str = mode,
                    low: int = low,
                    high: int = high,
                    n: int = n,
                ) -> int:
                    x = decode(of, bits_of(of, v))
                    if is_nan(x):
                        return 1 << (n - 1) if of == "f64" or n == 64 else 0
                    if isinstance(x, float):
                        return high if x > 0 else low
                    return max(low, min(high, int(to_integer(x, mode))))

                wide = to if n > 8 else f"{to[0]}16"
                signed_cut = lambda v, f=cut, n=n, s=to[0] == "s": (
                    f(v) - (1 << n) if s and f(v) >= 1 << (n - 1) else f(v)
                )
                yield Row(f"cvt.{mode}.{to}.{of} {{d}}, {{a}}", wide, (of,), signed_cut)
    for to in floats:
        for of in ints:
            for mode in ("rn", "rz", "rm", "rp"):
                if mode != "rn" and of not in ("s32", "u64", "s64"):
                    continue
                yield Row(
                    f"cvt.{mode}.{to}.{of} {{d}}, {{a}}",
                    to,
                    (of,),
                    lambda v, t=to, m=mode: number(t, encode(t, Fraction(v), m)),
                )
    for of, to in (
        ("f64", "f32"),
        ("f64", "f16"),
        ("f32", "f16"),
        ("f32", "bf16"),
        ("f64", "bf16"),
    ):
        for mode in ("rn", "rz", "rm", "rp"):
            yield Row(f"cvt.{mode}.{to}.{of} {{d}}, {{a}}", to, (of,), change(of, to, mode))
    for of, to in (
        ("f32", "f64"),
        ("f16", "f32"),
        ("f16", "f64"),
        ("bf16", "f32"),
        ("bf16", "f64"),
    ):
        yield Row(f"cvt.{to}.{of} {{d}}, {{a}}", to, (of,), change(of, to, "rn"))
    for kind in ("f16", "f32", "f64"):
        for mode in ("rni", "rzi", "rmi", "rpi"):
            yield Row(f"cvt.{mode}.{kind}.{kind} {{d}}, {{a}}", kind, (kind,), integral(kind, mode))
    yield Row("cvt.sat.f32.f32 {d}, {a}", "f32", ("f32",), wrap("f32", lambda a: a, sat=True))
    yield Row("cvt.ftz.f32.f32 {d}, {a}", "f32", ("f32",), wrap("f32", lambda a: a, ftz=True))
    yield Row(
        "cvt.rn.ftz.f16.f32 {d}, {a}",
        "f16",
        ("f32",),
        lambda v: change("f32", "f16", "rn")(number("f32", flush("f32", bits_of("f32", v)))),
    )
    yield Row(
        "cvt.rn.sat.f32.f64 {d}, {a}",
        "f32",
        ("f64",),
        lambda v: number("f32", saturate("f32", bits_of("f32", change("f64", "f32", "rn")(v)))),
    )
    yield Row(
        "cvt.rn.f16x2.f32 {d}, {a}, {b}",
        "f16x2",
        ("f32", "f32"),
        lambda a, b: change("f32", "f16", "rn")(a) << 16 | change("f32", "f16", "rn")(b),
    )
    yield Row(
        "cvt.rz.bf16x2.f32 {d}, {a}, {b}",
        "bf16x2",
        ("f32", "f32"),
        lambda a, b: change("f32", "bf16", "rz")(a) << 16 | change("f32", "bf16", "rz")(b),
    )
    for mode in ("rna", "rn", "rz"):
        tf = lambda v, m=mode: encode(
            "tf32", decode("f32", bits_of("f32", v)), m, zero_sign=sign("f32", bits_of("f32", v))
        )
        yield Row(
            f"and.b32 {{d}}, {{a}}, {{a}}; cvt.{mode}.tf32.f32 {{d}}, {{d}}",
            "f32",
            ("f32",),
            lambda v, tf=tf: number("f32", widen(tf(v))),
        )


def widen(bits: int) -> int:
    """A 19-bit tf32 (sign at bit 31, as encode places it) in a 32-bit register."""
    return (bits & 0x80000000) | (bits & 0x3FFFF) << 13


def change(of: str, to: str, mode: str) -> Any:
    def run(v: Any) -> Any:
        bits = bits_of(of, v)
        return number(to, encode(to, decode(of, bits), mode, zero_sign=sign(of, bits)))

    return run


def integral(kind: str, mode: str) -> Any:
    def run(v: Any) -> Any:
        bits = bits_of(kind, v)
        x = to_integer(decode(kind, bits), mode)
        return number(kind, encode(kind, x, zero_sign=sign(kind, bits)))

    return run


TABLES = {
    "f32": lambda: rounding("f32"),
    "f64": lambda: rounding("f64"),
    "simple": simple,
    "halves": halves,
    "comparisons": comparisons,
    "conversions": conversions,
}


@pytest.mark.parametrize("name", TABLES)
def test_rows(name: str, cache: Path) -> None:
    check(list(TABLES[name]()), cache)


def test_nan_is_canonical_where_ptx_says_so(cache: Path) -> None:
    body = """
mov.b32 %r1, 0xffa00001; mov.b64 %d1, 0xfff4000000000001; mov.b32 %f1, %r1; mov.b64 %g1, %d1;
cvt.rn.f16.f32 %h1, %f1; cvt.rn.bf16.f32 %h2, %f1; cvt.rz.f16.f64 %h3, %g1; mov.b16 %h4, 0xfe01;
min.f32 %f2, %f1, %f1; min.NaN.f32 %f3, %f1, 0f3F800000; max.f16 %h5, %h4, %h4;
st.global.u16 [%p0], %h1; st.global.u16 [%p0+2], %h2; st.global.u16 [%p0+4], %h3;
st.global.u16 [%p0+6], %h5; st.global.f32 [%p0+8], %f2; st.global.f32 [%p0+12], %f3;
"""
    device = Device()
    out = device.alloc(16)
    assert load(HEAD + entry("k", 1, body), "k", cache).run(device, pointers(out)).stop == DONE
    assert list(device.view(out, "u2", 4)) == [0x7FFF] * 4
    assert list(device.view(out + 8, "u4", 2)) == [0x7FFFFFFF] * 2
