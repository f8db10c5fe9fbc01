# SPDX-License-Identifier: Apache-2.0
"""Conversions to narrow types: .satfinite, 8-bit floating point; .xorsign.abs of halves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ptx_floats import bits_of, decode, encode, minmax, number
from ptx_harness import DONE, HEAD, Device, entry, load, pointers
from ptx_rows import Row, check

# mantissa bits, bias, bits of the largest number
EIGHTS = {"e4m3": (3, 7, 0x7E), "e5m2": (2, 15, 0x7B)}
NAN8 = 0x7F


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ptx")


def value8(kind: str, bits: int) -> Fraction | None:
    """The number that 8 bits are; None for NaN, and infinities of e5m2 as they are in f16."""
    m, bias, most = EIGHTS[kind]
    low, e = bits & 0x7F, (bits & 0x7F) >> m
    if low > most:
        return None
    f = bits & ((1 << m) - 1)
    unit = Fraction(2) ** (max(e, 1) - bias - m)
    return (f + ((1 << m) if e else 0)) * unit * (-1 if bits >> 7 else 1)


def finite8(kind: str) -> list[tuple[Fraction, int]]:
    values = [(value8(kind, b), b) for b in range(EIGHTS[kind][2] + 1)]
    return [(v, b) for v, b in values if v is not None]


TABLES = {kind: finite8(kind) for kind in EIGHTS}


def to8(kind: str, x: Any, sign: int, *, relu: bool) -> int:
    """The nearest of all values, ties to the even one; never infinite."""
    if isinstance(x, float) and math.isnan(x):
        return NAN8
    if relu and (sign or x == 0):
        return 0
    most = EIGHTS[kind][2]
    if abs(x) >= TABLES[kind][most][0]:
        return sign << 7 | most
    best = min(TABLES[kind], key=lambda v: (abs(v[0] - abs(Fraction(x))), v[1] & 1))
    return sign << 7 | best[1]


def from8(kind: str, bits: int, *, relu: bool) -> int:
    """The same value as an f16."""
    v = value8(kind, bits)
    if v is None:
        if kind == "e5m2" and bits & 0x7F == 0x7C:
            return 0 if relu and bits >> 7 else 0x7C00 | (bits & 0x80) << 8
        return 0x7E00
    if relu and (bits >> 7 or v == 0):
        return 0
    return encode("f16", v, zero_sign=bits >> 7) if v else (bits & 0x80) << 8


def eights() -> Iterator[Row]:
    for kind in EIGHTS:
        for relu in (False, True):
            word = ".relu" if relu else ""

            def pack(*bits: int, of: str, kind: str = kind, relu: bool = relu) -> int:
                top = {"f32": 31, "f16": 15}[of]
                low, high = (to8(kind, decode(of, b), b >> top, relu=relu) for b in bits)
                return high << 8 | low

            yield Row(
                f"cvt.rn.satfinite{word}.{kind}x2.f32 {{d}}, {{a}}, {{b}}",
                "b16",
                ("f32", "f32"),
                lambda a, b, p=pack: p(bits_of("f32", b), bits_of("f32", a), of="f32"),
            )
            yield Row(
                f"cvt.rn.satfinite{word}.{kind}x2.f16x2 {{d}}, {{a}}",
                "b16",
                ("f16x2",),
                lambda a, p=pack: p(a & 0xFFFF, a >> 16, of="f16"),
            )
            yield Row(
                f"cvt.rn{word}.f16x2.{kind}x2 {{d}}, {{a}}",
                "f16x2",
                ("b16",),
                lambda a, k=kind, r=relu: (
                    from8(k, a >> 8, relu=r) << 16 | from8(k, a & 0xFF, relu=r)
                ),
            )


INFINITY = {"f16": 0x7C00, "bf16": 0x7F80}
MOST = {"f16": 0x7BFF, "bf16": 0x7F7F}


def finite(kind: str, mode: str, relu: bool) -> Callable[[Any], int]:
    def expect(v: Any) -> int:
        bits = bits_of("f32", v)
        x = decode("f32", bits)
        if relu and (bits >> 31 or x == 0) and not (isinstance(x, float) and math.isnan(x)):
            return 0
        out = encode(kind, x, mode, zero_sign=bits >> 31)
        sign = out & 0x8000
        return sign | MOST[kind] if out ^ sign == INFINITY[kind] else out

    return expect


def satfinite() -> Iterator[Row]:
    for kind in ("f16", "bf16"):
        for mode in ("rn", "rz"):
            for relu in (False, True):
                word = ".relu" if relu else ""
                one = finite(kind, mode, relu)
                yield Row(
                    f"cvt.{mode}{word}.satfinite.{kind}.f32 {{d}}, {{a}}", kind, ("f32",), one
                )
                yield Row(
                    f"cvt.{mode}{word}.satfinite.{kind}x2.f32 {{d}}, {{a}}, {{b}}",
                    f"{kind}x2",
                    ("f32", "f32"),
                    lambda a, b, f=one: f(a) << 16 | f(b),
                )


def signs() -> Iterator[Row]:
    """The smaller or larger magnitude, with the product's sign."""

    def single(a: Any, b: Any) -> Any:
        x, y = (bits_of("f32", v) for v in (a, b))
        m = minmax("f32", largest=False, nan=True)(*(number("f32", v & 0x7FFFFFFF) for v in (x, y)))
        return number("f32", bits_of("f32", m) & 0x7FFFFFFF | (x ^ y) & 0x80000000)

    yield Row("min.NaN.xorsign.abs.f32 {d}, {a}, {b}", "f32", ("f32", "f32"), single)
    for kind in ("f16", "bf16"):
        for name in ("min", "max"):
            for nan in (False, True):

                def one(
                    a: int, b: int, kind: str = kind, big: bool = name == "max", nan: bool = nan
                ) -> int:
                    m = minmax(kind, largest=big, nan=nan)(a & 0x7FFF, b & 0x7FFF)
                    return int(m) & 0x7FFF | ((a ^ b) & 0x8000)

                text = f"{name}{'.NaN' if nan else ''}.xorsign.abs"
                yield Row(f"{text}.{kind} {{d}}, {{a}}, {{b}}", kind, (kind, kind), one)
                yield Row(
                    f"{text}.{kind}x2 {{d}}, {{a}}, {{b}}",
                    f"{kind}x2",
                    (f"{kind}x2",) * 2,
                    lambda a, b, f=one: f(a >> 16, b >> 16) << 16 | f(a & 0xFFFF, b & 0xFFFF),
                )


def test_approximations_of_other_types_are_close(cache: Path) -> None:
    values = np.linspace(0.05, 3, 64)
    forms: dict[str, Callable[..., Any]] = {
        "ex2.approx.f16": np.exp2,
        "ex2.approx.f16x2": np.exp2,
        "ex2.approx.ftz.bf16": np.exp2,
        "ex2.approx.ftz.bf16x2": np.exp2,
        "tanh.approx.f16": np.tanh,
        "tanh.approx.f16x2": np.tanh,
        "tanh.approx.bf16": np.tanh,
        "tanh.approx.bf16x2": np.tanh,
        "rcp.approx.ftz.f64": np.reciprocal,
        "rsqrt.approx.f64": lambda x: 1 / np.sqrt(x),
        "rsqrt.approx.ftz.f64": lambda x: 1 / np.sqrt(x),
    }
    body = "mov.u32 %r0, %tid.x; mul.wide.u32 %d0, %r0, 8; add.s64 %d0, %d0, %p0;\n"
    body += "ld.global.f64 %g1, [%d0]; cvt.rn.f32.f64 %f1, %g1;\n"
    body += "cvt.rn.f16.f32 %h1, %f1; cvt.rn.bf16.f32 %h2, %f1;\n"
    for i, form in enumerate(forms):
        kind = form.rsplit(".", 1)[1]
        half = "%h2" if kind[0] == "b" else "%h1"
        if kind == "f64":
            body += f"{form} %g2, %g1;"
        elif kind.endswith("x2"):
            body += f"mov.b32 %r1, {{%h9, {half}}}; {form} %r1, %r1; mov.b32 {{%h9, %h3}}, %r1;"
        else:
            body += f"{form} %h3, {half};"
        body += "" if kind == "f64" else f"cvt.f64.{kind.removesuffix('x2')} %g2, %h3;"
        body += f"st.global.f64 [%d0+{512 * (i + 1)}], %g2;\n"
    device = Device()
    at = device.put(np.concatenate([values, np.zeros(64 * len(forms))]))
    result = load(HEAD + entry("k", 1, body), "k", cache).run(device, pointers(at), block=(64,))
    assert result.stop == DONE, result
    for i, (form, f) in enumerate(forms.items()):
        given = device.view(at + 512 * (i + 1), "f8", 64)
        # Two steps of the type: its argument and its result are rounded.
        bound = 2**-6 if "bf16" in form else 2**-9 if "f16" in form else 2**-19
        assert np.allclose(given, f(values), rtol=bound, atol=0), form


def test_eight_bit_floating_point(cache: Path) -> None:
    check(list(eights()), cache)


@pytest.mark.parametrize("kind", EIGHTS)
def test_what_lies_between_two_values_goes_to_the_nearer_one(kind: str, cache: Path) -> None:
    """Every value of 8 bits, the middle between two, what f32 has right beside, and the largest."""
    exact = np.array([v for v, _ in TABLES[kind]], np.float32)
    step = exact[-1] - exact[-2]
    places = np.concatenate(
        [exact, (exact[1:] + exact[:-1]) / 2, exact[-1] + step * np.arange(9) / 4]
    ).astype(np.float32)
    places = np.concatenate([places, np.nextafter(places, 0), np.nextafter(places, np.inf)])
    padded = np.zeros(1024, np.float32)
    padded[: len(places)] = places.astype(np.float32)
    body = f"""
mov.u32 %r0, %tid.x; mul.wide.u32 %d0, %r0, 4; add.s64 %d0, %d0, %p0;
ld.global.f32 %f1, [%d0]; neg.f32 %f2, %f1;
cvt.rn.satfinite.{kind}x2.f32 %h1, %f2, %f1; st.global.u16 [%d0], %h1;
"""
    device = Device()
    at = device.put(padded)
    result = load(HEAD + entry("k", 1, body), "k", cache).run(device, pointers(at), block=(1024,))
    assert result.stop == DONE, result
    got = device.view(at, np.uint16, 2048)[::2].tolist()
    one = [to8(kind, Fraction(float(v)), 0, relu=False) for v in padded]
    wrong = {
        float(v): hex(g) for v, g, w in zip(padded, got, one, strict=True) if g != 0x8000 | w * 257
    }
    assert not wrong


def test_conversions_that_stay_finite(cache: Path) -> None:
    check(list(satfinite()), cache)


def test_magnitudes_of_halves(cache: Path) -> None:
    check(list(signs()), cache)


def test_tf32_that_stays_finite(cache: Path) -> None:
    def expect(v: Any) -> int:
        bits = bits_of("f32", v)
        if bits & 0x7FFFFFFF > 0x7F800000:
            return 0x7FFFFFFF
        rounded = (bits & 0x7FFFFFFF) + 0x1000 & 0x7FFFE000
        return bits & 0x80000000 | min(rounded, 0x7F7FE000)

    row = Row("cvt.rna.satfinite.tf32.f32 {d}, {a}", "b32", ("f32",), expect)
    check([row], cache)
