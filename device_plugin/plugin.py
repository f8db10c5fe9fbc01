# SPDX-License-Identifier: Apache-2.0
"""The plugin as a whole: what is looked at when, and by whom.

One thread per concern, each with a period of its own: registration (also woken by what kubelet does
to our streams), the sweep of grants, the GPUs' health. They share nothing but what is said in
Starts, Listing and the queue of events.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from device_plugin import health
from device_plugin.allocator import Chooser
from device_plugin.answer import Answer, Hardware, answer
from device_plugin.asked import Events, Holders, NodePods
from device_plugin.book import Book, Grant
from device_plugin.checkpoint import Checkpoint, save
from device_plugin.edits import Edits
from device_plugin.estimates import Estimates
from device_plugin.hint import hinted, served
from device_plugin.kubelet import PodResources, register, socket_file
from device_plugin.loops import again_and_again
from device_plugin.metrics import Counts, Part
from device_plugin.orphans import Orphans, StrayTenants
from device_plugin.pages import LISTED_S, Now, Pages
from device_plugin.registration import (
    Action,
    Event,
    Failed,
    Look,
    Register,
    Registered,
    Serve,
    SocketFile,
    State,
    StreamBegan,
    StreamEnded,
    step,
)
from device_plugin.registration import Served as Listening
from device_plugin.server import Listing, Served, Service, serve
from device_plugin.settings import Settings
from device_plugin.signs import Signs
from device_plugin.slots import Slots
from device_plugin.starts import Patience, Starts
from device_plugin.tenants import NodeView, Tenants
from harp.errors import HarpError
from harp.metrics import families
from harp.metrics.server import Route

__all__ = ["Others", "Plugin", "Registrar", "Tempo"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Tempo:
    """How often to look."""

    look_s: float = 0.2  #: at kubelet's folder: two stat calls
    sweep_s: float = 5.0
    health_s: float = 20.0  #: between probes, at most; events come when they come
    edits_s: float = 10.0  #: at the annotations of running pods
    wake_s: float = 1.0  #: longest that stop() waits for a thread


class HeldTenants(Tenants, StrayTenants, Estimates, Protocol):
    """harpd, as far as the plugin needs it."""


@dataclass(frozen=True, slots=True)
class Others:
    """Whom the plugin talks to, besides kubelet's registration."""

    tenants: HeldTenants
    holders: Holders
    pods: NodePods
    events: Events
    signs: Signs


class Plugin:
    """One node's plugin.

    Args:
        settings: where things are.
        node: its GPUs.
        hardware: what containers are given of it.
        others: whom to ask.
        book: grants of before.

    Raises:
        ConfigError: as Slots.
    """

    def __init__(
        self,
        settings: Settings,
        node: NodeView,
        hardware: Hardware,
        others: Others,
        book: Book,
        *,
        chooser: Chooser | None = None,
        tempo: Tempo | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._settings = settings
        self._node = node
        self._slots = slots = Slots(node.gpus, settings.slots_per_gpu)
        self._hardware = hardware
        self._others = others
        self._tempo = tempo or Tempo()
        self._chooser = chooser or Chooser()
        self.counts = Counts(settings.resource, [(gpu.uuid, gpu.index) for gpu in slots.gpus])
        self.starts = Starts(
            slots,
            book,
            settings.grants,
            node=settings.node,
            tenants=others.tenants,
            holders=others.holders,
            pods=others.pods,
            events=others.events,
            save=self._save,
            counts=self.counts,
            patience=patience,
            estimates=others.tenants,
            modes=settings.modes,
        )
        self.orphans = Orphans(settings.grants, self.starts, others.tenants, others.holders)
        self.edits = Edits(self.starts, others.pods, others.events, settings.node)
        self.listing = Listing(slots, topology=settings.topology)
        self.registration = Registrar(settings, self._serve, self._tempo.look_s, self.counts)
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        self._listed = PodResources(settings.pod_resources, settings.resource, LISTED_S)
        self._pages = Pages(slots, self.counts, self._listed, self._now, lambda: self._threads)
        #: {uuid: health}, of the health thread
        self._health = {gpu.uuid: health.Health() for gpu in slots.gpus}

    def start(self) -> None:
        """Begin; returns at once."""
        self._save(self.starts.living(), sync=True)  # the GPUs, for a start without harpd
        self._threads = [
            threading.Thread(target=work, name=work.__qualname__, daemon=True)
            for work in (self.registration.run, self._sweep, self._look_after, self._follow)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End. Containers and their tenants go on."""
        self._stop.set()
        self.registration.stop()
        for thread in self._threads:
            thread.join()
        self._listed.close()

    def routes(self) -> Mapping[str, Route]:
        """Pages of this plugin by path."""
        return self._pages.routes()

    def _now(self) -> Now:
        return Now(
            registered=self.registration.state.registered,
            grants=len(self.starts.living()),
            ill=self.listing.ill,
        )

    def _serve(self, streams: Callable[[bool], None]) -> Served:
        service = Service(
            self._slots,
            self.listing,
            self._chooser,
            answer=self._answer,
            starter=self.starts,
            hint=self._hint,
            counts=self.counts,
        )
        service.streams = streams
        return serve(self._settings.own_socket, service, self.listing)

    def _answer(self, uuids: Sequence[str], key: str) -> Answer:
        folder = self._settings.grants / key
        return answer(self._hardware, uuids, folder, self._settings.library_dirs)

    def _save(self, grants: Sequence[Grant], *, sync: bool = False) -> None:
        checkpoint = Checkpoint(self._node, self._slots.per_gpu, tuple(grants))
        save(self._settings.checkpoint, checkpoint, sync=sync)

    def _sweep(self) -> None:
        def sweep() -> None:
            self.starts.sweep()
            self.orphans.sweep()

        # At once: of what happened while we were away nobody tells us.
        period_s, part = self._tempo.sweep_s, Part.SWEEP
        again_and_again(sweep, self._stop, period_s, part, self.counts, at_once=True)

    def _hint(self, size: int) -> tuple[int, ...]:
        """What the extender has promised to whoever kubelet asks for; see hint.py."""
        if len(self._slots.gpus) == 1:
            return ()
        try:
            waiting = self._others.pods.here(pending=True)
        except HarpError as error:
            self.counts.failed(Part.HINT)
            _log.warning("hint_not_read", reason=error.message)
            return ()
        have = served(self.starts.living(), waiting)
        return hinted(self._slots, size, waiting, have, self._settings.node)

    def _follow(self) -> None:
        period_s = self._tempo.edits_s
        again_and_again(self.edits.look, self._stop, period_s, Part.EDITS, self.counts)

    def _look_after(self) -> None:
        due_s = 0.0
        # Where less time without trouble is enough, good probes are not to be waited for longer.
        period_s = self._tempo.health_s * min(1.0, self._settings.clean_s / health.CLEAN_S)
        while not self._stop.is_set():
            try:
                seen = [*self._others.signs.wait(min(self._tempo.wake_s, period_s))]
                if time.monotonic() >= due_s:
                    due_s = time.monotonic() + period_s
                    seen += self._others.signs.probe(tuple(self._health)).items()
            except HarpError as error:
                # Who is asked is away: that says nothing of the GPUs.
                self.counts.failed(Part.HEALTH)
                _log.warning("health_unknown", reason=error.message)
                continue
            except Exception:  # noqa: BLE001 - one odd answer may not end the watch
                self.counts.failed(Part.HEALTH)
                _log.exception("health_broken")
                self._stop.wait(self._tempo.wake_s)
                continue
            for uuid, event in seen:
                if uuid in self._health:
                    before = self._health[uuid]
                    if isinstance(event, health.Xid):
                        self.counts.add_gpu(families.PLUGIN_XID, uuid, str(event.code))
                    now_s, clean_s = time.monotonic(), self._settings.clean_s
                    self._health[uuid] = health.step(before, event, now_s, clean_s)
                    if before.healthy and not self._health[uuid].healthy:
                        self.counts.add_gpu(families.PLUGIN_ILL, uuid)
            self.listing.set_ill({u: h.why for u, h in self._health.items() if not h.healthy})


@dataclass(slots=True)
class Registrar:
    """Performs what registration.step() says. One thread, run(); the rest only queues events."""

    settings: Settings
    serve: Callable[[Callable[[bool], None]], Served]
    look_s: float
    counts: Counts = field(default_factory=Counts)
    #: as of the last event; written by run() alone
    state: State = field(default_factory=State)
    _events: queue.SimpleQueue[tuple[int, Event] | None] = field(default_factory=queue.SimpleQueue)
    _served: Served | None = None
    #: servers so far: what the streams of an earlier one do says nothing
    _generation: int = 0
    #: of the last kubelet that was there
    _kubelet: SocketFile | None = None
    #: monotonic s when it was first seen, until it takes us; None: it has, or is the first one
    _awaited_s: float | None = None

    def run(self) -> None:
        """Until stop()."""
        try:
            while True:
                try:
                    queued = self._events.get(timeout=self.look_s)
                except queue.Empty:
                    self._take(self._look())
                    continue
                if queued is None:
                    return
                generation, event = queued
                if generation == self._generation:
                    self._take(event)
        finally:
            if self._served is not None:
                self._served.stop()

    def stop(self) -> None:
        """End run()."""
        self._events.put(None)

    def _take(self, event: Event) -> None:
        was = self.state.registered
        self.state, actions = step(self.state, event, time.monotonic())
        if isinstance(event, Registered):
            self.counts.add(families.PLUGIN_REGISTRATIONS)
        kubelet = self.state.kubelet
        if kubelet is not None and kubelet != self._kubelet:
            if self._kubelet is not None:
                self.counts.add(families.PLUGIN_KUBELET_RESTARTS)
                self._awaited_s = time.monotonic()
            self._kubelet = kubelet
        if self.state.registered and self._awaited_s is not None:
            waited_s = time.monotonic() - self._awaited_s
            self.counts.observe(families.PLUGIN_REREGISTER, waited_s)
            self._awaited_s = None
        if self.state.registered != was:
            _log.info("registration", registered=self.state.registered)
        for action in actions:
            self._take(self._perform(action))

    def _look(self) -> Look:
        return Look(
            socket_file(self.settings.own_socket), socket_file(self.settings.kubelet_socket)
        )

    def _perform(self, action: Action) -> Event:
        try:
            match action:
                case Serve():
                    return self._serve_anew()
                case Register(kubelet):
                    path, endpoint = self.settings.kubelet_socket, self.settings.endpoint
                    register(path, endpoint, self.settings.resource)
                    return Registered(kubelet)
        except HarpError as error:
            self.counts.failed(Part.REGISTRATION)
            _log.warning("registration_failed", action=type(action).__name__, reason=error.message)
        except Exception:  # noqa: BLE001 - without this thread the node has no plugin any more
            self.counts.failed(Part.REGISTRATION)
            _log.exception("registration_broken", action=type(action).__name__)
        return Failed(action)

    def _serve_anew(self) -> Event:
        if self._served is not None:
            self._served.stop()
            self._served = None
        self._generation += 1
        generation = self._generation

        def streams(alive: bool) -> None:  # noqa: FBT001 - one word of a callback
            with contextlib.suppress(Exception):
                self._events.put((generation, StreamBegan() if alive else StreamEnded()))

        self._served = self.serve(streams)
        own = socket_file(self.settings.own_socket)
        return Failed(Serve()) if own is None else Listening(own)
