# SPDX-License-Identifier: Apache-2.0
"""What `--remote` means: nodes by address, or by a pool's file; and who we are there.

A pool's file has a line HOST:PORT for each node, or for one that knows the others; `#` begins a
comment. `--remote NAME` is NAME.pool in the folder of `harp remote init` (remote/ beside HARP's
settings), where the client's own folder is looked for, too.
"""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

from harp.errors import CertificateError, ConfigError
from harp.remote.certificate import Kind, read
from harp.remote.trust import Identity, address, load

__all__ = ["authority", "endpoints", "identity", "read_token"]

_NODES_MAX = 256
_TOKEN = re.compile(r"[0-9a-zA-Z_-]{1,64}\.[!-~]{1,256}")


def endpoints(where: str, base: Path) -> list[str]:
    """The addresses to ask.

    Args:
        where: HOST:PORT[,HOST:PORT...], a pool's file, or its name.
        base: the folder of named pools.

    Raises:
        ConfigError: it is none of them.
    """
    if "/" not in where and ":" in where:
        found = [part.strip() for part in where.split(",") if part.strip()]
        for text in found:
            address(text)
    else:
        found = _listed(Path(where) if "/" in where else base / f"{where}.pool", where)
    if not 1 <= len(found) <= _NODES_MAX:
        raise ConfigError(
            f"{where!r} lists {len(found)} addresses", f"1 to {_NODES_MAX}, each HOST:PORT"
        )
    return list(dict.fromkeys(found))


def identity(folder: Path, now: dt.datetime) -> Identity:
    """Who we are.

    Raises:
        CertificateError: the folder is not a client's, or what is in it is of no use.
    """
    if not folder.is_dir():
        raise CertificateError(
            f"{folder} is no folder", "name the folder client-NAME of `harp remote init`"
        )
    return load(folder, Kind.CLIENT, now)


def read_token(path: Path) -> str:
    """The token of a lease: a file's first line. In the arguments everybody would see it.

    Raises:
        ConfigError: there is none.
    """
    try:
        token = path.read_text().partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token {path} cannot be read: {error}", "name a file") from error
    if not _TOKEN.fullmatch(token):
        raise ConfigError(
            f"the first line of {path} is no lease's token", "it is LEASE.SECRET, as Lease answers"
        )
    return token


def authority(folder: Path) -> bytes:
    """Whom to trust, where we have no certificate: a folder's ca.crt.

    Raises:
        CertificateError: it is not there.
    """
    return read(folder / "ca.crt", Kind.AUTHORITY).path.read_bytes()


def _listed(path: Path, where: str) -> list[str]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(
            f"--remote {where}: cannot read the pool's file {path}: {why}",
            "write HOST:PORT, or a file with a line HOST:PORT for each node",
        ) from error
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        try:
            address(entry)
        except ConfigError as error:
            raise ConfigError(f"{path}:{number}: {error.message}", error.hint) from error
        found.append(entry)
    return found
