# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E731
"""tinygrad's operations, one case each, as Tensor's documentation lists them: forward and gradient.

Run by tiny.py with TINY_CASES=tiny_ops; tolerances are tiny_cases.py's. LEFT_OUT names what has no
case, with the reason; the test finds methods of Tensor that are in neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tiny_cases import APPROX, EXACT, HALF, LONG, NEAR
from tinygrad import Tensor

CASES: dict[str, tuple[Callable[[np.random.Generator], list[Tensor]], tuple[float, float]]] = {}
#: functions chained: a cosine of an arc cosine; a gradient of a quotient of approximations
LOOSE = (2e-4, 2e-5)

LEFT_OUT = {
    **dict.fromkeys(
        ("exp", "exp2", "log", "log2", "sin", "sqrt"),
        "in double precision: tinygrad writes PTX that NVIDIA's assembler refuses, and so do we"
        " (test_tinygrad.py); single precision has cases",
    ),
    **dict.fromkeys(
        ("shard", "shard_", "shard_like", "copy_to_device", "to", "to_", "multi", "allreduce"),
        "several devices: tests/integration has two software GPUs under programs of our own",
    ),
    **dict.fromkeys(("from_url", "from_blob", "fs_load", "fs_store"), "files and the network"),
    **dict.fromkeys(
        ("contiguous", "contiguous_backward", "detach"), "copies: under all the others"
    ),
    "random_bits": "wants a key: under all that is random",
    "decode_hevc_frame": "video hardware",
    **dict.fromkeys(("image_dot", "image_conv2d"), "images of OpenCL"),
    **dict.fromkeys(("empty", "empty_like", "invalids"), "memory as it was: no value to compare"),
    **dict.fromkeys(("svd", "qr", "newton_schulz"), "loops of hundreds of kernels: minutes"),
    **dict.fromkeys(("keccak", "hash"), "24 rounds in one kernel of 2 MB of PTX: minutes"),
}


class Inputs:
    """Seeded tensors of one shape and of others."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def f(self, *shape: int, low: float = -3, high: float = 3) -> Tensor:
        """Numbers between LOW and HIGH."""
        shape = shape or (13, 9)
        return Tensor(self.rng.uniform(low, high, shape).astype(np.float32)).realize()

    def i(self, *shape: int, low: int = -9, high: int = 9, kind: type = np.int32) -> Tensor:
        """Integers from LOW to HIGH."""
        shape = shape or (13, 9)
        return Tensor(self.rng.integers(low, high, shape, endpoint=True).astype(kind)).realize()


def add(name: str, tolerance: tuple[float, float], function: Callable[[Inputs], Any]) -> None:
    """One case; FUNCTION gives a tensor or several."""
    assert name not in CASES, name

    def run(rng: np.random.Generator) -> list[Tensor]:
        made = function(Inputs(rng))
        return list(made) if isinstance(made, (list, tuple)) else [made]

    CASES[name] = (run, tolerance)


def gradient(made: Tensor, *of: Tensor) -> list[Tensor]:
    """Gradients of MADE, each element of it with a weight of its own: none is a constant."""
    weights = Tensor(np.linspace(0.5, 1.5, int(np.prod(made.shape)), dtype=np.float32)).realize()
    return (made * weights.reshape(made.shape)).sum().gradient(*of)


def gradient_of(function: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """The gradient of what FUNCTION makes of X."""
    return gradient(function(x), x)


# ------------------------------------------------------------------------------- one operand -----
UNARY: dict[tuple[float, float], str] = {
    EXACT: "neg abs relu relu6 sign trunc ceil floor round isnan isinf isfinite hardtanh leaky_relu"
    " square",
    NEAR: "hardswish hardsigmoid softsign",
    APPROX: "exp exp2 sin cos sigmoid tanh gelu quick_gelu silu swish elu celu selu softplus mish"
    " logsigmoid erf softmax log_softmax softmin logsumexp",
    LOOSE: "tan sinh cosh asinh atan",
}
POSITIVE: dict[tuple[float, float], str] = {APPROX: "sqrt rsqrt log log2 log10 reciprocal"}
UNIT: dict[tuple[float, float], str] = {LOOSE: "asin acos atanh"}
#: no gradient, or one of 0
FLAT = {"isnan", "isinf", "isfinite", "sign", "trunc", "ceil", "floor", "round"}


def _unary(table: dict[tuple[float, float], str], low: float, high: float) -> None:
    for tolerance, names in table.items():
        for name in names.split():
            f = lambda x, name=name: getattr(x, name)()
            add(name, tolerance, lambda t, f=f: f(t.f(low=low, high=high)))
            if name not in FLAT:
                loose = LOOSE if tolerance in (APPROX, LOOSE) else NEAR
                back = lambda t, f=f: gradient_of(f, t.f(low=low, high=high))
                add(f"{name}_gradient", loose, back)


_unary(UNARY, -3, 3)
_unary(POSITIVE, 0.1, 5)
_unary(UNIT, -0.9, 0.9)
add("acosh", LOOSE, lambda t: [(x := t.f(low=1.5, high=9)).acosh(), *gradient(x.acosh(), x)])
for _name in ("exp", "sin", "tanh", "sigmoid", "relu", "abs", "square", "silu"):
    add(f"{_name}_half", HALF, lambda t, n=_name: getattr(t.f().half().realize(), n)())

# ------------------------------------------------------------------------------ two operands -----
for _name in ("add", "sub", "mul", "maximum", "minimum", "eq", "ne"):
    add(_name, EXACT, lambda t, n=_name: getattr(t.f(), n)(t.f()))
    add(f"{_name}_broadcast", EXACT, lambda t, n=_name: getattr(t.f(13, 1), n)(t.f(9)))
    add(f"{_name}_scalar", EXACT, lambda t, n=_name: getattr(t.f(), n)(1.5))
    add(f"{_name}_integers", EXACT, lambda t, n=_name: getattr(t.i(), n)(t.i()))
    if _name not in ("eq", "ne"):
        both = lambda t, n=_name: gradient(getattr(t.f(), n)(b := t.f()), b)
        add(f"{_name}_gradient", EXACT, both)
add("div", NEAR, lambda t: t.f().div(t.f(low=0.5)))
add("div_gradient", LOOSE, lambda t: gradient(t.f() / (b := t.f(low=0.5)), b))
for _mode in ("trunc", "floor"):
    add(f"div_{_mode}", EXACT, lambda t, m=_mode: t.i(low=-99).div(t.i(low=1), rounding_mode=m))
add("mod", EXACT, lambda t: t.i(low=-99, high=99).mod(t.i(low=1)))
add("mod_floats", NEAR, lambda t: t.f().mod(t.f(low=0.5)))
add("fmod", NEAR, lambda t: t.f().fmod(t.f(low=0.5)))
for _name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
    for _kind in (np.int8, np.int32, np.uint64):
        low = 0 if _kind is np.uint64 else -99
        both = lambda t, n=_name, k=_kind, low=low: getattr(t.i(low=low, high=99, kind=k), n)(
            t.i(low=low, high=99, kind=k)
        )
        add(f"{_name}_{_kind.__name__}", EXACT, both)
add("bitwise_not", EXACT, lambda t: [t.i().bitwise_not(), t.i(kind=np.uint8, low=0).bitwise_not()])
add("lshift", EXACT, lambda t: [t.i(low=0).lshift(3), t.i(low=0, kind=np.uint64) << 9])
add("rshift", EXACT, lambda t: [t.i(low=0, high=999).rshift(3), t.i(low=0, kind=np.uint8) >> 1])
add("pow", APPROX, lambda t: t.f(low=0.1).pow(t.f()))
add("pow_gradient", LOOSE, lambda t: gradient((a := t.f(low=0.2)).pow(b := t.f()), a, b))
for _power in (2, 3, -1, 0.5):
    low = 0.2 if _power < 1 else -3.0
    add(f"pow_{_power}", APPROX, lambda t, p=_power, low=low: t.f(low=low).pow(p))
add("pow_of_scalar", APPROX, lambda t: 2 ** t.f())
add("copysign", EXACT, lambda t: t.f().copysign(t.f()))
add("logaddexp", APPROX, lambda t: t.f().logaddexp(t.f()))
add("lerp", NEAR, lambda t: t.f().lerp(t.f(), t.f(low=0, high=1)))
add("where", EXACT, lambda t: [(t.f() > 0).where(t.f(), t.f()), (t.i() > 0).where(1, t.i())])
add("masked_fill", EXACT, lambda t: t.f().masked_fill(t.f() > 0, -7.0))
add("masked_select", EXACT, lambda t: (a := t.f()).masked_select(a > 0))
add("nonzero", EXACT, lambda t: t.i(low=0, high=1).nonzero())
add("isclose", EXACT, lambda t: (a := t.i().float()).isclose(a + t.i(low=0, high=1).float()))
add("allclose", EXACT, lambda t: [(a := t.f()).allclose(a + 0), a.allclose(a + 1)])
add("clamp", EXACT, lambda t: [t.f().clamp(-1, 1), t.f().clip(0, 2), t.i().clamp(-3, 3)])
add("clamp_gradient", EXACT, lambda t: gradient_of(lambda x: x.clamp(-1, 1), t.f()))
add("logical_not", EXACT, lambda t: [t.i(low=0, high=1).logical_not(), (t.f() > 0).logical_not()])
add(
    "compare", EXACT, lambda t: [(a := t.i()) < (b := t.i()), a <= b, a > b, a >= b, a == b, a != b]
)
add("threefry", EXACT, lambda t: t.i(low=0, kind=np.uint64).threefry(t.i(low=0, kind=np.uint64)))

# -------------------------------------------------------------------------------- reductions -----
for _name in ("sum", "mean", "prod", "max", "min", "var", "std"):
    tolerance = EXACT if _name in ("max", "min") else LONG
    for _axis in (None, 0, 1, (0, 2)):
        label = (
            "all" if _axis is None else str(_axis).replace(" ", "").strip("()").replace(",", "_")
        )
        reduce = lambda t, n=_name, a=_axis: getattr(t.f(7, 33, 5, low=-1.2, high=1.2), n)(axis=a)
        add(f"{_name}_{label}", tolerance, reduce)
    reduce = lambda t, n=_name: gradient_of(lambda x: getattr(x, n)(axis=1), t.f(6, 8))
    add(f"{_name}_gradient", LOOSE, reduce)
for _kind in (np.int8, np.uint8, np.int32, np.int64):
    integers = lambda t, k=_kind: [(a := t.i(30, 20, low=0, kind=k)).sum(axis=0), a.max(), a.min(1)]
    add(f"reduce_{_kind.__name__}", EXACT, integers)
add("any_all", EXACT, lambda t: [(a := t.f() > 2).any(), a.all(axis=0), a.any(axis=1)])
for _name in ("argmax", "argmin"):
    add(
        _name,
        EXACT,
        lambda t, n=_name: [getattr(a := t.f(), n)(), getattr(a, n)(0), getattr(a, n)(1)],
    )
for _name in ("var_mean", "std_mean"):
    add(_name, LONG, lambda t, n=_name: getattr(t.f(), n)(axis=1))
add("normalize", APPROX, lambda t: t.f().normalize())
for _name in ("cumsum", "cumprod", "logcumsumexp"):
    add(_name, LOOSE, lambda t, n=_name: [getattr(t.f(6, 40, low=-1, high=1), n)(axis=1)])
for _name in ("cummax", "cummin"):
    add(_name, EXACT, lambda t, n=_name: getattr(t.f(5, 40), n)(axis=1))
add("sort", EXACT, lambda t: [*t.f(5, 20).sort(), *t.f(5, 20).sort(descending=True)])
add("argsort", EXACT, lambda t: t.f(5, 20).argsort())
add("topk", EXACT, lambda t: [*t.f(5, 20).topk(4), *t.f(5, 20).topk(3, largest=False)])
