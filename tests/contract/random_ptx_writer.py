# SPDX-License-Identifier: Apache-2.0
"""Lines of a random PTX kernel, its registers and the values of all threads in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from random_ptx_model import DTYPE, REGISTER, Array


@dataclass(frozen=True)
class Value:
    kind: str
    name: str
    data: Array  # one element a thread


class Writer:
    """What the steps of a kernel write to.

    Args:
        rng: decides everything.
        blocks, threads: of the launch.
    """

    def __init__(self, rng: np.random.Generator, blocks: int, threads: int) -> None:
        self.rng = rng
        self.blocks = blocks
        self.threads = threads
        self.count = blocks * threads
        self.lines: list[str] = []
        self.decls: list[str] = []
        self.used: dict[str, int] = dict.fromkeys(REGISTER, 0)
        self.pool: dict[str, list[Value]] = {kind: [] for kind in REGISTER}
        self.labels = 0
        self.inputs: dict[str, Array] = {}  # by parameter: a word a thread
        self.totals: list[tuple[str, int]] = []  # red operation, expected value

    def new(self, kind: str) -> str:
        prefix, _ = REGISTER[kind]
        self.used[kind] += 1
        return f"%{prefix}{self.used[kind]}"

    def emit(self, line: str) -> None:
        self.lines.append(f"    {line}")

    def keep(self, kind: str, name: str, data: Array) -> Value:
        assert data.dtype == DTYPE[kind], (kind, data.dtype)
        assert data.shape == (self.count,)
        value = Value(kind, name, data)
        self.pool[kind].append(value)
        return value

    def take(self, kind: str) -> Value:
        pool = self.pool[kind]
        # Newer values are likelier: chains grow deep.
        at = len(pool) - 1 - int(min(self.rng.geometric(0.25) - 1, len(pool) - 1))
        return pool[at]

    def op(self, text: str, kind: str, data: Array, *operands: object) -> Value:
        """Writes `text` with a new destination and the operands."""
        name = self.new(kind)
        names = [o.name if isinstance(o, Value) else str(o) for o in operands]
        self.emit(f"{text} {', '.join([name, *names])};")
        return self.keep(kind, name, data)

    def label(self) -> str:
        self.labels += 1
        return f"L{self.labels}"

    def choice(self, *options: str) -> str:
        return str(self.rng.choice(options))
