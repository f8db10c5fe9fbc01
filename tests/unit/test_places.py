# SPDX-License-Identifier: Apache-2.0
"""What --remote and --dir mean, and what a folder of offers holds."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from harp.cli.pool import default_folder
from harp.errors import CertificateError, ConfigError, WireError
from harp.remote import authority
from harp.remote.certificate import Kind
from harp.remote.offers import Offers, check
from harp.remote.places import endpoints, identity, read_token


def test_addresses_and_pools(tmp_path: Path) -> None:
    (tmp_path / "ours.pool").write_text("# two\na:1  # first\n\n[::1]:2\na:1\n")
    listed = ["a:1", "[::1]:2"]
    assert endpoints("a:1", tmp_path) == ["a:1"]
    assert endpoints("a:1, b:2,", tmp_path) == ["a:1", "b:2"]
    assert endpoints("ours", tmp_path) == listed
    assert endpoints(str(tmp_path / "ours.pool"), tmp_path / "else") == listed


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("a", "cannot read the pool's file .*a.pool: No such file"),
        ("./a:1", "cannot read the pool's file a:1"),
        ("a:x", "'a:x' is no address"),
        (",:", "no address"),
        ("bad", r"bad.pool:2: 'b' is no address"),
        ("empty", "'empty' lists 0 addresses"),
        ("bytes", "it is no text"),
    ],
)
def test_what_is_neither(tmp_path: Path, where: str, why: str) -> None:
    (tmp_path / "bad.pool").write_text("a:1\nb\n")
    (tmp_path / "empty.pool").write_text("# nobody\n")
    (tmp_path / "bytes.pool").write_bytes(b"\xff\n")
    with pytest.raises(ConfigError, match=why):
        endpoints(where, tmp_path)


def test_which_folder_is_ours(tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    with pytest.raises(CertificateError, match="has no folder client-NAME"):
        default_folder(tmp_path, Kind.CLIENT, "ann")
    authority.init(tmp_path, now)
    authority.issue(tmp_path, Kind.CLIENT, "ann", hosts=[], now=now)
    assert default_folder(tmp_path, Kind.CLIENT, "eve") == tmp_path / "client-ann"  # there is one
    assert identity(tmp_path / "client-ann", now).certificate.name == "ann"
    authority.issue(tmp_path, Kind.CLIENT, "bob", hosts=[], now=now)
    assert default_folder(tmp_path, Kind.CLIENT, "bob") == tmp_path / "client-bob"
    with pytest.raises(CertificateError, match="has no folder client-eve, but client-ann, client-"):
        default_folder(tmp_path, Kind.CLIENT, "eve")
    with pytest.raises(CertificateError, match="has no folder node-NAME"):
        default_folder(tmp_path, Kind.NODE, "ann")
    with pytest.raises(CertificateError, match="is no folder"):
        identity(tmp_path / "client-eve", now)


@pytest.mark.parametrize("text", ["", "secret", "a.b c", "a.é", ".x", "a." + "x" * 300])
def test_what_is_no_token(tmp_path: Path, text: str) -> None:
    (path := tmp_path / "token").write_text("abc.d-e_f\nmore")
    assert read_token(path) == "abc.d-e_f"
    path.write_text(text)
    with pytest.raises(ConfigError, match="no lease's token"):
        read_token(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path / "nothing")


def test_offers_are_whole_files_of_their_owner(tmp_path: Path) -> None:
    offers = Offers(tmp_path)
    offers.offer("s1", "secret", "gpu:1")
    assert (tmp_path / "s1").read_text() == "secret\nto=gpu:1\n"
    assert (tmp_path / "s1").stat().st_mode & 0o777 == 0o600
    assert offers.withdraw("s1")
    offers.offer("s2", "secret", "gpu:1")
    (tmp_path / "s2").rename(tmp_path / ".s2")  # as harp-link takes it
    assert not offers.withdraw("s2")
    offers.deny("two\nlines " + "é" * 200)
    told = (tmp_path / ".refused").read_text()
    assert told.startswith("two lines é")
    assert len(told.encode()) <= 241
    offers.end_all()
    assert [p.name for p in tmp_path.iterdir()] == [".refused"]
    offers.admit()
    offers.admit()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("session_id", "token", "endpoint"),
    [
        ("../x", "t", "a:1"),
        (".x", "t", "a:1"),
        ("", "t", "a:1"),
        ("s" * 65, "t", "a:1"),
        ("s", "", "a:1"),
        ("s", "t\nto=evil:1", "a:1"),
        ("s", "t" * 512, "a:1"),
        ("s", "t", "a:1\nname=evil"),
        ("s", "t", "a"),
    ],
)
def test_what_a_node_says_goes_into_no_file_unchecked(
    session_id: str, token: str, endpoint: str
) -> None:
    check("s-1_A", "t", "a:1")
    with pytest.raises(WireError):
        check(session_id, token, endpoint)
