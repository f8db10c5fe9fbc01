# SPDX-License-Identifier: Apache-2.0
"""What tenants were said to need, while they live: for admission, and to be held against what came.

service ── weigh() ── Wish, lowered and counted by its need where its mode is enforce ── book
        ── began() ── what is said of it is remembered ── told() of its run ── track.py ── metrics
harpd.tick ── look() ── windows.py ── the buffer ── book's admission
arbiter ── denied() ──┘
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import structlog

from harp.config import EstimateConfig
from harp.daemon.book import Book
from harp.daemon.owners import Wish
from harp.daemon.picture import Picture
from harp.estimator.gpu_windows import Windows
from harp.estimator.job import Job, Need, Run
from harp.estimator.keys import SIMILAR
from harp.estimator.modes import Mode, mode_of, read_modes
from harp.estimator.packing import Buffer
from harp.estimator.track import Track, judge
from harp.lease_wire import GRANULE_BYTES, Deny, MemClass, Msg
from harp.metrics import EstimatorSeen, PoolSeen
from harp.model import Limits, Tenant
from harp.units import PPM

__all__ = ["Pools"]

_log = structlog.get_logger(__name__)
#: tenants at once, and as many whose runs are being written (harp.daemon.owners, recording)
_MOST = 8192
_MEMORY, _SHARE = "gpu_mem_bytes", "share_ratio"


@dataclass(frozen=True, slots=True)
class _Said:
    """Of one tenant, at its begin."""

    job: Job
    needs: Mapping[str, Need]
    before: bool  #: it had begun; else harpd did after it, and knew more than it may be judged by


class Pools:
    """One daemon's. All of it is on the event loop.

    Args:
        config: whose estimates are acted on.
        ask: what a job will need.
        job_of: what a living tenant runs; None: not known.
        book: the tenants and devices.
        buffer: admission's.
        track: what comes of what is said.
    """

    def __init__(
        self,
        config: EstimateConfig,
        ask: Callable[[Job], Iterable[Need]],
        job_of: Callable[[Tenant], Job | None],
        book: Book,
        buffer: Buffer,
        *,
        track: Track,
    ) -> None:
        self._book = book
        self._usual = Mode(config.mode)
        self._others = read_modes(config.modes)
        self._ask = ask
        self._job_of = job_of
        self._windows = Windows(buffer)
        self._track = track
        #: {(tenant_id, created_s): what was said}: numbers come again. Of tenants that live, and of
        #: those whose run is to come
        self._said: dict[tuple[int, float], _Said] = {}

    def acts(self, wish: Wish) -> bool:
        """Whether a tenant asked for may be given less than it asks for."""
        namespace = dict(wish.labels).get("namespace", "")
        mode = mode_of(self._usual, self._others, namespace=namespace, uid=wish.uid)
        # What swaps is counted by its contexts; a lease's programs are another machine's.
        return mode is Mode.ENFORCE and not wish.limits.oversubscribe and not wish.for_root

    def weigh(self, wish: Wish, job: Job, *, estimated: bool = False) -> Wish:
        """A tenant asked for, lowered and counted by what it needs if that is acted on.

        A container's limits are the plugin's to lower, which knows its pod's word; here it is only
        counted by what it needs, if the plugin did.

        Args:
            wish: as asked.
            job: what it is to run.
            estimated: its limits are what it was said to need already.
        """
        if not self.acts(wish) or (wish.held and not estimated):
            return wish
        needs = {need.target: need for need in self._ask(job)}
        wish = replace(wish, duty_ppm=_duty_ppm(needs))
        memory = needs.get(_MEMORY)
        if memory is None or not _own(memory) or not memory.bound:
            return wish
        limits = wish.limits if wish.held else _lowered(wish.limits, memory, needs.get(_SHARE))
        if limits != wish.limits:
            _log.info(
                "limits_lowered", asked=str(wish.limits), given=str(limits), why=memory.reason
            )
        typical = memory.typical if memory.typical is not None else memory.bound
        need_bytes = min(max(GRANULE_BYTES, math.ceil(typical)), limits.mem_bytes)
        return replace(wish, limits=limits, need_bytes=need_bytes)

    def began(self, tenant: Tenant, *, before: bool = True) -> None:
        """A tenant begins; its job is known by now."""
        job = self._job_of(tenant)
        if job is None:
            return
        needs = {need.target: need for need in self._ask(job)}
        while len(self._said) > _MOST:  # no run came of the oldest: history is off, or failing
            del self._said[next(iter(self._said))]
        self._said[_key(tenant)] = _Said(job, needs, before)
        if before:
            self._track.answered(needs)

    def duty_ppm(self, tenant: Tenant) -> int:
        """Part of a device's time that a living tenant will want; 0: not known."""
        said = self._said.get(_key(tenant))
        return _duty_ppm(said.needs) if said is not None else 0

    def told(self, tenant: Tenant | None, run: Run) -> None:
        """A tenant's run was written down."""
        said = self._said.pop(_key(tenant), None) if tenant is not None else None
        if said is not None and said.before:
            self._track.count(judge(said.job, said.needs, run))

    def look(self, picture: Picture) -> None:
        """A look at all devices."""
        now_s = time.monotonic()
        living = self._book.tenants
        for tenant in living.values():
            if _key(tenant) not in self._said:
                self.began(tenant, before=False)
        for uuid, device in self._book.devices.items():
            here = [t for t in living.values() if uuid in t.device_uuids and not t.suspended]
            uses = [picture.uses.get((t.tenant_id, uuid)) for t in here]
            held = sum(use.charged_bytes for use in uses if use is not None)
            typical = {t.tenant_id: self._typical(t) for t in here}
            self._windows.see(uuid, device.memory_bytes, typical, held, now_s)

    def denied(self, message: Msg) -> None:
        """The arbiter has refused memory."""
        if message.a != Deny.CAPACITY or message.cls == MemClass.HOST:
            return
        for uuid in self._book.devices:
            if self._book.number_of(uuid) == message.dev:
                self._windows.refused(uuid, message.amount_bytes)

    def full(self, uuid: str) -> int:
        """Allocations that a full device refused to who was within its limit."""
        gpu = self._windows.of.get(uuid)
        return gpu.full if gpu is not None else 0

    def seen(self) -> EstimatorSeen:
        """For Prometheus."""
        targets = self._track.at(time.time())
        pools = []
        for uuid, device in self._book.devices.items():
            gpu = self._windows.of.get(uuid)
            if gpu is not None:
                ratio = self._windows.buffer.ratio(gpu.jobs)
                pools.append(PoolSeen(device, ratio, gpu.typical_bytes, gpu.windows, gpu.over))
        if not self._track.whole:  # totals that begin at 0 and jump would be taken for an increase
            return EstimatorSeen(self._usual.value, pools=tuple(pools))
        return EstimatorSeen(
            self._usual.value,
            dict(self._track.answers),
            {name: (replace(t.total), replace(t.recent)) for name, t in targets.items()},
            tuple(pools),
        )

    def _typical(self, tenant: Tenant) -> int | None:
        said = self._said.get(_key(tenant))
        memory = said.needs.get(_MEMORY) if said is not None else None
        if memory is None or not memory.known or memory.typical is None:
            return None
        return int(memory.typical)


def _own(need: Need) -> bool:
    """Whether it was learned from jobs like it, and not of others of its user, or of all."""
    return need.known and need.level in SIMILAR


def _key(tenant: Tenant) -> tuple[int, float]:
    return tenant.tenant_id, tenant.created_s


def _duty_ppm(needs: Mapping[str, Need]) -> int:
    share = needs.get(_SHARE)
    if share is None or not share.known or share.typical is None:
        return 0
    return min(PPM, max(1, round(share.typical * PPM)))


def _lowered(limits: Limits, memory: Need, share: Need | None) -> Limits:
    """Limits, at most what was said; who named none asked for nothing, and is given that."""
    assert memory.bound is not None
    bound = math.ceil(memory.bound / GRANULE_BYTES) * GRANULE_BYTES
    share_ppm = limits.share_ppm
    if share is not None and _own(share) and share.bound:
        share_ppm = min(share_ppm, math.ceil(share.bound * PPM))
    return replace(limits, mem_bytes=min(limits.mem_bytes or bound, bound), share_ppm=share_ppm)
