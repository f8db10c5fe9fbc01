# SPDX-License-Identifier: Apache-2.0
"""`harp run --trace`, `harp trace start` and `stop`: what they say, and what is in the files."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from remote_node import FakeNode, fake_node
from run_remote_world import Here
from test_trace import PROGRAM, SECRET, calls_of, read, said

from harp.trace.records import FileFlag, Name, Why
from tests.integration.machine import Machine, machine, wait_for


@pytest.fixture
def box(native_dir: Path) -> Iterator[Machine]:
    with machine(native_dir) as found:
        yield found


def test_a_run_is_recorded_and_says_where_it_was(box: Machine, tmp_path: Path) -> None:
    """All calls, from the first; a second run does not write over the first one's file."""
    box.start_harpd()
    file = tmp_path / "run.trace"
    traced = ("run", "--trace", str(file), "--name", "job", "--mem", "64MiB")
    done = box.harp(*traced, "--", sys.executable, str(PROGRAM), "calls")
    assert done.returncode == 0, done.stderr
    reader, records = read(file)
    assert [(c.symbol.name, c.result) for c in calls_of(records)] == said(done.stdout)
    about = reader.header.about
    assert about["tenant"] == "job"
    (device,) = about["devices"]
    assert device["software"] is True
    assert SECRET not in file.read_bytes()
    assert str(PROGRAM).encode() not in file.read_bytes()
    again = box.harp(*traced, "--", sys.executable, str(PROGRAM), "calls")
    assert again.returncode == 125
    assert "is there" in again.stderr
    assert "another name" in again.stderr


def test_a_tenant_is_recorded_from_now_on(box: Machine, tmp_path: Path) -> None:
    """By name; the errors name what to do."""
    box.start_harpd()
    child = box.tenant("--name", "live", command=[sys.executable, str(PROGRAM), "live"])
    assert child.stdin is not None
    assert child.stdout is not None
    while child.stdout.readline() != "ready\n":
        assert child.poll() is None
    file = tmp_path / "live.trace"
    answer = box.json("trace", "start", "live", "--file", str(file))["trace"]
    assert answer == {
        "tenant": "live",
        "file": str(file),
        "files": [str(file)],
        "processes": 1,
    }
    error = box.harp_json("trace", "start", "live")["error"]
    assert error["hint"] == "harp trace stop live"
    child.stdin.write("go\n")
    child.stdin.flush()
    assert child.stdout.readline() == "done\n"
    assert box.json("trace", "stop", "live")["trace"]["files"] == [str(file)]
    wait_for(lambda: read(file)[0].header.why is Why.TOLD, "the trace ends")
    assert len(calls_of(read(file)[1])) == 2
    assert "not being traced" in box.harp_json("trace", "stop", "live")["error"]["text"]
    assert "nobody" in box.harp_json("trace", "start", "nobody")["error"]["text"]
    nowhere = box.harp_json("trace", "start", "live", "--file", str(tmp_path / "no" / "t"))["error"]
    assert "no file can be made" in nowhere["text"]


@pytest.fixture
def here(native_dir: Path) -> Iterator[Here]:
    with contextlib.closing(Here(native_dir)) as made:
        yield made


@pytest.fixture
def node(native_dir: Path, tmp_path: Path, soft_env: dict[str, str]) -> Iterator[FakeNode]:
    with fake_node(native_dir, tmp_path, soft_env) as made:
        yield made


def test_a_program_whose_gpu_is_elsewhere_is_recorded(
    here: Here, node: FakeNode, tmp_path: Path
) -> None:
    """Its own calls, by its own handles, without the device's times."""
    file = tmp_path / "remote.trace"
    where = ("--remote", node.endpoint, "--insecure", "--trace", str(file))
    done = here.run(*where, "--", sys.executable, str(PROGRAM), "calls")
    assert done.returncode == 0, done.stderr
    reader, records = read(file)
    assert [(c.symbol.name, c.result) for c in calls_of(records)] == said(done.stdout)
    assert reader.header.flags == FileFlag.REMOTE
    assert reader.header.about["remote"] == node.endpoint
    assert [r.name for r in records if isinstance(r, Name)] == ["harp_trace_add"]
    assert SECRET not in file.read_bytes()
    assert json.dumps(reader.header.about)
