# SPDX-License-Identifier: Apache-2.0
"""From what harpd sees to samples. Pure.

A tenant's series exist from its grant on, at 0 before its first call, and go with it. Of a name
there are at most so many as Seen.most says, one for each GPU of a tenant; who came first has them,
and how many are left out is a series of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from harp.metrics import families as f
from harp.metrics.estimates import EstimatorSeen, estimator_samples
from harp.metrics.families import Family, Sample
from harp.metrics.kernels import KernelsSeen, kernel_samples
from harp.metrics.totals import Total
from harp.model import Device, Residency, Sensors, Standing, Tenant, Use
from harp.units import PPM

__all__ = ["DeviceSeen", "GrantSeen", "PartSeen", "Seen", "pod_of", "samples"]

_NS = 1e9


@dataclass(frozen=True, slots=True)
class DeviceSeen:
    """A device, and what is promised and used of it."""

    device: Device
    used_bytes: int | None = None  #: None: not looked at yet
    leased_bytes: int = 0
    promised_bytes: int = 0
    promised_ppm: int = 0
    uncovered: int = 0
    full: int = 0  #: allocations refused within their tenant's limit
    total: Total = field(default_factory=Total)
    sensors: Sensors = field(default_factory=Sensors)


@dataclass(frozen=True, slots=True)
class GrantSeen:
    """A living tenant."""

    tenant: Tenant
    processes: int
    active_s: float  #: wall clock
    uses: tuple[tuple[Device, Use], ...]  #: its devices that are there
    #: {uuid: see fairness.py}; of devices that it wanted all the time
    share_errors: Mapping[str, float] = field(default_factory=dict)
    kernels: KernelsSeen = field(default_factory=KernelsSeen)


@dataclass(frozen=True, slots=True)
class PartSeen:
    """One of HARP's own processes."""

    name: str  #: "harpd" or "arbiter"
    resident_bytes: int
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Seen:
    """harpd's view at one moment."""

    version: str
    arbiter_up: bool
    arbiter_restarts: int
    uncovered_total: int
    last_look_s: float | None  #: wall clock; None: never
    look_errors: int
    scrape_errors: int
    most: int  #: tenants' GPUs that may have series
    devices: tuple[DeviceSeen, ...] = ()
    grants: tuple[GrantSeen, ...] = ()
    estimator: EstimatorSeen | None = None
    hostname: str = ""
    parts: tuple[PartSeen, ...] = ()


_OF_DAEMON: tuple[tuple[Family, Callable[[Seen], float | None]], ...] = (
    (f.ARBITER_UP, lambda s: s.arbiter_up),
    (f.ARBITER_RESTARTS, lambda s: s.arbiter_restarts),
    (f.LAST_LOOK, lambda s: s.last_look_s),
    (f.LOOK_ERRORS, lambda s: s.look_errors),
    (f.SCRAPE_ERRORS, lambda s: s.scrape_errors),
    (f.UNCOVERED_SEEN, lambda s: s.uncovered_total),
)
_OF_DEVICE: tuple[tuple[Family, Callable[[DeviceSeen], float | None]], ...] = (
    (f.DEVICE_MEMORY_TOTAL, lambda d: d.device.memory_bytes),
    (f.DEVICE_MEMORY_USED, lambda d: d.used_bytes),
    (f.DEVICE_MEMORY_LEASED, lambda d: d.leased_bytes),
    (f.DEVICE_MEMORY_ALLOCATED, lambda d: d.promised_bytes),
    (f.DEVICE_UTILIZATION, lambda d: d.sensors.utilization_ratio),
    (f.DEVICE_TEMPERATURE, lambda d: d.sensors.temperature_celsius),
    (f.DEVICE_POWER, lambda d: d.sensors.power_watts),
    (f.DEVICE_ENERGY, lambda d: d.sensors.energy_joules),
    (f.DEVICE_COMPUTE_ALLOCATED, lambda d: d.promised_ppm / PPM),
    (f.DEVICE_UNCOVERED, lambda d: d.uncovered),
    (f.DEVICE_COMPUTE, lambda d: d.total.used_ns / _NS),
    (f.DEVICE_THROTTLED, lambda d: d.total.wait_ns / _NS),
    (f.DEVICE_LAUNCHES, lambda d: d.total.launches),
    (f.DEVICE_DENIED, lambda d: d.total.denials),
    (f.DEVICE_FULL, lambda d: d.full),
)
_OF_TENANT: tuple[tuple[Family, Callable[[GrantSeen], float | None]], ...] = (
    (f.GRANT_PROCESSES, lambda g: g.processes),
    (f.GRANT_ACTIVITY, lambda g: g.active_s),
    (f.GRANT_SUSPENDED, lambda g: g.tenant.suspended),
    (f.GRANT_HOST_LIMIT, lambda g: g.tenant.limits.host_bytes or None),
    (f.GRANT_HOST, lambda g: max((use.host_leased_bytes for _, use in g.uses), default=0)),
)
_OF_GRANT: tuple[tuple[Family, Callable[[Tenant, Use], float | None]], ...] = (
    (f.GRANT_MEMORY_LIMIT, lambda t, _: t.limits.mem_bytes or None),
    (f.GRANT_MEMORY_USED, lambda _, u: u.charged_bytes),
    (f.GRANT_MEMORY_PEAK, lambda _, u: u.peak_bytes),
    (f.GRANT_SHARE, lambda t, _: t.limits.share_ppm / PPM),
    (f.GRANT_COMPUTE_LIMIT, lambda t, _: t.limits.limit_ppm / PPM or None),
    (f.GRANT_COMPUTE, lambda _, u: u.used_ns / _NS),
    (f.GRANT_ESTIMATED, lambda _, u: u.estimated_ns / _NS),
    (f.GRANT_COPY, lambda _, u: u.copy_ns / _NS),
    (f.GRANT_THROTTLED, lambda _, u: u.wait_ns / _NS),
    (f.GRANT_LAUNCHES, lambda _, u: u.launches),
    (f.GRANT_DENIED, lambda _, u: u.denials),
)
#: of its place in the order of turns
_OF_STANDING: tuple[tuple[Family, Callable[[Standing], float | None]], ...] = (
    (f.GRANT_ENTITLED, lambda s: s.weight_ratio),
    (f.GRANT_CREDIT, lambda s: None if s.credit_ns is None else s.credit_ns / _NS),
    (
        f.GRANT_LIMIT_CREDIT,
        lambda s: None if s.limit_credit_ns is None else s.limit_credit_ns / _NS,
    ),
    (f.GRANT_OPEN_GATES, lambda s: s.open_gates),
    (f.GRANT_QUEUED, lambda s: s.queued_ns / _NS),
)
#: of memory that can leave its device
_OF_SWAP: tuple[tuple[Family, Callable[[Residency], float]], ...] = (
    (f.GRANT_SWAP, lambda r: r.swap_bytes),
    (f.GRANT_SWAP_AWAY, lambda r: r.swap_bytes - r.on_device_bytes),
    (f.GRANT_SWAPS, lambda r: r.swaps),
    (f.GRANT_SWAPPING, lambda r: r.swapping_ns / _NS),
)


def pod_of(tenant: Tenant) -> tuple[str, str, str]:
    """Namespace, pod and container, as root said when it made the tenant; else empty.

    To Prometheus an empty label is none.
    """
    labels = dict(tenant.labels)
    return labels.get("namespace", ""), labels.get("pod", ""), labels.get("container", "")


def samples(seen: Seen) -> list[Sample]:
    """Every sample of harpd."""
    return list(_samples(seen))


def _samples(seen: Seen) -> Iterator[Sample]:
    yield Sample(f.BUILD_INFO, (seen.version,), 1)
    yield from _some(((family, of(seen)) for family, of in _OF_DAEMON), ())
    for part in seen.parts:
        yield Sample(f.PROCESS_MEMORY, (part.name,), part.resident_bytes)
        yield Sample(f.PROCESS_CPU, (part.name,), part.cpu_s)
    for one in seen.devices:
        gpu = _gpu(one.device)
        at = one.sensors.numa_node
        what = one.device.name, one.device.driver_version, "" if at is None else str(at)
        yield Sample(f.DEVICE_INFO, (*gpu, *what), 1)
        yield from _some(((family, of(one)) for family, of in _OF_DEVICE), gpu)
    room = seen.most
    left_out = 0
    for grant in seen.grants:
        size = max(1, len(grant.uses))
        if size > room:
            left_out += size
            continue
        room -= size
        yield from _of_tenant(grant)
    yield Sample(f.LEFT_OUT, (), left_out)
    if seen.estimator is not None:
        yield from estimator_samples(seen.estimator)


def _of_tenant(grant: GrantSeen) -> Iterator[Sample]:
    tenant = grant.tenant
    who = (tenant.name, *pod_of(tenant))
    limits = tenant.limits
    over = str(limits.oversubscribe).lower()
    yield Sample(f.GRANT_INFO, (*who, limits.tenant_class.label, over), 1)
    yield from _some(((family, of(grant)) for family, of in _OF_TENANT), who)
    yield from kernel_samples(who, grant.kernels)
    for device, use in grant.uses:
        labels = (*who, *_gpu(device))
        yield from _some(((family, of(tenant, use)) for family, of in _OF_GRANT), labels)
        if (standing := use.standing) is not None:
            yield from _some(((family, of(standing)) for family, of in _OF_STANDING), labels)
        if (error := grant.share_errors.get(device.uuid)) is not None:
            yield Sample(f.GRANT_SHARE_ERROR, labels, error)
        if (away := use.residency) is not None:
            yield from _some(((family, of(away)) for family, of in _OF_SWAP), labels)


def _some(
    values: Iterator[tuple[Family, float | None]], labels: tuple[str, ...]
) -> Iterator[Sample]:
    return (Sample(family, labels, value) for family, value in values if value is not None)


def _gpu(device: Device) -> tuple[str, str, str]:
    return str(device.index), device.uuid, device.kind.value
