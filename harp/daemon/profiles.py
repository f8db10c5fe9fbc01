# SPDX-License-Identifier: Apache-2.0
"""Tenants' kernels for a scrape: their files and pages, read in a thread of its own.

A tenant's folder is its own, and may lie on a file system that never answers: then there are no
series of kernels, until it does; all else goes on. Who has a page of harpd's has no folder for
both: harp/daemon/arbiter.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import structlog

from harp.metrics import Exemplar, KernelsSeen, Tops
from harp.model import Tenant
from harp.profile import Page, decode, read, read_bytes, top
from harp.trace.control import told

__all__ = ["Apart", "Profiles", "kernels_of"]

_log = structlog.get_logger(__name__)
_PATIENCE_S = 1.0
#: of an exemplar's names and values together, as OpenMetrics has it
_EXEMPLAR_CHARS = 128


_T = TypeVar("_T")
#: of a run, in history
_KEPT = 5


class Apart:
    """What may never return, in a thread of its own: one at a time, and nobody waits for long."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._running: Future[Any] | None = None

    async def run(self, what: Callable[..., _T], *arguments: object) -> _T | None:
        """What it returns; None: it does not in time, or one before it still has not."""
        if self._running is not None and not self._running.done():
            return None
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "folders")
        running = self._running = self._thread.submit(what, *arguments)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await asyncio.shield(asyncio.wrap_future(running))
        except TimeoutError:
            _log.warning("folder_not_read", reason="a tenant's folder does not answer")
            return None


class Profiles:
    """Those of one harpd.

    Args:
        most: kernels of a tenant that have series; 0: nothing is read.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._apart = Apart()
        # the thread's own
        self._tops = Tops(most)
        #: {key: digest of the file, what came of it}
        self._known: dict[str, tuple[int, KernelsSeen]] = {}

    async def look(
        self, tenants: Iterable[Tenant], pages: Mapping[int, Page] | None = None
    ) -> dict[int, KernelsSeen]:
        """{tenant's number: what has series}.

        Args:
            tenants: those that live.
            pages: of those whose totals are not in their folders, by number.
        """
        if not self._most:
            return {}
        pages = pages or {}
        there = [
            (tenant, pages.get(tenant.tenant_id) or Path(tenant.grant_dir))
            for tenant in tenants
            if tenant.grant_dir
        ]
        return await self._apart.run(self._read, there) or {}

    def _read(self, tenants: Sequence[tuple[Tenant, Page | Path]]) -> dict[int, KernelsSeen]:
        self._tops.keep(_key(tenant) for tenant, _ in tenants)
        known, self._known = self._known, {}
        found = {}
        for tenant, source in tenants:
            folder, key = Path(tenant.grant_dir), _key(tenant)
            if (text := read_bytes(source)) is None:
                continue
            digest = hash(text)
            last = known.get(key)
            if last is not None and last[0] == digest:
                seen = last[1]  # it did nothing
            elif (profile := decode(text)) is None or (
                isinstance(source, Page)
                and not profile.kernels
                and not any(profile.copied_bytes.values())
            ):
                continue  # nobody writes to the page, which is not the same as nothing done
            else:
                seen = KernelsSeen(self._tops.see(key, profile), profile.copied_bytes)
            self._known[key] = digest, seen
            found[tenant.tenant_id] = replace(seen, exemplar=_exemplar(folder, seen))
        return found


def kernels_of(source: Page | Path) -> tuple[tuple[str, int, float], ...]:
    """What history keeps of a tenant that has ended: see Run.kernels."""
    profile = read(source)
    kernels = top(profile, _KEPT) if profile is not None else ()
    # Of launches since the last sample nobody said how long they took.
    return tuple((k.name, k.launches, round(k.whole_ns / 1e9, 9)) for k in kernels)


def _key(tenant: Tenant) -> str:
    # Numbers of tenants come again; folders do not.
    return f"{tenant.tenant_id}@{tenant.grant_dir}"


def _exemplar(folder: Path, seen: KernelsSeen) -> Exemplar | None:
    """The trace that is being made of a tenant that did something."""
    trace = told(folder) if seen.kernels else None
    if trace is None:
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
