# SPDX-License-Identifier: Apache-2.0
"""PTX that exists for sm_70 to sm_90 and is refused by name: one instruction of each kind."""

from __future__ import annotations

GROUPS: dict[str, list[str]] = {
    "tensor cores": [
        "wgmma.fence.sync.aligned;",
        "wgmma.commit_group.sync.aligned;",
        "wgmma.wait_group.sync.aligned 0;",
        "wmma.load.a.sync.aligned.row.m16n16k16.f16 {%r1, %r2, %r3, %r4}, [%d1];",
        "wmma.store.d.sync.aligned.row.m16n16k16.f32 [%d1], {%f1, %f2, %f3, %f4};",
        "wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32 {%f1}, {%r1}, {%r2}, {%f2};",
        "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%g1, %g2}, {%g3}, {%g4}, {%g5, %g6};",
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r1}, {%r1}, {%r1}, {%r1};",
        "mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1}, {%r1}, {%r2}, {%f2}, %r3, 0;",
        "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r2];",
        "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r2], {%r1};",
        "movmatrix.sync.aligned.m8n8.trans.b16 %r1, %r2;",
    ],
    "bulk copies (TMA) and their barriers": [
        "cp.async.bulk.commit_group;",
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%d1], 8, [%r2];",
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%d1], [%r1], 16;",
        "cp.async.bulk.prefetch.L2.global [%d1], 16;",
        "mbarrier.arrive.expect_tx.shared.b64 %d1, [%r1], 16;",
        "mbarrier.complete_tx.relaxed.cluster.shared::cluster.b64 [%r1], 16;",
        "tensormap.replace.tile.rank.global.b1024.b32 [%d1], 1;",
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r1], %r2, [%r3];",
        "red.async.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r1], %r2, [%r3];",
    ],
    "textures and surfaces": [
        "tex.2d.v4.f32.f32 {%f1, %f2, %f3, %f4}, [%d1, {%f1, %f2}];",
        "tld4.r.2d.v4.f32.f32 {%f1, %f2, %f3, %f4}, [%d1, {%f1, %f2}];",
        "txq.width.b32 %r1, [%d1];",
        "suld.b.1d.b32.trap %r1, [%d1, {%r2}];",
        "sust.b.1d.b32.trap [%d1, {%r2}], %r1;",
        "sured.b.add.1d.u32.trap [%d1, {%r2}], %r1;",
        "suq.width.b32 %r1, [%d1];",
        "istypep.texref %q1, %d1;",
    ],
    "video instructions": [
        f"{op}.s32.s32.s32 %r1, %r2, %r3;" for op in ("vadd", "vsub", "vabsdiff", "vmin", "vmax")
    ]
    + [
        "vshl.u32.u32.u32.wrap %r1, %r2, %r3;",
        "vshr.u32.u32.u32.wrap %r1, %r2, %r3;",
        "vmad.s32.s32.s32 %r1, %r2, %r3, %r4;",
        "vset.s32.s32.lt %r1, %r2, %r3;",
    ]
    + [
        f"{op}{n}.s32.s32.s32 %r1, %r2, %r3, %r4;"
        for n in (2, 4)
        for op in ("vadd", "vsub", "vavrg", "vabsdiff", "vmin", "vmax")
    ]
    + [f"vset{n}.s32.s32.lt %r1, %r2, %r3, %r4;" for n in (2, 4)],
    "several GPUs at once": ["multimem.red.relaxed.sys.global.add.u32 [%d1], %r1;"],
    "other": [
        "atom.global.cas.b128 %d1, [%d2], %d3, %d4;",
        "atom.global.exch.b128 %d1, [%d2], %d3;",
        "atom.global.v2.f32.add {%f1, %f2}, [%d1], {%f3, %f4};",
        "cvt.pack.sat.u8.s32.b32 %r1, %r2, %r3, %r4;",
        "mov.u32 %r1, %envreg1;",
        "mov.u32 %r1, %pm0;",
    ],
}
