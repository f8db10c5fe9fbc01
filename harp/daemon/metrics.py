# SPDX-License-Identifier: Apache-2.0
"""harpd for Prometheus: what it sees at the moment of a scrape, and whether it is well.

A scrape costs one picture of the arbiter and one pass over tenants and clients on the event loop;
the text is made in a thread, one at a time.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http import HTTPStatus

from harp import __version__
from harp.config import Config
from harp.daemon.book import Book
from harp.daemon.harpd import Harpd
from harp.daemon.link import ArbiterLink
from harp.daemon.picture import ArbiterDevice, Picture
from harp.daemon.pools import Pools
from harp.daemon.profiles import Profiles
from harp.errors import ArbiterError
from harp.grants import promised_bytes, promised_ppm
from harp.metrics import (
    DAEMON,
    DCGM,
    DeviceSeen,
    GrantSeen,
    KernelsSeen,
    Page,
    PartSeen,
    Seen,
    Total,
    dcgm_samples,
    expose,
    samples,
)
from harp.metrics.server import Route
from harp.model import ClientState, Sensors, Tenant, TenantClass, Use
from harp.procs import memory_of, read
from harp.units import PPM

__all__ = ["Reporter"]

#: without a look for so long harpd is ill; of slow machines' looks, so many
_ILL_S = 10.0
_ILL_PERIODS = 5
_TICKS = os.sysconf("SC_CLK_TCK")


class Reporter:
    """The pages of one harpd."""

    def __init__(
        self, book: Book, link: ArbiterLink, harpd: Harpd, pools: Pools, config: Config
    ) -> None:
        self._book = book
        self._pools = pools
        self._link = link
        self._harpd = harpd
        self._patience_s = max(_ILL_S, _ILL_PERIODS * config.watchdog.period_s)
        self._most = config.daemon.metrics_grants
        self._profiles = Profiles(config.daemon.metrics_kernels)
        self._dcgm = config.daemon.metrics_dcgm == "yes"
        self._begun_s = time.monotonic()
        self._errors = 0
        self._rendering = asyncio.Lock()

    def routes(self) -> Mapping[str, Route]:
        """The pages by path."""
        return {"/metrics": self.metrics, "/healthz": self.healthz, "/livez": self.livez}

    async def metrics(self, accept: str) -> Page:
        """All series, or an error: never some of them.

        Raises:
            Exception: a part of it is broken; the next one that succeeds counts it.
        """
        try:
            async with self._rendering:
                seen = await self.look()
                body, kind = await asyncio.to_thread(self._text, seen, accept)
        except Exception:
            self._errors += 1
            raise
        return Page(body, kind)

    def _text(self, seen: Seen, accept: str) -> tuple[bytes, str]:
        if not self._dcgm:
            return expose(DAEMON, samples(seen), accept)
        return expose((*DAEMON, *DCGM), [*samples(seen), *dcgm_samples(seen)], accept)

    async def livez(self, _accept: str) -> Page:
        """Whether the event loop answers: to end harpd, and its arbiter, mends no device."""
        return Page(b"ok\n")

    async def healthz(self, _accept: str) -> Page:
        """Whether harpd still looks at its devices: the arbiter and NVML answer it."""
        looked_s = self._harpd.looked_s
        age_s = time.monotonic() - (self._begun_s if looked_s is None else looked_s)
        if age_s <= self._patience_s:
            lost = "".join(f"no answer from device {u}\n" for u in sorted(self._harpd.lost))
            return Page(f"ok\n{lost}".encode())
        said = f"no look at the devices for {age_s:.0f} s; see harpd's log\n"
        return Page(said.encode(), status=HTTPStatus.SERVICE_UNAVAILABLE)

    async def look(self) -> Seen:
        """The view of harpd now; of an arbiter that does not answer, the last one."""
        try:
            picture, up = await self._book.look(), True
        except ArbiterError:
            picture, up = self._book.picture, False
        kernels = await self._profiles.look(tuple(self._book.tenants.values()), self._book.pages)
        looked_s = self._harpd.looked_s
        return Seen(
            version=__version__,
            arbiter_up=up,
            arbiter_restarts=max(0, self._link.started_count - 1),
            uncovered_total=self._harpd.evaders.uncovered_total,
            look_errors=self._harpd.look_errors,
            scrape_errors=self._errors,
            most=self._most,
            last_look_s=None if looked_s is None else time.time() - time.monotonic() + looked_s,
            devices=self._devices(picture),
            grants=self._grants(picture, kernels),
            estimator=self._pools.seen(),
            hostname=socket.gethostname(),
            parts=tuple(_parts(self._link.pid if up else 0)),
        )

    def _devices(self, picture: Picture) -> tuple[DeviceSeen, ...]:
        promises = self._book.promises(picture)
        uncovered = Counter(s.device_uuid for s in self._harpd.evaders.uncovered)
        return tuple(
            DeviceSeen(
                device=replace(device, memory_bytes=self._harpd.physical_bytes(uuid)),
                used_bytes=self._harpd.used_bytes.get(uuid),
                leased_bytes=picture.devices.get(uuid, ArbiterDevice()).leased_bytes,
                promised_bytes=promised_bytes(device, promises[uuid]),
                promised_ppm=promised_ppm(promises[uuid]),
                uncovered=uncovered[uuid],
                full=self._pools.full(uuid),
                total=self._book.totals.of.get(uuid, Total()),
                sensors=self._harpd.sensors.get(uuid, Sensors()),
            )
            for uuid, device in self._book.devices.items()
        )

    def _grants(
        self, picture: Picture, kernels: Mapping[int, KernelsSeen]
    ) -> tuple[GrantSeen, ...]:
        live = (c for c in picture.clients.values() if c.state is ClientState.LIVE)
        processes = Counter(client.tenant_id for client in live)
        devices = self._book.devices
        return tuple(
            GrantSeen(
                tenant,
                processes[tenant.tenant_id],
                self._book.totals.active_s.get(tenant.tenant_id, tenant.created_s),
                tuple(
                    (devices[uuid], picture.uses.get((tenant.tenant_id, uuid), Use()))
                    for uuid in tenant.device_uuids
                    if uuid in devices
                ),
                self._share_errors(tenant),
                kernels.get(tenant.tenant_id, KernelsSeen()),
            )
            for tenant in self._book.tenants.values()
        )

    def _share_errors(self, tenant: Tenant) -> dict[str, float]:
        """What it got less what was due, where it wanted all the time."""
        limits = tenant.limits
        if limits.tenant_class is TenantClass.BEST_EFFORT:  # what others leave: nothing is due
            return {}
        most = (limits.limit_ppm or PPM) / PPM
        found = (
            (uuid, self._book.fairness.error(tenant.tenant_id, uuid, most))
            for uuid in tenant.device_uuids
        )
        return {uuid: error for uuid, error in found if error is not None}


def _parts(arbiter_pid: int) -> Iterator[PartSeen]:
    """What our own processes take of the host; 0: that one does not answer."""
    for name, pid in (("harpd", os.getpid()), ("arbiter", arbiter_pid)):
        process = read(pid) if pid else None
        if process is not None and not process.zombie:
            yield PartSeen(name, memory_of(pid)[0], process.cpu_ticks / _TICKS)
