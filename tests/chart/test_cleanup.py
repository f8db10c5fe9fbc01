# SPDX-License-Identifier: Apache-2.0
"""What takes HARP off a node: not before the last share has ended, and then all of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import CHART, Template, one, pods

Begin = Callable[..., "subprocess.Popen[str]"]
SCRIPT = CHART / "files" / "cleanup.py"


@pytest.fixture
def cleanup(tmp_path: Path) -> Iterator[Begin]:
    """It begins with this folder as /tmp; ended afterwards."""
    text = SCRIPT.read_text().replace('"/tmp/done"', repr(str(tmp_path / "done")))
    # Shares are told by a mount below /opt/harp; here by one below this test's own folder.
    text = text.replace('"/opt/harp/"', repr(f"{tmp_path}/inside/"))
    own = tmp_path / "cleanup.py"
    own.write_text(text)
    started: list[subprocess.Popen[str]] = []

    def begin(*paths: Path, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*before, sys.executable, own, *map(str, paths)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def _wait(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.02)


def test_all_is_removed_and_it_stays_until_it_is_ended(cleanup: Begin, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "harp"
    (folder / "grants" / "g").mkdir(parents=True)
    (folder / "grants" / "g" / "arbiter.sock").touch()
    (folder / "link").symlink_to("/")
    socket = tmp_path / "x.sock"
    socket.touch()
    process = cleanup(folder, socket, tmp_path / "never was")
    _wait(tmp_path / "done")
    assert not folder.exists()
    assert folder.parent.exists()
    assert not socket.exists()
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_a_folder_that_is_a_mount_of_its_own_is_emptied(cleanup: Begin, tmp_path: Path) -> None:
    folder = tmp_path / "harp"
    (folder / "grants").mkdir(parents=True)
    mount = f'mount --bind {folder} {folder} && exec "$@"'
    process = cleanup(
        folder, before=("unshare", "-m", "--propagation", "private", "sh", "-c", mount, "sh")
    )
    _wait(tmp_path / "done")
    assert process.stdout is not None
    assert "emptied" in process.stdout.readline()
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_what_others_have_mounted_there_is_not_ours(cleanup: Begin, tmp_path: Path) -> None:
    folder, other, inside = (tmp_path / name for name in ("harp", "other", "inside"))
    for path in (folder, other, inside / "x"):
        path.mkdir(parents=True)
    tenant = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-c",
         f"mount --bind {other} {inside}/x && touch {tmp_path}/mounted && read line"],
        stdin=subprocess.PIPE,
    )  # fmt: skip
    try:
        _wait(tmp_path / "mounted")
        cleanup(folder)
        _wait(tmp_path / "done")
    finally:
        tenant.kill()
        tenant.communicate()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_nothing_is_removed_while_a_container_has_a_share(cleanup: Begin, tmp_path: Path) -> None:
    inside = tmp_path / "inside" / "grant"
    inside.mkdir(parents=True)
    folder = tmp_path / "harp"
    (folder / "grants" / "g").mkdir(parents=True)
    tenant = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-c",
         f"mount --bind {folder}/grants/g {inside} && touch {tmp_path}/mounted && read line"],
        stdin=subprocess.PIPE,
    )  # fmt: skip
    try:
        _wait(tmp_path / "mounted")
        process = cleanup(folder)
        assert process.stdout is not None
        assert f"{tenant.pid} sh" in process.stdout.readline()
        assert folder.exists()
        assert not (tmp_path / "done").exists()
    finally:
        tenant.kill()
        tenant.communicate()
    _wait(tmp_path / "done")
    assert not folder.exists()


def test_the_chart_removes_what_it_made(template: Template) -> None:
    values = {
        "hostPaths": {"run": "/run/a/harp", "state": "/data/harp", "kubelet": "/data/kubelet"},
        "cleanup": {"enabled": True},
    }
    before = one(template({"hostPaths": values["hostPaths"]}), "DaemonSet")
    made = {
        volume["hostPath"]["path"]
        for volume in before["spec"]["template"]["spec"]["volumes"]
        if volume.get("hostPath", {}).get("type") == "DirectoryOrCreate"
    }
    ((_, pod),) = pods(template(values))
    (container,) = pod["containers"]
    hosts = {v["name"]: v["hostPath"]["path"] for v in pod["volumes"] if "hostPath" in v}
    at = {m["mountPath"]: hosts.get(m["name"]) for m in container["volumeMounts"]}
    removed = {
        host + argument.removeprefix(inside)
        for argument in container["args"]
        for inside, host in at.items()
        if host and argument.startswith(inside + "/")
    }
    assert {path for path in made if path in removed} == {"/run/a/harp", "/data/harp"}
    assert all(any(path == r or path.startswith(r + "/") for r in removed) for path in made)
    assert "/data/kubelet/device-plugins/harp-gpu-share.sock" in removed
    assert len(removed) == len(container["args"])
