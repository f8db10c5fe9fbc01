# SPDX-License-Identifier: Apache-2.0
"""A container is about to start: find out whose it is, and give it what its slots stand for.

Tenants are made here and not at Allocate. At Allocate an init container's slots may be given to the
containers after it while it is yet to run: two tenants of one share would be promised. Here whoever
had the slots before has ended. And Allocate, which kubelet calls under a lock of its own, asks
nobody.

Fail-static: while harpd is away, a container whose tenant lives starts again, others wait.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from device_plugin.allocator import check, limits
from device_plugin.annotations import refine
from device_plugin.asked import Events, Holders, LoggedEvents, NodePods, NoPods
from device_plugin.book import Book, Grant, grant_id, missing
from device_plugin.identity import (
    Ambiguous,
    Holding,
    Kind,
    Match,
    Owner,
    Pod,
    Unknown,
    find,
    find_init,
)
from device_plugin.metrics import AMBIGUOUS, UNKNOWN, Counts
from device_plugin.slots import Slots
from device_plugin.tenants import Tenants, alive, drop_folder, make_folder, tenant_name
from device_plugin.turns import Turns
from harp.errors import DaemonError, DaemonUnreachable, HarpError
from harp.metrics import families
from harp.model import Limits

__all__ = ["Events", "Holders", "LoggedEvents", "NoPods", "Patience", "Starts"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a start waits; kubelet waits 30 s and then tries again."""

    identity_s: float = 5.0  #: for kubelet to list the container
    harpd_s: float = 15.0  #: for a harpd that is being restarted
    pause_s: float = 0.1  #: between two looks


class Starts:
    """All starts of this node. Called from several threads.

    What slots stand for is said by _bare() and _refined().

    Args:
        slots: of the node.
        book: living grants, as the checkpoint knew them.
        grants: folder of grant folders.
        node: this node's name.
        tenants: harpd.
        holders: kubelet.
        pods: the API server.
        events: the same.
        save: writes the book down.
        counts: what is counted of them.
        patience: how long to wait for others.
    """

    maker = "harpd"  #: who makes tenants, in words

    def __init__(
        self,
        slots: Slots,
        book: Book,
        grants: Path,
        *,
        node: str,
        tenants: Tenants,
        holders: Holders,
        pods: NodePods,
        events: Events,
        save: Callable[[Sequence[Grant]], None],
        counts: Counts | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._slots = slots
        self._book = book
        self._grants = grants
        self._node = node
        self._tenants = tenants
        self._holders = holders
        self._pods = pods
        self._events = events
        self._save = save
        self._patience = patience or Patience()
        self._turns = Turns()
        #: guards _book, _missing and _changes
        self._lock = threading.Lock()
        #: of the book, so far, and how many of them are written; one writes at a time
        self._changes = self._written = 0
        self._writing = threading.Lock()
        #: see book.missing()
        self._missing: dict[str, float] = {}
        self.counts = counts or Counts()

    def start(self, ids: Collection[str]) -> Grant:
        """Give a container its grant; when this returns it may run.

        Raises:
            HarpError: not now.
        """
        bare = self._bare(ids)
        with self._turns.at(bare.id):
            grant = self._named(bare)
            self._give(grant)
        return grant

    def _bare(self, ids: Collection[str]) -> Grant:
        """What these ids stand for by themselves."""
        share = check(self._slots, ids)
        uuids = tuple(self._slots.gpus[gpu].uuid for gpu in share.gpus)
        return Grant(grant_id(ids), frozenset(ids), uuids, limits(self._slots, share))

    def _refined(self, bare: Grant, pod: Pod) -> Limits:
        """Its limits, as the pod's annotations say; what cannot be done so is an event."""
        refined, problems = refine(bare.limits, pod.annotations)
        for problem in problems:
            self._events.tell(pod, "HarpAnnotation", problem.message)
        return refined

    def living(self) -> tuple[Grant, ...]:
        """The grants as they are now."""
        with self._lock:
            return tuple(self._book)

    def edit(self, grant: Grant, pod: Pod) -> bool:
        """Give a running container what its pod's annotations say by now; whether that is new.

        Raises:
            HarpError: harpd does not answer, or refuses; it keeps what it has.
        """
        with self._turns.at(grant.id):
            with self._lock:
                if self._book.get(grant.id) != grant:
                    return False  # it starts anew meanwhile, and reads them itself
            refined = self._refined(self._bare(grant.ids), pod)
            edited = replace(grant, limits=refined, pod_uid=pod.uid)
            if edited == grant:
                return False
            if refined != grant.limits:
                self._tenants.ensure(edited, make_folder(self._grants, grant.id))
            self._put(edited)
        self._write()
        _log.info("grant_edited", grant=grant.id, owner=str(grant.owner))
        return refined != grant.limits

    def sweep(self) -> None:
        """End the grants of containers that are gone; make tenants again that are.

        Raises:
            DaemonError: kubelet or harpd does not answer; nothing was ended that lives.
        """
        listed = {holding.ids for holding in self._holders.holdings()}
        living = self._tenants.living()
        with self._lock:
            now_s = time.monotonic()
            self._missing, ended = missing(tuple(self._book), listed, self._missing, now_s)
        if ended:
            ended = self._gone(ended, listed=bool(listed))
        for grant in ended:
            if living.get(tenant_name(grant)):
                _log.warning("grant_unlisted_but_used", grant=grant.id, owner=str(grant.owner))
            else:
                self._end_unless_given_anew(grant)
        for grant in self.living():
            if tenant_name(grant) not in living and grant.ids in listed:
                # Somebody removed it, or harpd has lost it.
                self._again(grant)

    @contextlib.contextmanager
    def nobodys(self, key: str) -> Iterator[bool]:
        """Whether a grant is in nobody's hands; then nobody takes it meanwhile."""
        with self._turns.at(key):
            with self._lock:
                free = self._book.get(key) is None
            yield free

    def _gone(self, grants: Sequence[Grant], *, listed: bool) -> tuple[Grant, ...]:
        """Those of these whose containers are gone for the API server as well.

        Init containers are in no list of kubelet's. And a kubelet that lists nobody has no pod, or
        has just begun and was told of none: be that in an hour, their containers go on meanwhile.
        """
        pods, answered = self._ask({g.owner.pod_key for g in grants if g.owner is not None})
        if not answered:
            with self._lock:
                self._missing = {}  # from the beginning, when there is somebody who knows
            return ()
        here = {
            Owner(pod.namespace, pod.name, container.name)
            for pod in pods
            if pod.node == self._node and not pod.ended
            for container in pod.containers
            if not listed or (container.kind is Kind.INIT and not container.ended)
        }
        return tuple(g for g in grants if g.owner not in here)

    def _named(self, bare: Grant) -> Grant:
        """The grant with its owner and its limits; bare if nobody can be named."""
        found, sure = self._find(bare)
        match found:
            case Match(owner, None):
                with self._lock:
                    before = self._book.get(bare.id)
                if not sure and before is not None and before.owner == owner:
                    return before  # what the API server said when it was last asked
                return replace(bare, owner=owner)
            case Match(owner, pod) if pod is not None:
                return replace(bare, owner=owner, pod_uid=pod.uid, limits=self._refined(bare, pod))
            case Ambiguous(candidates):
                self.counts.add(families.PLUGIN_UNRESOLVED, AMBIGUOUS)
                self._say_unsure(candidates)
            case _:
                self.counts.add(families.PLUGIN_UNRESOLVED, UNKNOWN)
                _log.warning("owner_unknown", grant=bare.id)
        return bare

    def _find(self, bare: Grant) -> tuple[Match | Ambiguous | Unknown, bool]:
        """As _look(), when it is sure or patience is at its end."""
        deadline = time.monotonic() + self._patience.identity_s
        while True:
            found, sure = self._look(bare)
            if sure or time.monotonic() >= deadline:
                return found, sure
            time.sleep(self._patience.pause_s)

    def _look(self, bare: Grant) -> tuple[Match | Ambiguous | Unknown, bool]:
        """Who it is as far as can be said now; whether to wait would tell no more.

        Two that kubelet lists will be one when it has cleared up. A pod that the API server does
        not know may be a static one, whose mirror comes when it comes: that is not waited for.
        """
        try:
            holdings = self._holders.holdings()
        except DaemonUnreachable as error:
            _log.warning("kubelet_silent", reason=error.message)
            return Unknown(), False
        pods, answered = self._ask({h.owner.pod_key for h in holdings if h.ids == bare.ids})
        found = find(bare.ids, holdings, pods, self._node)
        if isinstance(found, Unknown):
            found = self._find_init(bare, holdings)
        return found, answered and isinstance(found, Match)

    def _find_init(self, bare: Grant, holdings: Sequence[Holding]) -> Match | Unknown:
        try:
            return find_init(bare.ids, holdings, self._pods.here(pending=True), self._node)
        except DaemonUnreachable as error:
            _log.warning("api_silent", reason=error.message)
            return Unknown()

    def _ask(self, keys: Collection[tuple[str, str]]) -> tuple[Sequence[Pod], bool]:
        try:
            return self._pods.named(keys), True
        except DaemonUnreachable as error:
            _log.warning("api_silent", reason=error.message)
            return (), False

    def _say_unsure(self, candidates: Sequence[Owner]) -> None:
        names = ", ".join(map(str, candidates))
        _log.warning("owner_ambiguous", candidates=names)
        pods, _ = self._ask({owner.pod_key for owner in candidates})
        for pod in pods:
            self._events.tell(
                pod,
                "HarpOwnerAmbiguous",
                f"kubelet lists the same slots for {names}: annotations are not read, the container"
                " gets what its harp.dev/gpu-share says",
            )

    def _give(self, grant: Grant) -> None:
        with self._lock:
            before = self._book.get(grant.id)
            others = self._book.overlapping(grant)
        same = before is not None and before.owner == grant.owner
        # Of a pod that came again under its name, where both are known.
        if before is not None and before.pod_uid and grant.pod_uid:
            same = same and before.pod_uid == grant.pod_uid
        folder = self._grants / grant.id
        deadline = time.monotonic() + self._patience.harpd_s
        while True:
            try:
                for other in others:
                    self._end(other)
                others = ()
                if before is not None and not same:
                    self._end(before)
                    before = None
                folder = make_folder(self._grants, grant.id)
                self._tenants.ensure(grant, folder)
            except DaemonUnreachable as error:
                if same and alive(folder):
                    _log.warning("started_without_harpd", grant=grant.id, reason=error.message)
                    return
                if time.monotonic() >= deadline:
                    raise DaemonUnreachable(
                        f"{self.maker} does not answer, and grant {grant.id} is new:"
                        f" {error.message}",
                        "kubelet tries again; see the daemon's pod on this node",
                    ) from error
                time.sleep(self._patience.pause_s)
            else:
                break
        self._put(grant)
        self._write()
        _log.info("grant_given", grant=grant.id, owner=str(grant.owner), gpus=grant.uuids)

    def _put(self, grant: Grant) -> None:
        """To be written by the caller."""
        with self._lock:
            self._book.put(grant)
            self._missing.pop(grant.id, None)
            self._changes += 1

    def _again(self, grant: Grant) -> None:
        try:
            with self._turns.at(grant.id):
                with self._lock:
                    if self._book.get(grant.id) != grant:
                        return  # it was given anew meanwhile
                self._tenants.ensure(grant, make_folder(self._grants, grant.id))
        except DaemonError:
            raise
        except HarpError as error:
            _log.error("tenant_not_made_again", grant=grant.id, reason=error.message)
        else:
            _log.info("tenant_made_again", grant=grant.id)

    def _end_unless_given_anew(self, grant: Grant) -> None:
        with self._turns.at(grant.id):
            with self._lock:
                # A start in between takes it off the missing, and perhaps on for another.
                if self._book.get(grant.id) != grant or grant.id not in self._missing:
                    return
            self._end(grant)
            self._write()
            _log.info("grant_ended", grant=grant.id, owner=str(grant.owner))

    def _end(self, grant: Grant) -> None:
        """To be written by the caller. Should we end before, the next one ends it once more."""
        self._tenants.remove(grant)
        drop_folder(self._grants / grant.id)
        with self._lock:
            self._book.remove(grant.id)
            self._changes += 1

    def _write(self) -> None:
        """Have the book written as it is now; one write serves all who waited for it."""
        with self._lock:
            mine = self._changes
        with self._writing:
            if self._written >= mine:
                return
            with self._lock:
                grants, upto = tuple(self._book), self._changes
            self._save(grants)
            self._written = upto
