# SPDX-License-Identifier: Apache-2.0
"""Whose a tenant is. Root may make one for processes of another uid, or of any: it stays root's.

Such a uid is nobody's of this host but of programs that came from elsewhere (`harp remote serve`):
what they could do as its owner would be to lift their own limits, or to take what is left. A
container's processes are of any uid: who they are, their grant folder says, which nobody else sees.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harp.errors import ConfigError, NotOwner, QuotaExceeded
from harp.model import Limits, Policy, Tenant
from harp.procs import read

__all__ = [
    "Wish",
    "check_container",
    "check_folder_name",
    "check_owner",
    "check_user",
    "own_process",
]

_LABEL = re.compile(r"[a-z][a-z0-9_]{0,62}")
_LABELS_MAX = 8
_VALUE_CHARS = 253


@dataclass(frozen=True, slots=True)
class Wish:
    """A tenant asked for."""

    name: str  #: "": made from `program` and `root_pid`
    program: str
    uid: int
    gpu: str  #: names of devices; "": the least promised one that can take it
    limits: Limits
    policy: Policy
    root_pid: int
    grant_dir: str
    for_root: bool = False  #: this and the rest: see Tenant
    any_uid: bool = False
    held: bool = False
    labels: tuple[tuple[str, str], ...] = ()
    need_bytes: int = 0  #: what it will need, where that is acted on; see Promise
    duty_ppm: int = 0


def check_owner(tenant: Tenant, uid: int) -> None:
    """Only the owner and root may change a tenant.

    Raises:
        NotOwner: it is another user's.
    """
    owner = _owner(tenant)
    if uid not in (owner, 0):
        raise NotOwner(
            f"tenant {tenant.name} belongs to uid {owner}, not {uid}",
            "its owner or root may change it",
        )


def check_user(wish: Wish, tenants: Iterable[Tenant], most: int) -> None:
    """Whether a user may have one more.

    Raises:
        QuotaExceeded: it has `most`.
        NotOwner: it is one that root made tenants for.
    """
    owner = _owner(wish)
    held = 0
    for tenant in tenants:
        held += _owner(tenant) == owner and not tenant.held
        if tenant.for_root and tenant.uid == owner:
            raise NotOwner(
                f"uid {owner} is that of tenant {tenant.name}'s processes: it makes no tenants",
                "users of this host do",
            )
    # Of containers a node has as many as it has; it is not one user who takes all there is.
    if held >= most and not wish.held:
        raise QuotaExceeded(
            f"uid {owner} has {held} tenants, the most one user may have",
            "wait for one to end, or let the daemon's owner raise admission.tenants_per_user",
        )


def check_folder_name(name: str) -> None:
    """Whether a grant's folder can have such a name; what lies there is looked at by who reads it.

    "": a tenant that has none.

    Raises:
        ConfigError: not so.
    """
    if name and (not name.startswith("/") or "\0" in name):
        raise ConfigError(
            f"{name!r} is no name of a grant's folder",
            "give its absolute path; `harp run` makes one",
        )


def check_container(uid: int, harpd_uid: int, wish: Wish) -> None:
    """Whether a tenant may be as containers' are: of any uid, held, with labels.

    Args:
        uid: who asks.
        harpd_uid: whose harpd is asked.
        wish: what for.

    Raises:
        NotOwner: root alone may ask, and only harpd of root.
        ConfigError: others than its processes could reach its socket; a label is none.
    """
    faults = {"of any uid": wish.any_uid, "that is held": wish.held, "with labels": wish.labels}
    what = next((word for word, asked in faults.items() if asked), "")
    if not what:
        return
    if uid != 0:
        raise NotOwner(f"uid {uid} asks for a tenant {what}, which only root may", "use `harp run`")
    if harpd_uid != 0:
        raise NotOwner(f"harpd of uid {harpd_uid} makes no tenant {what}", "ask harpd of root")
    _check_labels(dict(wish.labels))
    if wish.any_uid:
        if wish.for_root:
            raise ConfigError("a tenant is of one uid or of any", "leave for_uid out")
        _check_folder(Path(wish.grant_dir))


def own_process(pid: int, caller_pid: int, uid: int) -> bool:
    """Whether a process is the caller, or a child of it that is the same user's.

    Args:
        pid: the one that is to become the program.
        caller_pid: as the kernel says; it waits for our answer.
        uid: the caller's.
    """
    if pid == caller_pid:
        return True
    found = read(pid)
    try:
        whose = Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return False
    return found is not None and found.ppid == caller_pid and whose == uid


def _check_folder(folder: Path) -> None:
    for path, closed in ((folder, 0o022), (folder.parent, 0o077)):
        try:
            found = path.lstat()
        except OSError as error:
            raise ConfigError(f"{path} cannot be looked at: {error}", "make it first") from error
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & closed:
            raise ConfigError(
                f"{path} does not keep others from the socket of a tenant of any uid",
                "the grant's folder is root's and others may not write to it; the one around it is"
                " root's, mode 0700",
            )


def _check_labels(labels: Mapping[str, str]) -> None:
    odd = [n for n, v in labels.items() if not _LABEL.fullmatch(n) or len(v) > _VALUE_CHARS]
    if odd or len(labels) > _LABELS_MAX:
        raise ConfigError(
            f"no labels of a tenant: {', '.join(odd) or len(labels)}",
            f"at most {_LABELS_MAX}; names of small letters, digits and _, values of at most"
            f" {_VALUE_CHARS} characters",
        )


def _owner(of: Tenant | Wish) -> int:
    return 0 if of.for_root else of.uid
