# SPDX-License-Identifier: Apache-2.0
"""The plugin's pages: what Prometheus is told at the moment of a scrape, and whether it is well."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

import structlog

from device_plugin.identity import Holding
from device_plugin.kubelet import PodResources
from device_plugin.metrics import Counts, Part
from device_plugin.slots import Slots
from harp.config import listen_address
from harp.errors import DaemonUnreachable
from harp.metrics import PLUGIN, Page, Sample, Server, ServerThread, expose, families
from harp.metrics.server import Route

__all__ = ["LISTED_S", "Now", "Pages", "held", "serve_pages"]

_log = structlog.get_logger(__name__)
#: for kubelet to say at a scrape who has what; a scrape may take 10 s in all
LISTED_S = 1.0


@dataclass(frozen=True, slots=True)
class Now:
    """What is so at the moment."""

    registered: bool
    grants: int
    ill: Collection[str]  #: UUIDs


class Pages:
    """The pages of one plugin.

    Args:
        slots: of the node.
        counts: what was counted so far.
        listed: kubelet's list; asked at each scrape, so that a container is seen from its
            admission on, before it starts. It must answer or fail within a second or so.
        now: says what is so.
        threads: those that must live.
    """

    def __init__(
        self,
        slots: Slots,
        counts: Counts,
        listed: PodResources,
        now: Callable[[], Now],
        threads: Callable[[], Iterable[threading.Thread]],
    ) -> None:
        self._slots = slots
        self._counts = counts
        self._listed = listed
        self._now = now
        self._threads = threads

    def routes(self) -> Mapping[str, Route]:
        """The pages by path."""
        return {"/metrics": self.metrics, "/healthz": self.healthz}

    async def metrics(self, accept: str) -> Page:
        """All series. A kubelet that does not answer is counted: then nobody's slots are told."""
        return Page(*await asyncio.to_thread(self._text, accept))

    async def healthz(self, _accept: str) -> Page:
        """Whether all threads live."""
        ended = [thread.name for thread in self._threads() if not thread.is_alive()]
        if not ended:
            return Page(b"ok\n")
        said = f"ended: {', '.join(ended)}; see the plugin's log\n"
        return Page(said.encode(), status=HTTPStatus.SERVICE_UNAVAILABLE)

    def _text(self, accept: str) -> tuple[bytes, str]:
        try:
            holdings = self._listed.holdings()
        except DaemonUnreachable as error:
            _log.warning("slots_not_told", reason=error.message)
            self._counts.failed(Part.LIST)
            holdings = []
        now = self._now()
        told = self._counts.samples(registered=now.registered, grants=now.grants, ill=now.ill)
        slots = held(self._slots, self._counts.resource, holdings)
        return expose(PLUGIN, [*told, *slots], accept)


def serve_pages(listen: str, routes: Mapping[str, Route]) -> ServerThread | None:
    """Serve them in a thread of its own; None: nowhere.

    Args:
        listen: PORT (loopback alone) or HOST:PORT; "": nowhere.
        routes: the pages by path.

    Raises:
        ConfigError: `listen` is no address.
    """
    address = listen_address(listen)
    if address is None:
        return None
    pages = ServerThread(Server(routes), *address, "--metrics")
    pages.start()
    return pages


def held(slots: Slots, resource: str, holdings: Iterable[Holding]) -> list[Sample]:
    """Who has how many slots of which GPU; ids of GPUs that are gone are nobody's."""
    found = []
    for holding in holdings:
        owner = holding.owner
        count = Counter(slots.all[name].gpu for name in holding.ids if name in slots.all)
        for place, number in sorted(count.items()):
            gpu = slots.gpus[place]
            of = (resource, owner.namespace, owner.pod, owner.container, str(gpu.index), gpu.uuid)
            found.append(Sample(families.PLUGIN_SLOTS, of, number))
    return found
