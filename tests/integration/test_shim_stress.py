# SPDX-License-Identifier: Apache-2.0
"""libharp itself under ASan and UBSan, with threads, streams and contexts coming and going.

The shipped library has no sanitizer (it is loaded into other people's programs), so one is built
here from the same sources.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from shim_world import MIB, ROOT, World, build_fake, compile_c

from harp.trace.control import Wish, tell
from harp.trace.format import Reader
from harp.trace.records import Call

HERE = Path(__file__).resolve().parent
NATIVE = ROOT / "native"


def sanitized(native_dir: Path, out: Path) -> Path:
    """A native folder whose libharp is sanitized."""
    out.mkdir()
    for name in ("harp-arbiter", "libharp-nvml.so"):
        shutil.copy(native_dir / name, out)
    shim = NATIVE / "src" / "shim"
    entry = [
        shim / "entry" / f"{n}.c"
        for n in ["env", "loader", "symbols", "entry", "dlopen", "getproc", "api"]
    ]
    names = ("shim_table.c", "shim_time.c", "shim_trace.c", "shim_stubs.S", "wire_ops.c")
    generated = [NATIVE / "generated" / n for n in names]
    generated += sorted((NATIVE / "generated").glob("shim_remote*.c"))
    wire = [
        NATIVE / "src" / "wire" / f"{n}.c"
        for n in ["walk", "put", "get", "check", "frame", "ring", "ring_open", "ring_bulk"]
    ]
    remote = [*sorted((shim / "remote").glob("*.c")), *wire, NATIVE / "soft" / "ptxc" / "sha256.c"]
    remote += [*sorted((shim / "trace").glob("*.c")), NATIVE / "src" / "trace" / "file.c"]
    command = [
        *("gcc", "-shared", "-fPIC", "-g", "-O1", "-D_GNU_SOURCE", "-fvisibility=hidden"),
        *("-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-fno-sanitize-recover"),
        *(f"-I{NATIVE}", f"-I{NATIVE / 'include'}", "-Wl,-soname,libcuda.so.1", "-Wl,-Bsymbolic"),
        f"-Wl,--version-script={NATIVE / 'generated' / 'shim.map'}",
        *("-o", str(out / "libharp.so")),
        *(str(f) for f in [*entry, *sorted((shim / "gate").glob("*.c")), *remote, *generated]),
        *("-ldl", "-lpthread"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def hardened(native_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: it takes long."""
    return sanitized(native_dir, tmp_path_factory.mktemp("sanitized") / "native")


@pytest.mark.slow
@pytest.mark.parametrize("traced", [False, True])
def test_stress_finds_no_bad_access(
    hardened: Path, tmp_path: Path, busy: Path, *, traced: bool
) -> None:
    found = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    asan = Path(found.stdout.strip())
    if not asan.is_absolute():
        pytest.skip("no libasan here")
    stress = compile_c(HERE / "shim_stress.c", tmp_path / "stress")
    with World(hardened, cuda=build_fake(tmp_path / "fake")) as world:
        world.tenant("a", mem=64 * MIB, share_ppm=300_000)
        world.tenant("b", mem=64 * MIB, share_ppm=700_000)
        file = world.base / "a.trace"
        if traced:
            tell(world.base / "grants" / "a", Wish(file, size_bytes=4 * MIB, data_bytes=4096))
        under = {
            "FAKE_DRIVER": "1",
            "ASAN_OPTIONS": "detect_leaks=0",
            "LD_PRELOAD": f"{asan}:{world.shim / 'libcuda.so.1'}",
        }
        for mode, us in (("deep", "100"), ("sync", "300")):
            other = world.start("b", busy, mode, us, "60", **under)
            assert other.stdin is not None
            other.stdin.write("go\n")
            other.stdin.flush()
        assert world.run("a", stress, timeout=120, **under) == "done\n"
        assert world.usage("a").leased_bytes == 0
        if traced:
            with file.open("rb") as opened:
                reader = Reader(opened)
                calls = [r for r in reader if isinstance(r, Call)]
            assert reader.problems == []
            # A full file keeps three segments of four at least: 3 MiB, and 2000 calls need less.
            last = max(c.sequence for c in calls)
            assert reader.header.calls > 40_000
            assert {c.sequence for c in calls} >= set(range(last - 2000, last + 1))
            for call in calls:
                call.arguments()
