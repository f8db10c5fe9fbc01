# SPDX-License-Identifier: Apache-2.0
"""What may come of an estimate, and for whom. Pure.

    observe      it is made and held against what came; nobody is told, nothing changes
    recommend    who asked for more than the job will need is told; nothing changes
    enforce      limits are lowered to the estimate, and GPUs are filled by what their jobs need

One mode for all, and others for some: `training=enforce,uid:1000=recommend`, Kubernetes namespaces
by their name, users of this machine by number. A pod may always stay out (harp.dev/estimate: off).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping

from harp.errors import ConfigError

__all__ = ["Mode", "mode_of", "read_modes"]

_ENTRY = re.compile(r"(uid:[0-9]{1,10}|[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)=(\w+)")


class Mode(enum.StrEnum):
    """What may come of it, the least first."""

    OBSERVE = "observe"
    RECOMMEND = "recommend"
    ENFORCE = "enforce"


def read_modes(text: str) -> dict[str, Mode]:
    """{namespace, or "uid:NUMBER": its mode} of "training=enforce,uid:1000=recommend".

    Raises:
        ConfigError: something else, or one that is there twice.
    """
    found: dict[str, Mode] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        match = _ENTRY.fullmatch(entry)
        if match is None or match[2] not in [mode.value for mode in Mode]:
            raise ConfigError(
                f"{entry!r} is no NAMESPACE=MODE nor uid:NUMBER=MODE",
                f"MODE is one of {', '.join(mode.value for mode in Mode)}",
            )
        if match[1] in found:
            raise ConfigError(f"{match[1]} is there twice", "one mode for each")
        found[match[1]] = Mode(match[2])
    return found


def mode_of(usual: Mode, others: Mapping[str, Mode], *, namespace: str = "", uid: int = -1) -> Mode:
    """The mode of a job.

    Args:
        usual: of those that `others` does not name.
        others: of read_modes().
        namespace: of a pod; it alone counts then: who root's plugin runs as is no user.
        uid: of a job outside Kubernetes.
    """
    return others.get(namespace or f"uid:{uid}", usual)
