# SPDX-License-Identifier: Apache-2.0
"""Kernels that clang has compiled to PTX, against the same kernels compiled for the host.

HARP_TEST_SEED repeats a run.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from corpus_build import (
    BLOCKS,
    CELLS,
    CORPUS,
    LEVELS,
    THREADS,
    Clang,
    HostLibrary,
    clangs,
    inputs,
    kernels,
    to_ptx,
)

SEED = int(os.environ.get("HARP_TEST_SEED", secrets.randbelow(1_000_000)))
RUN = Path(__file__).with_name("corpus_run.py")
FILES = sorted(CORPUS.glob("*.c[lu]"))


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> HostLibrary:
    return HostLibrary(tmp_path_factory.mktemp("host"))


def differences(
    env: dict[str, str],
    folder: Path,
    host: HostLibrary,
    chosen: list[tuple[Clang, Path, str, str]],
) -> list[str]:
    """What is wrong with the kernels of the chosen files."""
    print(f"HARP_TEST_SEED={SEED}")
    data = inputs(SEED)
    (folder / "in").write_bytes(data)
    jobs, asked, seen = [], [], set()
    for clang, source, sm, level in chosen:
        name = f"{source.stem}-{clang.version}-{sm}{level}"
        ptx = to_ptx(clang, source, sm, level, folder / f"{name}.ptx")
        text = re.sub(r"^\.(version|target).*$", "", ptx.read_text(), flags=re.MULTILINE)
        if text in seen:
            continue  # for several processors and levels it is one text
        seen.add(text)
        for kernel in kernels(source):
            out = folder / f"{name}-{kernel}.out"
            jobs.append(f"{ptx} {kernel} {folder / 'in'} {out}")
            asked.append((kernel, out))
    (folder / "jobs").write_text("\n".join(jobs))
    args = [str(folder / "jobs"), *map(str, (BLOCKS, THREADS, CELLS))]
    status = 3
    while status == 3:
        done = subprocess.run(
            [sys.executable, "-B", str(RUN), *args],
            env=env,
            capture_output=True,
            text=True,
            timeout=1000,
            check=False,
        )
        status = done.returncode
    assert status == 0, f"seed {SEED}\n{done.stdout}{done.stderr[-4000:]}"
    wrong = []
    expected = {kernel: b"".join(host.run(kernel, data)) for kernel in {k for k, _ in asked}}
    for kernel, out in asked:
        why = out.with_name(out.name + ".why")
        if why.exists():
            wrong.append(f"{out.stem}: {why.read_text()}")
            continue
        got, want = out.read_bytes(), expected[kernel]
        if got != want:
            at = next(i for i, (a, b) in enumerate(zip(got, want, strict=True)) if a != b)
            place = f"thread {at // 128}, slot {at % 128 // 8}"
            if at >= BLOCKS * THREADS * 128:
                place = f"cell {(at - BLOCKS * THREADS * 128) // 4}"
            whole = slice(at // 8 * 8, at // 8 * 8 + 8)
            wrong.append(f"{out.stem}: {place}: {got[whole].hex()} is not {want[whole].hex()}")
    return wrong


def sources(clang: Clang) -> list[Path]:
    return [f for f in FILES if f.stem != "newer" or clang.version >= 19]


@pytest.mark.parametrize("clang", clangs(), ids=lambda c: f"clang{c.version}")
def test_what_clang_compiles_computes_what_the_host_does(
    clang: Clang, soft_env: dict[str, str], tmp_path: Path, host: HostLibrary
) -> None:
    """One level and processor for each file, by the seed: all of them are met in time."""
    pairs = list(itertools.product(clang.targets, LEVELS))
    files = sources(clang)
    chosen = [(clang, f, *pairs[(SEED + i * 5) % len(pairs)]) for i, f in enumerate(files)]
    assert differences(soft_env, tmp_path, host, chosen) == [], f"HARP_TEST_SEED={SEED}"


@pytest.mark.slow
@pytest.mark.parametrize("clang", clangs(), ids=lambda c: f"clang{c.version}")
@pytest.mark.parametrize("stem", [f.stem for f in FILES])
def test_every_level(
    clang: Clang, stem: str, soft_env: dict[str, str], tmp_path: Path, host: HostLibrary
) -> None:
    """Processors take turns; HARP_TEST_CORPUS=all runs the whole product."""
    source = next((f for f in sources(clang) if f.stem == stem), None)
    if source is None:
        pytest.skip(f"clang {clang.version} is too old for {stem}")
    chosen = [
        (clang, source, sm, level)
        for i, level in enumerate(LEVELS)
        for k, sm in enumerate(clang.targets)
        if os.environ.get("HARP_TEST_CORPUS") == "all" or k == (SEED + i) % len(clang.targets)
    ]
    assert differences(soft_env, tmp_path, host, chosen) == [], f"HARP_TEST_SEED={SEED}"
