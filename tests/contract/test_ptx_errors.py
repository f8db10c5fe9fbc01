# SPDX-License-Identifier: Apache-2.0
"""What is refused, with which exit code and words; the index; laziness; the command line."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from ptx_harness import HEAD, entry, ptxc

UNSUPPORTED, INVALID = 3, 4


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ptx")


REFUSED = [
    # instruction, exit code, words
    ("wgmma.fence.sync.aligned;", UNSUPPORTED, "not supported"),
    ("tex.2d.v4.f32.f32 {%f1, %f2, %f3, %f4}, [%d1, {%f1, %f2}];", UNSUPPORTED, "not supported"),
    ("mbarrier.arrive.expect_tx.shared.b64 %d1, [%r1], 16;", UNSUPPORTED, "bulk copies"),
    ("mbarrier.init.shared.b32 [%r1], 1;", UNSUPPORTED, "form"),
    ("barrier.cluster.depart;", UNSUPPORTED, "form"),
    ("cp.async.bulk.commit_group;", UNSUPPORTED, "form"),
    ("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r2];", UNSUPPORTED, "not supported"),
    ("mov.u32 %r1, %pm0;", UNSUPPORTED, "%pm0"),
    ("cvt.rn.e4m3x2.f32 %h1, %f1, %f2;", INVALID, "no such form"),
    ("cvt.rn.satfinite.f32.f64 %f1, %g1;", INVALID, ".satfinite"),
    ("max.xorsign.abs.f64 %g1, %g2, %g3;", INVALID, "no such form"),
    ("alloca.u64 %d1, %d2, 3;", INVALID, "power of two"),
    (
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r1}, {%r1}, {%r1}, {%r1};",
        UNSUPPORTED,
        "form",
    ),
    ("atom.global.cas.b128 %d1, [%d2], %d3, %d4;", UNSUPPORTED, ".cas"),
    ("frobnicate.u32 %r1, %r2;", INVALID, "no such instruction"),
    ("sin.approx.f64 %g1, %g2;", INVALID, "no such form"),
    ("rcp.approx.f64 %g1, %g2;", INVALID, "no such form"),
    ("fma.f32 %f1, %f2, %f3, %f4;", INVALID, "no such form"),
    ("add.f32.rn %f1, %f2, %h1;", INVALID, "%h"),
    ("add.u32 %r1, %r2;", INVALID, "too few operands"),
    ("add.u32 %r1, %r2, %r3, %r4;", INVALID, "too many operands"),
    (f"add.u32 %r1{', %r2' * 7};", INVALID, "too many operands"),
    (f"add.u32 %r1{', %r2' * 8};", INVALID, "fewer operands"),
    (f"add{'.sat' * 19}.s32 %r1, %r2, %r3;", INVALID, "no such form"),
    (f"add{'.sat' * 20}.s32 %r1, %r2, %r3;", INVALID, "fewer modifiers"),
    (f"{'{' * 65}{'}' * 65}", UNSUPPORTED, "too many nested scopes"),
    ("add.u32 %r1, %d2, %r3;", INVALID, "%d has 64 bits"),
    ("add.u32 %r1, %q2, %r3;", INVALID, "%q is .pred"),
    ("add.u32 5, %r2, %r3;", INVALID, "destination must be a register"),
    ("add.f32 %f1, %f2, 1;", INVALID, "integer constant"),
    ("mov.u32 %r1, %nothing;", UNSUPPORTED, "%nothing"),
    ("ld.global.v4.u32 {%r1, %r2}, [%d1];", INVALID, "vector"),
    ("st.param.u32 [k_0], %r1;", INVALID, "read-only"),
    ("ld.param.u64 %d1, [k_0+8];", UNSUPPORTED, "outside of parameter"),
    ("bra NOWHERE;", INVALID, "NOWHERE"),
    ("cvt.s32.f32 %r1, %f1;", INVALID, ".rzi"),
    ("cvt.f32.f64 %f1, %g1;", INVALID, ".rn"),
    ("setp.lo.s32 %q1, %r1, %r2;", INVALID, ".lo"),
    ("shfl.up.b32 %r1, %r2, 1, 0;", UNSUPPORTED, "form"),
    ("call nobody, ();", INVALID, "nobody"),
    ("call missing, ();", INVALID, "missing is defined nowhere"),
    ("atom.global.add.f16x2 %r1, [%d1], %r2;", INVALID, ".noftz"),
    ("lop3.b32 %r1, %r2, %r3, %r4, 256;", UNSUPPORTED, "0 to 255"),
    ("setp.lt.f32 %q1|%q2, %f1, 0f00;", INVALID, "0f00"),
]


@pytest.mark.parametrize(("instruction", "code", "words"), REFUSED, ids=[r[0] for r in REFUSED])
def test_refusal_names_kernel_line_and_instruction(
    instruction: str, code: int, words: str, tmp_path: Path
) -> None:
    text = HEAD + ".extern .func missing();\n" + entry("k", 1, f"// line before\n{instruction}")
    line = text[: text.index(instruction)].count("\n") + 1
    out = ptxc("compile", "--kernel", "k", "--cache", str(tmp_path), text=text)
    assert out.returncode == code, out.stderr
    assert out.stdout == ""
    assert out.stderr.count("\n") == 1
    assert out.stderr.startswith(f"kernel k: line {line}: ")
    assert words in out.stderr
    assert not list(tmp_path.iterdir())


MALFORMED = {
    "": ".version",
    "hello": ".version",
    HEAD + ".visible .entry k(.param .u64 x { ret; }": "`)`",
    HEAD + ".visible .entry k() { ret; ": "no closing",
    HEAD + ".visible .entry k() { ret }": "expected",
    HEAD + ".global .u32 x; .global .u32 x;": "twice",
    HEAD + ".global .u32 x = {1, 2};": "initialiser",
    HEAD + ".global .align 3 .u32 x;": "power of two",
    HEAD + ".extern .global .u32 x;": "defined nowhere",
    HEAD + "/* never closed": "directive",
    ".version 8.0\n.address_size 64\n": ".target",
    ".version 8.0\n.target sm_90\n.address_size 32\n": ".address_size",
    HEAD + ".visible .entry k(.param .b8 big[99999999999]) { ret; }": "32764",
    HEAD + ".visible .entry k() { .reg .b32 %r<99999999999>; ret; }": "fewer registers",
    HEAD + ".global .align 4294967300 .u32 x;": "a small number",
    HEAD + '.global "two\nlines" x;': "`two lines`",
}


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_modules_are_named_with_their_line(text: str) -> None:
    out = ptxc("index", text=text)
    assert out.returncode == INVALID
    assert MALFORMED[text] in out.stderr
    assert out.stderr.count("\n") == 1
    assert "line " in out.stderr


@pytest.mark.parametrize(("digits", "code"), [(126, 0), (127, INVALID)])
def test_decimals_have_as_many_digits_as_there_is_room_for(digits: int, code: int) -> None:
    body = f"mov.f64 %g1, 1.{'0' * (digits - 1)};"
    out = ptxc("emit", "--kernel", "k", text=HEAD + entry("k", 1, body))
    assert out.returncode == code, out.stderr
    assert "line" in out.stderr or not code


def test_newer_target_and_unknown_kernel(cache: Path) -> None:
    text = HEAD.replace("sm_90", "sm_120") + entry("k", 0, "")
    out = ptxc("compile", "--kernel", "k", "--cache", str(cache), text=text)
    assert (out.returncode, "sm_120" in out.stderr) == (INVALID, True)
    out = ptxc("compile", "--kernel", "x", "--cache", str(cache), text=HEAD + entry("k", 0, ""))
    assert (out.returncode, "not in this module" in out.stderr) == (INVALID, True)


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("fly",),
        ("compile",),
        ("compile", "--kernel"),
        ("index", "a", "b"),
        ("emit", "--kernel", "k", "--sm", "x"),
    ],
)
def test_usage(args: tuple[str, ...]) -> None:
    out = ptxc(*args)
    assert out.returncode == 2
    assert out.stderr.startswith("usage: harp-ptxc")


def test_no_compiler_names_the_remedy(cache: Path, tmp_path: Path) -> None:
    env = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    out = ptxc(
        "compile", "--kernel", "k", "--cache", str(cache), text=HEAD + entry("k", 0, ""), env=env
    )
    assert out.returncode == 5
    assert "apt install gcc" in out.stderr
    env["HARP_PTXC_CC"] = "/nowhere/cc"
    out = ptxc(
        "compile", "--kernel", "k", "--cache", str(cache), text=HEAD + entry("k", 0, ""), env=env
    )
    assert out.returncode == 5
    assert "/nowhere/cc" in out.stderr


def index(text: str) -> Any:
    out = ptxc("index", text=text)
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout)


def test_index_of_kernels() -> None:
    text = (
        HEAD
        + """
.extern .shared .align 16 .b8 dyn[];
.shared .align 8 .b8 common[24];
.shared .align 4 .b8 unused[1000];
.func helper() { .shared .align 4 .b8 mine[20]; .local .align 8 .b8 depot[40]; .reg .b32 %r; mov.u32 %r, common; ret; }
.visible .entry first(.param .u8 a, .param .align 16 .b8 b[20], .param .u64 c, .param .v4 .f32 d)
.maxntid 32, 2, 1 .minnctapersm 2 { .shared .align 16 .b8 own[5]; call helper; ret; }
.visible .entry second() .reqntid 64 { .reg .b64 %d<100>; .reg .b32 %r; mov.u32 %r, dyn; ret; }
"""
    )
    first, second = index(text)["entries"]
    assert first["name"] == "first"
    assert [(p["offset"], p["bytes"], p["align"]) for p in first["params"]] == [
        (0, 1, 1),
        (16, 20, 16),
        (40, 8, 8),
        (48, 16, 16),
    ]
    assert first["params_bytes"] == 64
    assert (first["maxntid"], first["reqntid"], first["minnctapersm"]) == ([32, 2, 1], [0, 0, 0], 2)
    assert first["static_shared_bytes"] == 24 + 8 + 5 + 3 + 20
    assert first["local_bytes"] == 40
    assert second["reqntid"] == [64, 1, 1]
    assert second["static_shared_bytes"] == 0
    assert 16 <= second["registers"] <= 64
    # No launch of 1024 threads may fail for the estimate.
    assert all(e["registers"] <= 64 or e["maxntid"][0] for e in (first, second))


def test_index_of_variables() -> None:
    text = (
        HEAD
        + """
.visible .global .align 8 .u64 a[2] = {b, generic(b)+4};
"""
    )
    assert ptxc("index", text=text).returncode == INVALID  # b must come first
    text = (
        HEAD
        + """
.const .align 4 .f32 b[3] = {1.5, 0f40000000, -2.0};
.visible .global .align 8 .u64 a[3] = {b, generic(b)+4, 7};
.global .align 1 .b8 rows[2][3] = {{1, 2}, {3}};
.visible .global .s16 flexible[] = {1, -1, 0x7f};
.weak .global .align 16 .b8 zeros[1000000];
.func f() { ret; }
.global .u64 table[1] = {f};
"""
    )
    b, a, rows, flexible, zeros, table = index(text)["variables"]
    assert (b["space"], b["bytes"], b["visible"]) == ("const", 12, False)
    assert bytes.fromhex(b["init"]) == b"\0\0\xc0\x3f\0\0\0\x40\0\0\0\xc0"
    assert a["relocs"] == [
        {"offset": 0, "variable": 0, "addend": 0},
        {"offset": 8, "variable": 0, "addend": 4},
    ]
    assert a["init"] == "00" * 16 + "0700000000000000"
    assert rows["init"] == "010200030000"
    assert flexible["init"] == "0100ffff7f00"
    assert (zeros["bytes"], zeros["init"], zeros["align"], zeros["visible"]) == (
        1000000,
        "",
        16,
        True,
    )
    assert table["init"] == "100000000000000f"


def test_only_the_kernel_asked_for_is_compiled(cache: Path) -> None:
    text = HEAD + entry("good", 0, "") + entry("bad", 0, "wgmma.fence.sync.aligned;")
    assert index(text)["entries"][1]["name"] == "bad"
    assert ptxc("compile", "--kernel", "good", "--cache", str(cache), text=text).returncode == 0
    assert (
        ptxc("compile", "--kernel", "bad", "--cache", str(cache), text=text).returncode
        == UNSUPPORTED
    )


@pytest.mark.alone
def test_large_modules_are_read_in_linear_time() -> None:
    body = "add.u32 %r1, %r2, %r3;\nLOOP: setp.lt.u32 %q1, %r1, 5;\n" * 1
    filler = "mad.lo.u32 %r4, %r5, %r6, %r7;\nst.global.u32 [%d1+4], %r4;\n" * 900
    kernels = "".join(entry(f"k{i}", 2, body + filler) for i in range(300))
    text = HEAD + ".global .u32 g;\n" + kernels
    assert len(text) > 15_000_000
    start = time.process_time()
    begun = time.monotonic()
    out = ptxc("emit", "--kernel", "k299", text=text)
    seconds = time.monotonic() - begun
    print(f"{len(text) / 1e6:.1f} MB: {seconds:.2f} s, here {time.process_time() - start:.2f} s")
    assert out.returncode == 0
    assert seconds < 10  # some 0.2 s when the machine is idle
