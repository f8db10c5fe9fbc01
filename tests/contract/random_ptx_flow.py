# SPDX-License-Identifier: Apache-2.0
"""Steps of random PTX kernels: branches, memory, calls, and threads that meet."""

from __future__ import annotations

import numpy as np
from random_ptx_model import DTYPE, F32, PRED, U32, U64, Array, wide
from random_ptx_writer import Writer


def branch(k: Writer) -> None:
    """A divergent if/else."""
    p, a, b = k.take(PRED), k.take(U32), k.take(U32)
    other, end = k.label(), k.label()
    name = k.new(U32)
    k.emit(f"@!{p.name} bra {other};")
    k.emit(f"add.u32 {name}, {a.name}, {b.name};")
    k.emit(f"xor.b32 {name}, {name}, 12345;")
    k.emit(f"bra.uni {end};" if k.rng.integers(2) and p.data.all() else f"bra {end};")
    k.lines.append(f"{other}:")
    k.emit(f"sub.u32 {name}, {a.name}, {b.name};")
    k.lines.append(f"{end}:")
    data = np.where(p.data, (a.data + b.data) ^ np.uint32(12345), a.data - b.data)
    k.keep(U32, name, data)


def loop(k: Writer) -> None:
    """A loop whose length differs from thread to thread."""
    a, b, times = k.take(U32), k.take(U32), k.take(U32)
    mask = int(k.rng.choice([1, 3, 7, 15]))
    name, left = k.new(U32), k.new(U32)
    top, end = k.label(), k.label()
    k.emit(f"mov.u32 {name}, {a.name};")
    k.emit(f"and.b32 {left}, {times.name}, {mask};")
    k.lines.append(f"{top}:")
    k.emit(f"setp.eq.u32 %go, {left}, 0;")
    k.emit(f"@%go bra {end};")
    k.emit(f"mad.lo.u32 {name}, {name}, {b.name}, {left};")
    k.emit(f"sub.u32 {left}, {left}, 1;")
    k.emit(f"bra {top};")
    k.lines.append(f"{end}:")
    data, rest = a.data.copy(), times.data & np.uint32(mask)
    while rest.any():
        data = np.where(rest > 0, data * b.data + rest, data)
        rest = np.where(rest > 0, rest - np.uint32(1), rest)
    k.keep(U32, name, data)


def shared(k: Writer) -> None:
    """Threads of a block exchange values through shared memory."""
    kind = k.choice(U32, U64, F32)
    a = k.take(kind)
    size = a.data.itemsize
    name = f"exchange{len(k.decls)}"
    k.decls.append(f"    .shared .align 8 .b8 {name}[{size * k.threads}];")
    offset = int(k.rng.integers(0, k.threads))
    k.emit(f"mov.u32 %addr, {name};")
    k.emit(f"mad.lo.u32 %addr, %thread, {size}, %addr;")
    k.emit(f"st.shared.{kind} [%addr], {a.name};")
    k.emit("bar.sync 0;")
    k.emit(f"add.u32 %tmp, %thread, {offset};")
    k.emit(f"rem.u32 %tmp, %tmp, {k.threads};")
    k.emit(f"mov.u32 %addr, {name};")
    k.emit(f"mad.lo.u32 %addr, %tmp, {size}, %addr;")
    target = k.new(kind)
    k.emit(f"ld.shared.{kind} {target}, [%addr];")
    by_block = a.data.reshape(k.blocks, k.threads)
    k.keep(kind, target, np.roll(by_block, -offset, axis=1).reshape(-1))


def uniform(k: Writer) -> None:
    """Words that are the same for all threads, one of which is then written again."""
    kind = k.choice(U32, U64)
    source = k.choice("in0", "in1") + f"_{kind}"
    count = int(k.rng.choice([2, 4])) if kind == U32 else 2
    first = int(k.rng.integers(0, k.count // count)) * count
    names = [k.new(kind) for _ in range(count)]
    k.emit(f"ld.param.u64 %at, [{source}];")
    size = DTYPE[kind]().itemsize
    k.emit(f"ld.global.v{count}.{kind} {{{', '.join(names)}}}, [%at+{first * size}];")
    values = [np.full(k.count, k.inputs[source][first + i]) for i in range(count)]
    rewrite(k, kind, names, values)


def halves(k: Writer) -> None:
    """A double word of all threads taken apart, and one half written again."""
    number = int(k.rng.integers(0, 2**63))
    names = [k.new(U32), k.new(U32)]
    k.emit(f"mov.b64 %at, {number}; mov.b64 {{{names[0]}, {names[1]}}}, %at;")
    parts = (number & 0xFFFFFFFF, number >> 32)
    rewrite(k, U32, names, [np.full(k.count, part, np.uint32) for part in parts])


def rewrite(k: Writer, kind: str, names: list[str], values: list[Array]) -> None:
    """Some of these registers change, in some threads or all; all are kept."""
    for name, data in zip(names, values, strict=True):
        values = data
        if k.rng.integers(2):
            a, p = k.take(kind), k.take(PRED)
            guard = bool(k.rng.integers(2))
            k.emit(f"{f'@{p.name} ' if guard else ''}add.{kind} {name}, {name}, {a.name};")
            values = np.where(p.data, data + a.data, data) if guard else data + a.data
        k.keep(kind, name, values)


def two_predicates(k: Writer) -> None:
    """p|q of what all threads have, then one of the two joined with a thread's own."""
    own = k.take(PRED)
    first, second = k.new(PRED), k.new(PRED)
    limit = int(k.rng.integers(0, k.blocks + 1))
    k.emit("mov.u32 %tmp, %ctaid.x;")
    k.emit(f"setp.lt.u32 {first}|{second}, %tmp, {limit};")
    less = np.repeat(np.arange(k.blocks) < limit, k.threads)
    again = int(k.rng.integers(2))
    name = (first, second)[again]
    k.emit(f"xor.pred {name}, {name}, {own.name};")
    values = [less, ~less]
    values[again] = values[again] ^ own.data
    k.keep(PRED, first, values[0])
    k.keep(PRED, second, values[1])


def local(k: Writer) -> None:
    """A small array of each thread, indexed by a value."""
    values = [k.take(U32) for _ in range(4)]
    index = k.take(U32)
    name = f"array{len(k.decls)}"
    k.decls.append(f"    .local .align 16 .b8 {name}[16];")
    k.emit(f"mov.u64 %at, {name};")
    first, second, third, fourth = (value.name for value in values)
    if k.rng.integers(2):
        k.emit(f"st.local.v4.u32 [%at], {{{first}, {second}, {third}, {fourth}}};")
    else:
        k.emit(f"st.local.v2.u32 [%at], {{{first}, {second}}};")
        k.emit(f"st.local.u32 [%at+8], {third};")
        k.emit(f"st.local.u32 [%at+12], {fourth};")
    k.emit(f"and.b32 %tmp, {index.name}, 3;")
    k.emit("mad.wide.u32 %at, %tmp, 4, %at;")
    target = k.new(U32)
    k.emit(f"ld.local.u32 {target}, [%at];")
    rows = np.stack([value.data for value in values])
    k.keep(U32, target, rows[index.data & 3, np.arange(k.count)])


def call(k: Writer) -> None:
    """A device function."""
    a, b = k.take(U32), k.take(U32)
    name = k.new(U32)
    k.emit("{")
    k.emit("  .param .b32 first, second, result;")
    k.emit(f"  st.param.b32 [first], {a.name};")
    k.emit(f"  st.param.b32 [second], {b.name};")
    k.emit("  call.uni (result), mix, (first, second);")
    k.emit(f"  ld.param.b32 {name}, [result];")
    k.emit("}")
    product = a.data * np.uint32(2654435761) + b.data
    k.keep(U32, name, product << np.uint32(13) | product >> np.uint32(19))


def carry(k: Writer) -> None:
    """A 64-bit sum of two 32-bit halves."""
    low, high, p, q = (k.take(U32) for _ in range(4))
    add = bool(k.rng.integers(2))
    out_low, out_high = k.new(U32), k.new(U32)
    first, second = ("add.cc", "addc") if add else ("sub.cc", "subc")
    k.emit(f"{first}.u32 {out_low}, {low.name}, {p.name};")
    k.emit(f"{second}.u32 {out_high}, {high.name}, {q.name};")
    a = low.data.astype(np.uint64) | high.data.astype(np.uint64) << np.uint64(32)
    b = p.data.astype(np.uint64) | q.data.astype(np.uint64) << np.uint64(32)
    both = a + b if add else a - b
    k.keep(U32, out_low, both.astype(np.uint32))
    k.keep(U32, out_high, (both >> np.uint64(32)).astype(np.uint32))


def reduce(k: Writer) -> None:
    """All threads of the grid on one cell."""
    a = k.take(U32)
    name = k.choice("add", "xor", "min", "max", "or", "and")
    at = len(k.totals) * 4
    t = "b32" if name in ("xor", "or", "and") else "u32"
    k.emit("ld.param.u64 %at, [totals];")
    k.emit(f"red.global.{name}.{t} [%at+{at}], {a.name};")
    values = wide(a.data, sign=False)
    start = {"min": 2**32 - 1, "and": 2**32 - 1}.get(name, 0)
    total = start
    for v in values:
        match name:
            case "add":
                total = (total + v) & 0xFFFFFFFF
            case "xor":
                total ^= v
            case "min":
                total = min(total, v)
            case "max":
                total = max(total, v)
            case "or":
                total |= v
            case "and":
                total &= v
    k.totals.append((name, total))


def warp(k: Writer) -> None:
    """Threads of a warp exchange values."""
    a = k.take(U32)
    lanes = a.data.reshape(-1, 32)
    lane = np.arange(32)
    match k.choice("bfly", "down", "up", "idx", "ballot", "all", "any", "redux"):
        case "bfly":
            by = int(k.rng.integers(1, 32))
            data = lanes[:, lane ^ by]
            k.op("shfl.sync.bfly.b32", U32, data.reshape(-1), a, by, 31, -1)
        case "down":
            by = int(k.rng.integers(1, 32))
            data = lanes[:, np.where(lane + by < 32, lane + by, lane)]
            k.op("shfl.sync.down.b32", U32, data.reshape(-1), a, by, 31, -1)
        case "up":
            by = int(k.rng.integers(1, 32))
            data = lanes[:, np.where(lane - by >= 0, lane - by, lane)]
            k.op("shfl.sync.up.b32", U32, data.reshape(-1), a, by, 0, -1)
        case "idx":
            index = k.take(U32)
            at = (index.data & np.uint32(31)).reshape(-1, 32)
            data = np.take_along_axis(lanes, at.astype(np.int64), axis=1)
            k.op("shfl.sync.idx.b32", U32, data.reshape(-1), a, index, 31, -1)
        case "ballot":
            p = k.take(PRED)
            bits = (p.data.reshape(-1, 32).astype(np.uint64) << lane.astype(np.uint64)).sum(1)
            data = np.repeat(bits.astype(np.uint32), 32)
            k.op("vote.sync.ballot.b32", U32, data, p, -1)
        case "all" | "any" as which:
            p = k.take(PRED)
            rows = p.data.reshape(-1, 32)
            got = rows.all(axis=1) if which == "all" else rows.any(axis=1)
            k.op(f"vote.sync.{which}.pred", PRED, np.repeat(got, 32), p, -1)
        case "redux":
            name = k.choice("add", "min", "max", "xor", "or", "and")
            t = "u32" if name in ("add", "min", "max") else "b32"
            function = {
                "add": np.add,
                "min": np.minimum,
                "max": np.maximum,
                "xor": np.bitwise_xor,
                "or": np.bitwise_or,
                "and": np.bitwise_and,
            }[name]
            data = np.repeat(function.reduce(lanes, axis=1, dtype=np.uint32), 32)
            k.op(f"redux.sync.{name}.{t}", U32, data, a, -1)
