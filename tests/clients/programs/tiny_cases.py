# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN001, ANN002, ANN201, ANN202, ARG001, PLR0124
"""The cases of tiny.py: name -> (function of a seeded generator, how equal the results must be).

Tolerances are (relative, absolute). EXACT: integers, moves, and what both devices round correctly.
NEAR: one or a few single-precision roundings, in another order. APPROX: PTX's .approx functions
(2 ulp and the like). LONG: sums over many terms that may cancel. HALF, LONG_HALF: the same in half
precision. maximum with a NaN is left out: PTX's max returns the number, C's comparison the NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tinygrad import Context, Tensor, TinyJit, Variable, dtypes, nn

EXACT, NEAR, APPROX, DOUBLE = (0, 0), (2e-6, 1e-7), (2e-5, 2e-6), (1e-13, 1e-14)
HALF, LONG, LONG_HALF = (4e-3, 2e-3), (2e-5, 2e-5), (4e-3, 1e-2)
#: losses of a few dozen training steps
LOSS = (2e-3, 1e-4)

CASES: dict[str, tuple[Callable[[np.random.Generator], list[Tensor]], tuple[float, float]]] = {}


def case(name: str, tolerance: tuple[float, float] = EXACT):
    def keep(function):
        assert name not in CASES, name
        CASES[name] = (function, tolerance)
        return function

    return keep


INTS = {
    "i8": (dtypes.int8, np.int8),
    "i32": (dtypes.int32, np.int32),
    "i64": (dtypes.int64, np.int64),
    "u8": (dtypes.uint8, np.uint8),
    "u16": (dtypes.uint16, np.uint16),
    "u64": (dtypes.uint64, np.uint64),
}
FLOATS = {
    "f16": (dtypes.float16, np.float16, HALF),
    "f32": (dtypes.float32, np.float32, NEAR),
    "f64": (dtypes.float64, np.float64, DOUBLE),
}


def f32(rng: np.random.Generator, *shape: int) -> Tensor:
    return Tensor(rng.standard_normal(shape).astype(np.float32)).realize()


def as_ints(rng: np.random.Generator, kind: type, *shape: int) -> Tensor:
    info = np.iinfo(kind)
    return Tensor(rng.integers(info.min, info.max, shape, dtype=kind, endpoint=True)).realize()


# ------------------------------------------------------------------------------- elementwise ----
def _int_case(label: str, kind: type) -> None:
    @case(f"elementwise_{label}")
    def _(rng):
        a, b = as_ints(rng, kind, 33, 7), as_ints(rng, kind, 33, 7)
        odd = (b | 1).realize()  # never 0
        if np.iinfo(kind).min < 0:
            odd = (odd == -1).where(3, odd).realize()  # INT_MIN / -1 is undefined in C
        return [
            *(a + b, a - b, a * b, a & b, a | b, a ^ b, a.maximum(b), a.minimum(b)),
            *(a // odd, a % odd, a < b, a == b, (a > b).where(a, b), a << 2, a >> 1),
        ]

    @case(f"reduce_{label}")
    def _(rng):
        a = as_ints(rng, kind, 40, 50)
        return [a.sum(), a.sum(axis=0), a.max(axis=1), a.min(), a.prod(axis=0), a.argmax(axis=1)]


def _float_case(label: str, kind: type, tolerance: tuple[float, float]) -> None:
    @case(f"elementwise_{label}", tolerance)
    def _(rng):
        a = Tensor(rng.standard_normal((33, 70)).astype(kind)).realize()
        b = Tensor(rng.standard_normal((33, 70)).astype(kind)).realize()
        return [
            *(a + b, a - b, a * b, a.maximum(b), a.minimum(b), -a, a.abs(), a.sign(), a.relu()),
            *(a < b, a == a, a != b, (a > 0).where(a, b), a.trunc(), a.floor(), a.ceil()),
            a.square(),
        ]

    @case(f"reduce_{label}", HALF if label == "f16" else (tolerance[0] * 10, tolerance[1] * 100))
    def _(rng):
        a = Tensor(rng.standard_normal((40, 65)).astype(kind)).realize()
        return [a.sum(), a.sum(axis=0), a.max(axis=1), a.min(), a.mean(axis=1), a.argmin(axis=0)]

    @case(
        f"matmul_{label}", LONG_HALF if label == "f16" else (tolerance[0] * 10, tolerance[1] * 100)
    )
    def _(rng):
        def m(*shape):
            return Tensor(rng.standard_normal(shape).astype(kind)).realize()

        return [m(33, 65) @ m(65, 17), m(64, 64) @ m(64, 64), m(3, 8, 16) @ m(3, 16, 8)]


for _label, (_dtype, _kind) in INTS.items():
    _int_case(_label, _kind)
for _label, (_dtype, _kind, _tolerance) in FLOATS.items():
    _float_case(_label, _kind, _tolerance)


@case("functions_f32", APPROX)
def _(rng):
    a = f32(rng, 40, 20)
    positive = (a.abs() + 0.01).realize()
    return [
        *(a.exp(), a.exp2(), a.sin(), a.cos(), a.tanh(), a.sigmoid(), a.gelu(), a.silu(), a.erf()),
        *(positive.log(), positive.log2(), positive.sqrt(), positive.rsqrt()),
        *(positive.reciprocal(), a / positive, positive**2.5, a.elu(), a.softplus()),
    ]


@case("functions_f16", HALF)
def _(rng):
    a = Tensor(rng.standard_normal((40, 20)).astype(np.float16)).realize()
    positive = (a.abs() + 0.1).realize()
    return [a.exp(), a.sin(), a.tanh(), positive.log(), positive.sqrt(), a / positive]


@case("special_f32")
def _(rng):
    a = Tensor(np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3e38, -1], np.float32)).realize()
    return [a + 1, a * 2, a.relu(), a.isnan(), a.isinf(), a < 0, a == a, (a * 0) + a]


@case("round_f32")
def _(rng):
    a = Tensor((rng.integers(-9, 9, 200) / 2).astype(np.float32)).realize()
    return [a.round(), a.trunc(), a.floor(), a.ceil()]


@case("cast")
def _(rng):
    small = Tensor(rng.integers(0, 100, 60).astype(np.float32) + np.float32(0.5)).realize()
    signed = Tensor(rng.integers(-100, 100, 60).astype(np.int32)).realize()
    kinds = [dtype for dtype, *_ in INTS.values()] + [dtype for dtype, *_ in FLOATS.values()]
    return [
        *(small.cast(d) for d in kinds),
        *(signed.cast(d) for d in kinds),
        *(small.cast(dtypes.float16).cast(d) for d in kinds),
        *(small.cast(dtypes.float64).cast(d) for d in kinds),
        small.cast(dtypes.bool),
        (small > 50).cast(dtypes.float32),
        (small > 50).cast(dtypes.int64),
        small.cast(dtypes.bfloat16).cast(dtypes.float32),
    ]


@case("bitcast")
def _(rng):
    a = f32(rng, 64)
    return [a.bitcast(dtypes.int32), a.bitcast(dtypes.uint8), a.half().bitcast(dtypes.uint16)]


@case("bool")
def _(rng):
    a, b = f32(rng, 30, 4) > 0, f32(rng, 30, 4) > 0
    return [a & b, a | b, a ^ b, a.logical_not(), a.any(axis=1), a.all(), a.sum(axis=0), a == b]


# ------------------------------------------------------------------------------- reductions -----
@case("softmax", APPROX)
def _(rng):
    a = f32(rng, 17, 33)
    return [a.softmax(), a.log_softmax(axis=0), a.logsumexp(axis=1), a.var(axis=1), a.std()]


@case("large_sum", LONG)
def _(rng):
    a = Tensor(rng.random(200_000, dtype=np.float32)).realize()
    return [a.sum(), a.max(), a.reshape(400, 500).mean(axis=0)]


@case("scan", LONG)
def _(rng):
    return [f32(rng, 5, 300).cumsum(axis=1), f32(rng, 700).cumsum(), f32(rng, 40).cummax()[0]]


@case("order")
def _(rng):
    a = f32(rng, 64)
    values, places = a.sort()
    top, at = f32(rng, 6, 20).topk(3)
    return [values, places, top, at, a.argsort()]


# ------------------------------------------------------------------------- matmul, conv, nn -----
@case("matmul_shared_f32", LONG)
def _(rng):
    return [f32(rng, 256, 128) @ f32(rng, 128, 64), f32(rng, 200, 300) @ f32(rng, 300)]


@case("matmul_tensor_core_f16", HALF)
def _(rng):
    a = (f32(rng, 64, 64) / 8).half().realize()
    b = (f32(rng, 64, 64) / 8).half().realize()
    return [a.matmul(b, dtype=dtypes.float32), a @ b]


@case("conv", LONG)
def _(rng):
    x = f32(rng, 2, 4, 14, 14)
    return [
        x.conv2d(f32(rng, 6, 4, 3, 3), padding=1),
        x.conv2d(f32(rng, 6, 4, 3, 3), stride=2),
        x.conv2d(f32(rng, 4, 1, 3, 3), groups=4),
        x.conv2d(f32(rng, 6, 4, 3, 3), dilation=2),
        x.conv_transpose2d(f32(rng, 4, 3, 3, 3)),
        x.max_pool2d(),
        x.avg_pool2d(),
    ]


@case("norm", APPROX)
def _(rng):
    with Context(TRAINING=1):
        batch = nn.BatchNorm(4)(f32(rng, 3, 4, 5, 5))
    return [nn.LayerNorm(16)(f32(rng, 4, 16)), batch, nn.RMSNorm(16)(f32(rng, 4, 16))]


@case("attention", APPROX)
def _(rng):
    q, k, v = (f32(rng, 2, 2, 12, 8) for _ in range(3))
    return [
        q.scaled_dot_product_attention(k, v),
        q.scaled_dot_product_attention(k, v, is_causal=True),
    ]


# ---------------------------------------------------------------------------- moving data -------
@case("movement")
def _(rng):
    a = f32(rng, 33, 65)
    return [
        *(a.T.contiguous(), a.flip(0).contiguous(), a.pad(((1, 2), (0, 3))), a[3:20:2, ::3]),
        *(
            Tensor.cat(a, a, dim=1).contiguous(),
            a.tril(),
            a.roll(5, 0),
            Tensor.eye(9) + f32(rng, 1),
        ),
        Tensor.arange(1000) * f32(rng, 1),
    ]


@case("gather")
def _(rng):
    a = f32(rng, 33, 10)
    index = Tensor(rng.integers(0, 10, (33, 2)).astype(np.int32)).realize()
    rows = Tensor(rng.integers(0, 33, 12).astype(np.int32)).realize()
    table = nn.Embedding(50, 8)
    table.weight = f32(rng, 50, 8)
    return [a.gather(1, index), a[rows], table(rows), rows.one_hot(33), a.scatter(1, index, 0.0)]


@case("random", NEAR)
def _(rng):
    return [
        Tensor.rand(100),
        Tensor.rand(33, 7),
        Tensor.randint(50, low=-5, high=90),
        Tensor.uniform(40, low=-1, high=1),
        Tensor.kaiming_uniform(16, 16),
        Tensor.randperm(20),
    ]


@case("random_normal", APPROX)
def _(rng):
    with Context(TRAINING=1):
        return [Tensor.randn(333), Tensor.ones(100).dropout(0.5)]


# ------------------------------------------------------------------------------ JIT, training ---
@case("jit_inputs", NEAR)
def _(rng):
    """A captured graph, replayed with other inputs each time."""

    @TinyJit
    def f(a, b):
        c = (a * b + 1).contiguous()
        d = (c.sum(axis=1, keepdim=True) + a).contiguous()
        return (d.relu() - b).realize()

    return [Tensor(f(f32(rng, 8, 9), f32(rng, 8, 9)).numpy()) for _ in range(6)]


@case("jit_long", NEAR)
def _(rng):
    """More kernels than one graph holds (32), some independent, so graphs follow each other."""

    @TinyJit
    def f(a):
        left, right = a, a
        for i in range(25):
            left = (left * 0.9 + i).contiguous()
            right = (right * 0.8 - left).contiguous()
        return left.realize(right), right

    outputs = []
    for _ in range(4):
        left, right = f(f32(rng, 6, 5))
        outputs += [Tensor(left.numpy()), Tensor(right.numpy())]
    return outputs


@case("jit_variable", NEAR)
def _(rng):
    """Launch dimensions and scalar arguments that change between replays."""
    data = f32(rng, 12, 10)

    @TinyJit
    def f(a):
        return (a.exp2() + 1).sum(axis=0).realize()

    sums = []
    for n in range(1, 8):
        bound = Variable("n", 1, 12).bind(n)
        sums.append(Tensor(f(data.shrink(((0, bound), None))).numpy()))
    return sums


def _train(rng, network, optimizer, steps: int, shape: tuple[int, ...]) -> list[Tensor]:
    x = Tensor(rng.random((64, *shape), dtype=np.float32)).realize()
    y = Tensor(rng.integers(0, 10, 64).astype(np.int32)).realize()

    @TinyJit
    def step():
        with Context(TRAINING=1):
            optimizer.zero_grad()
            loss = network(x).sparse_categorical_crossentropy(y).backward()
            return loss.realize(*optimizer.schedule_step())

    losses = [step().item() for _ in range(steps)]
    assert losses[-1] < losses[0], losses
    return [Tensor(losses, dtype=dtypes.float32)]


@case("train_mlp_sgd", LOSS)
def _(rng):
    first, second = nn.Linear(32, 48), nn.Linear(48, 10)
    return _train(
        rng,
        lambda x: second(first(x).relu()),
        nn.optim.SGD(nn.state.get_parameters([first, second]), lr=0.1, momentum=0.9),
        25,
        (32,),
    )


@case("train_mlp_adam", LOSS)
def _(rng):
    first, second = nn.Linear(32, 48), nn.Linear(48, 10)
    return _train(
        rng,
        lambda x: second(first(x).relu()),
        nn.optim.Adam(nn.state.get_parameters([first, second]), lr=0.003),
        15,
        (32,),
    )


@case("train_conv", LOSS)
def _(rng):
    conv, norm, last = nn.Conv2d(1, 4, 3), nn.BatchNorm(4), nn.Linear(4 * 36, 10)
    return _train(
        rng,
        lambda x: last(norm(conv(x)).relu().flatten(1)),
        nn.optim.SGD(nn.state.get_parameters([conv, norm, last]), lr=0.05),
        12,
        (1, 8, 8),
    )
