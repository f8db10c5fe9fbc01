# SPDX-License-Identifier: Apache-2.0
"""libharp finds the driver's functions as dlsym does, whatever the driver's table is like."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from shim_world import HERE, build_fake, compile_c

from native.api import nvml
from native.api.cuda import FUNCTIONS
from native.gen.emit_shim import gnu_hash

DRIVER = sorted(s.name for f in FUNCTIONS for s in f.symbols)

#: One of each kind. What a table alone can tell for sure is in PLAIN.
LIBRARY = """
int plain(void) { return 1; }
__attribute__((weak)) int weak(void) { return 2; }
__attribute__((visibility("protected"))) int protected(void) { return 3; }
__attribute__((visibility("hidden"))) int hidden(void) { return 4; }
int data = 5;
__asm__(".globl absolute\\n.type absolute, @function\\n.set absolute, 0x1234");
__asm__(".globl label\\n.text\\nlabel: nop");
extern int needed(void);
int calls(void) { return needed() + hidden(); }
"""
PLAIN = {"plain", "weak", "protected", "calls"}
NAMES = [*sorted(PLAIN), "hidden", "data", "absolute", "label", "needed", "missing"]
IFUNC = """
static int chosen(void) { return 6; }
static int (*choose(void))(void) { return chosen; }
int ifunc(void) __attribute__((ifunc("choose")));
"""
VERSIONED = """
int first(void) { return 7; }
int second(void) { return 8; }
int single(void) { return 9; }
int old(void) { return 10; }
__asm__(".symver first, both@ONE");
__asm__(".symver second, both@@TWO");
__asm__(".symver old, outdated@ONE");
"""
SCRIPT = "ONE { global: *; };\nTWO { global: single; } ONE;\n"


class Found(NamedTuple):
    """What is said of one name."""

    as_dlsym: bool
    there: bool
    by_table: bool


def look(probe: Path, library: Path, names: Sequence[str], *instead: str) -> dict[str, Found]:
    listed = probe.with_name("names")
    listed.write_text("".join(f"{n} {gnu_hash(n)}\n" for n in names))
    command = [probe, library, listed, *instead]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == list(names)
    return {name: Found(*(word == "1" for word in words)) for name, *words in rows}


def build(folder: Path, source: str, *options: str, cc: str = "gcc") -> Path:
    """A library with `source`, and the one that it needs."""
    dependency = folder / "needed.c"
    dependency.write_text("int needed(void) { return 11; }\n")
    needed = compile_c(dependency, folder / "libneeded.so", "-shared", "-fPIC", cc=cc)
    file = folder / "library.c"
    file.write_text(source)
    options = ("-shared", "-fPIC", *options, str(needed), f"-Wl,-rpath,{folder}")
    return compile_c(file, folder / "library.so", *options, cc=cc)


def by_table(found: dict[str, Found]) -> set[str]:
    differ = {name for name, said in found.items() if not said.as_dlsym}
    assert not differ
    return {name for name, said in found.items() if said.by_table}


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_c(HERE / "shim_symbols.c", tmp_path_factory.mktemp("symbols") / "probe")


def test_the_hash_is_that_of_the_format() -> None:
    assert [gnu_hash(n) for n in ("", "printf", "exit")] == [0x1505, 0x156B2BB8, 0x7C967E3F]


@pytest.mark.parametrize("name", ["soft/libcuda.so.1", "harp-bench-null.so", "fake"])
def test_every_name_of_a_driver(native_dir: Path, tmp_path: Path, probe: Path, name: str) -> None:
    library = build_fake(tmp_path) if name == "fake" else native_dir / name
    found = look(probe, library, DRIVER)
    assert by_table(found) == {n for n, said in found.items() if said.there}
    assert by_table(found)


def test_every_name_of_nvml(native_dir: Path, probe: Path) -> None:
    found = look(probe, native_dir / "soft" / "libnvidia-ml.so.1", sorted(nvml.SYMBOLS))
    assert by_table(found) == {n for n, said in found.items() if said.there}
    assert by_table(found)


@pytest.mark.parametrize(
    ("style", "told"),
    [("gnu", PLAIN), ("both", PLAIN), ("sysv", set())],
    ids=("gnu", "both", "sysv"),
)
def test_kinds_of_symbols(tmp_path: Path, probe: Path, style: str, told: set[str]) -> None:
    library = build(tmp_path, LIBRARY + IFUNC, f"-Wl,--hash-style={style}")
    found = look(probe, library, [*NAMES, "ifunc"])
    assert by_table(found) == told
    assert {n for n, said in found.items() if not said.there} == {"hidden", "missing"}


def test_versions(tmp_path: Path, probe: Path) -> None:
    (tmp_path / "script").write_text(SCRIPT)
    script = f"-Wl,--version-script={tmp_path / 'script'}"
    library = build(tmp_path, LIBRARY + VERSIONED, "-Wl,--hash-style=gnu", script)
    found = look(probe, library, [*NAMES, "both", "single", "outdated"])
    assert by_table(found) == {*PLAIN, "single"}
    assert found["both"].there


def test_musl(tmp_path: Path) -> None:
    """Its loader does not relocate the dynamic section."""
    if shutil.which("musl-gcc") is None:
        pytest.skip("no musl-gcc (apt install musl-tools)")
    probe = compile_c(HERE / "shim_symbols.c", tmp_path / "probe", cc="musl-gcc")
    library = build(tmp_path, LIBRARY, "-Wl,--hash-style=gnu", cc="musl-gcc")
    assert by_table(look(probe, library, NAMES)) == PLAIN


def test_a_dlsym_that_says_otherwise_is_believed(native_dir: Path, probe: Path) -> None:
    library = native_dir / "soft" / "libcuda.so.1"
    found = look(probe, library, DRIVER, "cuInit")
    assert all(said.as_dlsym and said.there for said in found.values())
