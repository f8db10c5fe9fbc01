# SPDX-License-Identifier: Apache-2.0
"""The kernels of `harp bench softgpu`, in PTX as compilers write it: nothing is made for us."""

from __future__ import annotations

__all__ = ["ADD", "MATMUL", "TILE"]

TILE = 16  #: of MATMUL: threads of a block in either direction

_HEAD = ".version 7.0\n.target sm_70\n.address_size 64\n"

#: c[i] = a[i] + b[i], one element a thread
ADD = f"""{_HEAD}
.visible .entry add(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .f32 %f<4>;
    .reg .b64 %rd<11>;
    ld.param.u64 %rd1, [a];
    ld.param.u64 %rd2, [b];
    ld.param.u64 %rd3, [c];
    ld.param.u32 %r2, [n];
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r5, %tid.x;
    mad.lo.s32 %r1, %r3, %r4, %r5;
    setp.ge.u32 %p1, %r1, %r2;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd4, %rd1;
    mul.wide.u32 %rd5, %r1, 4;
    add.s64 %rd6, %rd4, %rd5;
    cvta.to.global.u64 %rd7, %rd2;
    add.s64 %rd8, %rd7, %rd5;
    ld.global.f32 %f1, [%rd6];
    ld.global.f32 %f2, [%rd8];
    add.f32 %f3, %f1, %f2;
    cvta.to.global.u64 %rd9, %rd3;
    add.s64 %rd10, %rd9, %rd5;
    st.global.f32 [%rd10], %f3;
DONE:
    ret;
}}
"""

#: c = a b of n x n, n a multiple of TILE: tiles in shared memory, a barrier before and behind each
MATMUL = f"""{_HEAD}
.visible .entry matmul(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{{
    .reg .pred %p<3>;
    .reg .b32 %r<26>;
    .reg .f32 %f<6>;
    .reg .b64 %rd<12>;
    .shared .align 4 .b8 As[{TILE * TILE * 4}];
    .shared .align 4 .b8 Bs[{TILE * TILE * 4}];
    ld.param.u64 %rd1, [a];
    ld.param.u64 %rd2, [b];
    ld.param.u64 %rd3, [c];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %tid.x;
    mov.u32 %r3, %tid.y;
    mov.u32 %r4, %ctaid.x;
    mov.u32 %r5, %ctaid.y;
    shl.b32 %r6, %r5, 4;
    add.s32 %r6, %r6, %r3;
    shl.b32 %r7, %r4, 4;
    add.s32 %r7, %r7, %r2;
    shl.b32 %r8, %r3, 6;
    shl.b32 %r9, %r2, 2;
    mov.u32 %r10, As;
    mov.u32 %r11, Bs;
    add.s32 %r12, %r10, %r8;
    add.s32 %r13, %r12, %r9;
    add.s32 %r14, %r11, %r9;
    add.s32 %r15, %r14, %r8;
    mad.lo.s32 %r16, %r6, %r1, %r2;
    mad.lo.s32 %r17, %r3, %r1, %r7;
    cvta.to.global.u64 %rd1, %rd1;
    cvta.to.global.u64 %rd2, %rd2;
    mul.wide.s32 %rd4, %r16, 4;
    add.s64 %rd5, %rd1, %rd4;
    mul.wide.s32 %rd6, %r17, 4;
    add.s64 %rd7, %rd2, %rd6;
    mul.wide.s32 %rd8, %r1, {TILE * 4};
    mov.f32 %f1, 0f00000000;
    mov.u32 %r20, 0;
LOOP:
    ld.global.f32 %f2, [%rd5];
    st.shared.f32 [%r13], %f2;
    ld.global.f32 %f3, [%rd7];
    st.shared.f32 [%r15], %f3;
    bar.sync 0;
    mov.u32 %r21, 0;
    mov.u32 %r22, %r12;
    mov.u32 %r23, %r14;
INNER:
    ld.shared.f32 %f4, [%r22];
    ld.shared.f32 %f5, [%r23];
    fma.rn.f32 %f1, %f4, %f5, %f1;
    add.s32 %r22, %r22, 4;
    add.s32 %r23, %r23, {TILE * 4};
    add.s32 %r21, %r21, 1;
    setp.lt.u32 %p1, %r21, {TILE};
    @%p1 bra INNER;
    bar.sync 0;
    add.s64 %rd5, %rd5, {TILE * 4};
    add.s64 %rd7, %rd7, %rd8;
    add.s32 %r20, %r20, {TILE};
    setp.lt.u32 %p2, %r20, %r1;
    @%p2 bra LOOP;
    cvta.to.global.u64 %rd9, %rd3;
    mad.lo.s32 %r24, %r6, %r1, %r7;
    mul.wide.s32 %rd10, %r24, 4;
    add.s64 %rd11, %rd9, %rd10;
    st.global.f32 [%rd11], %f1;
    ret;
}}
"""
