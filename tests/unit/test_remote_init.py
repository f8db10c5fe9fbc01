# SPDX-License-Identifier: Apache-2.0
"""`harp remote init` as it is typed."""

from __future__ import annotations

import datetime as dt
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from remote_world import client, now, pool

from harp.cli.main import cli
from harp.errors import HarpError
from harp.remote import authority
from harp.remote.certificate import Kind

ROOT = Path(__file__).resolve().parents[2]


def init(base: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["remote", "init", "--dir", str(base), *arguments])


def said(base: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    """{kind-name: its object} of a call with --json."""
    result = init(base, *arguments, "--json")
    assert result.exit_code == 0, result.output
    rows: list[dict[str, Any]] = json.loads(result.stdout.splitlines()[-1])["certificates"]
    return {
        row["kind"] if row["kind"] == "authority" else Path(row["folder"]).name: row for row in rows
    }


def refused(base: Path, *arguments: str) -> HarpError:
    result = init(base, *arguments)
    assert isinstance(result.exception, HarpError), result.output
    assert result.exception.hint
    return result.exception


def test_the_first_call_is_enough_for_one_machine(tmp_path: Path) -> None:
    rows = said(tmp_path / "p")
    assert [row["kind"] for row in rows.values()] == ["authority", "node", "client"]
    assert all(row["new"] and not row["runs_out_soon"] for row in rows.values())
    _, node, _ = rows.values()
    assert {socket.gethostname(), "localhost", "127.0.0.1", "::1"} <= set(node["hosts"])
    assert all((Path(row["folder"]) / "ca.crt").exists() for row in rows.values())
    again = said(tmp_path / "p")
    assert list(again) == list(rows)
    assert not any(row["new"] for row in again.values())
    assert [r["fingerprint_sha256"] for r in again.values()] == [
        r["fingerprint_sha256"] for r in rows.values()
    ]


def test_named_ones_are_made_and_no_others(tmp_path: Path) -> None:
    rows = said(tmp_path / "p", "--node", "g7, 10.0.0.7,g7.example.org", "--client", "ann")
    assert list(rows) == ["authority", "node-g7", "client-ann"]
    assert rows["node-g7"]["hosts"] == ["g7", "g7.example.org", "10.0.0.7"]
    rows = said(tmp_path / "p", "--client", "bob", "--client", "ann", "--node", "g7")
    assert {n for n, row in rows.items() if row["new"]} == {"client-bob"}


def test_a_node_is_not_left_with_other_hosts_than_asked_for(tmp_path: Path) -> None:
    said(tmp_path, "--node", "g7,10.0.0.7")
    said(tmp_path, "--node", "g7,10.0.0.7")
    error = refused(tmp_path, "--node", "g7,10.0.0.8")
    assert "g7, 10.0.0.7" in error.message
    assert "remove" in error.hint


def test_what_cannot_be_leaves_nothing(tmp_path: Path) -> None:
    for arguments in (
        ["--node", "g7", "--client", "a/b"],
        ["--client", "ann", "--node", "g7,no host"],
        ["--node", ""],
    ):
        refused(tmp_path / "p", *arguments)
        assert not (tmp_path / "p").exists()


def test_what_runs_out_soon_is_said_and_renewed(tmp_path: Path) -> None:
    base = pool(tmp_path / "p", now() - dt.timedelta(days=340))
    authority.issue(base, Kind.CLIENT, "fresh", hosts=[], now=now())
    shown = init(base)
    assert shown.output.count("runs out soon") == 4
    assert "client ann runs out on" in shown.stderr
    assert "harp remote init --renew" in shown.stderr
    rows = said(base, "--renew")
    assert {n for n, row in rows.items() if row["renewed"]} == {
        "node-n1",
        "client-ann",
        "client-bob",
        "client-root",
    }
    assert not any(row["renewed"] for row in said(base, "--renew").values())
    assert client(base).warning == ""
    rows = said(base, "--renew", "--client", "fresh", "--days", "7")
    assert {n for n, row in rows.items() if row["renewed"]} == {"client-fresh"}
    assert dt.datetime.fromisoformat(rows["client-fresh"]["ends"]) < now() + dt.timedelta(days=7)


def test_what_has_run_out_is_said(tmp_path: Path) -> None:
    base = pool(tmp_path / "p", now() - dt.timedelta(days=400))
    assert "client ann ran out on" in init(base).stderr
    assert "run out" in init(base).stdout


def test_an_authority_that_ends_says_what_to_do(tmp_path: Path) -> None:
    base = pool(tmp_path / "p", now() - dt.timedelta(days=3640))
    assert "make a new pool" in init(base).stderr


def test_what_is_not_there_is_not_renewed(tmp_path: Path) -> None:
    assert "no authority" in refused(tmp_path / "none", "--renew").message
    assert not (tmp_path / "none").exists()
    pool(tmp_path / "p")
    assert "client eve" in refused(tmp_path / "p", "--renew", "--client", "eve").message


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = refused(tmp_path / "file" / "p")
    assert "--dir" in error.hint


@pytest.mark.parametrize("days", ["0", "3651", "x"])
def test_days_out_of_range_are_wrong_usage(tmp_path: Path, days: str) -> None:
    assert init(tmp_path / "p", "--days", days).exit_code == 2
    assert not (tmp_path / "p").exists()


def test_it_lies_beside_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 987_654)  # nobody's number
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HARP_CONFIG", str(tmp_path / "else" / "x.toml"))
    done = CliRunner().invoke(cli, ["remote", "init"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "harp" / "remote" / "client-uid-987654" / "tls.key").exists()
    assert not (tmp_path / "else").exists()


def test_it_is_one_object_and_no_key(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "XDG_"))}
    arguments = ["--dir", str(tmp_path / "harp" / "remote")]
    done = subprocess.run(
        [sys.executable, "-m", "harp", "remote", "init", "--json", *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["dir"] == str(tmp_path / "harp" / "remote")
    assert "PRIVATE" not in done.stdout + done.stderr
    assert "stays here" in done.stderr
    (tmp_path / "harp" / "remote" / "authority" / "ca.key").chmod(0o644)
    done = subprocess.run(
        [sys.executable, "-m", "harp", "remote", "init", "--client", "x", "--json", *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[-1])["error"]["kind"] == "CertificateError"
    assert "hint: chmod 600" in done.stderr
