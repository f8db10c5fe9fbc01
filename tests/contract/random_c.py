# SPDX-License-Identifier: Apache-2.0
"""Random C programs on the software GPU against the same programs on the host, by clang.

    python tests/contract/random_c.py --seed 7 --count 1000          a campaign
    python tests/contract/random_c.py --seed 7 --first 41 --reduce   one that failed, made small

Exit: 0 all are the same, 1 some are not. Needs the built software GPU and clang: zig's, or what
HARP_TEST_CLANG names (random_c_run.py says why not Debian's).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from random_c_make import make
from random_c_reduce import reduced
from random_c_run import Bench, WrongProgramError, input_words
from random_c_tree import Program, statements

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Failure:
    """A program that the software GPU runs wrongly."""

    seed: int
    index: int
    program: Program
    outputs: int
    why: str

    def __str__(self) -> str:
        at = f"--seed {self.seed} --first {self.index}"
        return f"{at} (-O{self.program.level}, sm_{self.program.sm}): {self.why}"


def campaign(bench: Bench, seed: int, numbers: range, steps: int) -> Iterator[Failure]:
    """Those of the programs that fail.

    Raises:
        WrongProgramError: a program is wrong itself: the generator is to be mended.
    """
    for index in numbers:
        program, outputs = make(seed, index, steps)
        words = input_words(seed, index, program.count)
        try:
            why = bench.verdict(program, words, outputs)
        except WrongProgramError as error:
            raise WrongProgramError(f"--seed {seed} --first {index}: {error}") from error
        if why:
            yield Failure(seed, index, program, outputs, why)


def make_small(bench: Bench, failure: Failure, tries: int) -> Failure:
    """The same failure in a smaller program."""
    words = input_words(failure.seed, failure.index, failure.program.count)

    def why(program: Program) -> str:
        try:
            return bench.verdict(program, words, failure.outputs)
        except WrongProgramError:
            return ""

    def same(program: Program) -> bool:
        told = why(program)
        return bool(told) and ("words differ" in told) == ("words differ" in failure.why)

    small = reduced(failure.program, same, tries)
    return Failure(failure.seed, failure.index, small, failure.outputs, why(small))


def shown(bench: Bench, failure: Failure) -> str:
    """The program, its PTX, what was expected and what came."""
    lines = [line for line in bench.ptx(failure.program).read_text().splitlines() if line.strip()]
    ptx = "\n".join(line for line in lines if not line.startswith("//"))
    return f"{failure.program.text()}\n{ptx}\n\n{failure}"


@contextmanager
def bench_of_its_own() -> Iterator[Bench]:
    """A software GPU and a cache of this run alone."""
    native = Path(os.environ.get("HARP_NATIVE_DIR", ROOT / "harp" / "_lib")).resolve()
    with tempfile.TemporaryDirectory(prefix="harp-random-c-") as name:
        folder = Path(name)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_", "CUDA_"))}
        env |= {k: v for k, v in os.environ.items() if k in ("HARP_PTXC", "HARP_PTXC_CC")}
        env |= {"HARP_SOFT_DIR": str(folder / "soft"), "XDG_CACHE_HOME": str(folder / "cache")}
        env |= {"LD_LIBRARY_PATH": str(native / "soft"), "HARP_NATIVE_DIR": str(native)}
        (folder / "soft").mkdir()
        with Bench(folder, env) as bench:
            yield bench


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--first", type=int, default=0, help="number of the first program")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--steps", type=int, default=9, help="statements of a kernel")
    parser.add_argument("--reduce", action="store_true", help="make those that fail small")
    parser.add_argument("--tries", type=int, default=800, help="of the reducer, for each")
    args = parser.parse_args()
    failed, began_s = 0, time.monotonic()
    with bench_of_its_own() as bench:
        numbers = range(args.first, args.first + args.count)
        for failure in campaign(bench, args.seed, numbers, args.steps):
            failed += 1
            print(failure, flush=True)
            if args.reduce:
                small = make_small(bench, failure, args.tries)
                print(shown(bench, small))
                print(f"{statements(small.program.body)} statements after {bench.ran} runs")
            shutil.rmtree(bench.folder / "cache", ignore_errors=True)
    print(f"{args.count} programs, {failed} failed, {time.monotonic() - began_s:.0f} s")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
