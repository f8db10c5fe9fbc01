# SPDX-License-Identifier: Apache-2.0
"""cuGetProcAddress's table answers as a model made from the toolkit's typedefs does."""

from __future__ import annotations

import ctypes
from collections import defaultdict
from pathlib import Path

import pytest
from header_facts import Compile, Header
from hypothesis import given
from hypothesis import strategies as st

from native.api import cuda

ROOT = Path(__file__).resolve().parents[3]
SUCCESS, NOT_FOUND, TOO_OLD = 0, 1, 2  # CUdriverProcAddressQueryResult
NAMES = [row.name for row in cuda.FUNCTIONS]


class Lookup:
    """soft_proc_find of the checked-in soft_symbols.c."""

    def __init__(self, path: Path) -> None:
        self.find = ctypes.CDLL(str(path)).soft_proc_find
        self.find.argtypes = [
            ctypes.c_char_p,
            ctypes.c_int,
            ctypes.c_bool,
            ctypes.c_int,
            ctypes.POINTER(ctypes.c_int),
        ]

    def __call__(
        self, name: str, version: int, *, twin: bool, driver: int = cuda.VERSION
    ) -> tuple[str | None, int]:
        status = ctypes.c_int(-1)
        index = self.find(name.encode(), version, twin, driver, ctypes.byref(status))
        return (cuda.SYMBOLS[index].name if index >= 0 else None), status.value


@pytest.fixture
def lookup(compile_c: Compile, tmp_path: Path) -> Lookup:
    bodies = "\n".join(f"void {s.name}(void) {{}}" for s in cuda.SYMBOLS)
    table = ROOT / "native" / "generated" / "soft_symbols.c"
    flags = ("-shared", "-fPIC", str(table), f"-I{ROOT / 'native'}")
    done = compile_c(bodies, *flags)
    assert done.returncode == 0, done.stderr[:2000]
    return Lookup(tmp_path / "out")


def versions(header: Header) -> dict[tuple[str, bool], list[int]]:
    out = defaultdict(list)
    for name, version, twin in header.pfn():
        out[name, twin].append(version)
    return out


def test_every_name_at_every_version_and_flag(header: Header, lookup: Lookup) -> None:
    rows = versions(header)
    symbol = {(r.name, s.per_thread, s.since): s.name for r in cuda.FUNCTIONS for s in r.symbols}
    every = sorted({v for list_ in rows.values() for v in list_})
    asked = sorted({0, 1, 99999, *every, *(v - 1 for v in every)})
    names = {name for name, _ in rows}
    checked = 0
    for driver in (13000, 12080, 11040):
        for name in names:
            known = {t: [v for v in rows.get((name, t), ()) if v <= driver] for t in (False, True)}
            for version in asked:
                fit = {t: [v for v in known[t] if v <= version] for t in known}
                for twin in (False, True):
                    took = twin and bool(fit[True])
                    if fit[took]:
                        want = (symbol[name, took, max(fit[took])], SUCCESS)
                    else:
                        there = bool(known[False] or known[True])
                        want = (None, TOO_OLD if there else NOT_FOUND)
                    assert lookup(name, version, twin=twin, driver=driver) == want
                    checked += 1
    assert checked > 100_000


@pytest.mark.parametrize(
    ("description", "asked", "want"),
    [
        ("newest not above asked", ("cuMemAlloc", 13000, False), ("cuMemAlloc_v2", SUCCESS)),
        ("the 32-bit call of old", ("cuMemAlloc", 3010, False), ("cuMemAlloc", SUCCESS)),
        ("asked before it was", ("cuLibraryLoadData", 11080, False), (None, TOO_OLD)),
        ("no such name", ("cuMemAllocate", 13000, False), (None, NOT_FOUND)),
        ("empty name, as cudart asks", ("", 0, False), (None, NOT_FOUND)),
        ("suffix is no name", ("cuMemAlloc_v2", 13000, False), (None, NOT_FOUND)),
        ("twin", ("cuLaunchKernel", 12000, True), ("cuLaunchKernel_ptsz", SUCCESS)),
        ("no twin: plain", ("cuCtxGetCurrent", 12000, True), ("cuCtxGetCurrent", SUCCESS)),
        ("twin is newer: plain", ("cuMemcpyHtoD", 6050, True), ("cuMemcpyHtoD_v2", SUCCESS)),
        ("debugger: dlsym only", ("cudbgGetAPI", 13000, False), (None, NOT_FOUND)),
    ],
)
def test_table(
    lookup: Lookup,
    description: str,
    asked: tuple[str, int, bool],
    want: tuple[str | None, int],
) -> None:
    name, version, twin = asked
    assert lookup(name, version, twin=twin) == want, description


def test_unknown_names_are_not_found(lookup: Lookup) -> None:
    @given(st.text(st.characters(min_codepoint=1, max_codepoint=0x7F), max_size=40), st.booleans())
    def check(name: str, twin: bool) -> None:
        if name not in NAMES:
            assert lookup(name, 13000, twin=twin) == (None, NOT_FOUND)

    @given(st.sampled_from(NAMES), st.integers(1, 8))
    def check_near(name: str, cut: int) -> None:
        if (near := name[:-cut]) not in NAMES:
            assert lookup(near, 13000, twin=False) == (None, NOT_FOUND)

    check()
    check_near()
