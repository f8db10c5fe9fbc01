# SPDX-License-Identifier: Apache-2.0
"""`python -m device_plugin remote`: shares of GPUs elsewhere, for pods of a node without one."""

from __future__ import annotations

import argparse
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from device_plugin.allocator import Chooser
from device_plugin.answer import Answer
from device_plugin.api import Access, ApiServer
from device_plugin.asked import Events, Holders, LoggedEvents, NodePods, NoPods
from device_plugin.book import Book, Grant, grant_id
from device_plugin.checkpoint import Checkpoint, load, save
from device_plugin.kubelet import PodResources
from device_plugin.loops import again_and_again
from device_plugin.metrics import Counts, Part
from device_plugin.orphans import Orphans
from device_plugin.pages import LISTED_S, Now, Pages, serve_pages
from device_plugin.plugin import Registrar, Tempo
from device_plugin.remote_keeper import Keeper
from device_plugin.remote_share import SLOTS, PoolSlots, remote_answer, remote_limits
from device_plugin.remote_starts import RemoteStarts
from device_plugin.server import Listing, Served, Service, serve
from device_plugin.settings import Settings, common_arguments, common_values
from device_plugin.starts import Patience
from harp.inject import shim_dir
from harp.keep_wire import BOXES
from harp.metrics.server import Route
from harp.native import find
from harp.rundir import find as find_run_dir

__all__ = ["RemotePlugin", "RemoteSettings", "run"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RemoteSettings(Settings):
    """As Settings, with names of its own beside those of a local plugin."""

    resource: str = "harp.dev/remote-gpu-share"
    endpoint: str = "harp-remote-gpu-share.sock"
    slots: int = SLOTS  #: of the node; 100 are one GPU

    @property
    def checkpoint(self) -> Path:
        """See Settings."""
        return self.state_dir / "device-plugin-remote.json"

    @property
    def grants(self) -> Path:
        """Folder of the boxes."""
        return self.run_dir / BOXES


class _Service(Service):
    """As Service, where ids are no GPU's."""

    _slots: PoolSlots

    def _given(self, ids: Sequence[str]) -> Answer:
        remote_limits(self._slots, ids)  # refuses
        return self._answer((), grant_id(ids))


class RemotePlugin:
    """One node's plugin of remote shares: registration and the sweep, each in a thread.

    Args:
        settings: where things are.
        shim: folder of our libraries, on the host.
        book: grants of before.
        keeper: who holds leases.
        holders: kubelet's list.
        pods: the API server.
        events: the same.
    """

    def __init__(
        self,
        settings: RemoteSettings,
        shim: Path,
        book: Book,
        *,
        keeper: Keeper,
        holders: Holders,
        pods: NodePods,
        events: Events,
        tempo: Tempo | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._settings = settings
        self._shim = shim
        self._tempo = tempo or Tempo()
        self._slots = slots = PoolSlots(settings.slots)
        self.counts = Counts(settings.resource)
        self.starts = RemoteStarts(
            slots,
            book,
            settings.grants,
            node=settings.node,
            tenants=keeper,
            holders=holders,
            pods=pods,
            events=events,
            save=self._save,
            patience=patience,
            counts=self.counts,
        )
        self.orphans = Orphans(settings.grants, self.starts, keeper, holders)
        self.listing = Listing(slots, topology=False)
        self.registration = Registrar(settings, self._serve, self._tempo.look_s, self.counts)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listed = PodResources(settings.pod_resources, settings.resource, LISTED_S)
        self._pages = Pages(slots, self.counts, self._listed, self._now, lambda: self._threads)

    def start(self) -> None:
        """Begin; returns at once."""
        self._threads = [
            threading.Thread(target=work, name=work.__qualname__, daemon=True)
            for work in (self.registration.run, self._sweep)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End. Containers and their leases go on."""
        self._stop.set()
        self.registration.stop()
        for thread in self._threads:
            thread.join()
        self._listed.close()

    def routes(self) -> Mapping[str, Route]:
        """Pages of this plugin by path."""
        return self._pages.routes()

    def _now(self) -> Now:
        grants = len(self.starts.living())
        return Now(registered=self.registration.state.registered, grants=grants, ill=())

    def _serve(self, streams: Callable[[bool], None]) -> Served:
        service = _Service(
            self._slots,
            self.listing,
            Chooser(),
            answer=self._answer,
            starter=self.starts,
            counts=self.counts,
        )
        service.streams = streams
        return serve(self._settings.own_socket, service, self.listing)

    def _answer(self, _uuids: Sequence[str], key: str) -> Answer:
        box = self._settings.grants / key
        return remote_answer(str(self._shim), str(box), self._settings.library_dirs)

    def _save(self, grants: Sequence[Grant]) -> None:
        save(self._settings.checkpoint, Checkpoint(None, 0, tuple(grants)), sync=False)

    def _sweep(self) -> None:
        def sweep() -> None:
            try:
                self.starts.sweep()
            finally:  # what is nobody's is so whatever stands in the way of others
                self.orphans.sweep()

        period_s, part = self._tempo.sweep_s, Part.SWEEP
        again_and_again(sweep, self._stop, period_s, part, self.counts, at_once=True)


def run(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT.

    Raises:
        HarpError: it cannot begin.
    """
    settings = _settings(arguments)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    shim = shim_dir(find(os.environ), settings.state_dir, keep_old=True)
    access = Access.in_cluster(os.environ)
    api = ApiServer(access, settings.node) if access else None
    if api is None:
        _log.warning("annotations_not_read", reason="this is no pod: no API server is known")
    holders = PodResources(settings.pod_resources, settings.resource)
    plugin = RemotePlugin(
        settings,
        shim,
        Book(load(settings.checkpoint).grants),
        keeper=Keeper(settings.run_dir),
        holders=holders,
        pods=api or NoPods(),
        events=api or LoggedEvents(),
    )
    plugin.start()
    pages = serve_pages(settings.metrics_listen, plugin.routes())
    ended.wait()
    if pages is not None:
        pages.stop()
    plugin.stop()
    for part in (holders, api):
        if part is not None:
            part.close()
    return 0


def _settings(arguments: Sequence[str]) -> RemoteSettings:
    usual = RemoteSettings(run_dir=find_run_dir(os.environ).path)
    parser = argparse.ArgumentParser(prog="device_plugin remote", description=__doc__)
    common_arguments(parser, usual)
    parser.add_argument("--slots", type=int, default=usual.slots, help="100 are one GPU")
    given = parser.parse_args(arguments)
    PoolSlots(given.slots)  # refuses
    return RemoteSettings(**common_values(given, usual), slots=given.slots)
