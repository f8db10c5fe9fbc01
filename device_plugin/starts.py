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
from dataclasses import replace
from pathlib import Path

import structlog

from device_plugin.allocator import check, limits
from device_plugin.annotations import refine
from device_plugin.asked import Events, Holders, LoggedEvents, NodePods, NoPods
from device_plugin.book import Book, Grant, grant_id, misnamed, missing
from device_plugin.estimates import Estimates, Modes, capped
from device_plugin.identity import Ambiguous, Holding, Match, Pod
from device_plugin.lowering import Lowering
from device_plugin.metrics import AMBIGUOUS, UNKNOWN, Counts
from device_plugin.slots import Slots
from device_plugin.tenants import Tenants, alive, drop_folder, make_folder, tenant_name
from device_plugin.turns import Turns
from device_plugin.whose import Patience, Whose
from harp.errors import DaemonError, DaemonUnreachable, HarpError, QuotaExceeded
from harp.metrics import families
from harp.model import Limits

__all__ = ["Events", "Holders", "LoggedEvents", "NoPods", "Patience", "Starts"]

_log = structlog.get_logger(__name__)


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
        estimates: who says what containers will need; None: nobody.
        modes: what comes of that.
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
        estimates: Estimates | None = None,
        modes: Modes | None = None,
    ) -> None:
        self._slots = slots
        self._lowering = Lowering(slots, events, estimates, modes)
        self._book = book
        self._grants = grants
        self._tenants = tenants
        self._holders = holders
        self._events = events
        self._save = save
        self._patience = patience or Patience()
        self._whose = Whose(holders, pods, events, node, self._patience)
        self._turns = Turns()
        #: guards _book, _missing and _changes
        self._lock = threading.Lock()
        #: of the book, so far, and how many of them are written; one writes at a time
        self._changes = self._written = 0
        #: {grant id: the change by which it was given or edited}
        self._given_at: dict[str, int] = {}
        self._writing = threading.Lock()
        #: see book.missing()
        self._missing: dict[str, float] = {}
        self.counts = counts or Counts()

    def start(self, ids: Collection[str], waited: Callable[[], bool] = lambda: True) -> Grant:
        """Give a container its grant: it may run.

        Args:
            ids: its slots.
            waited: whether somebody waits for this still. If not, its slots may be another's.

        Raises:
            HarpError: not now.
        """
        bare = self._bare(ids)
        while True:
            with self._turns.at(bare.id):
                with self._lock:
                    named_at = self._changes
                grant = self._named(bare)
            if given := self._give_in_turn(grant, named_at, waited):
                return given
            _check_waited(waited, bare)

    def _give_in_turn(
        self, grant: Grant, named_at: int, waited: Callable[[], bool]
    ) -> Grant | None:
        """None: slots of it were given since it was named, so one of two pods is gone: which?"""
        keys = {grant.id}
        while True:
            with self._turns.all(keys):
                with self._lock:
                    others = self._book.overlapping(grant)
                    there = {grant.id, *(other.id for other in others)}
                    if any(self._given_at.get(key, 0) > named_at for key in there):
                        return None
                if keys.issuperset(there):
                    return self._give(grant, others, waited)
            keys |= there

    def _bare(self, ids: Collection[str]) -> Grant:
        """What these ids stand for by themselves."""
        share = check(self._slots, ids)
        uuids = tuple(self._slots.gpus[gpu].uuid for gpu in share.gpus)
        means = limits(self._slots, share)
        return Grant(grant_id(ids), frozenset(ids), uuids, means, share=means)

    def _refined(self, share: Limits, key: str, pod: Pod) -> Limits:
        """What its share is by the pod's annotations; what cannot be done so is an event."""
        del key  # of the grant
        refined, problems = refine(share, pod.annotations)
        for problem in problems:
            self._events.tell(pod, "HarpAnnotation", problem.message)
        return refined

    def living(self) -> tuple[Grant, ...]:
        """The grants as they are now."""
        with self._lock:
            return tuple(self._book)

    def edit(self, grant: Grant, pod: Pod) -> bool:
        """Give a running container what its pod's annotations say by now; whether that is new.

        Of its share as that was cut: what a context is known to cost by now is the next pods'.

        Raises:
            HarpError: harpd does not answer, or refuses; it keeps what it has.
        """
        with self._turns.at(grant.id):
            with self._lock:
                if self._book.get(grant.id) != grant:
                    return False  # it starts anew meanwhile, and reads them itself
            share = grant.share or grant.limits
            refined = self._refined(share, grant.id, pod)
            # What it will need does not follow from what is edited meanwhile.
            cap = self._lowering.kept(grant, pod)
            refined = capped(refined, cap)
            edited = replace(
                grant, limits=refined, pod_uid=pod.uid, share=share, cap=cap, asked=None
            )
            if edited == grant:
                return False
            if refined != grant.limits or grant.asked is not None:
                # If we end here, or the answer is lost, the next look tells it once more.
                grant = self._ask(grant, refined)
                try:
                    self._tenants.ensure(edited, make_folder(self._grants, grant.id))
                except DaemonUnreachable:
                    raise
                except HarpError:
                    self._ask(grant, None)  # refused: it has what it had
                    raise
            self._put(edited)
        self._write()
        _log.info("grant_edited", grant=grant.id, owner=str(grant.owner))
        return refined != grant.limits

    def _ask(self, grant: Grant, limits: Limits | None) -> Grant:
        """Write down what a grant is about to get."""
        asking = replace(grant, asked=limits)
        if asking != grant:
            self._put(asking)
            self._write()
        return asking

    def sweep(self) -> None:
        """End the grants of containers that are gone; make tenants again that are.

        Raises:
            DaemonError: kubelet or harpd does not answer; nothing was ended that lives.
        """
        holdings = self._holders.holdings()
        listed = {holding.ids for holding in holdings}
        living = self._tenants.living()
        with self._lock:
            now_s = time.monotonic()
            self._missing, ended = missing(tuple(self._book), listed, self._missing, now_s)
        if ended:
            ended = self._gone(ended, holdings)
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

    def unlisted(self, holdings: Sequence[Holding]) -> Collection[int] | None:
        """See Whose."""
        return self._whose.unlisted(holdings)

    def _gone(self, grants: Sequence[Grant], holdings: Sequence[Holding]) -> tuple[Grant, ...]:
        gone = self._whose.gone(grants, holdings)
        if gone is None:
            with self._lock:
                self._missing = {}  # from the beginning, when there is somebody who knows
        return tuple(gone or ())

    def _named(self, bare: Grant) -> Grant:
        """The grant with its owner and its limits; bare if nobody can be named.

        Raises:
            DaemonError: its slots are another's.
        """
        with self._lock:
            before = self._book.get(bare.id)
            living = {grant.ids for grant in self._book}
        found = self._whose.find(bare, before, living)
        if found.taken is not None:
            raise DaemonError(
                f"{found.taken} has slots of grant {bare.id}, which kubelet lists for nobody",
                "a pod that is gone has started late; kubelet tries again if it is not",
            )
        match found.who:
            case Match(owner, pod):
                share = bare.limits
                known = ("", pod.uid if pod is not None else "")
                if before is not None and before.owner == owner and before.pod_uid in known:
                    share = before.share or share  # it starts once more
                named = replace(bare, owner=owner, limits=share, share=share)
                if pod is not None:
                    limits = self._refined(share, bare.id, pod)
                    named = replace(named, pod_uid=pod.uid, limits=limits)
                    named = self._lowering.estimated(named, pod, before)
                elif not found.sure and before is not None and before.owner == owner:
                    # What the API server said when it was last asked, perhaps of another pod of
                    # that name.
                    named = replace(before, pod_uid="", asked=None)
                return bare if self._runs_elsewhere(named, found.holdings) else named
            case Ambiguous(candidates):
                self.counts.add(families.PLUGIN_UNRESOLVED, AMBIGUOUS)
                self._whose.say_unsure(candidates)
            case _:
                self.counts.add(families.PLUGIN_UNRESOLVED, UNKNOWN)
                _log.warning("owner_unknown", grant=bare.id)
        return bare

    def _runs_elsewhere(self, named: Grant, holdings: Sequence[Holding]) -> bool:
        """Whether its owner has other slots already: then one of the two is misnamed."""
        with self._lock:
            found = misnamed(named, self._book, holdings)
        if found:
            _log.warning("owner_misnamed", grant=named.id, owner=str(named.owner))
            self.counts.add(families.PLUGIN_UNRESOLVED, AMBIGUOUS)
        return found

    def _give(self, grant: Grant, others: Sequence[Grant], waited: Callable[[], bool]) -> Grant:
        """The grant as it was given; the turn is ours at it and at the others, which end."""
        with self._lock:
            before = self._book.get(grant.id)
        same = before is not None and before.owner == grant.owner
        # Of a pod that came again under its name, where both are known.
        if before is not None and before.pod_uid and grant.pod_uid:
            same = same and before.pod_uid == grant.pod_uid
        folder = self._grants / grant.id
        deadline = time.monotonic() + self._patience.harpd_s
        while True:
            _check_waited(waited, grant)
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
                    return grant
                if time.monotonic() >= deadline:
                    raise DaemonUnreachable(
                        f"{self.maker} does not answer, and grant {grant.id} is new:"
                        f" {error.message}",
                        "kubelet tries again; see the daemon's pod on this node",
                    ) from error
                time.sleep(self._patience.pause_s)
            except QuotaExceeded as error:
                if before is None or not same or not alive(folder):
                    raise
                # It was lowered, others were promised the rest, and now it is to be raised again.
                grant = replace(grant, limits=before.limits)
                self._say_kept(grant, error)
                break
            else:
                break
        self._put(grant)
        self._write()
        _log.info("grant_given", grant=grant.id, owner=str(grant.owner), gpus=grant.uuids)
        return grant

    def _say_kept(self, grant: Grant, error: HarpError) -> None:
        _log.warning("limits_kept", grant=grant.id, owner=str(grant.owner), reason=error.message)
        if grant.owner is None:
            return
        for pod in self._whose.ask({grant.owner.pod_key})[0]:
            text = f"container {grant.owner.container} keeps what it has: {error.message}"
            self._events.tell(pod, "HarpAnnotation", text)

    def _put(self, grant: Grant) -> None:
        """To be written by the caller."""
        with self._lock:
            self._book.put(grant)
            self._missing.pop(grant.id, None)
            self._changes += 1
            self._given_at[grant.id] = self._changes

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
            self._given_at.pop(grant.id, None)
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


def _check_waited(waited: Callable[[], bool], grant: Grant) -> None:
    if not waited():
        raise DaemonError(
            f"nobody waits for the start of grant {grant.id} any more",
            "kubelet tries again, if its pod is there",
        )
