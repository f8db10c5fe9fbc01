# SPDX-License-Identifier: Apache-2.0
"""REFERENCE.md, made from the commands themselves: `python -m harp.cli.reference [--check]`.

Every command and option of click's tree, and every setting of harp/config.py, in the order in which
they are declared. Nothing in it depends on the machine that makes it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from harp import config
from harp.cli.main import COMMANDS, cli

__all__ = ["PATH", "main", "text"]

PATH = Path(__file__).resolve().parent / "REFERENCE.md"
_COMMAND = "python -m harp.cli.reference"

_HEAD = f"""# harp: every command

<!-- generated: `{_COMMAND}`; do not edit -->

`harp COMMAND --help` says the same in a terminal. Sizes are `512MiB`, `8GiB`; shares are `30%`;
`none` lifts a limit where a command says so. With `--json` the last line of stdout is one JSON
object; an error is `{{"error": {{"kind", "text", "hint"}}}}`. Without it an error is one line and,
where there is one, a hint on stderr.

| exit status | when |
|---|---|
| 0 | done |
| 1 | an error; `doctor`: something fails; `bench`: a figure misses its mark, or it cannot tell |
| 2 | wrong usage: an unknown command or option, a value that cannot be read |
| that of CMD | `harp run`, once CMD has begun; CMD's death by a signal is passed on as that |
| 125 | `harp run`: no grant, or no lease; CMD was not started |
| 126 | `harp run`: CMD cannot be run |
| 127 | `harp run`: there is no CMD of that name |
| 128 + N | `harp bench`: it was ended by signal N |

`harp --version` says the version.

Variables of the environment: [harp/README.md](../README.md); settings: [below](#settings).
"""

_SETTINGS = """## Settings

The later wins: default, file (`$HARP_CONFIG`, else `/etc/harp/harp.toml` for root and
`~/.config/harp/harp.toml` for others), environment, `harp daemon --set KEY=VALUE`. In the file
`a.b` is `b` in table `[a]`. harpd reads them when it starts; `time.*` is told to an arbiter when
that is started, and stays what it is while harpd alone is restarted.

| key | default | takes | what it is | environment |
|---|---|---|---|---|
"""


def text() -> str:
    """The whole page."""
    parts = [_HEAD]
    root = click.Context(cli, info_name="harp")
    for name in COMMANDS:
        command = cli.get_command(root, name)
        assert command is not None
        parts += _sections(command, name, root)
    rows = "".join(_row(_setting(key)) for key in config.all_keys())
    return "\n".join([*parts, _SETTINGS + rows])


def _sections(command: click.Command, name: str, parent: click.Context) -> Iterator[str]:
    """A command's section, and those of the commands in it."""
    ctx = click.Context(command, info_name=name, parent=parent)
    usage = " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])
    lines = [f"{'##' if parent.parent is None else '###'} {ctx.command_path}", ""]
    lines += [*_paragraphs(command.help or ""), f"`{usage}`", ""]
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    if options:
        lines += ["| option | default | what it does |", "|---|---|---|"]
        lines += [_row(_option(option, ctx)).rstrip("\n") for option in options]
        lines += [""]
    yield "\n".join(lines)
    if isinstance(command, click.Group):
        for sub in command.list_commands(ctx):
            inner = command.get_command(ctx, sub)
            assert inner is not None
            yield from _sections(inner, sub, ctx)


def _paragraphs(said: str) -> Iterator[str]:
    """A help text's paragraphs, each on one line; what click keeps as it is, in a fence."""
    for part in said.replace("\f", "").strip().split("\n\n"):
        lines = [line.strip() for line in part.splitlines()]
        if lines[0] == "\b":
            yield "\n".join(["```", *part.splitlines()[1:], "```", ""])
        else:
            yield " ".join(lines) + "\n"


def _option(option: click.Option, ctx: click.Context) -> Sequence[str]:
    record = option.get_help_record(ctx)
    assert record is not None
    also = []
    if option.multiple:
        also.append("May be given several times.")
    if option.required:
        also.append("Needed.")
    if isinstance(option.type, click.IntRange | click.FloatRange):
        also.append(_bounds(option.type))
    return f"`{record[0]}`", _default(option, ctx), " ".join([option.help or "", *also]).strip()


def _bounds(kind: click.IntRange | click.FloatRange) -> str:
    low, high = kind.min, kind.max
    if low is not None and high is not None:
        return f"{_plain(low)} to {_plain(high)}."
    if low is not None:
        return f"{'More than' if kind.min_open else 'At least'} {_plain(low)}."
    return f"At most {_plain(high or 0)}."


def _plain(number: float) -> str:
    return f"{number:g}" if abs(number) < 1e6 else str(int(number))


def _default(option: click.Option, ctx: click.Context) -> str:
    """What goes without saying: empty where there is nothing, or the help says what."""
    value = option.get_default(ctx, call=False)
    if option.is_flag or not isinstance(value, str | int | float | Path) or value in ("", 0):
        return ""
    return f"`{_plain(value) if isinstance(value, int | float) else value}`"


def _setting(key: config.Key) -> Sequence[str]:
    default = f"`{key.default}`" if key.default != "" else "empty"
    takes = f"{key.range} {key.unit}".strip()
    return f"`{key.name}`", default, takes, key.text, f"`{key.env}`"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if it is stale")
    made = text()
    if parser.parse_args().check:
        if PATH.exists() and PATH.read_text() == made:
            return 0
        sys.stderr.write(f"{PATH.name} is stale; remedy: {_COMMAND}\n")
        return 1
    PATH.write_text(made)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
