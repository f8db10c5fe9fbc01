# SPDX-License-Identifier: Apache-2.0
"""The kernels of the probes, as PTX text."""

from __future__ import annotations

__all__ = ["EMPTY", "GAPS", "SPIN", "TOUCH"]

_HEAD = ".version 7.0\n.target sm_75\n.address_size 64\n"

EMPTY = _HEAD + ".visible .entry empty()\n{\n    ret;\n}\n"

#: stays until `span` ns are over (or 2^28 looks at the clock: it must end)
SPIN = (
    _HEAD
    + """
.visible .entry spin(.param .u64 span)
{
    .reg .pred %p<3>;
    .reg .b32 %r;
    .reg .b64 %d<5>;
    ld.param.u64 %d1, [span];
    mov.u32 %r, 0;
    mov.u64 %d2, %globaltimer;
LOOK:
    add.u32 %r, %r, 1;
    setp.gt.u32 %p1, %r, 268435456;
    @%p1 bra DONE;
    mov.u64 %d3, %globaltimer;
    sub.s64 %d4, %d3, %d2;
    setp.lt.u64 %p2, %d4, %d1;
    @%p2 bra LOOK;
DONE:
    ret;
}
"""
)

#: reads one word of each 4096 bytes and keeps their sum, so that the reading stays
TOUCH = (
    _HEAD
    + """
.visible .entry touch(.param .u64 memory, .param .u32 pages, .param .u64 out)
{
    .reg .pred %p;
    .reg .b32 %r<7>;
    .reg .b64 %d<5>;
    ld.param.u64 %d1, [memory];
    ld.param.u32 %r1, [pages];
    ld.param.u64 %d4, [out];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r2, %r2, %r3, %r4;
    setp.ge.u32 %p, %r2, %r1;
    @%p bra DONE;
    mul.wide.u32 %d2, %r2, 4096;
    add.s64 %d3, %d1, %d2;
    ld.global.u32 %r5, [%d3];
    atom.global.add.u32 %r6, [%d4], %r5;
DONE:
    ret;
}
"""
)

#: looks at the clock until `span` ns are over (or 2^28 times: it must end);
#: keeps begin and end of each gap above `least` ns. out: count, then pairs
GAPS = (
    _HEAD
    + """
.visible .entry gaps(.param .u64 span, .param .u64 least, .param .u64 out, .param .u32 most)
{
    .reg .pred %p<4>;
    .reg .b32 %r<4>;
    .reg .b64 %d<12>;
    ld.param.u64 %d1, [span];
    ld.param.u64 %d2, [least];
    ld.param.u64 %d3, [out];
    ld.param.u32 %r1, [most];
    mov.u32 %r2, 0;
    mov.u32 %r3, 0;
    add.s64 %d8, %d3, 8;
    mov.u64 %d4, %globaltimer;
    mov.u64 %d5, %d4;
LOOK:
    mov.u64 %d6, %globaltimer;
    sub.s64 %d7, %d6, %d5;
    setp.lt.u64 %p1, %d7, %d2;
    @%p1 bra NEXT;
    st.global.u64 [%d8], %d5;
    st.global.u64 [%d8+8], %d6;
    add.s64 %d8, %d8, 16;
    add.u32 %r2, %r2, 1;
    setp.ge.u32 %p2, %r2, %r1;
    @%p2 bra DONE;
NEXT:
    mov.u64 %d5, %d6;
    add.u32 %r3, %r3, 1;
    setp.gt.u32 %p3, %r3, 268435456;
    @%p3 bra DONE;
    sub.s64 %d9, %d6, %d4;
    setp.lt.u64 %p1, %d9, %d1;
    @%p1 bra LOOK;
DONE:
    st.global.u32 [%d3], %r2;
    ret;
}
"""
)
