# SPDX-License-Identifier: Apache-2.0
"""Each form of the instruction table alone in a kernel: its C needs nothing that others bring."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import ptx_coverage
import pytest
from ptx_harness import HEAD, entry, ptxc
from ptx_rows import build

#: of the forms that the conformance tables do not have; one a line
STATEMENTS = """
rcp.approx.ftz.f32 %f0, %f1;
rcp.approx.ftz.f64 %g0, %g1;
sqrt.approx.f32 %f0, %f1;
rsqrt.approx.f32 %f0, %f1;
rsqrt.approx.f64 %g0, %g1;
rsqrt.approx.ftz.f64 %g0, %g1;
sin.approx.f32 %f0, %f1;
cos.approx.f32 %f0, %f1;
lg2.approx.f32 %f0, %f1;
ex2.approx.f32 %f0, %f1;
ex2.approx.f16 %h0, %h1;
ex2.approx.ftz.bf16 %h0, %h1;
tanh.approx.f32 %f0, %f1;
tanh.approx.bf16x2 %r0, %r1;
ld.global.u32 %r0, [%p0];
ld.global.v2.u32 {%r0, %r1}, [%p0];
ld.relaxed.cluster.global.u32 %r0, [%p0];
ld.acquire.sys.u32 %r0, [%p0];
ld.volatile.shared.u32 %r0, [%r1];
ldu.global.u32 %r0, [%p0];
st.release.cluster.global.u32 [%p0], %r0;
st.shared.v4.u32 [%r4], {%r0, %r1, %r2, %r3};
atom.global.cluster.add.u32 %r0, [%p0], 1;
atom.shared.cas.b64 %d0, [%r1], %d1, %d2;
atom.global.add.f32 %f0, [%p0], %f1;
red.relaxed.cluster.global.add.u32 [%p0], %r0;
cvta.to.global.u64 %d0, %d1;
isspacep.shared::cluster %q0, %d0;
membar.gl;
fence.acq_rel.cluster;
fence.proxy.async;
fence.mbarrier_init.release.cluster;
mapa.shared::cluster.u32 %r0, %r1, 0;
mapa.u64 %d0, %d1, 0;
getctarank.u64 %r0, %d1;
alloca.u64 %d0, %d1, 16;
stacksave.u64 %d0;
stackrestore.u64 %d0;
cp.async.ca.shared.global [%r0], [%p0], 4;
cp.async.commit_group;
cp.async.wait_group 0;
cp.async.wait_all;
fence.proxy.async.global;
fence.proxy.async::generic.acquire.sync_restrict::shared::cluster.cluster;
fence.proxy.async::generic.release.sync_restrict::shared::cta.cluster;
fence.acquire.sync_restrict::shared::cluster.cluster;
fence.release.sync_restrict::shared::cta.cluster;
prefetch.global.L2 [%p0];
prefetchu.L1 [%p0];
createpolicy.fractional.L2::evict_last.b64 %d0, 1.0;
applypriority.global.L2::evict_normal [%p0], 128;
bra.uni E; E:
T: .branchtargets A, B; brx.idx %r0, T; A: B:
call.uni none;
ret;
exit;
trap;
brkpt;
nanosleep.u32 100;
pmevent 3;
griddepcontrol.wait;
setmaxnreg.inc.sync.aligned.u32 64;
barrier.cluster.arrive;
barrier.cluster.arrive.release.aligned;
mbarrier.init.shared.b64 [%r0], 1;
mbarrier.arrive.shared.b64 %d0, [%r0];
mbarrier.try_wait.parity.shared.b64 %q0, [%r0], %r1;
cp.async.mbarrier.arrive.shared.b64 [%r0];
cp.async.mbarrier.arrive.noinc.shared.b64 [%r0];
barrier.cluster.wait;
bar.sync 0;
bar.red.popc.u32 %r0, 0, %q0;
bar.warp.sync -1;
barrier.sync 0;
shfl.sync.up.b32 %r0|%q0, %r1, 1, 0, -1;
vote.sync.ballot.b32 %r0, %q0, -1;
match.any.sync.b32 %r0, %r1, -1;
match.all.sync.b64 %r0|%q0, %d1, -1;
redux.sync.add.u32 %r0, %r1, -1;
activemask.b32 %r0;
elect.sync %r0|%q0, -1;
mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f0, %f1, %f2, %f3}, {%r0, %r1}, {%r2}, {%f4, %f5, %f6, %f7};
"""
FUNCTION = ".func none() { ret; }\n"


def _texts() -> dict[str, str]:
    """Statement -> a module whose kernel `k` has it; at least one of each form."""
    head = HEAD.replace("8.0", "8.4").replace("sm_90", "sm_90a")
    texts = {
        line: head + FUNCTION + entry("k", 1, line) for line in STATEMENTS.strip().splitlines()
    }
    missing = [
        form
        for form in ptx_coverage.forms()
        if not any(form.takes(w.rstrip(";")) for line in texts for w in line.split())
    ]
    for row in ptx_coverage.rows():
        of = [f for f in missing for name in ptx_coverage.instructions_of(row) if f.takes(name)]
        if of:
            texts[row.text] = build([row], "k")[0]
            missing = [form for form in missing if form not in of]
    assert missing == []
    return texts


def _wrong(text: str, form: tuple[str, ...]) -> str:
    c = ptxc("emit", *form, "--kernel", "k", text=text)
    if c.returncode:
        return str(c.stderr)
    flags = ("-std=gnu11", "-Werror=implicit-function-declaration")
    made = subprocess.run(
        ["cc", "-fsyntax-only", *flags, "-x", "c", "-"],
        input=c.stdout,
        capture_output=True,
        text=True,
        check=False,
    )
    return made.stderr if made.returncode else ""


@pytest.mark.slow
@pytest.mark.parametrize("form", [(), ("--quick",)])
def test_each_form_alone_is_good_c(form: tuple[str, ...]) -> None:
    texts = _texts()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda text: _wrong(text, form), texts.values())
    wrong = [f"{name}: {why[:300]}" for name, why in zip(texts, found, strict=True) if why]
    assert not wrong, "\n".join(wrong)
