# SPDX-License-Identifier: Apache-2.0
"""What a page shows: its commands, its dotted names, its links; and what they are held against."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import click
import yaml

from harp import config
from harp.cli.estimate import estimate
from harp.cli.estimate_job import JOB
from harp.cli.main import cli

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^```[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_PROMPT = re.compile(r"^[a-z0-9-]+\$\s+")
#: a synopsis, or cut off: not a command to be typed
_SYNOPSIS = re.compile(r"\[|\]|\.\.\.|…|\S\|\S|\s\|\s")
_PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_:./,=-]*")


@cache
def pages() -> tuple[Path, ...]:
    """Every page that people read."""
    found = [*ROOT.glob("*.md")]
    for folder in ROOT.iterdir():
        own = not folder.name.startswith(".") and folder.name not in {"build", "dist"}
        if folder.is_dir() and (own or folder.name == ".github"):
            found += (p for p in folder.rglob("*.md") if "results" not in p.parts)
    return tuple(sorted(found))


def blocks(text: str) -> Iterator[str]:
    """Lines in fences, those that end in a backslash joined."""
    for found in _FENCE.finditer(text):
        yield from found[1].replace("\\\n", " ").splitlines()


def spans(text: str) -> Iterator[str]:
    """Code between backticks, outside of fences."""
    for found in _SPAN.finditer(_FENCE.sub("", text)):
        yield " ".join(found[2].replace("\\|", "|").split())


def commands(text: str) -> Iterator[tuple[str, bool]]:
    """What begins with `harp`, without what follows it on a line; and whether it is to be typed.

    In a sentence a command may be named by its beginning alone: `harp run --remote`.
    """
    for lines, typed in ((blocks(text), True), (spans(text), False)):
        for line in lines:
            bare = _PROMPT.sub("", line.strip())
            bare = re.split(r"\s{2,}|\s#|;\s|\s&&\s", bare)[0].strip()
            words = bare.split()
            while words and ("=" in words[0] or words[0] == "sudo"):
                words.pop(0)
            if len(words) > 1 and words[0] == "harp" and not _SYNOPSIS.search(bare):
                yield " ".join(words), typed


def wrong(command: str, *, typed: bool) -> str:
    """What of a command would be refused; "" if nothing.

    Words in capitals stand for what the reader has; options and values are read by click itself.
    """
    words = shlex.split(command)[1:]
    at: click.Command = cli
    ctx = click.Context(cli, info_name="harp")
    while isinstance(at, click.Group) and words:
        if at is estimate and words[0] not in at.commands:
            words.insert(0, JOB)
        name = words.pop(0)
        inner = at.get_command(ctx, name)
        if inner is None:
            known = _PLACEHOLDER.fullmatch(name) or name.startswith("-")
            return "" if known and not typed else f"{ctx.command_path} has no {name}"
        at, ctx = inner, click.Context(inner, info_name=name, parent=ctx)
    try:
        values, rest, _ = at.make_parser(ctx).parse_args(list(words))
    except click.BadOptionUsage as error:
        return error.format_message() if typed or words[-1] != error.option_name else ""
    except click.UsageError as error:
        return error.format_message()
    if rest and typed:
        return f"{ctx.command_path} takes no {rest[0]}"
    for param in at.params:
        given = values.get(param.name or "")
        for value in given if isinstance(given, list | tuple) else [given]:
            if problem := _unreadable(param, value, ctx):
                return problem
    return ""


def _unreadable(param: click.Parameter, value: object, ctx: click.Context) -> str:
    if not isinstance(value, str) or _PLACEHOLDER.fullmatch(value):
        return ""
    if param.name == "settings":
        key, _, said = value.partition("=")
        return "" if key in keys() and _fits(key, said) else f"no setting: {value}"
    if isinstance(param.type, click.Path | click.File):
        return ""
    try:
        param.type.convert(value, param, ctx)
    except click.UsageError as error:
        return error.format_message()
    return ""


@cache
def keys() -> dict[str, config.Key]:
    """Settings of harpd."""
    return {key.name: key for key in config.all_keys()}


def _fits(key: str, said: str) -> bool:
    try:
        keys()[key].check(said, "a page")
    except config.ConfigError:
        return bool(_PLACEHOLDER.fullmatch(said))
    return True


@cache
def chart_values() -> frozenset[str]:
    """Dotted names of values.yaml, groups too."""
    tree = yaml.safe_load((ROOT / "deploy" / "helm" / "harp" / "values.yaml").read_text())

    def walk(node: object, at: str) -> Iterator[str]:
        if isinstance(node, dict):
            for name, inner in node.items():
                path = f"{at}.{name}" if at else str(name)
                yield path
                yield from walk(inner, path)

    return frozenset(walk(tree, ""))


def chart_problem(line: str) -> str:
    """What is wrong with a line's `--set a.b=c` of helm, as a shell hands it on; "" if nothing."""
    words = shlex.split(line, comments=True)
    for assignment in (next_ for word, next_ in pairwise(words) if word == "--set"):
        path = assignment.partition("=")[0]
        group, name = path.rpartition("daemon.settings.")[1:]
        key = name.replace("\\.", ".")
        if group and (key not in keys() or "." in name.replace("\\.", "")):
            return f"no setting: {name}"
        if not group and path not in chart_values():
            return f"no value of the chart: {path}"
    return ""
