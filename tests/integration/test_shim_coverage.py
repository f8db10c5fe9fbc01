# SPDX-License-Identifier: Apache-2.0
"""No way to the device's time goes round the gate: every launch and copy of the API is held.

The fake driver is completed with a function for each symbol; a scripted arbiter lends no time at
first. Each variant is called in a thread of its own, by its exported name.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from shim_script import client
from shim_world import ROOT, compile_c

from harp.lease_wire import Op
from native.api.cuda import FUNCTIONS
from native.api.model import TIME_GATES, Cls, Symbol

#: Launches and copies that pass no gate, and why. Names of rows.
UNGATED = {
    "cuLaunchHostFunc": "runs on the host; waits for nothing of the device's (callback.c)",
    "cuStreamAddCallback": "runs on the host; waits for nothing of the device's (callback.c)",
}

ROWS = [f for f in FUNCTIONS if f.cls in (Cls.LAUNCH, Cls.COPY)]
GATED = [s for f in ROWS if f.gate in TIME_GATES for s in f.symbols]
#: The fake has these by itself.
FAKED = {"cuLaunchCooperativeKernelMultiDevice", "cuLaunchKernel", "cuMemcpyHtoDAsync_v2"}


def lane_of(name: str) -> int:
    """0 for what computes, 1 for what copies or fills."""
    return 0 if "Launch" in name else 1


def test_every_row_is_gated_or_excused() -> None:
    loose = {f.name for f in ROWS if f.gate not in TIME_GATES}
    assert loose == set(UNGATED), "the table of exceptions is stale, or a row escapes"


def test_each_symbol_has_a_hook_in_its_lane() -> None:
    text = (ROOT / "native" / "generated" / "shim_time.c").read_text()
    bodies = dict(re.findall(r"harp_hook_(\w+)\([^{]*\)\n\{\n(.*?)\n\}\n", text, re.DOTALL))
    assert bodies.keys() == {s.name for s in GATED}
    work = ("HARP_WORK_COMPUTE", "HARP_WORK_COPY")
    for name, body in bodies.items():
        mine = work[lane_of(name)]
        assert f"harp_time_open(on, {mine})" in body, name
        assert f"harp_turn_begin(&turn, on, {mine}," in body, name
        assert "harp_turn_end(&turn, result)" in body, name


def complete(folder: Path) -> Path:
    """The fake driver with a function for every gated symbol."""
    lines = [f'#include "{ROOT}/tests/native/shim_fake_cuda.c"']
    for symbol in GATED:
        if symbol.name not in FAKED:
            lines.append(f"CUresult {symbol.name}({symbol.args})")
            lines.append("{\n    return CUDA_SUCCESS;\n}")
    source = folder / "complete.c"
    source.write_text("\n".join(lines) + "\n")
    options = ("-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-Wl,-Bsymbolic")
    return compile_c(source, folder / "libcuda.so.1", *options)


def call_c(symbol: Symbol, number: int) -> str:
    """A call with memory behind each pointer and 1 for each number, on a stream of its own."""
    args = []
    for p in symbol.params:
        if p.type == "CUstream":
            args.append("stream")
        elif p.type.endswith("*") or p.type in HANDLES:
            args.append(f"({p.type})memory")
        elif p.type in STRUCTS:
            args.append(f"*({p.type} *)memory")
        else:
            args.append(f"({p.type})1")
    return (
        f"static void call_{number}(CUstream stream)\n{{\n"
        f'    CUresult r = ((__typeof__(&{symbol.name}))dlsym(lib, "{symbol.name}"))'
        f"({', '.join(args)});\n    result[{number}] = (int)r;\n}}\n"
    )


HANDLES = {"CUfunction", "CUgraphExec", "CUarray", "CUcontext", "CUdeviceptr", "CUdeviceptr_v1"}
STRUCTS = {"CUmemLocation"}

PROGRAM = """
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "generated/cuda_abi.h"
static void *lib;
static CUcontext ctx;
static char memory[4096];
static int result[%(n)d];
%(calls)s
static void (*const calls[])(CUstream) = {%(table)s};
static void *run(void *arg)
{
    CUstream stream;
    ((__typeof__(&cuCtxSetCurrent))dlsym(lib, "cuCtxSetCurrent"))(ctx);
    ((__typeof__(&cuStreamCreate))dlsym(lib, "cuStreamCreate"))(&stream, 1);
    calls[(long)arg](stream);
    return NULL;
}
static void show(void)
{
    for (int i = 0; i < %(n)d; i++)
        printf("%%d ", result[i]);
    puts("");
    fflush(stdout);
}
int main(void)
{
    pthread_t thread[%(n)d];
    memset(result, 0xff, sizeof result);
    lib = dlopen("libcuda.so.1", RTLD_NOW);
    ((__typeof__(&cuInit))dlsym(lib, "cuInit"))(0);
    if (((__typeof__(&cuCtxCreate_v2))dlsym(lib, "cuCtxCreate_v2"))(&ctx, 0, 0) != 0)
        return 3;
    for (long i = 0; i < %(n)d; i++)
        pthread_create(&thread[i], NULL, run, (void *)i);
    while (getchar() == '?')
        show();
    for (long i = 0; i < %(n)d; i++)
        pthread_join(thread[i], NULL);
    show();
    return 0;
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [1, 2])
def test_each_symbol_is_held_while_its_lane_is_closed(
    native_dir: Path, tmp_path: Path, lanes: int
) -> None:
    (tmp_path / "whole").mkdir()
    driver = complete(tmp_path / "whole")
    source = tmp_path / "all.c"
    source.write_text(
        PROGRAM
        % {
            "n": len(GATED),
            "calls": "".join(call_c(s, i) for i, s in enumerate(GATED)),
            "table": ", ".join(f"call_{i}" for i in range(len(GATED))),
        }
    )
    command = compile_c(source, tmp_path / "all", "-w")
    with client(native_dir, tmp_path, command, HARP_CUDA_REAL=str(driver)) as made:
        script = made.arbiter(lanes=lanes)

        def results() -> dict[str, int]:
            assert made.process.stdin
            assert made.process.stdout
            made.process.stdin.write("?")
            made.process.stdin.flush()
            while script.hear(0.3) is not None:  # it may ask for memory meanwhile
                pass
            codes = [int(word) for word in made.process.stdout.readline().split()]
            return {s.name: code for s, code in zip(GATED, codes, strict=True)}

        wanted = {script.until(Op.WANT_TIME).cls}
        while (heard := script.hear(1)) is not None:
            wanted.add(heard.cls)
        assert wanted == set(range(lanes))
        through = {name for name, code in results().items() if code != -1}
        assert not through, "closed, and yet the driver was called"
        if lanes == 2:  # each by its own lane
            script.say(op=Op.OPEN_GATE, cls=1, epoch=1)
            while script.hear(0.5) is not None:
                pass
            through = {name for name, code in results().items() if code == 0}
            assert through == {s.name for s in GATED if lane_of(s.name) == 1}
        script.say(op=Op.OPEN_GATE, cls=0, epoch=1)
        made.go()
        while script.hear(0.5) is not None:
            pass
        assert made.process.wait(30) == 0
        assert made.process.stdout
        assert set(made.process.stdout.readline().split()) == {"0"}
