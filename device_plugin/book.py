# SPDX-License-Identifier: Apache-2.0
"""The grants of this node: which container has which slots, and what they give it. Pure.

Kubelet says when slots are given, never when they are free again. So a grant ends when slots of it
are given anew (kubelet gives none twice: whoever had them is gone, or is an init container that has
done its work), or when kubelet's list has not named it for a while.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from device_plugin.identity import Holding, Owner
from harp.model import Limits

__all__ = ["GONE_S", "Book", "Cap", "Grant", "Made", "grant_id", "misnamed", "missing", "size_of"]

#: kubelet's list may lag behind a start; nothing waits for a grant to end
GONE_S = 30.0
_NAME = re.compile(r"[0-9a-z-]+x([0-9]{1,6})-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Cap:
    """To what an estimate lowered a container's limits when it started; 0: not."""

    mem_bytes: int = 0
    share_ppm: int = 0
    from_mem_bytes: int = 0  #: it would have had
    from_share_ppm: int = 0


@dataclass(frozen=True, slots=True)
class Made:
    """What a container is made from, for history."""

    image: str = ""
    maker: str = ""  #: namespace/Kind/name of what made its pod
    command: tuple[str, ...] = ()  #: as its pod says it; empty: the image's own


@dataclass(frozen=True, slots=True)
class Grant:
    """What a container was given."""

    id: str  #: see grant_id()
    ids: frozenset[str]  #: its slots
    uuids: tuple[str, ...]  #: its GPUs
    limits: Limits  #: on each of them
    owner: Owner | None = None  #: None: not known, so the limits are what the ids say
    pod_uid: str = ""  #: of the API server, where it was asked
    asked: Limits | None = None  #: of an edit that may be in force, or not: nobody has said so yet
    share: Limits | None = None  #: what its slots meant when it was cut, before annotations; as
    #: long as its pod lives that stays so. None: a plugin wrote it down that did not say it
    cap: Cap = Cap()  #: is in `limits`
    made: Made = Made()


def grant_id(ids: Collection[str]) -> str:
    """The name of a grant, the same for the same slots.

    Kubelet asks for a container's slots at admission, keeps the answer, and tells us the slots
    alone when the container starts, by then perhaps another plugin process. So what Allocate
    answered must follow from the slots.
    """
    names = sorted(ids)
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
    return f"{names[0]}x{len(names)}-{digest}"


def size_of(key: str) -> int:
    """How many slots a grant of that name has; 0: that is no grant's name."""
    found = _NAME.fullmatch(key)
    return int(found[1]) if found else 0


class Book:
    """Living grants; no slot is in two of them, and no container has two."""

    def __init__(self, grants: Iterable[Grant] = ()) -> None:
        self._grants: dict[str, Grant] = {}
        #: {slot: id of its grant}
        self._holders: dict[str, str] = {}
        for grant in grants:
            self.put(grant)

    def __iter__(self) -> Iterator[Grant]:
        return iter(tuple(self._grants.values()))

    def __len__(self) -> int:
        return len(self._grants)

    def get(self, key: str) -> Grant | None:
        """The living grant of that id."""
        return self._grants.get(key)

    def overlapping(self, grant: Grant) -> tuple[Grant, ...]:
        """Other grants with slots of this one, or of its container: they have ended. By id.

        A container has its slots as long as it lives; one with others is a pod that came again
        under its name.
        """
        keys = {self._holders[name] for name in grant.ids if name in self._holders}
        if grant.owner is not None:
            keys |= {one.id for one in self._grants.values() if one.owner == grant.owner}
        return tuple(self._grants[key] for key in sorted(keys - {grant.id}))

    def put(self, grant: Grant) -> None:
        """Write one down; those with slots of it are struck out, and so is one of its id."""
        for other in (*self.overlapping(grant), *filter(None, [self._grants.get(grant.id)])):
            self.remove(other.id)
        self._grants[grant.id] = grant
        self._holders.update(dict.fromkeys(grant.ids, grant.id))

    def remove(self, key: str) -> None:
        """Strike one out, if it is there."""
        grant = self._grants.pop(key, None)
        for name in grant.ids if grant else ():
            del self._holders[name]


def misnamed(named: Grant, book: Iterable[Grant], holdings: Collection[Holding]) -> bool:
    """Whether the owner of a grant that is about to be given has other slots already.

    A container has the same ones as long as its pod lives. Kubelet lists who has them; of an init
    container, which it does not list, that we gave it some is the sign.

    Args:
        named: with its owner.
        book: living grants.
        holdings: kubelet's list.
    """
    assert named.owner is not None
    listed = {holding.owner for holding in holdings}
    for other in book:
        if other.owner != named.owner or other.ids & named.ids:
            continue
        if other.pod_uid and named.pod_uid and other.pod_uid != named.pod_uid:
            continue  # the one before of that name
        if other.pod_uid and named.pod_uid and named.owner not in listed:
            return True
        if any(h.ids == other.ids and h.owner.pod_key == named.owner.pod_key for h in holdings):
            return True
    return False


def missing(
    book: Iterable[Grant],
    listed: Collection[frozenset[str]],
    since_s: Mapping[str, float],
    now_s: float,
) -> tuple[dict[str, float], tuple[Grant, ...]]:
    """Grants that kubelet's list does not name any more.

    Args:
        book: living grants.
        listed: slots of each container in kubelet's list.
        since_s: what this answered the last time.
        now_s: monotonic.

    Returns:
        {grant id: since when it is not listed}; those that have ended.
    """
    known = set(listed)
    absent = [grant for grant in book if grant.ids not in known]
    now_absent = {grant.id: since_s.get(grant.id, now_s) for grant in absent}
    ended = tuple(g for g in absent if now_s - now_absent[g.id] >= GONE_S)
    return now_absent, ended
