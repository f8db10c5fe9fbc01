# SPDX-License-Identifier: Apache-2.0
"""Whose word a tenant's processes take, that they are to be traced."""

from __future__ import annotations

import os
import subprocess

import pytest
from shim_world import World, compile_c
from test_trace import calls_of, read, run, traced, world

from harp.trace.control import Wish, tell

__all__ = ["world"]

NOBODY = 65534


def test_who_may_not_tell_is_not_heard(world: World) -> None:
    """A file that others may write to would choose what is written as us; the log says so."""
    file = traced(world)
    told = world.base / "grants" / "t" / "trace"
    told.chmod(0o666)
    run(world, "calls")
    assert not file.exists()
    assert world.log("t").count('why="others may write to it"') == 1
    told.write_text("no name\nof a file\n")
    told.chmod(0o644)
    run(world, "calls")
    assert world.log("t").count('why="it names no file to write"') == 1
    assert world.log("t").count("trace_not_taken") == 2


THEIRS = """
#include <dlfcn.h>
int main(void)
{
    int (*init)(unsigned) = (int (*)(unsigned))dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuInit");
    return init != 0 ? init(0) : 99;
}
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a second uid needs root")
def test_root_is_heard_by_another_users_process(world: World) -> None:
    """And with a file that only root may read, the log says what is wrong."""
    folder = world.base / "theirs"
    folder.mkdir()
    (folder / "program.c").write_text(THEIRS)
    program = compile_c(folder / "program.c", folder / "program", "-ldl")
    os.chown(folder, NOBODY, NOBODY)
    env = world.env("t", HARP_LOG=str(folder / "log"))

    def run_theirs() -> None:
        process = subprocess.Popen(
            [program], env=env, cwd="/", user=NOBODY, group=NOBODY, extra_groups=[], text=True
        )
        world.started.append(process)
        assert process.wait(60) == 0

    tell(world.base / "grants" / "t", Wish(folder / "t.trace"))
    run_theirs()
    assert [c.symbol.name for c in calls_of(read(folder / "t.trace")[1])] == ["cuInit"]
    assert (folder / "t.trace").stat().st_uid == NOBODY
    (folder / "t.trace").unlink()
    (world.base / "grants" / "t" / "trace").chmod(0o600)
    run_theirs()
    assert not (folder / "t.trace").exists()
    log = (folder / "log").read_text()
    assert log.count('why="it cannot be opened" errno=13') == 1
