# SPDX-License-Identifier: Apache-2.0
"""Functions of a module: parameters, recursion, calls through registers, scopes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ptx_harness import (
    DONE,
    STACK,
    Device,
    run,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ptx")


FUNCTIONS = """
.func (.param .b32 r) twice(.param .b32 x)
{
.reg .b32 %a; ld.param.b32 %a, [x]; shl.b32 %a, %a, 1; st.param.b32 [r], %a; ret;
}
.func (.param .b32 r) factorial(.param .b32 n);
.func (.param .b32 r) factorial(.param .b32 n)
{
.reg .b32 %a<4>; .reg .pred %p; .local .align 4 .b8 keep[8];
ld.param.b32 %a0, [n]; st.param.b32 [r], 1; setp.lt.u32 %p, %a0, 2; @%p ret;
st.local.b32 [keep], %a0; sub.u32 %a1, %a0, 1;
{ .param .b32 i; .param .b32 o; st.param.b32 [i], %a1; call.uni (o), factorial, (i); ld.param.b32 %a2, [o]; }
ld.local.b32 %a3, [keep]; mul.lo.u32 %a2, %a2, %a3; st.param.b32 [r], %a2; ret;
}
.func (.param .align 8 .b8 r[16]) swap(.param .align 8 .b8 x[16])
{
.reg .b64 %a, %b; ld.param.b64 %a, [x]; ld.param.b64 %b, [x+8];
st.param.v2.b64 [r], {%b, %a}; ret;
}
.func leave() { exit; }
.func (.param .b32 r) ballot(.param .b32 x)
{ .reg .b32 %a; .reg .pred %p; ld.param.b32 %a, [x]; setp.ne.u32 %p, %a, 0; bar.sync 0;
vote.sync.ballot.b32 %a, %p, -1; st.param.b32 [r], %a; ret; }
"""


def call(name: str, value: str, out: str) -> str:
    return (
        f"{{ .param .b32 i; .param .b32 o; st.param.b32 [i], {value}; "
        f"call.uni (o), {name}, (i); ld.param.b32 {out}, [o]; }}\n"
    )


def test_functions_with_parameters_and_recursion(cache: Path) -> None:
    body = (
        call("twice", "21", "%r1")
        + call("factorial", "10", "%r2")
        + """{ .param .align 8 .b8 i[16]; .param .align 8 .b8 o[16];
st.param.b64 [i], %p0; st.param.b64 [i+8], 5; call.uni (o), swap, (i); ld.param.v2.b64 {%d1, %d2}, [o]; }
sub.s64 %d2, %d2, %p0; st.global.u64 [%p0+8], %d1; st.global.u64 [%p0+16], %d2;
st.global.u32 [%p0], %r1; st.global.u32 [%p0+4], %r2;"""
    )
    result, out, _ = run(body, cache, top=FUNCTIONS)
    assert result.stop == DONE, result
    assert list(out[:2]) == [42, 3628800]
    assert list(out.view("u8")[1:3]) == [5, 0]


def test_endless_recursion_ends_as_stack_overflow(cache: Path) -> None:
    result, _, _ = run(call("factorial", "4000000000", "%r1"), cache, top=FUNCTIONS, block=40)
    assert result.stop == STACK


def test_exit_in_a_function_ends_only_the_thread(cache: Path) -> None:
    body = """mov.u32 %r0, %tid.x; setp.eq.u32 %q1, %r0, 1; @%q1 call leave;
mul.wide.u32 %d0, %r0, 4; add.s64 %d0, %d0, %p0; st.global.u32 [%d0], 1;"""
    result, out, _ = run(body, cache, top=FUNCTIONS, block=3)
    assert result.stop == DONE
    assert list(out[:3]) == [1, 0, 1]


def test_threads_meet_inside_a_function(cache: Path) -> None:
    body = "mov.u32 %r0, %tid.x; and.b32 %r1, %r0, 1;" + call("ballot", "%r1", "%r2")
    result, out, _ = run(body + "st.global.u32 [%p0], %r2;", cache, top=FUNCTIONS, block=64)
    assert (result.stop, out[0]) == (DONE, 0xAAAAAAAA)


def test_indirect_calls_by_register_and_table(cache: Path) -> None:
    top = FUNCTIONS + ".global .align 8 .u64 table[2] = {twice, factorial};\n"
    body = """
mov.u64 %d1, twice; ld.global.u64 %d2, [table+8];
{ .param .b32 i; .param .b32 o; st.param.b32 [i], 6;
P: .callprototype (.param .b32 _) _ (.param .b32 _);
call (o), %d1, (i), P; ld.param.b32 %r1, [o]; }
{ .param .b32 i; .param .b32 o; st.param.b32 [i], 6;
P2: .callprototype (.param .b32 _) _ (.param .b32 _);
call (o), %d2, (i), P2; ld.param.b32 %r2, [o]; }
st.global.u32 [%p0], %r1; st.global.u32 [%p0+4], %r2;
"""

    def globals_(device: Device) -> tuple[int]:
        first = 0x0F00000000000000
        # The index says what is stored: twice is function 1, factorial 2.
        return (device.put(np.array([first + 16, first + 32], "u8")),)

    result, out, _ = run(body, cache, top=top, globals_=globals_)
    assert result.stop == DONE, result
    assert list(out[:2]) == [12, 720]


def test_scopes_branch_tables_and_labels_of_one_name(cache: Path) -> None:
    body = """
mov.u32 %r0, %tid.x; mov.u32 %r5, 0;
{ .reg .b32 %r0; .reg .b16 %inner; mov.b32 %r0, 1000; mov.b16 %inner, 7; cvt.u32.u16 %r1, %inner; add.u32 %r1, %r1, %r0;
LOOP: add.u32 %r5, %r5, 1; setp.lt.u32 %q1, %r5, 3; @%q1 bra LOOP; }
{ LOOP: add.u32 %r5, %r5, 1; setp.lt.u32 %q1, %r5, 9; @%q1 bra LOOP; }
T: .branchtargets A, B, C;
brx.idx %r0, T;
A: mov.u32 %r2, 10; bra END;
B: mov.u32 %r2, 20; bra END;
C: mov.u32 %r2, 30;
END: add.u32 %r2, %r2, %r1; add.u32 %r2, %r2, %r5;
mul.wide.u32 %d0, %r0, 4; add.s64 %d0, %d0, %p0; st.global.u32 [%d0], %r2;
"""
    result, out, _ = run(body, cache, block=3)
    assert result.stop == DONE, result
    assert list(out[:3]) == [1026, 1036, 1046]
