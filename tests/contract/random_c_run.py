# SPDX-License-Identifier: Apache-2.0
"""One random C program on the host and on the software GPU, both compiled by clang.

The host's build is under UBSan: what has undefined behaviour proves nothing and is told apart.
"""

from __future__ import annotations

import json
import os
import platform
import re
import selectors
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import ziglang
from random_c_make import INPUTS
from random_c_tree import Program

HERE = Path(__file__).parent
PLAIN = ["-w", "-I", str(HERE), "-ffp-contract=off", "-fno-math-errno"]
UBSAN = "undefined,float-cast-overflow"
SANITIZE = [f"-fsanitize={UBSAN}", "-fno-sanitize=function", f"-fsanitize-trap={UBSAN}"]
DEVICE = [
    *("-cc1", "-triple", "nvptx64-nvidia-cuda", "-x", "cuda", "-fcuda-is-device", "-fno-rtti"),
    *("-aux-triple", "x86_64-unknown-linux-gnu", "-w", "-S", "-I", str(HERE)),
    # f16 arithmetic as instructions, not by way of f32
    *("-ffp-contract=off", "-fnative-half-type"),
]
STEP_S = 60


@dataclass(frozen=True)
class Clang:
    """A clang with the NVPTX back end."""

    command: tuple[str, ...]
    version: int

    def device(self, sm: int, level: str) -> list[str]:
        """14 knows nothing behind sm_86 and PTX 7.5."""
        old = self.version < 16
        known = [f"-O{level}", "-target-cpu", f"sm_{min(sm, 86) if old else sm}"]
        known += ["-target-feature", "+ptx71" if old else "+ptx78"]
        return [*self.command, *DEVICE, *known] + ["-fallow-half-arguments-and-returns"] * old

    def host(self) -> list[str]:
        target = f"--target={platform.machine()}-linux-gnu"
        return [*self.command, target, *PLAIN, "-O0", "-march=native", *SANITIZE, "-x", "c++"]


@cache
def clang() -> Clang:
    """What $HARP_TEST_CLANG names, else that of the wheel which builds HARP (zig).

    Debian 12's (14) has bugs of its own that random programs meet: (u16)(i8)x as a bfe.u64 beyond
    the top bit, for one.
    """
    told = os.environ.get("HARP_TEST_CLANG")
    command = (told,) if told else (str(Path(ziglang.__file__).parent / "zig"), "clang")
    text = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    number = re.search(r"version (\d+)", text.stdout)
    assert number, text.stdout
    return Clang(command, int(number[1]))


class WrongProgramError(Exception):
    """The program itself is not in order: it does not compile, or its behaviour is undefined."""


@dataclass
class Bench:
    """A folder, a compiler and a software GPU.

    Attributes:
        folder: for files, which are overwritten by the next program.
        env: in which a program finds the software GPU.
    """

    folder: Path
    env: dict[str, str]
    ran: int = 0
    _device: subprocess.Popen[str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.clang = clang()
        self.model = self.folder / "random_c_host.o"
        self._call(["cc", "-O1", "-c", str(HERE / "random_c_host.c"), "-o", str(self.model)])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._end_device()

    def _call(self, command: list[str], given: bytes | None = None) -> bytes:
        done = subprocess.run(
            command, input=given, capture_output=True, timeout=STEP_S, check=False
        )
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace")[:600]
            raise WrongProgramError(f"{Path(command[0]).name} ended with {done.returncode}: {said}")
        return done.stdout

    # --------------------------------------------------------------------------- the two sides --
    def on_host(self, program: Program, words: np.ndarray, out_words: int) -> bytes:
        source = self.folder / "random_c.cu"
        source.write_text(program.text())
        built, part = self.folder / "host", self.folder / "random_c.o"
        self._call([*self.clang.host(), str(source), "-c", "-o", str(part)])
        self._call(["cc", str(part), str(self.model), "-o", str(built), "-lm"])
        head = np.array([program.blocks, program.threads, words.size, out_words], np.uint32)
        return self._call([str(built)], head.tobytes() + words.tobytes())

    def ptx(self, program: Program) -> Path:
        source, out = self.folder / "random_c.cu", self.folder / "random_c.ptx"
        source.write_text(program.text())
        command = self.clang.device(program.sm, program.level)
        self._call([*command, str(source), "-o", str(out)])
        return out

    def on_device(self, program: Program, words: np.ndarray, out_words: int) -> bytes | str:
        """What it stored, or why it did not run."""
        words.tofile(self.folder / "in")
        task = {
            "ptx": str(self.ptx(program)),
            "in": str(self.folder / "in"),
            "blocks": program.blocks,
            "threads": program.threads,
            "out_words": out_words,
        }
        device = self._device or self._start_device()
        assert device.stdin
        assert device.stdout
        try:
            device.stdin.write(json.dumps(task) + "\n")
            device.stdin.flush()
            with selectors.DefaultSelector() as waiting:
                waiting.register(device.stdout, selectors.EVENT_READ)
                line = device.stdout.readline() if waiting.select(STEP_S) else "late"
        except BrokenPipeError:
            line = ""
        if line in ("", "late"):
            self._end_device()
            ended = f"the process ended with {device.returncode}"
            return ended if not line else f"no answer in {STEP_S} s"
        answer = json.loads(line)
        if "error" in answer:
            self._end_device()
            return str(answer["error"])
        return bytes.fromhex(answer["out"])

    def _start_device(self) -> subprocess.Popen[str]:
        self._device = subprocess.Popen(
            [sys.executable, "-B", str(HERE / "random_c_device.py")],
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self._device

    def _end_device(self) -> None:
        if self._device:
            self._device.kill()
            self._device.communicate()
            self._device = None

    # ------------------------------------------------------------------------------- verdict ----
    def verdict(self, program: Program, words: np.ndarray, outputs: int) -> str:
        """Why the software GPU is wrong, or nothing.

        Raises:
            WrongProgramError: the program is, or clang cannot compile it.
        """
        self.ran += 1
        words = words[: INPUTS * program.count]
        out_words = outputs * program.count
        expected = self.on_host(program, words, out_words)
        got = self.on_device(program, words, out_words)
        if isinstance(got, str):
            return got
        if got == expected:
            return ""
        right, left = (np.frombuffer(b, np.uint64) for b in (expected, got))
        at = int((right != left).argmax())
        many = int((right != left).sum())
        where = f"output {at // program.count} of thread {at % program.count}"
        if at >= out_words:
            where = f"word {at - out_words} of the cells"
        values = f"expected {right[at]:#x}, got {left[at]:#x}"
        return f"{many} of {right.size} words differ: {where}: {values}"


def input_words(seed: int, index: int, count: int) -> np.ndarray:
    """Words for `count` threads: of all sizes, special ones among them."""
    rng = np.random.default_rng([seed, index])
    words = rng.integers(0, 2**64, INPUTS * count, dtype=np.uint64)
    words >>= rng.integers(0, 64, words.size, dtype=np.uint64)
    special = [0, 1, 2**63, 2**64 - 1, 0x7FFFFFFF, 0x80000000, 0x3F800000, 0x7F800000, 0x7FC00001]
    special += [0x3FF0000000000000, 0x7FF0000000000000, 0xFFF8000000000000, 0x8000000080000000]
    chosen = rng.random(words.size) < 0.2
    words[chosen] = rng.choice(np.array(special, np.uint64), int(chosen.sum()))
    return words
