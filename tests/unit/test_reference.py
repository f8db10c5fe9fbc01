# SPDX-License-Identifier: Apache-2.0
"""harp/cli/REFERENCE.md says what the commands take, and notices when they change."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from harp import config
from harp.cli import automatic, reference, run, run_remote
from harp.cli.main import cli


def _commands(command: click.Command, ctx: click.Context) -> Iterator[tuple[str, click.Command]]:
    yield ctx.command_path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            inner = command.get_command(ctx, name)
            assert inner is not None
            yield from _commands(inner, click.Context(inner, info_name=name, parent=ctx))


def _sections() -> dict[str, str]:
    parts = re.split(r"^#{2,3} (.+)\n", reference.PATH.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _main(monkeypatch: pytest.MonkeyPatch, path: Path, *arguments: str) -> int:
    monkeypatch.setattr(reference, "PATH", path)
    monkeypatch.setattr(sys, "argv", ["reference", *arguments])
    return reference.main()


def test_the_page_is_what_the_commands_say() -> None:
    assert reference.PATH.read_text() == reference.text(), "python -m harp.cli.reference"


def test_every_command_and_option_is_there() -> None:
    sections = _sections()
    found = dict(_commands(cli, click.Context(cli, info_name="harp")))
    assert len(found) > 35
    assert set(sections) == (found.keys() - {"harp"}) | {"Settings"}
    for path, command in found.items():
        for option in command.params:
            if path != "harp" and isinstance(option, click.Option):
                for name in (*option.opts, *option.secondary_opts):
                    assert re.search(rf"^\| `[^`]*{name}\b", sections[path], re.MULTILINE), (
                        path,
                        name,
                    )


def test_every_setting_is_there_with_its_name_in_the_environment() -> None:
    rows = _sections()["Settings"]
    for key in config.all_keys():
        assert rows.count(f"| `{key.name}` |") == 1
        assert f"`{key.env}` |" in rows


def test_exit_statuses_are_those_of_the_code() -> None:
    head = reference.PATH.read_text().split("\n## ")[0]
    said = {
        int(n): text
        for n, text in re.findall(r"^\| (\d+) \| `harp run`: (.*) \|$", head, re.MULTILINE)
    }
    assert said == {
        run._FAILED: "no grant, or no lease; CMD was not started",
        run._CANNOT_RUN: "CMD cannot be run",
        run._NOT_FOUND: "there is no CMD of that name",
    }
    assert {automatic._FAILED, run_remote._FAILED} == {run._FAILED}


def test_a_stale_page_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "REFERENCE.md"
    assert _main(monkeypatch, page, "--check") == 1  # there is none
    assert _main(monkeypatch, page) == 0
    assert _main(monkeypatch, page, "--check") == 0
    page.write_text(page.read_text().replace("`--upgrade`", "`--upgraded`"))
    capsys.readouterr()
    assert _main(monkeypatch, page, "--check") == 1
    assert capsys.readouterr().err == (
        "REFERENCE.md is stale; remedy: python -m harp.cli.reference\n"
    )


def test_the_page_is_the_same_on_every_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing of a home, a terminal or a setting gets in."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HARP_RUN", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("HARP_CONFIG_WATCHDOG_PERIOD_S", "0.5")
    assert reference.text() == reference.PATH.read_text()
    assert not re.search(r"/home/|/root\b|/tmp/", reference.PATH.read_text())


def test_a_pipe_in_a_value_does_not_end_a_cell() -> None:
    for line in reference.text().splitlines():
        if line.startswith("| `--"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 4, line
