# SPDX-License-Identifier: Apache-2.0
"""Random C programs, compiled by clang, on the software GPU and on the host.

HARP_TEST_SEED repeats a run; HARP_TEST_PROGRAMS makes it longer. The seed is always printed.
"""

from __future__ import annotations

import os
import random
import secrets
from pathlib import Path

import pytest
from random_c import campaign, make_small, shown
from random_c_make import make
from random_c_reduce import reduced, smaller
from random_c_run import Bench, WrongProgramError, input_words
from random_c_tree import Expr, Program, Stmt, statements

SEED = int(os.environ.get("HARP_TEST_SEED", secrets.randbelow(1_000_000)))
#: a bug planted in the compiler's own table: exclusive or
RIGHT, WRONG = b"\0$a ^ $b\0", b"\0$a | $b\0"


def _run(bench: Bench, seed: int, count: int) -> None:
    print(f"HARP_TEST_SEED={seed}")
    failed = [str(failure) for failure in campaign(bench, seed, range(count), 9)]
    assert not failed, f"python tests/contract/random_c.py --reduce {failed[0]}"


def test_random_programs_do_what_they_do_on_the_host(
    soft_env: dict[str, str], tmp_path: Path
) -> None:
    with Bench(tmp_path, soft_env | {"XDG_CACHE_HOME": str(tmp_path / "cache")}) as bench:
        _run(bench, SEED, int(os.environ.get("HARP_TEST_PROGRAMS", "4")))


@pytest.mark.slow
def test_more_random_programs(soft_env: dict[str, str], tmp_path: Path) -> None:
    with Bench(tmp_path, soft_env | {"XDG_CACHE_HOME": str(tmp_path / "cache")}) as bench:
        _run(bench, SEED + 1, 40)


@pytest.mark.slow
def test_a_bug_in_the_compiler_is_found_and_the_program_made_small(
    soft_env: dict[str, str], tmp_path: Path, native_dir: Path
) -> None:
    planted = tmp_path / "harp-ptxc"
    code = (native_dir / "harp-ptxc").read_bytes()
    assert code.count(RIGHT) == 1
    planted.write_bytes(code.replace(RIGHT, WRONG))
    planted.chmod(0o755)
    env = soft_env | {"HARP_PTXC": str(planted), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with Bench(tmp_path, env) as bench:
        failure = next(campaign(bench, 5, range(40), 5))
        small = make_small(bench, failure, 120)
        text = shown(bench, small)
    print(text)
    assert statements(small.program.body) <= 12 < statements(failure.program.body)
    assert small.program.count == 1
    assert ".entry random_c" in text
    assert "expected 0x" in text
    assert "got 0x" in text
    with Bench(tmp_path, soft_env | {"XDG_CACHE_HOME": str(tmp_path / "right")}) as bench:
        words = input_words(5, failure.index, failure.program.count)
        assert bench.verdict(small.program, words, small.outputs) == ""


def test_undefined_behaviour_is_told_apart(soft_env: dict[str, str], tmp_path: Path) -> None:
    divide = Stmt(("OUT(0) = (u64)((i32)$0 / (i32)IN(0));",), (Expr("i32", "5"),))
    program = Program(1, 1, (), (divide,))
    with Bench(tmp_path, soft_env) as bench, pytest.raises(WrongProgramError, match="ended with"):
        bench.verdict(program, input_words(1, 1, 1) & 0, 1)


def test_programs_are_a_function_of_the_seed() -> None:
    first, again, other = (make(SEED, i, 9)[0] for i in (0, 0, 1))
    assert (first.text(), first.level, first.sm) == (again.text(), again.level, again.sm)
    assert first.text() != other.text()


def test_whatever_is_cut_the_cause_stays() -> None:
    """The reducer by itself: a program fails that has two statements and at least two threads."""
    program, _ = make(SEED, 2, 12)
    rng = random.Random(SEED)
    needed = rng.sample(program.body, 2)

    def fails(candidate: Program) -> bool:
        return candidate.count >= 2 and all(stmt in candidate.body for stmt in needed)

    small = reduced(program, fails, 100_000)
    assert sorted(small.body, key=repr) == sorted(needed, key=repr)
    assert small.count == 2
    assert not any(fails(c) for c in smaller(small) if len(c.text()) < len(small.text()))
