# SPDX-License-Identifier: Apache-2.0
"""Processes on a device without a session: shown, counted, and dealt with as their tenant says."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import structlog

from harp.config import WatchdogConfig
from harp.daemon.book import Book
from harp.daemon.picture import Picture
from harp.daemon.watch import Lineage, Sight, attribute, confirm
from harp.discovery import ProcessUse
from harp.model import ClientState, Policy, Tenant, Uncovered
from harp.procs import Proc, container_of, environ_of, has_mounted, name_of, send_signal

__all__ = ["Evaders", "belongs", "end"]

_log = structlog.get_logger(__name__)


class Evaders:
    """Who evades, from look to look."""

    def __init__(self, config: WatchdogConfig, book: Book) -> None:
        self._config = config
        self._book = book
        #: whose children everybody is
        self.lineage = Lineage(os.getpid())
        #: {sight: times in a row}
        self._sights: dict[Sight, int] = {}
        #: {sight: what is shown of it}
        self.uncovered: dict[Sight, Uncovered] = {}
        self.uncovered_total = 0

    def judge(
        self,
        uses: Mapping[str, Sequence[ProcessUse]],
        picture: Picture,
        procs: Mapping[int, Proc],
    ) -> None:
        """Compare the devices' processes with the sessions. `picture` is later than `uses`."""
        covered = {c.pid for c in picture.clients.values() if c.state is ClientState.LIVE}
        now = {
            Sight(use.pid, procs[use.pid].start, uuid): use
            for uuid, listed in uses.items()
            for use in listed
            # What /proc does not know is dead and being torn down, or in a pid namespace above us.
            if use.compute and use.pid not in covered and use.pid in procs
            if not procs[use.pid].zombie
        }
        self._sights, confirmed = confirm(self._sights, now, self._config.confirm_count)
        for sight in list(self.uncovered):
            if sight not in confirmed:
                _log.info("uncovered_gone", pid=sight.pid)
                del self.uncovered[sight]
        for sight in confirmed:
            mem_bytes = now[sight].mem_bytes or 0
            if sight in self.uncovered:
                self.uncovered[sight] = replace(self.uncovered[sight], mem_bytes=mem_bytes)
            else:
                self._alarm(sight, mem_bytes, procs[sight.pid])

    def owners(
        self, procs: Mapping[int, Proc], tenants: Mapping[int, Tenant]
    ) -> Callable[[int], int | None]:
        """Whose a process is, session or not: the tenant's id, None where nobody can say."""
        self.lineage.update(procs, tenants.values())

        def owner_of(pid: int) -> int | None:
            if pid not in procs:
                return None
            tenant, _ = attribute(
                procs[pid],
                name_of(pid)[1],
                tenants,
                self.lineage,
                environ_of=environ_of,
                own_cgroup=container_of,
                has_mounted=has_mounted,
            )
            return tenant.tenant_id if tenant else None

        return owner_of

    def _alarm(self, sight: Sight, mem_bytes: int, proc: Proc) -> None:
        name, uid = name_of(sight.pid)
        tenant, evidence = attribute(
            proc,
            uid,
            self._book.tenants,
            self.lineage,
            environ_of=environ_of,
            own_cgroup=container_of,
            has_mounted=has_mounted,
        )
        action = _act(tenant, sight) if tenant else "seen"
        self.uncovered_total += 1
        self.uncovered[sight] = Uncovered(
            pid=sight.pid,
            start=sight.start,
            device_uuid=sight.device_uuid,
            name=name,
            uid=uid,
            mem_bytes=mem_bytes,
            tenant=tenant.name if tenant else "",
            evidence=evidence,
            since_s=time.time(),
            action=action,
        )
        _log.warning(
            "process_uncovered",
            pid=sight.pid,
            program=name,
            tenant=tenant.name if tenant else None,
            evidence=evidence,
            mem_bytes=mem_bytes,
            action=action,
        )


def _act(tenant: Tenant, sight: Sight) -> str:
    """Do what the tenant's policy says; returns what was done."""
    if tenant.policy is Policy.WARN:
        return "seen"
    stop = tenant.policy is Policy.STOP
    return end(sight.pid, sight.start, signal.SIGSTOP if stop else signal.SIGKILL)


def end(pid: int, start: int, number: signal.Signals) -> str:
    """Signal a process, if it still is the one that started then; returns what was done."""
    try:
        send_signal(pid, start, number)
    except ProcessLookupError:
        return "gone"
    except PermissionError:
        return f"not permitted: harpd is uid {os.geteuid()}"
    return "stopped" if number is signal.SIGSTOP else "killed"


def belongs(pid: int, tenant: Tenant) -> bool:
    """Whether a process started with a tenant's HARP_GRANT, as one that may: anybody can write it.

    One that cannot be looked into does not.
    """
    if not tenant.grant_dir or environ_of(pid, "HARP_GRANT") != tenant.grant_dir:
        return False
    uid = name_of(pid)[1]
    return uid == tenant.uid or 0 in (uid, tenant.uid)
