# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E731
"""The rest of tiny_ops.py's table: movement, products, convolutions, losses, kinds, creation."""

from __future__ import annotations

from tiny_cases import APPROX, EXACT, HALF, LONG, NEAR
from tiny_ops import CASES, LEFT_OUT, LOOSE, add, gradient, gradient_of
from tinygrad import Context, Tensor, dtypes

__all__ = ["CASES", "LEFT_OUT"]

# ---------------------------------------------------------------------------------- movement -----
MOVES = {
    "reshape": lambda x: x.reshape(9, 26),
    "view": lambda x: x.view(26, -1),
    "expand": lambda x: x.reshape(2, 13, 9, 1).expand(2, 13, 9, 3),
    "permute": lambda x: x.permute(2, 0, 1),
    "transpose": lambda x: x.transpose(1, 2),
    "flip": lambda x: x.flip((0, 2)),
    "shrink": lambda x: x.shrink(((0, 2), (3, 9), (1, 8))),
    "shrink_to": lambda x: x.shrink_to(1, 5, 4),
    "pad": lambda x: x.pad(((0, 1), (2, 0), (1, 1))),
    "pad_value": lambda x: x.pad(((0, 1), (2, 0), (1, 1)), value=3.0),
    "pad_reflect": lambda x: x.pad((2, 1), mode="reflect"),
    "pad_replicate": lambda x: x.pad((2, 1), mode="replicate"),
    "pad_circular": lambda x: x.pad((2, 1), mode="circular"),
    "pad_to": lambda x: x.pad_to(4, 13, 10),
    "squeeze": lambda x: x.reshape(2, 1, 13, 9).squeeze(1),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "flatten": lambda x: x.flatten(1),
    "unflatten": lambda x: x.reshape(26, 9).unflatten(0, (2, 13)),
    "rearrange": lambda x: x.rearrange("a b c -> c (b a)"),
    "stack": lambda x: x[0].stack(x[1], dim=1),
    "cat": lambda x: x[0].cat(x[1], dim=1),
    "roll": lambda x: x.roll(shifts=(3, -2), dims=(1, 2)),
    "repeat": lambda x: x.repeat(2, 1, 3),
    "repeat_interleave": lambda x: x.repeat_interleave(3, dim=1),
    "unfold": lambda x: x.unfold(1, 4, 3),
    "diag": lambda x: x[0, 0].diag(),
    "diagonal": lambda x: x[0].diagonal(),
    "triu": lambda x: x.triu(1),
    "tril": lambda x: x.tril(-1),
    "clone": lambda x: x.clone(),
    "slice": lambda x: x[:, 2:11:3, ::-1],
    "index_rows": lambda x: x[:, Tensor([3, 0, 3, 12])],
    "index_pairs": lambda x: x[Tensor([0, 1]), :, Tensor([4, 8])],
    "interpolate": lambda x: x.interpolate((20, 5), mode="nearest"),
}
for _name, _move in MOVES.items():
    add(f"move_{_name}", EXACT, lambda t, m=_move: m(t.f(2, 13, 9)).contiguous())
    add(f"move_{_name}_gradient", NEAR, lambda t, m=_move: gradient_of(m, t.f(2, 13, 9)))
add("split_chunk", EXACT, lambda t: [p + 1 for p in (*t.f().split(5), *t.f().chunk(3, dim=1))])
add("meshgrid", EXACT, lambda t: [g + 1 for g in t.f(4).meshgrid(t.f(5))])
add("interpolate_linear", NEAR, lambda t: t.f(2, 13, 9).interpolate((20, 5), mode="linear"))
add("gather", EXACT, lambda t: t.f().gather(1, t.i(13, 4, low=0, high=8)))
add(
    "gather_gradient",
    NEAR,
    lambda t: (x := t.f()).gather(1, t.i(13, 4, low=0, high=8)).sum().gradient(x),
)
add("scatter", EXACT, lambda t: t.f().scatter(0, Tensor([[3, 1, 4], [0, 2, 9]]), t.f(2, 3)))
for _reduce in ("sum", "prod", "mean", "amax", "amin"):
    scatter = lambda t, r=_reduce: t.f().scatter_reduce(0, t.i(6, 9, low=0, high=12), t.f(6, 9), r)
    add(f"scatter_reduce_{_reduce}", NEAR, scatter)
add("one_hot", EXACT, lambda t: t.i(20, low=0).one_hot(10))
add("setitem", EXACT, lambda t: _assigned(t.f(), t.f(13, 3)))


def _assigned(x: Tensor, y: Tensor) -> Tensor:
    x[:, 2:5] = y
    return x


add("assign", EXACT, lambda t: t.f().assign(t.f() + 1))

# ------------------------------------------------------------------- products and convolutions ---
add("matmul", LONG, lambda t: t.f(20, 30).matmul(t.f(30, 10)))
add("dot", LONG, lambda t: [t.f(30).dot(t.f(30)), t.f(4, 5, 30).dot(t.f(4, 30, 6))])
add("matmul_gradient", LONG, lambda t: gradient((a := t.f(9, 8)) @ (b := t.f(8, 7)), a, b))
add(
    "matmul_half",
    HALF,
    lambda t: t.f(16, 16, low=-1, high=1).half() @ t.f(16, 16, low=-1, high=1).half(),
)
add("matmul_integers", EXACT, lambda t: t.i(20, 30) @ t.i(30, 10))
for _formula, _shapes in {
    "ij,jk->ik": ((5, 6), (6, 7)),
    "ij,ij->": ((5, 6), (5, 6)),
    "bij,bjk->bki": ((2, 5, 6), (2, 6, 7)),
    "ii->i": ((6, 6),),
    "ij->ji": ((5, 6),),
}.items():
    label = _formula.replace(",", "_").replace("->", "_to_")
    add(
        f"einsum_{label}",
        LONG,
        lambda t, f=_formula, s=_shapes: Tensor.einsum(f, *(t.f(*x) for x in s)),
    )
CONVOLUTIONS = {
    "plain": {},
    "padding": {"padding": 1},
    "stride": {"stride": 2},
    "dilation": {"dilation": 2},
    "groups": {"groups": 2},
}
for _name, _how in CONVOLUTIONS.items():
    channels = 4 // _how.get("groups", 1)
    conv = lambda t, h=_how, c=channels: t.f(2, 4, 9, 8).conv2d(t.f(6, c, 3, 3), t.f(6), **h)
    add(f"conv2d_{_name}", LONG, conv)
    back = lambda t, h=_how, c=channels: gradient(
        (x := t.f(1, 4, 7, 7)).conv2d(w := t.f(4, c, 3, 3), **h), x, w
    )
    add(f"conv2d_{_name}_gradient", LOOSE, back)
add("conv1d", LONG, lambda t: t.f(2, 3, 20).conv2d(t.f(4, 3, 5)))
add("conv3d", LONG, lambda t: t.f(1, 2, 5, 6, 7).conv2d(t.f(3, 2, 2, 3, 2)))
for _how in ({}, {"stride": 2}, {"padding": 1, "output_padding": 1, "stride": 2}):
    label = "_".join(_how) or "plain"
    add(
        f"conv_transpose2d_{label}",
        LONG,
        lambda t, h=_how: t.f(1, 4, 5, 6).conv_transpose2d(t.f(4, 3, 3, 3), **h),
    )
for _name in ("avg_pool2d", "max_pool2d"):
    tolerance = EXACT if _name == "max_pool2d" else NEAR
    for _how in ({}, {"kernel_size": (3, 2), "stride": 1}, {"padding": 1}, {"ceil_mode": True}):
        label = "_".join(_how) or "plain"
        add(
            f"{_name}_{label}",
            tolerance,
            lambda t, n=_name, h=_how: getattr(t.f(2, 3, 9, 9), n)(**h),
        )
add("max_pool2d_gradient", EXACT, lambda t: gradient_of(Tensor.max_pool2d, t.f(2, 3, 8, 8)))
add("max_unpool2d", EXACT, lambda t: _unpooled(t.f(1, 2, 8, 8)))


def _unpooled(x: Tensor) -> Tensor:
    pooled, places = x.max_pool2d(return_indices=True)
    return Tensor.max_unpool2d(pooled, places)


add("linear", LONG, lambda t: t.f(5, 8).linear(t.f(8, 6), t.f(6)))
add("sequential", NEAR, lambda t: t.f().sequential([Tensor.relu, lambda x: x * 2 + 1]))
add(
    "layernorm",
    APPROX,
    lambda t: [(x := t.f(4, 16)).layernorm(), *gradient(x.layernorm(), x)],
)
add("batchnorm", APPROX, lambda t: t.f(2, 3, 4).batchnorm(t.f(3), t.f(3), t.f(3), t.f(3, low=0.5)))
attention = lambda t, **how: t.f(2, 9, 8).scaled_dot_product_attention(
    t.f(2, 9, 8), t.f(2, 9, 8), **how
)
add("attention", APPROX, attention)
add("attention_causal", APPROX, lambda t: attention(t, is_causal=True))

# ------------------------------------------------------------------------------------ losses -----
add(
    "binary_crossentropy",
    APPROX,
    lambda t: t.f(low=0.1, high=0.9).binary_crossentropy(t.i(low=0, high=1).float()),
)
add(
    "binary_crossentropy_logits",
    APPROX,
    lambda t: t.f().binary_crossentropy_logits(t.i(low=0, high=1).float()),
)
add(
    "sparse_categorical_crossentropy",
    APPROX,
    lambda t: t.f().sparse_categorical_crossentropy(t.i(13, low=0, high=8)),
)
add("cross_entropy", APPROX, lambda t: t.f().cross_entropy(t.i(13, low=0, high=8)))
add("nll_loss", APPROX, lambda t: t.f().log_softmax().nll_loss(t.i(13, low=0, high=8)))
losses = lambda x: x.sparse_categorical_crossentropy(Tensor([1, 0, 8] * 4))
add("cross_entropy_gradient", LOOSE, lambda t: losses(x := t.f(12, 9)).gradient(x))

# ----------------------------------------------------------------------------- kinds, creation ---
KINDS = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
FLOATS = ("float16", "bfloat16", "float32", "float64")
for _kind in (*KINDS, *FLOATS):
    source = lambda t, k=_kind: t.i(40, low=0, high=120).cast(getattr(dtypes, k)).contiguous()
    targets = lambda t, s=source: [
        s(t)
        .cast(getattr(dtypes, k))
        .cast(dtypes.float32 if k == "bfloat16" else getattr(dtypes, k))
        for k in (
            "bool",
            "int8",
            "uint16",
            "int32",
            "uint64",
            "float16",
            "bfloat16",
            "float32",
            "float64",
        )
    ]
    add(f"cast_{_kind}", EXACT, targets)
    if _kind not in ("bool", "bfloat16"):
        arithmetic = lambda t, s=source: [(a := s(t)) + (b := s(t)), a * b, a.maximum(b), a < b, -a]
        add(f"arithmetic_{_kind}", EXACT, arithmetic)
add(
    "cast_methods",
    EXACT,
    lambda t: [
        (a := t.i()).float(),
        a.half(),
        a.bool(),
        a.double(),
        a.long(),
        a.short(),
        a.float().int(),
    ],
)
add("bfloat16", EXACT, lambda t: (t.i().bfloat16() + t.i().bfloat16()).float())
for _from, _to in (
    ("float32", "uint32"),
    ("float64", "int64"),
    ("float16", "uint16"),
    ("int32", "uint8"),
):
    bits = lambda t, a=_from, b=_to: (
        t.f().cast(getattr(dtypes, a)).contiguous().bitcast(getattr(dtypes, b))
    )
    add(f"bitcast_{_from}_{_to}", EXACT, bits)
add("full", EXACT, lambda t: [Tensor.full((4, 5), 3.5) + t.f(5), t.f().full_like(2) + t.f()])
add(
    "zeros_ones",
    EXACT,
    lambda t: [
        x + t.f(3)
        for x in (Tensor.zeros(3), Tensor.ones(3), t.f(3).zeros_like(), t.f(3).ones_like())
    ],
)
add("arange", EXACT, lambda t: [Tensor.arange(5, 200, 3) + t.i(65), Tensor.arange(50) * t.i(50)])
add("linspace", NEAR, lambda t: Tensor.linspace(-1, 3, 33) + t.f(33))
add("eye", EXACT, lambda t: Tensor.eye(6, 8) + t.f(8))
RANDOM = {
    "rand": lambda: Tensor.rand(40),
    "rand_like": lambda: Tensor.zeros(30).contiguous().rand_like(),
    "randint": lambda: Tensor.randint(40, low=-5, high=50),
    "uniform": lambda: Tensor.uniform(40, low=-3, high=2),
    "scaled_uniform": lambda: Tensor.scaled_uniform(20, 4),
    "glorot_uniform": lambda: Tensor.glorot_uniform(20, 4),
    "kaiming_uniform": lambda: Tensor.kaiming_uniform(20, 4),
    "randperm": lambda: Tensor.randperm(30),
}
for _name, _make in RANDOM.items():
    add(f"random_{_name}", NEAR, lambda _t, m=_make: m())
for _name, _make in {
    "randn": lambda: Tensor.randn(40),
    "randn_like": lambda: Tensor.zeros(30).contiguous().randn_like(),
    "normal": lambda: Tensor.normal(40, mean=2, std=3),
    "kaiming_normal": lambda: Tensor.kaiming_normal(20, 4),
    "multinomial": lambda: Tensor([0.1, 0.2, 0.7]).multinomial(30, replacement=True),
}.items():
    add(f"random_{_name}", LOOSE, lambda _t, m=_make: m())


def _dropped(x: Tensor) -> Tensor:
    with Context(TRAINING=1):
        return x.dropout(0.5)


add("dropout", NEAR, lambda t: _dropped(t.f()))
