# SPDX-License-Identifier: Apache-2.0
"""Tables that others recorded, as CSV files, gzipped or not: rows that know where they stand."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harp.errors import ConfigError

__all__ = ["Row", "read"]

_GZIP = b"\x1f\x8b"


class Row:
    """One line, and where it is."""

    def __init__(self, path: Path, line: int, values: Mapping[str, str | None]) -> None:
        self.where = f"{path}, line {line}"
        self.line = line
        self._values = values

    def text(self, column: str) -> str:
        """A cell; empty where the column is not there, too."""
        return (self._values.get(column) or "").strip()

    def integer(self, column: str) -> int:
        """A whole number, 0 or more.

        Raises:
            ConfigError: it is none.
        """
        text = self.text(column)
        if not text.isdecimal() or not text.isascii():
            raise ConfigError(f"{self.where}: {column} is {text!r}", "a whole number, 0 or more")
        return int(text)

    def number(self, column: str) -> float | None:
        """A number; None: the cell is empty.

        Raises:
            ConfigError: it is none, or not finite.
        """
        text = self.text(column)
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not abs(value) < float("inf"):
            raise ConfigError(f"{self.where}: {column} is {text!r}", "a finite number, or nothing")
        return value

    def needed(self, column: str) -> float:
        """A number that must be there.

        Raises:
            ConfigError: as number(), or the cell is empty.
        """
        value = self.number(column)
        if value is None:
            raise ConfigError(f"{self.where}: {column} is empty", "a number")
        return value


def read(path: Path, needed: Sequence[str]) -> Iterator[Row]:
    """The rows of a file.

    Raises:
        ConfigError: it cannot be read, or has not all columns of `needed`.
    """
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if raw.startswith(_GZIP) else raw).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}", "a CSV file, gzipped or not") from error
    reader = csv.DictReader(text.splitlines())
    has = reader.fieldnames or []
    if lacking := [column for column in needed if column not in has]:
        raise ConfigError(
            f"{path} has no column {lacking[0]}; it has {', '.join(has) or 'none'}",
            f"it needs {', '.join(needed)}",
        )
    for values in reader:
        yield Row(path, reader.line_num, values)
