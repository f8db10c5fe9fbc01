# SPDX-License-Identifier: Apache-2.0
"""Random small PTX kernels, and what NumPy says they compute.

A `Kernel` grows instruction by instruction; each writes a line of PTX and computes the values of
all threads with NumPy at once, after the PTX manual's words. At the end the newest values of each
type are stored. Everything is deterministic in the generator given.

    python random_ptx.py SEED INDEX     prints one kernel
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from random_ptx_arith import bits, floating, half, integer
from random_ptx_convert import compare, convert, predicate_logic, select
from random_ptx_flow import branch, call, carry, local, loop, reduce, shared, warp
from random_ptx_model import F16, PRED, REGISTER, STORED, U32, Array
from random_ptx_writer import Writer


class Kernel:
    """One random kernel: `ptx`, its inputs and what its outputs must be.

    Args:
        rng: decides everything.
        steps: instructions (or small groups of them) to write.
    """

    def __init__(self, rng: np.random.Generator, steps: int) -> None:
        self.blocks = int(rng.integers(1, 4))
        self.threads = int(rng.choice([32, 64, 96, 128, 45]))
        self.writer = Writer(rng, self.blocks, self.threads)
        self.count = self.writer.count
        self.inputs = self.writer.inputs
        self.totals = self.writer.totals
        self._begin()
        rows = self._table()
        weights = np.array([weight for _, weight in rows])
        for _ in range(steps):
            step = rng.choice([step for step, _ in rows], p=weights / weights.sum())
            with np.errstate(all="ignore"):
                step(self.writer)
        self._end()

    # --------------------------------------------------------------------------- begin, end ----
    def _begin(self) -> None:
        rng, n = self.writer.rng, self.writer.count
        special32 = np.array([0, 1, 2**31, 2**32 - 1, 2**31 - 1], np.uint32)
        special_f = np.array([0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 1e-40, 3e38], np.float32)
        for i in range(2):
            ints = rng.integers(0, 2**32, n, dtype=np.uint32)
            ints[rng.random(n) < 0.1] = rng.choice(special32)
            self.inputs[f"in{i}_u32"] = ints
            self.inputs[f"in{i}_u64"] = rng.integers(0, 2**64, n, dtype=np.uint64)
            floats = (rng.standard_normal(n) * 10.0 ** rng.integers(-3, 6)).astype(np.float32)
            floats[rng.random(n) < 0.1] = rng.choice(special_f)
            self.inputs[f"in{i}_f32"] = floats
            self.inputs[f"in{i}_f64"] = rng.standard_normal(n) * 10.0 ** rng.integers(-3, 9)
        for line in (
            "mov.u32 %thread, %tid.x;",
            "mov.u32 %lin, %ctaid.x;",
            "mov.u32 %tmp, %ntid.x;",
            "mad.lo.u32 %lin, %lin, %tmp, %thread;",
        ):
            self.writer.emit(line)
        for name, data in self.inputs.items():
            kind = name.split("_")[1]
            self.writer.emit(f"ld.param.u64 %at, [{name}];")
            self.writer.emit(f"mad.wide.u32 %at, %lin, {data.itemsize}, %at;")
            register = self.writer.new(kind)
            self.writer.emit(f"ld.global.{kind} {register}, [%at];")
            self.writer.keep(kind, register, data)
        lin = np.arange(n, dtype=np.uint32)
        self.writer.keep(U32, "%lin", lin)
        self.writer.keep(U32, "%thread", lin % np.uint32(self.writer.threads))
        with np.errstate(all="ignore"):
            for kind in (F16, PRED):
                convert(self.writer) if kind == F16 else compare(self.writer)
                while not self.writer.pool[kind]:
                    convert(self.writer) if kind == F16 else compare(self.writer)

    def _end(self) -> None:
        self.outputs: list[tuple[str, Array]] = []
        at = 0
        self.writer.emit("ld.param.u64 %at, [out];")
        self.writer.emit("mad.wide.u32 %at, %lin, 8, %at;")
        for kind in STORED:
            for value in self.writer.pool[kind][-8:]:
                self.writer.emit(
                    f"st.global.{kind} [%at+{at * self.writer.count * 8}], {value.name};"
                )
                self.outputs.append((kind, value.data))
                at += 1
        for value in self.writer.pool[PRED][-3:]:
            name = self.writer.new(U32)
            self.writer.emit(f"selp.u32 {name}, 1, 0, {value.name};")
            self.writer.emit(f"st.global.u32 [%at+{at * self.writer.count * 8}], {name};")
            self.outputs.append((U32, value.data.astype(np.uint32)))
            at += 1
        self.out_bytes = at * self.writer.count * 8
        self.writer.emit("ret;")

    @property
    def ptx(self) -> str:
        params = [*self.inputs, "out", "totals"]
        lines = [
            ".version 7.8",
            ".target sm_90",
            ".address_size 64",
            "",
            ".func (.param .b32 out) mix(.param .b32 a, .param .b32 b)",
            "{",
            "    .reg .b32 %a, %b;",
            "    ld.param.b32 %a, [a];",
            "    ld.param.b32 %b, [b];",
            "    mad.lo.u32 %a, %a, 2654435761, %b;",
            "    shf.l.wrap.b32 %a, %a, %a, 13;",
            "    st.param.b32 [out], %a;",
            "    ret;",
            "}",
            "",
            ".visible .entry random(" + ", ".join(f".param .u64 {p}" for p in params) + ")",
            "{",
            "    .reg .b32 %thread, %lin, %tmp, %addr, %loop;",
            "    .reg .b64 %at;",
            "    .reg .pred %go;",
        ]
        for kind, (prefix, declared) in REGISTER.items():
            lines.append(f"    .reg .{declared} %{prefix}<{self.writer.used[kind] + 1}>;")
        return "\n".join([*lines, *self.writer.decls, *self.writer.lines, "}", ""])

    # -------------------------------------------------------------------------------- steps ----
    def _table(self) -> list[tuple[Callable[[Writer], None], float]]:
        whole_warps = self.writer.threads % 32 == 0
        return [
            (integer, 10),
            (bits, 6),
            (floating, 10),
            (half, 2),
            (convert, 6),
            (compare, 5),
            (select, 4),
            (predicate_logic, 2),
            (branch, 2),
            (loop, 2),
            (shared, 1.5),
            (local, 1),
            (call, 1),
            (carry, 1),
            (reduce, 0.5),
            (warp, 2 if whole_warps else 0),
        ]


def kernels(seed: int, count: int, steps: int) -> list[Kernel]:
    """`count` kernels; kernel i depends on the seed and i alone."""
    return [Kernel(np.random.default_rng([seed, i]), steps) for i in range(count)]


if __name__ == "__main__":
    print(Kernel(np.random.default_rng([int(sys.argv[1]), int(sys.argv[2])]), 40).ptx)
