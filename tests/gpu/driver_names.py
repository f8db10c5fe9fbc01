# SPDX-License-Identifier: Apache-2.0
"""What the names say that a driver exports and the rows do not know."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

#: a name with one of these in it may allocate or launch
SUSPECT = re.compile(
    "Alloc|Create|Launch|Import|Map|Memcpy|Reserve|Register|Memset|Open|Prefetch|Decompress"
)
#: The debugger's: variables that it reads and sets in a stopped process (cudbgEnableLaunchBlocking,
#: cudbgApiInit, ...). No program calls them to allocate or launch, whatever their names have in
#: them. The one that programs do call is cudbgGetAPI, and it has a row.
DEBUGGER = "cudbg"


@dataclass(frozen=True, slots=True)
class Unknown:
    """Names without a row, sorted."""

    unknown: list[str]
    debugger: list[str]  #: of these, the debugger's
    suspect: list[str]  #: of the others, those that may allocate or launch


def judge(names: Iterable[str]) -> Unknown:
    """Judge exported names that no row has; what is not the driver API's is left out."""
    unknown = sorted(n for n in names if n.startswith("cu"))
    debugger = [n for n in unknown if n.startswith(DEBUGGER)]
    others = [n for n in unknown if n not in debugger]
    return Unknown(unknown, debugger, [n for n in others if SUSPECT.search(n)])
