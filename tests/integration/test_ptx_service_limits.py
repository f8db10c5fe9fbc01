# SPDX-License-Identifier: Apache-2.0
"""Short PTX that asks for much: of time, of memory, of room; each ends at its limit, alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from ptx_service_world import HEAD, Service, kernel, service

from tests.integration.machine import wait_for

GOOD = HEAD + kernel("good", 7)
UNSUPPORTED, INTERNAL = 3, 6


def table_bomb(targets: int) -> str:
    """As many jumps by a table as it has targets: n lines of PTX, n * n cases of C."""
    labels = ", ".join(f"L{i}" for i in range(targets))
    jumps = "brx.idx %r1, T;\n" * targets
    goals = "".join(f"L{i}: add.u32 %r1, %r1, 1;\n" for i in range(targets))
    body = f"T: .branchtargets {labels};\nmov.u32 %r1, %tid.x;\n{jumps}{goals}ret;"
    return f"{HEAD}.visible .entry bomb()\n{{\n.reg .b32 %r<3>;\n{body}\n}}\n"


def label_bomb(labels: int) -> str:
    """Loops of one instruction, more of them than a compiler is done with soon."""
    loops = "".join(f"L{i}: bra L{i};\n" for i in range(labels))
    return f"{HEAD}.visible .entry bomb()\n{{\n{loops}ret;\n}}\n"


def call_bomb(depth: int, calls: int) -> str:
    """Each function calls the next one some times: calls ** depth ways through."""
    lines = [f".func f{i}();\n" for i in range(depth + 1)]
    lines += [f".func f{i}() {{ {f'call f{i + 1}, (); ' * calls}ret; }}\n" for i in range(depth)]
    lines.append(f".func f{depth}() {{ ret; }}\n")
    return f"{HEAD}{''.join(lines)}.visible .entry bomb()\n{{\ncall f0, ();\nret;\n}}\n"


def rest_is_well(one: Service) -> None:
    assert one.ask(GOOD, "good").status == 0
    wait_for(lambda: not list(one.cache.glob("work-*")), "its folder is gone")


def test_time_has_an_end(tmp_path: Path, native_dir: Path) -> None:
    with service(tmp_path, native_dir, "--timeout-s", "2") as one:
        began_s = time.monotonic()
        answer = one.ask(label_bomb(200_000), "bomb")
        assert (answer.status, answer.why) == (
            INTERNAL,
            "kernel bomb: the compiler took more than 2 s",
        )
        assert time.monotonic() - began_s < 20
        rest_is_well(one)
    assert "kernel_timed_out kernel=bomb" in one.text()


def test_memory_has_an_end(tmp_path: Path, native_dir: Path) -> None:
    with service(tmp_path, native_dir, "--memory-mib", "192") as one:
        answer = one.ask(table_bomb(2000), "bomb")
        assert answer.status == INTERNAL
        assert "out of memory" in answer.why
        rest_is_well(one)


def test_what_is_written_has_an_end(tmp_path: Path, native_dir: Path) -> None:
    with service(tmp_path, native_dir) as one:
        text = table_bomb(3000)
        assert len(text) < 200_000
        answer = one.ask(text, "bomb")
        assert answer.status == UNSUPPORTED
        assert "more than 128 MiB of C" in answer.why
        rest_is_well(one)


def test_a_compiler_that_writes_without_end_is_ended(tmp_path: Path, native_dir: Path) -> None:
    flag = tmp_path / "flood"
    cc = tmp_path / "cc"
    cc.write_text(f'#!/bin/sh\nif [ -e {flag} ]; then exec yes >kernel.so; fi\nexec cc "$@"\n')
    cc.chmod(0o755)
    flag.touch()
    with service(tmp_path, native_dir, env={"HARP_PTXC_CC": str(cc)}) as one:
        answer = one.ask(GOOD, "good")
        assert answer.status == INTERNAL
        assert "failed" in answer.why
        flag.unlink()
        rest_is_well(one)


@pytest.mark.parametrize(("depth", "calls"), [(100, 2), (4, 40)])
def test_ways_through_functions_are_not_written_out(
    depth: int, calls: int, tmp_path: Path, native_dir: Path
) -> None:
    """gcc -O2 took more than a minute for 20 functions that call the next one twice."""
    with service(tmp_path, native_dir, "--timeout-s", "60") as one:
        assert one.ask(call_bomb(depth, calls), "bomb").status == 0


def test_a_damaged_entry_is_made_again(tmp_path: Path, native_dir: Path) -> None:
    with service(tmp_path, native_dir) as one:
        right = one.ask(GOOD, "good").thing
        (path,) = one.cache.glob("*.so")
        path.chmod(0o700)
        path.write_bytes(right[: len(right) // 2])
        assert one.ask(GOOD, "good").thing == right
        assert path.read_bytes() == right


@pytest.mark.parametrize("name", ["good", "good2"])
def test_an_entry_under_anothers_name_is_not_served(
    name: str, tmp_path: Path, native_dir: Path
) -> None:
    """Whatever wrote to the cache: a kernel is what its text says."""
    text = HEAD + kernel("good", 7) + kernel("good2", 8)
    with service(tmp_path, native_dir) as one:
        things = {}
        for each in ("good", "good2"):
            before = set(one.cache.glob("*.so"))
            thing = one.ask(text, each).thing
            (path,) = set(one.cache.glob("*.so")) - before
            things[each] = (path, thing)
        (here, right), (_, other) = things[name], things["good2" if name == "good" else "good"]
        here.chmod(0o700)
        here.write_bytes(other)
        assert one.ask(text, name).thing == right
