# SPDX-License-Identifier: Apache-2.0
"""What LLVM's back end prints for intrinsic functions that clang has no built-in for is compiled, or
refused by name.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from corpus_build import zig
from ptx_harness import ptxc
from test_ptx_builtins import PTX, SM

LIST = Path(__file__).with_name("nvptx_intrinsics.txt")

CHUNK = 60
HEAD = "ptr addrspace(1) %in, ptr addrspace(1) %out"

# How names begin or what is in them, and what is said of them (exit 3).
REFUSED = {
    r"fence\.proxy\.tensormap_generic": "`fence.proxy.tensormap::generic",
    r"mbarrier\..*(expect|complete)\.tx": "transactions of bulk copies",
    r"read\.ptx\.sreg\.envreg": "%envreg",
}
LLVM_TYPE = {
    "v2half": "<2 x half>",
    "v2bfloat": "<2 x bfloat>",
    "pair32": "{ i32, i1 }",
    "pairf": "{ float, i1 }",
    **{f"ptr{n}": f"ptr addrspace({n})" for n in (1, 3, 5, 7)},
}


@dataclass(frozen=True)
class Intrinsic:
    """A function of LLVM, its number in the list, the types of its result and arguments."""

    number: int
    name: str
    result: str
    args: tuple[str, ...]

    def text(self) -> str:
        """A function that calls it with what lies at %in and leaves its result at %out."""
        lines, values = [], []
        for i, arg in enumerate(self.args):
            if arg[0] == "_":
                values.append(arg[1:])
                continue
            kind = LLVM_TYPE.get(arg, arg)
            lines.append(f"%p{i} = getelementptr i8, ptr addrspace(1) %in, i64 {16 * i}")
            lines.append(f"%a{i} = load volatile {kind}, ptr addrspace(1) %p{i}, align 16")
            values.append(f"{kind} %a{i}")
        result = LLVM_TYPE.get(self.result, self.result)
        call = f"call {result} @llvm.nvvm.{self.name}({', '.join(values)})"
        if result == "void":
            lines.append(call)
        else:
            lines += [f"%r = {call}", f"store {result} %r, ptr addrspace(1) %out"]
        body = "\n".join(lines)
        return f"define void @f{self.number}({HEAD}) alwaysinline {{\n{body}\nret void\n}}\n"

    def declaration(self) -> str:
        """Without the values of its constants."""
        kinds = (LLVM_TYPE.get(a, a).lstrip("_") for a in self.args)
        args = ", ".join(k.split(" ")[0] if k[0] == "i" else k for k in kinds)
        return f"declare {LLVM_TYPE.get(self.result, self.result)} @llvm.nvvm.{self.name}({args})\n"


def intrinsics() -> list[Intrinsic]:
    return list(_intrinsics())


def _intrinsics() -> Iterator[Intrinsic]:
    number = 0
    for line in LIST.read_text().replace("\n    ", " ").splitlines():
        if line[0] == "#":
            continue
        head = re.fullmatch(r"(\w+)\((.*?)\): (.*)", line)
        assert head is not None, line
        args = tuple(a.strip() for a in head[2].split(",") if a.strip())
        for name in head[3].split():
            yield Intrinsic(number, name, head[1], args)
            number += 1


def refusal(one: Intrinsic) -> str:
    """Words of the refusal; none: it is translated."""
    return next((said for name, said in REFUSED.items() if re.match(name, one.name)), "")


def to_ptx(found: list[Intrinsic], out: Path, more: str = "") -> Path:
    source = out.with_suffix(".ll")
    declarations = "".join(sorted({i.declaration() for i in found}))
    source.write_text(
        'target triple = "nvptx64-nvidia-cuda"\n'
        + declarations
        + "".join(i.text() for i in found)
        + more
    )
    done = subprocess.run(
        [
            *(zig(), "clang", "-cc1", "-triple", "nvptx64-nvidia-cuda", "-target-cpu", SM),
            *("-target-feature", f"+ptx{PTX}", "-Wno-everything", "-O1", "-S"),
            *("-o", str(out), "-x", "ir", str(source)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def kernel(name: str, found: list[Intrinsic]) -> str:
    calls = "".join(f"call void @f{i.number}({HEAD})\n" for i in found)
    return f"define ptx_kernel void @{name}({HEAD}) {{\n{calls}ret void\n}}\n"


def test_the_list_is_of_some_length() -> None:
    found = intrinsics()
    assert len(found) > 220
    for name in REFUSED:
        assert any(re.match(name, i.name) for i in found), name


def test_every_intrinsic_is_translated_or_refused_by_name(tmp_path: Path) -> None:
    found = intrinsics()
    ptx = to_ptx(found, tmp_path / "each.ptx", "".join(kernel(f"k{i.number}", [i]) for i in found))
    wrong = []
    for one in found:
        out = ptxc("emit", "--kernel", f"k{one.number}", str(ptx))
        words = refusal(one)
        if out.returncode != (3 if words else 0) or words not in out.stderr:
            wrong.append(f"{one.name}: exit {out.returncode}: {out.stderr.strip()}")
    assert not wrong, "\n".join(wrong)


def test_what_is_translated_is_c(tmp_path: Path) -> None:
    """Many in one kernel: what a row says is text until the compiler has seen it."""
    found = [i for i in intrinsics() if not refusal(i)]
    parts = [found[i : i + CHUNK] for i in range(0, len(found), CHUNK)]
    more = "".join(kernel(f"all_{n}", part) for n, part in enumerate(parts))
    ptx = to_ptx(found, tmp_path / "all.ptx", more)
    for n in range(len(parts)):
        out = ptxc("compile", "--kernel", f"all_{n}", "--cache", str(tmp_path / "c"), str(ptx))
        assert out.returncode == 0, out.stderr
