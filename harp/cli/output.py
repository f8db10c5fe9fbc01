# SPDX-License-Identifier: Apache-2.0
"""What a command says: tables and sentences for people, or one JSON object as the last line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import click
from rich.console import Console
from rich.measure import Measurement

from harp.errors import HarpError, UnitError
from harp.model import TenantClass
from harp.units import parse_percent, parse_size

__all__ = [
    "AUTO_PERCENT",
    "AUTO_SIZE",
    "CLASSES",
    "CLASS_HELP",
    "HOST_HELP",
    "PERCENT",
    "SIZE",
    "Auto",
    "auto_limit_options",
    "console",
    "fail",
    "json_option",
    "limit_options",
    "print_json",
    "print_wide",
    "progress",
]

_F = TypeVar("_F", bound=Callable[..., object])
if TYPE_CHECKING:
    from rich.table import Table

    _IntParam = click.ParamType[int]
    _AnyParam = click.ParamType[object]
else:
    _IntParam = _AnyParam = click.ParamType  # generic only in newer releases of click
#: columns no table of ours needs
_ROOM = 1000
CLASSES = [c.label for c in TenantClass]
#: what --class does, for both commands that take it
CLASS_HELP = (
    "latency: runs before others the moment it has work; best-effort: on what others leave."
)
#: what --host-mem is, likewise
HOST_HELP = "Limit of pinned host memory, all GPUs together; none lifts it."


class _Quantity(_IntParam):
    """A number with its unit; "none" lifts the limit.

    Args:
        name: for messages.
        read: what reads it; raises UnitError.
    """

    def __init__(self, name: str, read: Callable[[str], int]) -> None:
        self.name = name
        self._read = read

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        try:
            return 0 if value == "none" else self._read(str(value))
        except UnitError as error:
            self.fail(f"{error.message}; {error.hint}", param, ctx)


@dataclass(frozen=True, slots=True)
class Auto:
    """A limit that is estimated."""

    most: int = 0  #: what the user would have asked for; 0: nothing said


class _Auto(_AnyParam):
    """As `plain`, or auto, or auto:VALUE."""

    def __init__(self, plain: _IntParam) -> None:
        self.name = plain.name
        self._plain = plain

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Auto:
        word, colon, most = str(value).partition(":")
        if isinstance(value, Auto) or word != "auto":
            return value if isinstance(value, Auto) else self._plain.convert(value, param, ctx)
        return Auto(self._plain.convert(most, param, ctx) if colon else 0)


SIZE = _Quantity("size", parse_size)
PERCENT = _Quantity("percent", parse_percent)
AUTO_SIZE = _Auto(SIZE)
AUTO_PERCENT = _Auto(PERCENT)

_MORE_LIMITS = (
    click.option(
        "--limit", type=PERCENT, default=0, help="Most time of each GPU, even when alone."
    ),
    click.option(
        "--class", "klass", type=click.Choice(CLASSES), default=CLASSES[0], help=CLASS_HELP
    ),
)


def json_option(command: _F) -> _F:
    """Add `--json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="One JSON object, the last line of stdout."
    )(command)


def limit_options(command: _F) -> _F:
    """Add a new tenant's limits: `--mem`, `--host-mem`, `--share`, `--limit`, `--class` (klass)."""
    return _add(
        command,
        click.option("--mem", type=SIZE, default=0, help="Memory limit per GPU, e.g. 8GiB."),
        click.option("--host-mem", type=SIZE, default=0, help=HOST_HELP),
        click.option(
            "--share", type=PERCENT, default=0, help="Guaranteed part of each GPU's time."
        ),
        *_MORE_LIMITS,
    )


def auto_limit_options(command: _F) -> _F:
    """The same, where `--mem` and `--share` may be estimated: they are an Auto then."""
    return _add(
        command,
        click.option(
            "--mem",
            type=AUTO_SIZE,
            default=0,
            metavar="SIZE|auto[:SIZE]",
            help="Memory limit per GPU, e.g. 8GiB. auto: what runs like it have needed; auto:8GiB:"
            " the same, 8GiB at most, and 8GiB where nobody knows.",
        ),
        click.option("--host-mem", type=SIZE, default=0, help=HOST_HELP),
        click.option(
            "--share",
            type=AUTO_PERCENT,
            default=0,
            metavar="PERCENT|auto[:PERCENT]",
            help="Guaranteed part of each GPU's time; auto as with --mem.",
        ),
        *_MORE_LIMITS,
    )


def _add(command: _F, *options: Callable[[_F], _F]) -> _F:
    for option in reversed(options):
        command = option(command)
    return command


def print_json(value: Mapping[str, object]) -> None:
    """Write the object. Nothing may follow it."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def progress(text: str) -> None:
    """Say what goes on; never on stdout."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def console() -> Console:
    """Where tables go. No markup: what is shown contains names that other users chose."""
    return Console(highlight=False, markup=False)


def print_wide(table: Table) -> None:
    """Write a table; where no terminal says how wide it may be, nothing of it is cut off."""
    out = console()
    if not out.is_terminal:
        # The widest a table can become is what it asks for when it has room.
        room = out.options.update(width=_ROOM)
        out.width = max(out.width, Measurement.get(out, room, table).maximum)
    out.print(table)


def fail(error: HarpError, *, as_json: bool, status: int) -> int:
    """Say an error as one line and a hint; returns the exit status."""
    if as_json:
        print_json(
            {"error": {"kind": type(error).__name__, "text": error.message, "hint": error.hint}}
        )
    sys.stderr.write(f"harp: {' '.join(error.message.split())}\n")
    if error.hint:
        sys.stderr.write(f"hint: {error.hint}\n")
    return status
