# SPDX-License-Identifier: Apache-2.0
"""What a tenant is called. Pure."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from pathlib import Path

from harp.errors import ConfigError, TenantExists

__all__ = ["tenant_name"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}")
#: namespace/pod/container, as Kubernetes has them
_CONTAINER = re.compile(
    r"[a-z0-9][a-z0-9-]{0,62}/[a-z0-9][a-z0-9.-]{0,252}/[a-z0-9][a-z0-9-]{0,62}"
)


def tenant_name(
    asked: str, program: str, pid: int, taken: AbstractSet[str], *, container: bool = False
) -> str:
    """The name asked for; else one made from the program and its process.

    Args:
        asked: "": none.
        program: as it was typed.
        pid: its first process.
        taken: names of living tenants.
        container: it may be that of a container, namespace/pod/container.

    Raises:
        ConfigError: no name.
        TenantExists: taken.
    """
    if asked:
        if not _NAME.fullmatch(asked) and not (container and _CONTAINER.fullmatch(asked)):
            raise ConfigError(
                f"{asked!r} is no tenant name",
                "1 to 48 letters, digits, dots, dashes or underscores, the first no sign",
            )
        if asked in taken:
            raise TenantExists(f"a tenant named {asked} runs already", "choose another --name")
        return asked
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(program).name)[:32].strip("-._")
    name = f"{stem or 'tenant'}-{pid}"
    count = 2
    while name in taken:
        name = f"{stem or 'tenant'}-{pid}.{count}"
        count += 1
    return name
