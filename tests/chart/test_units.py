# SPDX-License-Identifier: Apache-2.0
"""systemd's units: read by systemd, and what they start starts with the rights they leave."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Template, one

UNITS = ROOT / "deploy" / "systemd"
NAMES = ("harpd", "harp-pool")
HARP = Path(sys.executable).with_name("harp")
INSTALLED = "/opt/harp/bin/harp"
_WAIT_S = 60.0

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze: apt-get install systemd"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="capabilities are root's to drop")


def setting(name: str, key: str) -> str:
    (value,) = re.findall(rf"(?m)^{key}=(.*)$", (UNITS / f"{name}.service").read_text())
    return value


@pytest.fixture
def here(tmp_path: Path) -> dict[str, Path]:
    """The units with this checkout's harp in place of an installed one."""
    found = {}
    for name in NAMES:
        text = (UNITS / f"{name}.service").read_text()
        assert f"ExecStart={INSTALLED} " in text
        text = text.replace(INSTALLED, str(HARP)).replace("file:/opt/harp/README.md", "man:harp(1)")
        found[name] = tmp_path / f"{name}.service"
        found[name].write_text(re.sub(r"(?m)^Documentation=.*\n", "", text))
    return found


@needs_systemd
def test_systemd_reads_them_without_a_word(here: dict[str, Path]) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", *here.values()], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_systemd_sees_a_wrong_key(here: dict[str, Path]) -> None:
    here["harpd"].write_text(here["harpd"].read_text().replace("KillMode=", "KillMod="))
    done = subprocess.run(
        ["systemd-analyze", "verify", here["harpd"]], capture_output=True, text=True, check=False
    )
    assert "KillMod" in done.stderr


@needs_systemd
@pytest.mark.parametrize("name", NAMES)
def test_they_are_exposed_no_more_than_they_were(here: dict[str, Path], name: str) -> None:
    """systemd's own judgement, 0 to 10: a root service without any sandbox has 9.6."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=38", here[name]],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-300:]


def test_a_restart_of_harpd_takes_nothing_from_tenants() -> None:
    assert setting("harpd", "KillMode") == "process"
    assert setting("harpd", "RuntimeDirectory") == "harp"
    assert setting("harpd", "RuntimeDirectoryPreserve") == "yes"
    text = (UNITS / "harpd.service").read_text()
    for forbidden in (
        "PrivateTmp",
        "ProtectHome",
        "PrivateDevices",
        "MemoryDenyWriteExecute",
        "ProtectProc",
    ):
        assert f"\n{forbidden}=" not in text, (
            "it would not find what is in users' folders, or no GPU"
        )


def test_a_restart_of_harpd_does_not_restart_the_pool() -> None:
    """Remote sessions are its workers': they go on, as other tenants do."""
    text = (UNITS / "harp-pool.service").read_text()
    assert "harpd.service" in re.findall(r"(?m)^Wants=(.*)$", text)
    for binding in ("Requires", "Requisite", "BindsTo", "PartOf"):
        assert f"\n{binding}=" not in text


def test_workers_may_filter_their_own_calls() -> None:
    """seccomp(2), native/src/worker/filter.c, is not in @system-service (strace showed it)."""
    assert "seccomp" in setting("harp-pool", "SystemCallFilter").split()


def test_the_chart_and_systemd_give_the_same_capabilities(template: Template) -> None:
    values = {"remote": {"serve": {"enabled": True, "secretName": "a"}}}
    for name, owner, container, beyond in (
        # Pods' grants lie in root's own folder; users' of a plain host do not.
        ("harpd", "-node", "daemon", {"CAP_DAC_OVERRIDE"}),
        ("harp-pool", "-pool", "serve", set()),
    ):
        pod = one(template(values), "DaemonSet", owner)["spec"]["template"]["spec"]
        (found,) = (c for c in pod["containers"] if c["name"] == container)
        chart = {f"CAP_{c}" for c in found["securityContext"]["capabilities"]["add"]}
        assert set(setting(name, "CapabilityBoundingSet").split()) == chart | beyond


@pytest.fixture
def machine() -> Iterator[dict[str, str]]:
    """An environment of its own; what was started in it is gone at the end, or the test fails."""
    base = Path(tempfile.mkdtemp(prefix="harp-units-"))  # pytest's folders let no other user pass
    base.chmod(0o755)
    run = base / "run"
    (run / "lock").mkdir(parents=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith("HARP_")}
    env |= {
        "HARP_RUN": str(run),
        "HARP_LOCK_DIR": str(run / "lock"),
        "HARP_SOFT_DIR": str(run / "soft"),
        "HARP_CONFIG_DEVICE_KIND": "software",
        "BASE": str(base),
    }
    try:
        yield env
        deadline = time.monotonic() + 10
        while left := _processes(run):
            if time.monotonic() > deadline:
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                pytest.fail(f"left running: {left}")
            time.sleep(0.05)
    finally:
        shutil.rmtree(base)


def _processes(run: Path) -> dict[int, str]:
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"HARP_RUN=" + os.fsencode(run) in (process / "environ").read_bytes().split(b"\0"):
                found[int(process.name)] = (process / "comm").read_text().strip()
        except OSError:
            continue
    return found


@contextlib.contextmanager
def started(name: str, env: dict[str, str], *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """What the unit starts, with no capability but its own, as systemd does it."""
    program, *arguments = setting(name, "ExecStart").split()
    assert program == INSTALLED
    assert setting(name, "NoNewPrivileges") == "yes"
    kept = "".join(
        f",+{c.removeprefix('CAP_').lower()}"
        for c in setting(name, "CapabilityBoundingSet").split()
    )
    process = subprocess.Popen(
        ["setpriv", f"--bounding-set=-all{kept}", "--inh-caps=-all", "--no-new-privs",
         str(HARP), *arguments, *more],
        env=env, cwd="/", stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)  # KillMode process and mixed: to this one alone
        assert process.wait(timeout=_WAIT_S) == 0
    finally:
        process.kill()
        process.wait()


def await_harp(process: subprocess.Popen[bytes], env: dict[str, str], *arguments: str) -> None:
    """Until the command succeeds."""
    deadline = time.monotonic() + _WAIT_S
    while subprocess.run([HARP, *arguments], env=env, capture_output=True, check=False).returncode:
        assert process.poll() is None
        assert time.monotonic() < deadline, f"harp {' '.join(arguments)}"
        time.sleep(0.1)


PROGRAM = """
import ctypes, pathlib
cuda = ctypes.CDLL("libcuda.so.1")
context, device, address = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_uint64()
assert cuda.cuInit(0) == 0
assert cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
assert cuda.cuCtxCreate_v2(ctypes.byref(context), 0, device) == 0
assert cuda.cuMemAlloc_v2(ctypes.byref(address), 1 << 20) == 0
uids = []
for process in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        if (process / "comm").read_text() == "harp-worker\\n":
            uids.append(process.stat().st_uid)
    except OSError:
        pass
print("uids", sorted(uids), flush=True)
"""


@needs_root
def test_harpd_serves_other_users_and_leaves_nothing(machine: dict[str, str]) -> None:
    with started("harpd", machine) as daemon:
        await_harp(daemon, machine, "daemon", "--status")
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
             HARP, "run", "--mem", "64MiB", "--", "/usr/bin/python3", "-c", PROGRAM],
            env={**machine, "HOME": "/tmp"}, cwd="/", capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@needs_root
@pytest.mark.skipif(
    not (ROOT / "harp" / "_lib" / "harp-link").exists(),
    reason="harp-link is not built: apt-get install libnghttp2-dev libssl-dev",
)
def test_the_pool_lends_to_users_of_their_own_and_leaves_nothing(machine: dict[str, str]) -> None:
    certificates = Path(machine["BASE"]) / "pool"
    subprocess.run(
        [HARP, "remote", "init", "--dir", certificates, "--node", "localhost", "--client", "me"],
        env=machine, capture_output=True, check=True,
    )  # fmt: skip
    listen = ["--listen", "127.0.0.1:47443", f"--dir={certificates / 'node-localhost'}"]
    client = f"--dir={certificates / 'client-me'}"
    with started("harpd", machine) as daemon:
        await_harp(daemon, machine, "daemon", "--status")
        with started("harp-pool", machine, *listen) as pool:
            await_harp(pool, machine, "remote", "sessions", "--node", "localhost:47443", client)
            done = subprocess.run(
                [HARP, "run", "--remote", "localhost:47443", client, "--mem", "64MiB", "--",
                 sys.executable, "-c", PROGRAM],
                env=machine, cwd="/", capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            uids = [int(u) for u in re.findall(r"\d+", done.stdout)]
            assert any(0x70000000 <= uid <= 0x7000FFFF for uid in uids), done.stdout
