# SPDX-License-Identifier: Apache-2.0
"""Whose a tenant is. Root may make one for processes of another uid: then it stays root's.

Such a uid is nobody's of this host but of programs that came from elsewhere (`harp remote serve`):
what they could do as its owner would be to lift their own limits, or to take what is left.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harp.errors import NotOwner, QuotaExceeded
from harp.model import Limits, Policy, Tenant

__all__ = ["Wish", "check_owner", "check_user"]


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
    for_root: bool = False  #: see Tenant


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
        held += _owner(tenant) == owner
        if tenant.for_root and tenant.uid == owner:
            raise NotOwner(
                f"uid {owner} is that of tenant {tenant.name}'s processes: it makes no tenants",
                "users of this host do",
            )
    if held >= most:
        raise QuotaExceeded(
            f"uid {owner} has {held} tenants, the most one user may have",
            "wait for one to end, or let the daemon's owner raise admission.tenants_per_user",
        )


def _owner(of: Tenant | Wish) -> int:
    return 0 if of.for_root else of.uid
