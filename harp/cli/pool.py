# SPDX-License-Identifier: Apache-2.0
"""Where the certificates of a pool lie on this host, and whose ours are."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from harp.config import config_path
from harp.errors import CertificateError
from harp.remote.certificate import Kind

__all__ = ["default_folder", "pool_folder", "this_user"]


def pool_folder(env: Mapping[str, str]) -> Path:
    """Beside HARP's settings; $HARP_CONFIG, which may be any file's, does not move it."""
    return config_path({n: v for n, v in env.items() if n != "HARP_CONFIG"}).parent / "remote"


def this_user() -> str:
    """What a client's folder is called that nobody has named."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # containers run under numbers that nobody has
        return f"uid-{os.geteuid()}"


def default_folder(base: Path, kind: Kind, own: str) -> Path:
    """The folder that `harp remote init` made, or that was copied there.

    Args:
        base: of the pool.
        kind: a node's or a client's.
        own: whose we are: chosen among several.

    Raises:
        CertificateError: there is none, or there are several of others.
    """
    found = sorted(p for p in base.glob(f"{kind.value}-*") if p.is_dir())
    ours = base / f"{kind.value}-{own}"
    if ours in found or len(found) == 1:
        return ours if ours in found else found[0]
    there = ", ".join(path.name for path in found)
    raise CertificateError(
        f"{base} has no folder {kind.value}-{own}, but {there}"
        if there
        else f"{base} has no folder {kind.value}-NAME",
        "name it with --dir"
        if there
        else "name it with --dir, or copy it there from where `harp remote init` made it",
    )
