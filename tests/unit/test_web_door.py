# SPDX-License-Identifier: Apache-2.0
"""Where the page may be served: what is refused says what to do about it."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from remote_world import pool

from harp.cli.main import cli
from harp.config import DaemonConfig, load
from harp.errors import ConfigError
from harp.web import open_door

TOKEN = "0123456789abcdefghijklmnop"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A certificate, its key and a token, as they should be."""
    folder = pool(tmp_path / "p") / "node-n1"
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    return {
        "web_cert": str(folder / "tls.crt"),
        "web_key": str(folder / "tls.key"),
        "web_token": str(token),
    }


@pytest.mark.parametrize(
    ("text", "host", "url"),
    [
        ("9403", "127.0.0.1", "http://127.0.0.1:9403/"),
        ("localhost:9403", "127.0.0.1", "http://127.0.0.1:9403/"),
        ("127.0.0.2:9403", "127.0.0.2", "http://127.0.0.2:9403/"),
        ("[::1]:9403", "::1", "http://[::1]:9403/"),
    ],
)
def test_on_loopback_nothing_more_is_needed(text: str, host: str, url: str) -> None:
    door = open_door(DaemonConfig(web=text))
    assert door is not None
    assert (door.host, door.port, door.loopback, door.token, door.tls) == (
        host,
        9403,
        True,
        "",
        None,
    )
    assert door.url(door.port) == url


def test_nothing_is_served_unless_it_is_said() -> None:
    assert open_door(DaemonConfig()) is None
    assert open_door(load({"HARP_CONFIG_LOG_LEVEL": "info", "HOME": "/nowhere"}).daemon) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "[::]", "gpu1.example", "[fe80::1]"])
def test_elsewhere_it_takes_a_certificate_and_a_token(host: str, files: dict[str, str]) -> None:
    web = f"{host}:9403"
    door = open_door(DaemonConfig(web=web, **files))
    assert door is not None
    assert (door.loopback, door.token) == (False, TOKEN)
    assert door.tls is not None
    assert door.tls.minimum_version == ssl.TLSVersion.TLSv1_3
    assert door.url(1).startswith("https://")
    for missing, says, hint in (
        (("web_token",), "asks nobody for a token", "daemon.web_token"),
        (("web_cert", "web_key"), "there is no certificate", "daemon.web_cert and daemon.web_key"),
        (("web_cert", "web_key", "web_token"), "asks nobody for a token", "PORT alone"),
    ):
        some = {name: path for name, path in files.items() if name not in missing}
        with pytest.raises(ConfigError) as refused:
            open_door(DaemonConfig(web=web, **some))
        assert web in refused.value.message
        assert says in refused.value.message
        assert hint in refused.value.hint


@pytest.mark.parametrize("missing", ["web_cert", "web_key"])
def test_a_certificate_and_its_key_go_together(missing: str, files: dict[str, str]) -> None:
    files[missing] = ""
    for web in ("9403", "0.0.0.0:9403"):
        with pytest.raises(ConfigError, match="one is set alone") as refused:
            open_door(DaemonConfig(web=web, **files))
        assert "give both" in refused.value.hint


def test_on_loopback_a_token_and_tls_may_be_had_as_well(files: dict[str, str]) -> None:
    door = open_door(DaemonConfig(web="9403", **files))
    assert door is not None
    assert (door.loopback, door.token, door.tls is not None) == (True, TOKEN, True)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o666])
def test_a_token_that_others_can_read_or_write_is_refused(mode: int, files: dict[str, str]) -> None:
    Path(files["web_token"]).chmod(mode)
    with pytest.raises(ConfigError, match=f"mode 0{mode:o}") as refused:
        open_door(DaemonConfig(web="0.0.0.0:9403", **files))
    assert refused.value.hint == f"chmod 0600 {files['web_token']}"


@pytest.mark.parametrize(
    ("mode", "refused"), [(0o600, False), (0o640, False), (0o644, True), (0o660, True)]
)
def test_a_key_that_everybody_can_read_is_refused(
    mode: int, refused: bool, files: dict[str, str]
) -> None:
    Path(files["web_key"]).chmod(mode)
    if not refused:
        assert open_door(DaemonConfig(web="0.0.0.0:9403", **files))
        return
    with pytest.raises(ConfigError, match=f"mode 0{mode:o}") as said:
        open_door(DaemonConfig(web="0.0.0.0:9403", **files))
    assert "chmod 0640" in said.value.hint


@pytest.mark.parametrize(
    "text", ["", "short", "x" * 21, "two words of which it cannot be", "é" * 30]
)
def test_a_token_that_is_none_is_refused(text: str, files: dict[str, str]) -> None:
    Path(files["web_token"]).write_text(text)
    with pytest.raises(ConfigError, match="holds no token") as refused:
        open_door(DaemonConfig(web="0.0.0.0:9403", **files))
    assert "/dev/urandom" in refused.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_token_of_another_user_s_is_refused(files: dict[str, str]) -> None:
    os.chown(files["web_token"], 12345, -1)
    with pytest.raises(ConfigError, match="belongs to uid 12345"):
        open_door(DaemonConfig(web="0.0.0.0:9403", **files))


@pytest.mark.parametrize("name", ["web_cert", "web_key", "web_token"])
def test_what_is_not_there_or_no_file_is_refused(name: str, files: dict[str, str]) -> None:
    good = files[name]
    pipe = Path(good).with_name("pipe")
    os.mkfifo(pipe, 0o600)
    empty = Path(good).with_name("empty")
    empty.touch(0o600)
    for wrong, says in (
        (good + ".none", "(cannot read|are no certificate)"),
        (str(pipe), "(is no file|are no certificate)"),
        (str(empty), "(holds no token|are no certificate)"),
        ("relative", "is no whole path"),
    ):
        with pytest.raises(ConfigError, match=says):
            open_door(DaemonConfig(web="0.0.0.0:9403", **{**files, name: wrong}))


def test_a_key_of_another_certificate_or_with_a_password_is_refused(
    files: dict[str, str], tmp_path: Path
) -> None:
    path = Path(files["web_key"])
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    with_password = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    for wrong in (with_password, (tmp_path / "p" / "client-ann" / "tls.key").read_bytes()):
        path.write_bytes(wrong)
        with pytest.raises(ConfigError, match="are no certificate and its key") as refused:
            open_door(DaemonConfig(web="0.0.0.0:9403", **files))
        assert "without a password" in refused.value.hint


@pytest.mark.parametrize("flag", ["--foreground", ""])
def test_harp_daemon_says_it_before_anything_begins(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native_dir: Path
) -> None:
    monkeypatch.setenv("HARP_RUN", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HARP_NATIVE_DIR", str(native_dir))
    words = ["daemon", "--web", "0.0.0.0:9403", *filter(None, [flag])]
    done = CliRunner().invoke(cli, words)
    assert isinstance(done.exception, ConfigError)
    assert "asks nobody for a token" in done.exception.message
    assert not (tmp_path / "run" / "control.sock").exists()
    wrong = CliRunner().invoke(cli, ["daemon", "--web", ":9403"])
    assert isinstance(wrong.exception, ConfigError)
    assert "daemon.web (--set)" in wrong.exception.message
