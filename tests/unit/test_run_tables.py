# SPDX-License-Identifier: Apache-2.0
"""Runs as CSV and Parquet: what is read back equals what was written."""

from __future__ import annotations

import csv
import gzip
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harp.errors import ConfigError
from harp.estimator.job import Job, Outcome, Run
from harp.estimator.tables import COLUMNS, export_runs, import_runs
from tests.unit.test_history import RUNS

FORMS = ("r.csv", "r.csv.gz", "r.parquet")
RUN = Run(
    Job(program="p", numbers=(("bs", 32.0),), labels=(("team", "a,\n\"b'"),), image="a\r\nb"),
    number=7,
    started_s=0.1,
    ended_s=1e9 + 0.3,
    outcome=Outcome.OOM,
    exit_status=1,
    used={"gpu_mem_bytes": 3e9, "duration_s": 0.0},
    quantiles={"gpu_mem_bytes.p50": 1 / 3},
    elastic=True,
)


def needs(form: str) -> None:
    if form.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="pyarrow is an extra of harp")


@pytest.mark.parametrize("form", FORMS)
@given(runs=st.lists(RUNS, max_size=5))
def test_what_is_read_equals_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, form: str, runs: list[Run]
) -> None:
    needs(form)
    path = tmp_path_factory.mktemp("tables") / form
    assert export_runs(iter(runs), path) == len(runs)
    assert list(import_runs(path)) == runs
    assert [p.name for p in path.parent.iterdir()] == [form]
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("form", FORMS)
def test_many_runs_come_in_their_order(tmp_path: Path, form: str) -> None:
    needs(form)
    runs = [Run(Job(), number=n, ended_s=float(n)) for n in range(10_500)]
    assert export_runs(runs, tmp_path / form) == 10_500
    assert list(import_runs(tmp_path / form)) == runs


@pytest.mark.parametrize("form", FORMS)
def test_an_export_that_fails_leaves_what_was_there(tmp_path: Path, form: str) -> None:
    needs(form)
    path = tmp_path / form
    export_runs([RUN], path)

    def fails() -> Iterator[Run]:
        yield RUN
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        export_runs(fails(), path)
    assert list(import_runs(path)) == [RUN]
    assert [p.name for p in tmp_path.iterdir()] == [form]


def test_a_spreadsheet_reads_it(tmp_path: Path) -> None:
    export_runs([RUN], tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert list(row) == list(COLUMNS)
    assert (row["used_gpu_mem_bytes"], row["used_cpu_cores"], row["elastic"]) == (
        "3000000000.0",
        "",
        "1",
    )


@pytest.mark.parametrize(
    ("column", "text", "says"),
    [
        ("outcome", "exploded", "'exploded' is not a valid Outcome"),
        ("ended_s", "soon", "ended_s is 'soon', no float"),
        ("ended_s", "nan", "ended_s is nan, not finite"),
        ("ended_s", "", "ended_s is '', no float"),
        ("mem_limit_bytes", "-1", "mem_limit_bytes is -1, no size"),
        ("mem_limit_bytes", str(1 << 63), "no size or count"),
        ("elastic", "maybe", "elastic is 'maybe', no bool"),
        ("numbers", "[1]", "line 3"),
        ("quantiles", '["a"]', "line 3"),
        ("labels", "{", "line 3"),
    ],
)
def test_a_row_that_is_no_run_is_named(tmp_path: Path, column: str, text: str, says: str) -> None:
    path = tmp_path / "r.csv"
    export_runs([Run(Job()), Run(Job())], path)
    with path.open(newline="") as file:
        head, one, other = csv.reader(file)
    other[head.index(column)] = text
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, one, other])
    with pytest.raises(ConfigError, match=", line 3: ") as caught:
        list(import_runs(path))
    assert says in caught.value.message


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("raw", [b"", b"no table", b"\x1f\x8bno gzip", b"PAR1", b"a\xff"])
def test_what_is_no_table_is_named(tmp_path: Path, form: str, raw: bytes) -> None:
    needs(form)
    (tmp_path / form).write_bytes(raw)
    with pytest.raises(ConfigError, match=form):
        list(import_runs(tmp_path / form))
    (tmp_path / form).unlink()
    with pytest.raises(ConfigError, match=form):
        list(import_runs(tmp_path / form))


def test_a_table_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    export_runs([RUN] * 3, path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ConfigError, match=r"r\.csv"):
        list(import_runs(path))
    zipped = tmp_path / "z.csv.gz"
    zipped.write_bytes(gzip.compress(b"x" * 10_000)[:-9])
    with pytest.raises(ConfigError, match=r"z\.csv\.gz"):
        list(import_runs(zipped))


def test_other_names_are_refused_with_those_that_are_known(tmp_path: Path) -> None:
    for ask in (lambda: export_runs([], tmp_path / "r.xls"), lambda: [*import_runs(Path("r.xls"))]):
        with pytest.raises(ConfigError, match=r"r\.xls is of no known format") as caught:
            ask()
        assert ".parquet" in caught.value.hint
    with pytest.raises(ConfigError, match="cannot write"):
        export_runs([], tmp_path / "none" / "r.csv")


NO_PYARROW = """
import sys
from collections.abc import Iterator
from pathlib import Path
sys.modules["pyarrow"] = None
from harp.errors import ConfigError
from harp.estimator.tables import export_runs, import_runs
path = Path("r.parquet")
for ask in (lambda: export_runs([], path), lambda: list(import_runs(path))):
    try:
        ask()
    except ConfigError as error:
        print(error.message, "|", error.hint)
"""


def test_without_pyarrow_the_remedy_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_PYARROW], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    one, other = done.stdout.splitlines()
    assert one == other
    assert "pip install 'pyarrow>=15', or name a .csv file" in one
    assert list(tmp_path.iterdir()) == []
