# SPDX-License-Identifier: Apache-2.0
"""The software GPU by itself: `python -m harp.softgpu` and the pytest plugin, from outside."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from harp.softgpu import PROFILES
from tests.integration.machine import ROOT, wait_for

BINDINGS = ROOT / "tests" / "clients" / "programs" / "bindings.py"
#: prints where its state is; then does what the argument says
CLIENT = """
import ctypes as c, os, sys, time
print(os.environ["HARP_SOFT_DIR"], os.getpid(), flush=True)
n, ctx = c.c_int(-1), c.c_void_p()
for name in ("libcuda.so.1", "libcuda.so"):
    cu = c.CDLL(name)
    assert cu.cuInit(0) == 0
assert cu.cuDeviceGetCount(c.byref(n)) == 0
assert cu.cuCtxCreate_v2(c.byref(ctx), 0, 0) == 0
print("devices", n.value, flush=True)
if sys.argv[1] == "wait":
    time.sleep(120)
os.kill(os.getpid(), 9) if sys.argv[1] == "die" else sys.exit(int(sys.argv[1]))
"""


def environment(**more: str) -> dict[str, str]:
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_", "CUDA_"))}
    return {**outside, "PYTHONPATH": str(ROOT), **more}


def softgpu(
    *arguments: str, env: dict[str, str] | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harp.softgpu", *arguments],
        env=environment() if env is None else env,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def client(what: str) -> list[str]:
    return ["--", sys.executable, "-c", CLIENT, what]


def home_of(stdout: str) -> Path:
    """The machine's folder; its state lies in it."""
    return Path(stdout.split(maxsplit=1)[0]).parent


@pytest.mark.parametrize(("what", "status"), [("0", 0), ("7", 7), ("die", 128 + 9)])
def test_exit_status_is_the_programs_and_nothing_is_left(what: str, status: int) -> None:
    done = softgpu("--devices", "tiny,t4-16g", *client(what))
    assert done.returncode == status, done.stderr
    assert "devices 2" in done.stdout
    home = home_of(done.stdout)
    assert home.name.startswith("harp-softgpu-")
    assert not home.exists()


def started(*options: str) -> tuple[subprocess.Popen[str], Path, int]:
    process = subprocess.Popen(
        [sys.executable, "-m", "harp.softgpu", *options, *client("wait")],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    assert process.stdout.readline().startswith("devices")
    home = home_of(first)
    assert home.exists()
    return process, home, int(first.split()[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_end_the_program_and_leave_nothing(number: signal.Signals) -> None:
    process, home, pid = started()
    process.send_signal(number)
    process.communicate(timeout=30)
    # Python makes an exception of SIGINT and ends by that signal all the same
    assert process.returncode == 128 + number
    assert not home.exists()
    assert not Path(f"/proc/{pid}").exists()


def test_even_a_killed_runner_leaves_nothing() -> None:
    process, home, pid = started()
    process.kill()
    process.wait(30)
    wait_for(lambda: not home.exists(), "the folder goes")
    os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=30)


def test_a_folder_may_be_named_and_kept(tmp_path: Path) -> None:
    home = tmp_path / "gpu"
    done = softgpu("--dir", str(home), "--keep", *client("0"))
    assert done.returncode == 0, done.stderr
    assert f"kept in {home}" in done.stderr
    assert home_of(done.stdout) == home
    assert (home / "state").exists()
    again = softgpu("--dir", str(home), *client("0"))
    assert again.returncode == 1
    assert "not empty" in again.stderr
    assert (home / "state").exists()


def test_how_long_slices_last_may_be_said_outside() -> None:
    command = "echo $HARP_SOFT_SLICE_US $HARP_SOFT_SWITCH_US $HARP_SOFT_TEARDOWN_MS"
    # the last is of another machine: not taken over
    outside = environment(
        HARP_SOFT_SLICE_US="6000", HARP_SOFT_SWITCH_US="300", HARP_SOFT_TEARDOWN_MS="9"
    )
    done = softgpu("--", "sh", "-c", command, env=outside)
    assert done.stdout.split() == ["6000", "300"]


@pytest.mark.slow
def test_the_report_tells_what_ran_on_the_device() -> None:
    done = softgpu("--json", "--devices", "tiny", "--", sys.executable, str(BINDINGS), "launch")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["status"], told["signal"], told["software"]) == (0, None, True)
    assert [device["profile"] for device in told["devices"]] == ["tiny"]
    (process,) = told["processes"]
    assert process["state"] == "gone"
    assert process["launches"] >= 1
    assert process["instructions"] > 1000
    assert process["mem_bytes"] == 0
    idle = json.loads(softgpu("--json", "--", "true").stdout.splitlines()[-1])
    assert idle["processes"] == []
    killed = json.loads(softgpu("--json", *client("die")).stdout.splitlines()[-1])
    assert (killed["status"], killed["signal"]) == (137, "SIGKILL")


def test_truth_is_asked_inside() -> None:
    inside = f"{sys.executable} -m harp.softgpu truth --json"
    done = softgpu("--devices", "tiny,tiny", "--", "sh", "-c", inside)
    assert done.returncode == 0, done.stderr
    assert [d["profile"] for d in json.loads(done.stdout)["devices"]] == ["tiny", "tiny"]


def test_devices_are_those_of_the_driver() -> None:
    told = json.loads(softgpu("devices", "--json").stdout)
    assert tuple(row["device"] for row in told["devices"]) == PROFILES
    source = (ROOT / "native" / "soft" / "gpu" / "profile.c").read_text()
    assert tuple(re.findall(r'\.key = "([^"]+)"', source)) == PROFILES
    plain = softgpu("devices").stdout.splitlines()
    assert [line.split()[0] for line in plain] == list(PROFILES)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 2, "no CMD"),
        (["--json"], 2, "no CMD"),
        (["--"], 2, "no CMD"),
        (["true"], 2, "unrecognized arguments: true"),
        (["--devices", "h200", "--", "true"], 1, "one of h100-80g"),
        (["--devices", ",".join(["tiny"] * 9), "--", "true"], 1, "up to 8"),
        (["--", "/no/such/program"], 127, "not found"),
        (["--", "/etc/passwd"], 126, "not executable"),
        (["fault"], 2, "set RULE"),
        (["fault", "set"], 2, "set RULE"),
        (["devices", "--yaml"], 2, "only --json"),
    ],
)
def test_refusals_help(arguments: Sequence[str], status: int, said: str) -> None:
    done = softgpu(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr


def test_without_binaries_it_says_so(tmp_path: Path) -> None:
    for arguments in (["--", "true"], ["devices"], ["truth"], ["fault", "show"]):
        done = softgpu(*arguments, env=environment(HARP_NATIVE_DIR=str(tmp_path)))
        assert done.returncode == 1
        assert "no software GPU" in done.stderr
        assert "wheel" in done.stderr


def test_a_tool_that_is_missing_is_missed(native_dir: Path, tmp_path: Path) -> None:
    for name in ("soft", "harp-ptxc"):
        (tmp_path / name).symlink_to(native_dir / name)
    done = softgpu("fault", "show", env=environment(HARP_NATIVE_DIR=str(tmp_path)))
    assert done.returncode == 1
    assert "no harp-soft-fault" in done.stderr
    tool = tmp_path / "harp-soft-fault"
    tool.write_text('#!/bin/sh\necho "$@"\nexit 5\n')
    tool.chmod(0o755)
    rules = ["fault", "set", "call=cuMemAlloc", "code=2"]
    done = softgpu(*rules, env=environment(HARP_NATIVE_DIR=str(tmp_path)))
    assert (done.returncode, done.stdout) == (5, "set call=cuMemAlloc code=2\n")


def test_no_compiler_is_foretold(tmp_path: Path) -> None:
    (tmp_path / "true").symlink_to("/bin/true")
    done = softgpu("--", "true", env=environment(PATH=str(tmp_path)))
    assert done.returncode == 0
    assert "no C compiler" in done.stderr


def test_the_page_is_there() -> None:
    done = softgpu("doc")
    assert done.stdout.startswith("# A software GPU for your CI")
    assert "libcudart: refused" in done.stdout
    assert "cuGreenCtxCreate" in done.stdout  # among what is refused


# --- the plugin -----------------------------------------------------------------------------------

PROJECT = {
    "conftest.py": "import os\nBEFORE = os.environ.get('HARP_SOFT_DIR')\n",
    "test_plain.py": """
import os
from pathlib import Path

def test_nothing_is_here():
    assert "HARP_SOFT_DIR" not in os.environ
    assert "libcuda" not in Path("/proc/self/maps").read_text()
""",
    "test_gpu.py": """
import ctypes, os, subprocess, sys

def test_in_this_process(softgpu):
    from cuda.bindings import driver as cu
    assert cu.cuInit(0)[0] == 0
    assert cu.cuDeviceGetCount() == (0, 2)
    import pynvml
    pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetCount() == 2
    assert "Software" in str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)))

def test_in_another(softgpu):
    code = "import ctypes; assert ctypes.CDLL('libcuda.so').cuInit(0) == 0"
    subprocess.run([sys.executable, "-c", code], check=True)
    subprocess.run([sys.executable, "-c", code], env=softgpu.env, check=True)
    print("HOME", softgpu.folder)
""",
    "test_early.py": """
import ctypes, os
from conftest import BEFORE

assert ctypes.CDLL("libcuda.so.1").cuInit(0) == 0  # at import

def test_before_conftest():
    assert BEFORE == os.environ["HARP_SOFT_DIR"]
""",
    "test_late.py": """
import ctypes, os
ctypes.CDLL(os.environ["SOME_DRIVER"])

def test_too_late(softgpu):
    raise AssertionError("never here")
""",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in PROJECT.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -s -p no:randomly\n")
    return tmp_path


def pytest_in(project: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", "-m", "pytest", *arguments],
        cwd=project,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_plugin_is_inert(project: Path) -> None:
    done = pytest_in(project, "test_plain.py")
    assert done.returncode == 0, done.stdout
    assert "software GPU" not in done.stdout


def test_fixture_gives_a_driver_to_this_process_and_others(project: Path) -> None:
    devices = ("--softgpu-devices", "tiny,t4-16g")
    done = pytest_in(project, *devices, "test_plain.py", "test_gpu.py")
    assert done.returncode == 0, done.stdout
    home = Path(re.findall(r"HOME (\S+)", done.stdout)[0])
    assert not home.exists()


@pytest.mark.slow
def test_option_comes_before_all_imports(project: Path) -> None:
    done = pytest_in(project, "--softgpu", "test_early.py")
    assert done.returncode == 0, done.stdout
    assert "software GPU: h100-80g" in done.stdout
    assert pytest_in(project, "test_plain.py", "--softgpu").returncode == 1
    assert pytest_in(project, "test_early.py").returncode != 0


def test_fixture_refuses_a_driver_that_is_open_already(project: Path, native_dir: Path) -> None:
    driver = str(native_dir / "soft" / "libcuda.so.1")
    done = pytest_in(project, "test_late.py", SOME_DRIVER=driver)
    assert done.returncode != 0
    assert "run pytest with --softgpu" in done.stdout
    assert "never here" not in done.stdout


def test_a_killed_test_run_leaves_nothing(project: Path) -> None:
    (project / "test_hang.py").write_text(
        "import os, time\ndef test_hang(softgpu):\n"
        "    print('HOME', softgpu.folder, flush=True)\n    time.sleep(120)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-B", "-m", "pytest", "test_hang.py"],
        cwd=project,
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        home = None
        for line in process.stdout:
            if found := re.search(r"HOME (\S+)", line):
                home = Path(found[1])
                break
        assert home is not None
        assert home.exists()
        time.sleep(0.1)
        process.kill()
    wait_for(lambda: not home.exists(), "the folder goes")
