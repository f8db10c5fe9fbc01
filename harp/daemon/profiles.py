# SPDX-License-Identifier: Apache-2.0
"""Tenants' kernels for a scrape: their files, read apart, user by user (harp/daemon/apart.py).

A tenant's folder is its own, and may lie on a file system that never answers: then it has no series
of kernels until it does; all else goes on. Files of other users' tenants are read by root's harpd
alone, and only where they are that user's: a folder is what its tenant said. Who has a
page of harpd's has no folder for both: harp/daemon/arbiter.py.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from harp.daemon.apart import Apart
from harp.metrics import Exemplar, KernelsSeen, Tops
from harp.model import Tenant
from harp.profile import Page, decode, read, read_bytes, top
from harp.trace.control import told

__all__ = ["Profiles", "kernels_of"]

#: of an exemplar's names and values together, as OpenMetrics has it
_EXEMPLAR_CHARS = 128
#: of a run, in history
_KEPT = 5


class _Known(NamedTuple):
    """Of a tenant."""

    look: int  #: number of the one that read it
    digest: int  #: of the file
    seen: KernelsSeen


class Profiles:
    """Those of one harpd.

    Args:
        most: kernels of a tenant that have series; 0: nothing is read.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._apart = Apart()
        #: of what follows, for the threads
        self._lock = threading.Lock()
        self._tops = Tops(most)
        self._known: dict[str, _Known] = {}
        self._looks = 0
        #: keys of folders that were asked, and have not answered yet
        self._asked: set[str] = set()
        #: {uid: the reading that counts; one that hung no longer does}
        self._reading: dict[int, object] = {}

    async def look(
        self, tenants: Iterable[Tenant], pages: Mapping[int, Page] | None = None
    ) -> dict[int, KernelsSeen]:
        """{tenant's number: what has series}.

        A folder that does not answer costs its own tenant's; what its reading kept from being read
        in time is what it was at the look before.

        Args:
            tenants: those that live.
            pages: of those whose totals are not in their folders, by number.
        """
        if not self._most:
            return {}
        pages = pages or {}
        users: dict[int, list[tuple[Tenant, Page | None]]] = {}
        for tenant in tenants:
            if tenant.grant_dir:
                one = tenant, pages.get(tenant.tenant_id)
                users.setdefault(tenant.uid, []).append(one)
        there = {_key(tenant): tenant for own in users.values() for tenant, _ in own}
        with self._lock:
            self._tops.keep(there)
            self._looks = look = self._looks + 1
            self._known = {
                key: known
                for key, known in self._known.items()
                if key in there and known.look >= look - 1
            }
            self._reading = {uid: one for uid, one in self._reading.items() if uid in users}
        await asyncio.gather(
            *(self._apart.run(uid, self._read, look, own) for uid, own in users.items())
        )
        with self._lock:
            return {
                there[key].tenant_id: known.seen
                for key, known in self._known.items()
                if key in there and key not in self._asked
            }

    def _read(self, look: int, tenants: Sequence[tuple[Tenant, Page | None]]) -> None:
        """Of one user. Nothing is held while a folder is asked."""
        this = object()
        with self._lock:
            self._reading[tenants[0][0].uid] = this
        for tenant, page in tenants:
            folder, key = Path(tenant.grant_dir), _key(tenant)
            with self._lock:
                if key in self._asked:
                    continue
                self._asked.add(key)
            try:
                text = read_bytes(page or folder, tenant.uid)
                trace = told(folder, tenant.uid) if text is not None else None
            finally:
                with self._lock:
                    self._asked.discard(key)
            with self._lock:
                if self._reading.get(tenant.uid) is not this:
                    return
                if (seen := self._seen(key, text, paged=page is not None)) is not None:
                    seen = replace(seen, exemplar=_exemplar(trace, seen))
                    self._known[key] = _Known(look, hash(text), seen)

    def _seen(self, key: str, text: bytes | None, *, paged: bool) -> KernelsSeen | None:
        last = self._known.pop(key, None)
        if text is None:
            return None
        if last is not None and last.digest == hash(text):
            return last.seen  # it did nothing
        if (profile := decode(text)) is None:
            return None
        if paged and not profile.kernels and not any(profile.copied_bytes.values()):
            return None  # nobody writes to the page, which is not the same as nothing done
        return KernelsSeen(self._tops.see(key, profile), profile.copied_bytes)


def kernels_of(tenant: Tenant, page: Page | None = None) -> tuple[tuple[str, int, float], ...]:
    """What history keeps of a tenant that has ended: see Run.kernels."""
    profile = read(page or Path(tenant.grant_dir), tenant.uid)
    kernels = top(profile, _KEPT) if profile is not None else ()
    # Of launches since the last sample nobody said how long they took.
    return tuple((k.name, k.launches, round(k.whole_ns / 1e9, 9)) for k in kernels)


def _key(tenant: Tenant) -> str:
    # Numbers of tenants come again; folders do not.
    return f"{tenant.tenant_id}@{tenant.grant_dir}"


def _exemplar(trace: tuple[Path, str] | None, seen: KernelsSeen) -> Exemplar | None:
    """The trace that is being made of a tenant that did something."""
    if trace is None or not seen.kernels:
        return None
    file, ident = trace
    # No folder of a user's: who may read the metrics needs not know.
    labels = [("trace_id", ident), ("file", file.name)]
    room = _EXEMPLAR_CHARS
    kept = []
    for name, value in labels:
        # Not what is to be escaped, either: parsers of exemplars stumble over that.
        plain = "".join(c if c.isprintable() and c not in '"\\' else "?" for c in value)
        plain = plain[: max(0, room - len(name))]
        if plain:
            room -= len(name) + len(plain)
            kept.append((name, plain))
    return Exemplar(tuple(kept), sum(k.ns for k in seen.kernels) / 1e9, time.time())
