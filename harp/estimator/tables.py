# SPDX-License-Identifier: Apache-2.0
"""Runs as tables that others read, and back: CSV (.csv, .csv.gz) and Parquet (.parquet).

One row a run, in its columns what a Run has: a target's need in `used_<target>`, empty where it was
not seen; what has no fixed number of values as JSON. What is read back equals what was written, the
numbers too: history gives its own when it takes them.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import IO

from harp.errors import ConfigError
from harp.estimator.job import TARGETS, Run
from harp.estimator.rows import reals, row_of, run_of

__all__ = ["COLUMNS", "export_runs", "import_runs"]

Cell = str | int | float | bool | None

#: {column: type of its cells}; those of _OPTIONAL may be empty
COLUMNS: dict[str, type] = {
    "number": int,
    "started_s": float,
    "ended_s": float,
    "outcome": str,
    "exit_status": int,
    "program": str,
    "shape": str,
    "numbers": str,
    "user": str,
    "image": str,
    "framework": str,
    "owner": str,
    "gpu": str,
    "asked_mem_bytes": int,
    "asked_share_ratio": float,
    "device_mem_bytes": int,
    "labels": str,
    **{f"used_{target}": float for target in TARGETS},
    "used_other": str,
    "quantiles": str,
    "mem_limit_bytes": int,
    "share_ratio": float,
    "attempted_bytes": int,
    "elastic": bool,
}
_OPTIONAL = {"exit_status", *(f"used_{target}" for target in TARGETS)}
_BATCH = 10_000
_FORMS = "a name that ends in .csv, .csv.gz or .parquet"


def export_runs(runs: Iterable[Run], path: Path) -> int:
    """Write runs to a file, whose name says how; it is there once all are. Returns how many.

    Raises:
        ConfigError: no such format, its library is missing, or it cannot be written.
        HistoryError: as `runs` raises.
    """
    write = _writer(path)
    try:
        # Others may not read it: it says when which program of whom ran.
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(fd, "wb") as file:
            count = write((_cells(run) for run in runs), file)
        Path(name).replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        Path(name).unlink(missing_ok=True)
    return count


def import_runs(path: Path) -> Iterator[Run]:
    """The runs of a file, in its order.

    Raises:
        ConfigError: no such format, its library is missing, it cannot be read, or a row is no run.
    """
    rows = _csv_rows if _is_csv(path) else _parquet_rows if path.suffix == ".parquet" else None
    if rows is None:
        raise ConfigError(f"{path} is of no known format", _FORMS)
    for where, row in rows(path):
        try:
            yield _run(row)
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise ConfigError(f"{path}, {where}: {error}", "no run that HARP wrote") from error


def _writer(path: Path) -> Callable[[Iterable[dict[str, Cell]], IO[bytes]], int]:
    if _is_csv(path):
        zipped = path.suffix == ".gz"
        return lambda rows, file: _write_csv(rows, file, zipped=zipped)
    if path.suffix == ".parquet":
        _parquet()  # before a file is made
        return _write_parquet
    raise ConfigError(f"{path} is of no known format", _FORMS)


def _is_csv(path: Path) -> bool:
    return path.name.endswith((".csv", ".csv.gz"))


def _write_csv(rows: Iterable[dict[str, Cell]], file: IO[bytes], *, zipped: bool) -> int:
    count = 0
    with contextlib.ExitStack() as stack:
        raw = (
            stack.enter_context(gzip.GzipFile(fileobj=file, mode="wb", mtime=0)) if zipped else file
        )
        text = io.TextIOWrapper(raw, "utf-8", newline="")
        stack.callback(text.detach)
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow(_csv_cell(cell) for cell in row.values())
            count += 1
        text.flush()
    return count


def _csv_cell(cell: Cell) -> str:
    if cell is None:
        return ""
    return (
        str(int(cell))
        if isinstance(cell, bool)
        else repr(cell)
        if isinstance(cell, float)
        else str(cell)
    )


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Cell]]]:
    # A cell may be long (JSON), and csv refuses those above 128 KiB.
    csv.field_size_limit(1 << 24)
    try:
        with contextlib.ExitStack() as stack:
            opened: io.BufferedReader | gzip.GzipFile = stack.enter_context(path.open("rb"))
            if opened.peek(2)[:2] == b"\x1f\x8b":
                opened = stack.enter_context(gzip.GzipFile(fileobj=opened))
            reader = csv.reader(io.TextIOWrapper(opened, "utf-8", newline=""), strict=True)
            has = next(reader, [])
            _check(path, has)
            for cells in reader:
                where = f"line {reader.line_num}"
                if len(cells) != len(has):
                    raise ConfigError(f"{path}, {where}: {len(cells)} cells, {len(has)} columns")
                yield (
                    where,
                    {
                        name: _typed(name, cell)
                        for name, cell in zip(has, cells, strict=True)
                        if name in COLUMNS
                    },
                )
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read {path}: {error}", "a CSV file, gzipped or not") from error


def _typed(name: str, text: str) -> Cell:
    """A cell of a CSV file; one that is not of its column's type stays text, and _run() says so."""
    kind = COLUMNS[name]
    if not text and name in _OPTIONAL:
        return None
    try:
        cell: Cell = bool(int(text)) if kind is bool else kind(text)
    except ValueError:
        return text
    return cell


def _parquet() -> tuple[ModuleType, ModuleType]:
    """pyarrow, which not everybody has.

    Raises:
        ConfigError: it is not there.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra, and slow to load
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            "Parquet files need pyarrow, which is not installed",
            "pip install 'pyarrow>=15', or name a .csv file",
        ) from error
    return pa, parquet


def _write_parquet(rows: Iterable[dict[str, Cell]], file: IO[bytes]) -> int:
    pa, parquet = _parquet()
    types = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    schema = pa.schema(
        [
            pa.field(name, types.get(kind, pa.bool_()), nullable=name in _OPTIONAL)
            for name, kind in COLUMNS.items()
        ]
    )
    count, rows = 0, iter(rows)
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while batch := list(itertools.islice(rows, _BATCH)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def _parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Cell]]]:
    pa, parquet = _parquet()
    try:
        with parquet.ParquetFile(path) as file:
            _check(path, file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(_BATCH, columns=list(COLUMNS)):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"cannot read {path}: {error}", "a Parquet file") from error


def _check(path: Path, has: Iterable[str]) -> None:
    found = set(has)
    if lacking := [name for name in COLUMNS if name not in found]:
        raise ConfigError(f"{path} has no column {lacking[0]}", f"it needs {', '.join(COLUMNS)}")


def _cells(run: Run) -> dict[str, Cell]:
    other = {name: value for name, value in run.used.items() if name not in TARGETS}
    cells = {
        **row_of(run),
        "number": run.number,
        **{f"used_{target}": run.used.get(target) for target in TARGETS},
        "used_other": json.dumps(other),
    }
    return {name: cells[name] for name in COLUMNS}


def _run(row: Mapping[str, Cell]) -> Run:
    for name, kind in COLUMNS.items():
        cell = row[name]
        if cell is None and name in _OPTIONAL:
            continue
        if type(cell) is not kind:
            raise ValueError(f"{name} is {cell!r}, no {kind.__name__}")
        if isinstance(cell, float) and not abs(cell) < float("inf"):
            raise ValueError(f"{name} is {cell!r}, not finite")
        if isinstance(cell, int) and name != "exit_status" and not 0 <= cell < 1 << 63:
            raise ValueError(f"{name} is {cell!r}, no size or count")
    used = {f: cell for f in TARGETS if isinstance(cell := row[f"used_{f}"], float)}
    return run_of(row, {**used, **reals(str(row["used_other"]))})
