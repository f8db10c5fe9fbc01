# SPDX-License-Identifier: Apache-2.0
"""What `harp top` shows, without a terminal: samples become rows, series and sentences. Pure.

Rates are differences of two samples, so it does not matter how many were missed in between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from harp.api.v1 import control_pb2 as pb
from harp.api.words import KINDS
from harp.cli.view import (
    CLASSES,
    is_software,
    printable,
    short_percent,
    short_size,
    swapping_of,
)
from harp.model import TenantClass

__all__ = [
    "SORTS",
    "Board",
    "Line",
    "Series",
    "alarms",
    "details",
    "devices",
    "mark",
    "spark",
    "tenants",
]

#: values that are kept of each tenant: two of the widest terminals
_KEPT = 400
_LEVELS = " ▁▂▃▄▅▆▇█"
#: so much of its limit is near it
_NEAR = 0.97


def used_ratio(tenant: pb.TenantSample) -> float:
    """Device time that it got lately, of each of its devices, in the mean."""
    return sum(use.used_ratio for use in tenant.uses) / max(1, len(tenant.uses))


def leased_bytes(tenant: pb.TenantSample) -> int:
    """What it holds of all its devices."""
    return sum(use.leased_bytes for use in tenant.uses)


def _wait_ns(tenant: pb.TenantSample) -> int:
    return sum(use.wait_ns for use in tenant.uses)


#: (tenant_id, created_s): a number is given to another tenant at once
_Key = tuple[int, float]


def _key(tenant: pb.TenantSample) -> _Key:
    return tenant.tenant_id, tenant.created_s


def mark(tenant: pb.TenantSample) -> str:
    """A tenant's row's key."""
    return f"{tenant.tenant_id} {tenant.created_s!r}"


#: {name: what rows are sorted by}; largest first, but names
SORTS: Mapping[str, Callable[[pb.TenantSample], float | str]] = {
    "used": lambda tenant: -used_ratio(tenant),
    "mem": lambda tenant: -leased_bytes(tenant),
    "wait": lambda tenant: -_wait_ns(tenant),
    "name": lambda tenant: tenant.name,
}


@dataclass(slots=True)
class Series:
    """A tenant's lately, oldest first. None: not known."""

    share: deque[float | None] = field(default_factory=lambda: deque(maxlen=_KEPT))
    #: of its limit, or of its devices where it has none
    mem: deque[float | None] = field(default_factory=lambda: deque(maxlen=_KEPT))
    wait: float | None = None  #: part of the time that it wanted the device and had to wait
    launches: float | None = None  #: a second


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a table."""

    key: str  #: unique in its table, and the same as long as it is the same thing's
    cells: tuple[str, ...]
    alarm: bool = False


class Board:
    """The newest sample, and what became of those before."""

    def __init__(self) -> None:
        self.sample = pb.Sample()
        #: samples that we were too slow for
        self.dropped = 0
        #: {_key(): series} of who lives
        self.series: dict[_Key, Series] = {}
        #: {GPU: part of its time that all tenants had}
        self.busy: dict[str, Series] = {}

    def see(self, reply: pb.WatchSamplesReply) -> None:
        """Take the next sample."""
        before, now = self.sample, reply.sample
        self.dropped += reply.dropped
        passed_ns = now.at_ns - before.at_ns if before.at_ns else 0
        old = {_key(tenant): tenant for tenant in before.tenants}
        memory = {device.uuid: device.memory_bytes for device in now.devices}
        self.series = {_key(t): self.series.get(_key(t), Series()) for t in now.tenants}
        busy = dict.fromkeys(memory, 0.0)
        known = passed_ns > 0 and not now.problem
        for tenant in now.tenants:
            series, earlier = self.series[_key(tenant)], old.get(_key(tenant))
            rates = _rates(tenant, earlier, passed_ns) if known and earlier else None
            if rates is None:
                series.share.append(None)
                series.wait = series.launches = None
            else:
                count = max(1, len(tenant.uses))
                series.share.append(sum(rates.used.values()) / count)
                series.wait, series.launches = rates.wait / count, rates.launches
                for uuid, part in rates.used.items():
                    busy[uuid] = busy.get(uuid, 0.0) + part
            most = sum(tenant.mem_limit_bytes or memory.get(u.uuid, 0) for u in tenant.uses)
            series.mem.append(leased_bytes(tenant) / most if most else None)
        self.busy = {uuid: self.busy.get(uuid, Series()) for uuid in memory}
        for uuid, series in self.busy.items():
            series.share.append(busy[uuid] if known else None)
        self.sample = now

    def chosen(
        self, sort: str, needle: str = "", *, reverse: bool = False
    ) -> list[pb.TenantSample]:
        """The tenants that are to be shown, in order."""
        word = needle.casefold()
        found = [tenant for tenant in self.sample.tenants if word in self._words(tenant)]
        # By name where the rest is equal: rows that jump about cannot be read.
        found.sort(key=lambda tenant: tenant.name, reverse=reverse)
        return sorted(found, key=SORTS[sort], reverse=reverse)

    def _words(self, tenant: pb.TenantSample) -> str:
        label = TenantClass(tenant.tenant_class).label
        return f"{tenant.name} {tenant.user} {label} gpu{self.gpus(tenant)}".casefold()

    def gpus(self, tenant: pb.TenantSample) -> str:
        """The numbers of a tenant's GPUs, "?" for one that is gone: "0,2"."""
        index = {device.uuid: str(device.index) for device in self.sample.devices}
        return ",".join(index.get(use.uuid, "?") for use in tenant.uses)


@dataclass(frozen=True, slots=True)
class _Rates:
    used: dict[str, float]  #: {GPU: part of its time}
    wait: float
    launches: float


def _rates(tenant: pb.TenantSample, before: pb.TenantSample, passed_ns: int) -> _Rates | None:
    """What changed since `before`; None: the arbiter began anew, and counts from 0."""
    old = {use.uuid: use for use in before.uses}
    pairs = [(old[use.uuid], use) for use in tenant.uses if use.uuid in old]
    if any(b.used_ns < a.used_ns or b.launches < a.launches for a, b in pairs):
        return None
    return _Rates(
        {b.uuid: (b.used_ns - a.used_ns) / passed_ns for a, b in pairs},
        sum(b.wait_ns - a.wait_ns for a, b in pairs) / passed_ns,
        sum(b.launches - a.launches for a, b in pairs) / passed_ns * 1e9,
    )


def spark(values: Iterable[float | None], width: int) -> str:
    """The last `width` values, 0 to 1, as blocks: " " is unknown, the lowest block is 0."""
    last = list(values)[-width:]
    blocks = "".join(
        " " if value is None else _LEVELS[1 + min(7, max(0, int(value * 8)))] for value in last
    )
    return blocks.rjust(width)


def devices(board: Board, width: int) -> list[Line]:
    """A row for each device; its last cell but one is `width` blocks."""
    names = {tenant.tenant_id: printable(tenant.name) for tenant in board.sample.tenants}
    return [
        Line(
            device.uuid,
            (
                str(device.index),
                "software" if is_software(device) else KINDS.get(device.kind, "unknown"),
                short_size(device.used_bytes),
                short_size(device.memory_bytes),
                short_percent(device.promised_ppm),
                _percent(_last(board.busy[device.uuid].share)),
                spark(board.busy[device.uuid].share, width),
                names.get(device.holder, "-"),
                printable(device.name),
            ),
        )
        for device in board.sample.devices
    ]


def tenants(
    board: Board, shown: Sequence[pb.TenantSample], share_width: int, mem_width: int
) -> list[Line]:
    """A row for each of the tenants; its last two cells are so many blocks."""
    return [
        Line(
            mark(tenant),
            (
                ("!" if troubles(tenant) else " ") + printable(tenant.name),
                printable(tenant.user),
                board.gpus(tenant),
                CLASSES[TenantClass(tenant.tenant_class)],
                short_size(leased_bytes(tenant)),
                short_size(tenant.mem_limit_bytes),
                short_percent(tenant.share_ppm),
                _percent(used_ratio(tenant) if tenant.window_s else None),
                spark(board.series[_key(tenant)].share, share_width),
                spark(board.series[_key(tenant)].mem, mem_width),
            ),
            alarm=bool(troubles(tenant)),
        )
        for tenant in shown
    ]


def troubles(tenant: pb.TenantSample) -> list[str]:
    """What somebody should know of a tenant, in words: no colour says it alone."""
    found = []
    for use in tenant.uses:
        if use.over_limit_bytes:
            found.append(f"over its memory limit by {short_size(use.over_limit_bytes)}")
        elif tenant.mem_limit_bytes and use.charged_bytes >= _NEAR * tenant.mem_limit_bytes:
            found.append("its memory is at the limit")
        if use.residency.stuck:
            found.append("some of its memory could not leave")
    if tenant.suspended:
        found.append("suspended: its memory is on the host")
    return list(dict.fromkeys(found))


def details(board: Board, tenant: pb.TenantSample) -> list[str]:
    """What its row has no room for."""
    series = board.series[_key(tenant)]
    peak = sum(use.peak_bytes for use in tenant.uses)
    denials = sum(use.denials for use in tenant.uses)
    waited = f"{_percent(series.wait)} of the time" if series.wait is not None else "-"
    launches = f"{series.launches:.0f}/s" if series.launches is not None else "-"
    host = (
        f", pinned host {short_size(tenant.host_leased_bytes)} of"
        f" {short_size(tenant.host_limit_bytes)}"
        if tenant.host_limit_bytes or tenant.host_leased_bytes
        else ""
    )
    lines = [
        (
            f"{printable(tenant.name)}: {TenantClass(tenant.tenant_class).label}, user"
            f" {printable(tenant.user)}, GPU {board.gpus(tenant)}, processes {tenant.processes}"
        ),
        (
            f"memory {short_size(leased_bytes(tenant))}, peak {short_size(peak)}, refused"
            f" {denials} times{host}"
        ),
        (
            f"time now {_percent(_last(series.share))}, cap {short_percent(tenant.limit_ppm)},"
            f" waits {waited}, launches {launches}"
        ),
    ]
    by_uuid = {device.uuid: device for device in board.sample.devices}
    lines += swapping_of(
        printable(tenant.name), tenant.uses, by_uuid, board.sample.now_s - tenant.created_s
    )
    return [*lines, *(f"! {trouble}" for trouble in troubles(tenant))]


def alarms(sample: pb.Sample) -> list[str]:
    """Who uses a device without a session."""
    return [
        f"UNCOVERED pid {one.pid} {printable(one.name)} {printable(one.tenant) or 'outside HARP'}"
        f" {short_size(one.mem_bytes)} {one.action}"
        for one in sample.uncovered
    ]


def _last(values: deque[float | None]) -> float | None:
    return values[-1] if values else None


def _percent(ratio: float | None) -> str:
    """A part in at most 5 columns; "-" for unknown."""
    if ratio is None:
        return "-"
    percent = 100 * ratio
    return f"{percent:.1f}%" if 0.05 <= percent < 99.95 else f"{percent:.0f}%"
