# SPDX-License-Identifier: Apache-2.0
"""What clang's back end prints for each of its NVPTX built-in functions is compiled, or refused by
name.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from corpus_build import zig
from ptx_harness import ptxc

LIST = Path(__file__).with_name("nvptx_builtins.txt")
SM, PTX = "sm_90", 88
CHUNK = 120

# Not for sm_90 (exit 4), or nothing that a software GPU has (exit 3).
REFUSED = {
    "lg2_approx_d": (4, "`lg2.approx.f64 "),
    "vote_all": (4, "`vote.all.pred "),
    "vote_any": (4, "`vote.any.pred "),
    "vote_ballot": (4, "`vote.ballot.b32 "),
    "vote_uni": (4, "`vote.uni.pred "),
    **{f"read_ptx_sreg_pm{n}": (3, f"%pm{n} ") for n in range(4)},
}
C_TYPE = {
    "f32": "float",
    "f64": "double",
    "f16": "__fp16",
    "bf16": "__bf16",
    "bool": "_Bool",
    "s8": "signed char",
    "u8": "unsigned char",
    "s16": "short",
    "u16": "unsigned short",
    "s32": "int",
    "u32": "unsigned",
    "s64": "long",
    "u64": "unsigned long",
    "f16x2": "half2",
    "bf16x2": "brain2",
    "generic": "long *",
    "shared": "__attribute__((address_space(3))) long *",
    "global": "__attribute__((address_space(1))) long *",
}
HEAD = """
typedef __fp16 half2 __attribute__((__vector_size__(4)));
typedef __bf16 brain2 __attribute__((__vector_size__(4)));
#define KERNEL __attribute__((nvptx_kernel)) void
#define BODY static inline __attribute__((always_inline)) void
"""


@dataclass(frozen=True)
class Builtin:
    """A function, the codes of its arguments, and whether it has a result."""

    name: str
    args: tuple[str, ...]
    result: bool

    def body(self) -> str:
        """A function that calls it with what lies at `in` and leaves its result at `out`."""
        args = [
            a if a.isdigit() else f"*(__typeof__({C_TYPE[a]}) *)(in + {16 * i})"
            for i, a in enumerate(self.args)
        ]
        call = f"__nvvm_{self.name}({', '.join(args)})"
        if self.result:
            call = f"__auto_type r = {call}; __builtin_memcpy(out, &r, sizeof(r))"
        return f"BODY b_{self.name}(char *in, char *out) {{ {call}; }}\n"


def builtins() -> Iterator[Builtin]:
    text = LIST.read_text().replace("\n    ", " ")
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        args, names = line[1:].split(":")
        for name in names.split():
            yield Builtin(name, tuple(args.split()), line[0] == "+")


def to_ptx(text: str, out: Path) -> Path:
    done = subprocess.run(
        [
            *(zig(), "clang", "-cc1", "-triple", "nvptx64-nvidia-cuda", "-target-cpu", SM),
            *("-target-feature", f"+ptx{PTX}", "-std=gnu23", "-fnative-half-type"),
            *("-fnative-half-arguments-and-returns", "-Wno-everything", "-O1", "-S"),
            *("-o", str(out), "-x", "c", "-"),
        ],
        input=HEAD + text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def each(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A module with a kernel for every function."""
    text = "".join(
        f"{b.body()}KERNEL k_{b.name}(char *in, char *out) {{ b_{b.name}(in, out); }}\n"
        for b in builtins()
    )
    return to_ptx(text, tmp_path_factory.mktemp("builtins") / "each.ptx")


def test_every_builtin_is_translated_or_refused_by_name(each: Path) -> None:
    wrong = []
    for b in builtins():
        out = ptxc("emit", "--kernel", f"k_{b.name}", str(each))
        code, words = REFUSED.get(b.name, (0, ""))
        if out.returncode != code or words not in out.stderr:
            wrong.append(f"{b.name}: exit {out.returncode}: {out.stderr.strip()}")
    assert not wrong, "\n".join(wrong)


def test_the_list_is_of_some_length() -> None:
    found = list(builtins())
    assert len(found) == len({b.name for b in found}) > 650
    assert REFUSED.keys() <= {b.name for b in found}


def test_what_is_translated_is_c(tmp_path: Path) -> None:
    """Many in one kernel: what a row says is text until the compiler has seen it."""
    found = [b for b in builtins() if b.name not in REFUSED]
    parts = [found[i : i + CHUNK] for i in range(0, len(found), CHUNK)]
    text = "".join(b.body() for b in found)
    for n, part in enumerate(parts):
        calls = "".join(f"b_{b.name}(in, out + {16 * i});\n" for i, b in enumerate(part))
        text += f"KERNEL all_{n}(char *in, char *out)\n{{\n{calls}}}\n"
    ptx = to_ptx(text, tmp_path / "all.ptx")
    for n in range(len(parts)):
        out = ptxc("compile", "--kernel", f"all_{n}", "--cache", str(tmp_path / "c"), str(ptx))
        assert out.returncode == 0, out.stderr
