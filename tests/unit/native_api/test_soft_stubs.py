# SPDX-License-Identifier: Apache-2.0
"""The software GPU's generated entry points: what is missing says so, twins mean their thread."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from header_facts import Compile

from native.api import cuda, nvml, soft

ROOT = Path(__file__).resolve().parents[3]
GENERATED = ROOT / "native" / "generated"
PLAIN = 77

#: Stands in for the files written by hand.
HAND = """
static int on, seen, missing = -1;
_Bool soft_per_thread_default(void) { return on; }
void soft_per_thread_default_set(_Bool to) { on = to; }
void soft_unimplemented(int symbol) { missing = symbol; }
int take_on(void) { return on; }
int take_seen(void) { int was = seen; seen = 0; return was; }
int take_missing(void) { int was = missing; missing = -1; return was; }
"""


@pytest.fixture
def library(compile_c: Compile, tmp_path: Path) -> ctypes.CDLL:
    """Generated stubs and twins over dummies of all that is implemented by hand."""
    dummies = "".join(
        f"int {n}(void) {{ seen = 1 + on; return {PLAIN}; }}\n" for n in soft.implemented()
    )
    include = (f"-I{ROOT / 'native'}", f"-I{ROOT / 'native' / 'include'}")
    done = compile_c(
        HAND + dummies, "-shared", "-fPIC", *include, str(GENERATED / "soft_default.c")
    )
    assert done.returncode == 0, done.stderr[:2000]
    return ctypes.CDLL(str(tmp_path / "out"))


def test_what_is_missing_answers_its_error_and_names_itself(library: ctypes.CDLL) -> None:
    have = soft.implemented()
    for number, symbol in enumerate(cuda.SYMBOLS):
        if symbol.name in have or symbol.plain in have:
            continue
        assert getattr(library, symbol.name)() == cuda.function_of(symbol.name).fail
        assert library.take_missing() == number, symbol.name


def test_a_twin_calls_the_plain_function_with_per_thread_default_streams(
    library: ctypes.CDLL,
) -> None:
    have = soft.implemented()
    twins = [s for s in cuda.SYMBOLS if s.plain in have and s.name not in have]
    assert twins
    for twin in twins:
        assert getattr(library, twin.name)() == PLAIN
        assert library.take_seen() == 2, f"{twin.name}: the plain function saw the legacy default"
        assert library.take_on() == 0, f"{twin.name}: the thread stays switched"
        assert library.take_missing() == -1
        getattr(library, twin.plain)()
        assert library.take_seen() == 1


def test_nvml_functions_that_are_missing_are_not_supported(
    compile_c: Compile, tmp_path: Path
) -> None:
    hand = "const char *last; void soft_nvml_unimplemented(const char *name) { last = name; }"
    done = compile_c(hand, "-shared", "-fPIC", str(GENERATED / "soft_nvml_default.c"))
    assert done.returncode == 0, done.stderr[:2000]
    library = ctypes.CDLL(str(tmp_path / "out"))
    last = ctypes.c_char_p.in_dll(library, "last")
    for name in sorted(set(nvml.SYMBOLS) - nvml.implemented() - {"nvmlErrorString"}):
        assert getattr(library, name)() == 3
        assert last.value == name.encode()
