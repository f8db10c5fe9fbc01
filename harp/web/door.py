# SPDX-License-Identifier: Apache-2.0
"""Where the page is served, and to whom: loopback to all of this machine, else TLS and a token.

What is shown is what `harp ps` shows to every user of the machine, so on loopback nobody is asked
who he is. From elsewhere anybody could come: there the channel must be private and the reader
known. Both are read once, when harpd begins.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from harp.config import DaemonConfig, listen_address
from harp.errors import ConfigError

__all__ = ["Door", "open_door"]

#: 128 bits, however they are written
_TOKEN_CHARS = 22
_FILE_BYTES = 4096
_MAKE = "(umask 077; head -c 32 /dev/urandom | base64 >FILE)"


@dataclass(frozen=True, slots=True)
class Door:
    """Who comes in, and how."""

    host: str
    port: int
    loopback: bool
    token: str = ""  #: ""; nobody is asked for one
    tls: ssl.SSLContext | None = None

    def url(self, port: int) -> str:
        """Where a browser finds it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{port}/"


def open_door(config: DaemonConfig) -> Door | None:
    """What `daemon.web` and its files say; None: the page is not served.

    Raises:
        ConfigError: an address that others reach without certificate or token, or a file that is
            not what it must be.
    """
    address = listen_address(config.web)
    if address is None:
        return None
    host, port = address
    loopback = _is_loopback(host)
    host = "127.0.0.1" if host == "localhost" else host
    if not loopback and not config.web_token:
        raise ConfigError(
            f"daemon.web = {config.web!r} can be reached from other machines, and asks nobody for a"
            " token",
            f"set daemon.web_token to a file of yours made by {_MAKE}; or give a PORT alone, which"
            " is loopback, and use `ssh -L`",
        )
    if bool(config.web_cert) != bool(config.web_key):
        raise ConfigError(
            "of daemon.web_cert and daemon.web_key one is set alone", "give both: PEM files"
        )
    if not loopback and not config.web_cert:
        raise ConfigError(
            f"daemon.web = {config.web!r} can be reached from other machines, and there is no"
            " certificate: its token could be read on the way",
            "set daemon.web_cert and daemon.web_key to PEM files; or give a PORT alone, which is"
            " loopback, and use `ssh -L`",
        )
    token = _token(_path("daemon.web_token", config.web_token)) if config.web_token else ""
    tls = _tls(config) if config.web_cert else None
    return Door(host, port, loopback, token, tls)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _path(key: str, text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise ConfigError(f"{key} = {text!r} is no whole path", "harpd has a folder of its own")
    return path


def _token(path: Path) -> str:
    """The token of a file that nobody else can read or write."""
    text = _private(path, "daemon.web_token", 0o077, "0600").decode("utf-8", "replace").strip()
    if len(text) < _TOKEN_CHARS or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigError(
            f"{path} (daemon.web_token) holds no token of {_TOKEN_CHARS} characters or more",
            f"make one: {_MAKE}",
        )
    return text


def _private(path: Path, key: str, forbidden: int, mode: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would be waited for
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({key}): {error.strerror}") from error
    with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{path} ({key}) is no file")
        if found.st_uid not in (0, os.geteuid()):
            raise ConfigError(
                f"{path} ({key}) belongs to uid {found.st_uid}",
                f"who may write it may choose who comes in: chown {os.geteuid()} {path}",
            )
        if found.st_mode & forbidden:
            raise ConfigError(
                f"{path} ({key}) is open to others: mode {stat.S_IMODE(found.st_mode):04o}",
                f"chmod {mode} {path}",
            )
        return file.read(_FILE_BYTES)


def _tls(config: DaemonConfig) -> ssl.SSLContext:
    cert = _path("daemon.web_cert", config.web_cert)
    key = _path("daemon.web_key", config.web_key)
    _private(cert, "daemon.web_cert", 0o022, "0644")
    _private(key, "daemon.web_key", 0o027, "0640")  # a group that may read keys is usual
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        # A key with a password would be asked for on a terminal.
        context.load_cert_chain(cert, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{cert} and {key} (daemon.web_cert, daemon.web_key) are no certificate and its key:"
            f" {error}",
            "give PEM files that belong together; the key without a password",
        ) from error
    return context
