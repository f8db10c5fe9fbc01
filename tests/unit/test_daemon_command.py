# SPDX-License-Identifier: Apache-2.0
"""`harp daemon`: what the harpd that it starts is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harp.cli import daemon as command
from harp.cli.main import cli
from harp.config import Config
from harp.daemon import app
from harp.errors import ConfigError, HarpError
from harp.native import NativeDir
from harp.rundir import RunDir


class World:
    """A run folder in which harpd is a list of what was started."""

    def __init__(self, path: Path) -> None:
        self.run_dir = RunDir(path / "run")
        self.started: list[list[str]] = []
        self.runs = False

    def spawn(self, _run_dir: RunDir, _env: Mapping[str, str], words: Sequence[str]) -> None:
        """What the started one does first: note its flags."""
        self.started.append(list(words))
        self.run_dir.make()
        self.run_dir.keep_flags([w.removeprefix("--set=") for w in words if "=" in w])
        self.runs = True

    def stop(self, *, with_arbiter: bool) -> None:
        assert not with_arbiter
        assert self.runs
        self.runs = False

    def harp(self, *words: str) -> Result:
        return CliRunner().invoke(cli, ["daemon", *words])

    def last(self, *words: str) -> list[str]:
        """What harpd is started with by that command."""
        result = self.harp(*words)
        assert result.exit_code == 0, result.output
        return self.started[-1]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    found = World(tmp_path)
    monkeypatch.setenv("HARP_RUN", str(found.run_dir.path))
    monkeypatch.setenv("HARP_CONFIG", "/dev/null")
    monkeypatch.setattr(RunDir, "alive", lambda _self: found.runs)
    monkeypatch.setattr(command, "spawn", found.spawn)
    monkeypatch.setattr(command, "_stop", found.stop)
    monkeypatch.setattr(command, "_status", lambda **_: None)
    return found


def test_an_upgrade_keeps_the_flags_of_before(world: World) -> None:
    assert world.last("--metrics", "9488", "--set", "log.level=debug") == [
        "--set=log.level=debug",
        "--set=daemon.metrics_listen=9488",
    ]
    kept = ["--upgrade", "--set=log.level=debug", "--set=daemon.metrics_listen=9488"]
    for _ in range(2):
        assert world.last("--upgrade") == kept
    assert "as harpd was started: log.level=debug" in world.harp("--upgrade").output


def test_what_an_upgrade_says_itself_wins(world: World) -> None:
    world.last("--metrics", "9488", "--set", "log.level=debug")
    assert world.last("--upgrade", "--metrics", "9489", "--set", "time.burst_us=0") == [
        *("--upgrade", "--set=log.level=debug"),
        *("--set=time.burst_us=0", "--set=daemon.metrics_listen=9489"),
    ]
    assert world.last("--upgrade", "--set", " log.level =info")[-1] == "--set= log.level =info"
    assert len(world.started[-1]) == 4
    assert world.last("--upgrade", "--set", "log.level=info")[-1] == "--set=log.level=info"
    assert len(world.started[-1]) == 4


def test_one_that_did_not_come_up_can_be_tried_again(world: World) -> None:
    world.last("--metrics", "9488")
    world.runs = False  # the old one has ended, the new one has not begun
    assert world.last("--upgrade") == ["--upgrade", "--set=daemon.metrics_listen=9488"]


def test_who_stopped_it_starts_anew(world: World) -> None:
    world.last("--metrics", "9488")
    assert world.harp("--stop").exit_code == 0
    assert world.last("--upgrade") == ["--upgrade"]
    world.last("--upgrade", "--metrics", "9488")
    world.harp("--stop")
    assert world.last() == []


def test_flags_that_are_no_longer_good_end_nothing(world: World) -> None:
    world.last("--metrics", "9488")
    world.run_dir.keep_flags(["time.quantum_ms=5"])
    result = world.harp("--upgrade")
    assert isinstance(result.exception, ConfigError)
    assert "time.quantum_ms" in result.exception.message
    assert world.runs


def test_settings_of_one_that_runs_are_refused(world: World) -> None:
    world.last("--metrics", "9488")
    result = world.harp("--set", "log.level=debug")
    assert isinstance(result.exception, HarpError)
    assert "runs already" in result.exception.message
    assert world.last() == world.started[0]
    assert len(world.started) == 1


def test_one_in_the_foreground_notes_its_flags_and_takes_no_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit or a manifest says all of them."""
    told: list[Config] = []

    async def run(_dir: RunDir, _native: NativeDir, config: Config, *_: object, **__: bool) -> None:
        told.append(config)

    monkeypatch.setattr(app, "run", run)
    monkeypatch.setattr(app, "_configure_log", lambda *_: None)  # of this process
    monkeypatch.setattr(command, "find_native", lambda _env: None)
    world.run_dir.make()
    world.run_dir.keep_flags(["log.level=debug"])
    assert world.harp("--foreground", "--upgrade", "--metrics", "9488").exit_code == 0
    assert (told[0].log.level, told[0].daemon.metrics_listen) == ("info", "9488")
    assert world.run_dir.kept_flags() == ("daemon.metrics_listen=9488",)
