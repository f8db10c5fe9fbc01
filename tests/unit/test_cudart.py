# SPDX-License-Identifier: Apache-2.0
"""Programs that bring the CUDA runtime are told before they start; others are let through."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from elf_files import Made
from hypothesis import given
from hypothesis import strategies as st

from harp.remote.cudart import Verdict, judge
from harp.remote.libraries import cache, read_cache, walk

RUNTIME = Path(sysconfig.get_paths()["purelib"]) / "nvidia" / "cu13" / "lib"
MARKS = b"\0cuGetExportTable\0\0cudaErrorCudartUnloading\0"


def look(path: Path, *arguments: str, **env: str) -> Verdict:
    return judge(path, [str(path), *arguments], env)


def names(program: Path, **env: str) -> tuple[list[str], list[str]]:
    objects, missing = walk(program, env, {})
    return [str(o.path) for o in objects], missing


def test_a_program_without_it_is_let_through(tmp_path: Path) -> None:
    program = Made(needed=["liba.so"], runpath=str(tmp_path)).write(tmp_path / "app")
    Made(soname="liba.so").write(tmp_path / "liba.so")
    assert look(program) == Verdict("", "", ())


@pytest.mark.parametrize("name", ["libcudart.so.13", "libcudart.so.11.0", "libcudart.so"])
def test_a_program_that_needs_the_runtime_is_refused(tmp_path: Path, name: str) -> None:
    # Whether it is there or not: the loader may find what we do not.
    verdict = look(Made(needed=["libc.so.6", name]).write(tmp_path / "app"))
    assert verdict.refused
    assert f"app needs {name}" in verdict.reason
    assert "private tables" in verdict.reason
    assert "on the machine that has the GPU" in verdict.way_out


@pytest.mark.parametrize("name", ["libcudart_stub.so", "mylibcudart.so.1", "libcuda.so.1"])
def test_a_name_like_it_is_not_it(tmp_path: Path, name: str) -> None:
    verdict = look(Made(needed=[name]).write(tmp_path / "app"))
    assert not verdict.refused
    assert name in verdict.notes[0]


def test_a_library_of_a_library_that_needs_it_is_found(tmp_path: Path) -> None:
    program = Made(needed=["liba.so"], runpath="$ORIGIN/lib").write(tmp_path / "app")
    Made(needed=["libb.so"], runpath="${ORIGIN}").write(tmp_path / "lib" / "liba.so")
    Made(needed=["libcudart.so.12"]).write(tmp_path / "lib" / "libb.so")
    assert "app -> liba.so -> libb.so needs libcudart.so.12" in look(program).reason


def test_nvccs_segment_is_enough(tmp_path: Path) -> None:
    program = Made(sections=[(".nvFatBinSegment", b"x")]).write(tmp_path / "app")
    assert ".nvFatBinSegment" in look(program).reason


@pytest.mark.parametrize("headers", [True, False])
def test_the_runtimes_own_words_are_enough_and_only_both(tmp_path: Path, headers: bool) -> None:
    def refused(*sections: tuple[str, bytes]) -> bool:
        made = Made(sections=sections, headers=headers, needed=["libc.so.6"])
        return look(made.write(tmp_path / "app")).refused

    assert refused((".rodata", MARKS))
    assert not refused((".rodata", b"\0cuGetExportTable\0"))
    assert not refused((".rodata", b"\0cudaErrorCudartUnloading\0"))
    assert not refused((".rodata", MARKS.replace(b"\0", b"_")))


def test_device_code_is_not_searched(tmp_path: Path) -> None:
    assert not look(Made(sections=[(".nv_fatbin", MARKS)]).write(tmp_path / "app")).refused


def test_a_preloaded_library_counts(tmp_path: Path) -> None:
    program = Made().write(tmp_path / "app")
    library = Made(needed=["libcudart.so.12"]).write(tmp_path / "pre.so")
    assert not look(program).refused
    assert look(program, LD_PRELOAD=f"/none.so:{library}").refused


def test_the_loaders_order(tmp_path: Path) -> None:
    for folder in ("rpath", "env", "runpath", "empty"):
        Made(soname="liba.so").write(tmp_path / folder / "liba.so")
    (tmp_path / "empty" / "liba.so").unlink()

    def found(**more: str) -> str:
        env = {"LD_LIBRARY_PATH": more.pop("env")} if "env" in more else {}
        made = Made(needed=["liba.so"], **more)  # type: ignore[arg-type]
        paths, _ = names(made.write(tmp_path / "app"), **env)
        return Path(paths[1]).parent.name if len(paths) > 1 else ""

    at = {n: str(tmp_path / n) for n in ("rpath", "env", "runpath", "empty")}
    assert found() == ""
    assert found(rpath=at["rpath"], env=at["env"]) == "rpath"
    assert found(runpath=at["runpath"], env=at["env"]) == "env"
    assert found(runpath=at["runpath"], env=at["empty"]) == "runpath"
    assert found(rpath=at["rpath"], runpath=at["runpath"]) == "runpath"  # DT_RPATH is void then
    assert found(rpath=at["rpath"], runpath=at["empty"]) == ""
    assert found(rpath=f"{at['empty']}:{at['rpath']}") == "rpath"
    assert found(env=f"{at['empty']};{at['env']}") == "env"


def test_an_ancestors_rpath_counts_and_its_runpath_does_not(tmp_path: Path) -> None:
    Made(needed=["libb.so"]).write(tmp_path / "lib" / "liba.so")
    Made().write(tmp_path / "lib" / "libb.so")
    for kind, missing in (("rpath", []), ("runpath", ["libb.so"])):
        made = Made(needed=["liba.so"], **{kind: str(tmp_path / "lib")})  # type: ignore[arg-type]
        assert names(made.write(tmp_path / "app"))[1] == missing


def test_who_has_a_runpath_is_not_served_by_an_ancestors_rpath(tmp_path: Path) -> None:
    Made(needed=["libb.so"], runpath="/none").write(tmp_path / "lib" / "liba.so")
    Made().write(tmp_path / "lib" / "libb.so")
    program = Made(needed=["liba.so"], rpath=str(tmp_path / "lib")).write(tmp_path / "app")
    assert names(program)[1] == ["libb.so"]


def test_a_library_of_another_machine_is_passed_over(tmp_path: Path) -> None:
    Made(machine=183).write(tmp_path / "arm" / "liba.so")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "liba.so").write_text("/* GNU ld script */")
    Made().write(tmp_path / "x86" / "liba.so")
    runpath = ":".join(str(tmp_path / n) for n in ("arm", "text", "x86"))
    paths, _ = names(Made(needed=["liba.so"], runpath=runpath).write(tmp_path / "app"))
    assert paths[1] == str(tmp_path / "x86" / "liba.so")


def test_libraries_that_need_each_other_end(tmp_path: Path) -> None:
    Made(needed=["libb.so"], soname="liba.so", runpath="$ORIGIN").write(tmp_path / "liba.so")
    Made(needed=["liba.so", "app"], runpath="$ORIGIN").write(tmp_path / "libb.so")
    program = Made(needed=["liba.so", "libb.so"], runpath="$ORIGIN").write(tmp_path / "app")
    assert len(names(program)[0]) == 3


def test_what_the_loader_will_say_is_not_said_twice(tmp_path: Path) -> None:
    verdict = look(Made(needed=["libnone.so.7"]).write(tmp_path / "app"))
    assert not verdict.refused
    assert verdict.notes == ("not found, and so not judged: libnone.so.7",)


def test_a_script_is_judged_by_its_interpreter(tmp_path: Path) -> None:
    program = Made(needed=["libcudart.so.12"]).write(tmp_path / "bin" / "tool")
    for line in (str(program), f"{program} -x", "/usr/bin/env tool", "/usr/bin/env -S tool -v"):
        script = tmp_path / "script"
        script.write_text(f"#!{line}\n")
        assert look(script, PATH=str(program.parent)).refused, line
    assert look(Path("/usr/bin/env"), "A=1", "tool", PATH=str(program.parent)).refused
    script.write_text(f"#!{script}\n")
    assert not look(script).refused
    script.write_text("#!\n")
    assert not look(script).refused


def test_of_python_it_is_said_what_is_known(tmp_path: Path) -> None:
    python = Path(sys.executable)
    script = tmp_path / "train.py"
    script.write_text("import os\nfrom torch import nn\n  import cupy as cp\n# import jax\n")
    verdict = look(python, str(script))
    assert not verdict.refused
    assert "decides while it runs" in verdict.notes[0]
    assert [n.split()[2].rstrip(",") for n in verdict.notes[1:]] == ["cupy", "torch"]
    script.write_text(f"#!{python}\n" + script.read_text())
    assert look(script).notes == verdict.notes
    assert len(look(python, "-m", str(script)).notes) == 1
    assert len(look(python).notes) == 1
    assert len(look(python, str(tmp_path)).notes) == 1


def test_what_cannot_be_read_is_not_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text").write_text("hello")
    for path in (tmp_path / "pipe", tmp_path / "text", tmp_path / "none", tmp_path):
        verdict = look(path)
        assert not verdict.refused
        assert "not judged" in verdict.notes[0]


def test_names_cannot_move_the_terminals_cursor(tmp_path: Path) -> None:
    program = Made(needed=["\x1b[2Jlib.so", "libcudart.so.\x1b[1A"]).write(tmp_path / "app")
    assert "\x1b" not in look(program).reason
    program = Made(needed=["\x1b[2Jlib.so"]).write(tmp_path / "app")
    assert "\x1b" not in "".join(look(program).notes)


def test_the_real_runtime_is_known_in_every_guise(tmp_path: Path) -> None:
    gcc = shutil.which("gcc")
    if not gcc or not (RUNTIME / "libcudart_static.a").exists():
        pytest.skip("needs gcc and nvidia-cuda-runtime")
    source = tmp_path / "app.c"
    source.write_text(
        "int cudaMalloc(void **, unsigned long);\n"
        "int main(void) { void *p; return cudaMalloc(&p, 4); }\n"
    )
    static = [str(RUNTIME / "libcudart_static.a"), "-ldl", "-lpthread", "-lrt"]
    for options in (static, [*static, "-s"], [*static, "-s", "-O2", "-Wl,--gc-sections"]):
        subprocess.run([gcc, str(source), "-o", str(tmp_path / "app"), *options], check=True)
        assert "contains libcudart_static" in look(tmp_path / "app").reason
    dynamic = [str(RUNTIME / "libcudart.so.13"), "-Wl,-rpath," + str(RUNTIME)]
    subprocess.run([gcc, str(source), "-o", str(tmp_path / "app"), *dynamic], check=True)
    assert "needs libcudart.so.13" in look(tmp_path / "app").reason
    source.write_text("int main(void) { return 0; }\n")
    subprocess.run([gcc, str(source), "-o", str(tmp_path / "app"), "-ldl"], check=True)
    assert look(tmp_path / "app") == Verdict("", "", ())


def test_what_the_loader_finds_is_found() -> None:
    """ldd, which asks the loader itself, and we agree on the interpreter of these tests."""
    program = Path(sys.executable).resolve()
    said = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
    if said.returncode:
        pytest.skip("ldd cannot say")
    told = {
        Path(line.split(" => ")[1].split(" (")[0]).resolve()
        for line in said.stdout.splitlines()
        if " => /" in line
    }
    objects, missing = walk(program, dict(os.environ), read_cache())
    assert missing == []
    assert told <= {o.path.resolve() for o in objects}


def _cache(entries: list[tuple[str, str]]) -> bytes:
    strings, rows = b"", b""
    base = 48 + 24 * len(entries)
    for name, path in entries:
        key = base + len(strings)
        strings += name.encode() + b"\0"
        value = base + len(strings)
        strings += path.encode() + b"\0"
        rows += struct.pack("<iIIIQ", 0x303, key, value, 0, 0)
    head = b"glibc-ld.so.cache1.1" + struct.pack("<IIIIIII", len(entries), len(strings), *[0] * 5)
    return head + rows + strings


ENTRY = st.tuples(st.text("abc.", min_size=1, max_size=6), st.text("ab/", min_size=1, max_size=6))


@given(st.lists(ENTRY, max_size=8), st.binary(max_size=19))
def test_the_loaders_cache_is_read(entries: list[tuple[str, str]], older: bytes) -> None:
    wanted: dict[str, tuple[str, ...]] = {}
    for name, path in entries:
        wanted[name] = (*wanted.get(name, ()), path)
    assert cache(older + _cache(entries)) == wanted


@given(st.binary(max_size=300))
def test_a_damaged_cache_harms_nobody(data: bytes) -> None:
    cache(b"glibc-ld.so.cache1.1" + data)


def test_the_cache_is_asked(tmp_path: Path) -> None:
    library = Made().write(tmp_path / "elsewhere" / "liba.so")
    program = Made(needed=["liba.so"]).write(tmp_path / "app")
    objects, missing = walk(program, {}, {"liba.so": ("/none/liba.so", str(library))})
    assert (objects[1].path, missing) == (library, [])
