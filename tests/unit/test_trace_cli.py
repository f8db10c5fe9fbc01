# SPDX-License-Identifier: Apache-2.0
"""`harp trace` without a daemon: what an export leaves behind, what a terminal is shown."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result
from trace_made import RECORDS, written

from harp.cli import trace as trace_
from harp.cli import trace_record
from harp.cli.trace import trace
from harp.client import Client
from harp.errors import ConfigError, TraceError


@pytest.fixture
def made(tmp_path: Path) -> Path:
    path = tmp_path / "made.trace"
    path.write_bytes(written(RECORDS))
    return path


def harp(*arguments: object) -> Result:
    return CliRunner().invoke(trace, [str(a) for a in arguments])


# --- export ---


@pytest.mark.parametrize("kind", ["chrome", "perfetto"])
def test_an_export_touches_no_other_file(made: Path, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    into, mine, other = folder / "x", folder / "x.part", tmp_path / "other"
    mine.write_text("mine")
    assert harp("export", made, "--to", kind, "-o", into).exit_code == 0
    assert mine.read_text() == "mine"
    other.write_text("other")
    for planted in (mine, into):
        planted.unlink()
        planted.symlink_to(other)
    assert harp("export", made, "--to", kind, "-o", into).exit_code == 0
    assert other.read_text() == "other"
    assert not into.is_symlink()
    assert stat.S_IMODE(into.stat().st_mode) == 0o600  # as a trace is
    assert sorted(folder.iterdir()) == [into, mine]


@pytest.mark.parametrize("error", [OSError(28, "full"), ValueError("odd"), KeyboardInterrupt()])
def test_an_export_that_fails_leaves_nothing(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    into = tmp_path / "out" / "x"
    into.parent.mkdir()
    into.write_text("of before")

    def fails(_: object) -> Iterator[str]:
        yield "{"
        raise error

    monkeypatch.setattr(trace_, "chrome", fails)
    done = harp("export", made, "--to", "chrome", "-o", into)
    assert done.exit_code == 1
    assert isinstance(done.exception, ConfigError) == isinstance(error, OSError)
    assert list(into.parent.iterdir()) == [into]
    assert into.read_text() == "of before"


def test_a_device_is_not_replaced_by_an_export(made: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = harp("export", made, "--to", "chrome", "-o", pipe)
    assert isinstance(done.exception, ConfigError)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


# --- start and stop ---


def test_a_file_that_a_tenant_names_moves_no_cursor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = "/t/\x1b]0;owned\x07\x1b[2J"
    tenant = SimpleNamespace(name="job", grant_dir=str(tmp_path), clients=[], device_uuids=[])
    monkeypatch.setattr(trace_record, "_tenant", lambda *_: (tenant, {}))
    monkeypatch.setattr(trace_record, "_poke", lambda _: None)
    monkeypatch.setattr(Client, "connect", lambda _: nullcontext())
    told = tmp_path / "trace"
    told.write_text(f"file={odd}\n")
    begun = harp("start", "job")
    assert isinstance(begun.exception, TraceError)
    assert "/t/?]0;owned??[2J" in begun.exception.message
    ended = harp("stop", "job")
    assert ended.exit_code == 0, ended.exception
    assert "/t/?]0;owned??[2J" in ended.output
    assert "\x1b" not in ended.output + begun.output
    told.write_text(f"file={odd}\n")
    answer = json.loads(harp("stop", "job", "--json").output)["trace"]
    assert answer["file"] == odd
