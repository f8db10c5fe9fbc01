# SPDX-License-Identifier: Apache-2.0
"""Every series that HARP exposes: name, kind, labels and what it says. Data alone.

Base units, in the names; a counter ends in `_total`; ratios go from 0 to 1. What has no value (no
limit, not looked at yet) has no series: a 0 would be taken for one.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = [
    "DAEMON",
    "GPU_LABELS",
    "PLUGIN",
    "REMOTE",
    "TENANT_LABELS",
    "Distribution",
    "Exemplar",
    "Family",
    "Kind",
    "Sample",
]


class Kind(enum.Enum):
    """Prometheus's word for it."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """Series of one name."""

    name: str
    kind: Kind
    text: str  #: HELP: one sentence
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()  #: of a histogram: upper bounds of its buckets, ascending


@dataclass(frozen=True, slots=True)
class Distribution:
    """The value of a histogram."""

    counts: tuple[int, ...]  #: observations up to each of family.bounds, then all of them
    total: float  #: sum of the observations


@dataclass(frozen=True, slots=True)
class Exemplar:
    """Something that a counter's value is an example of; told in OpenMetrics alone."""

    labels: tuple[tuple[str, str], ...]  #: names and values: at most 128 characters in all
    value: float
    at_s: float  #: wall clock


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a family."""

    family: Family
    labels: tuple[str, ...]  #: values, in the order of family.labels
    value: float | Distribution
    exemplar: Exemplar | None = None  #: of a counter


def _gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Family:
    return Family(name, Kind.GAUGE, text, labels)


def _counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Family:
    return Family(name, Kind.COUNTER, text, labels)


def _histogram(name: str, text: str, labels: tuple[str, ...], bounds: tuple[float, ...]) -> Family:
    return Family(name, Kind.HISTOGRAM, text, labels, bounds)


#: `kind` says what a figure was measured on: a real GPU or the software one
GPU_LABELS = _GPU = ("gpu", "uuid", "kind")
TENANT_LABELS = _TENANT = ("tenant", "namespace", "pod", "container")
_GRANT = (*_TENANT, *_GPU)

BUILD_INFO = _gauge("harp_build_info", "Version of harpd; always 1.", ("version",))
ARBITER_UP = _gauge(
    "harp_arbiter_up", "Whether the arbiter answered this scrape; if not, figures are its last."
)
ARBITER_RESTARTS = _counter(
    "harp_arbiter_restarts_total", "Arbiters that this harpd started after the first."
)
LAST_LOOK = _gauge(
    "harp_watchdog_last_look_timestamp_seconds",
    "When harpd last compared the devices' processes with the sessions, since the epoch.",
)
LOOK_ERRORS = _counter(
    "harp_watchdog_errors_total",
    "Looks at the devices that failed; until one succeeds figures of devices are older ones.",
)
SCRAPE_ERRORS = _counter(
    "harp_metrics_scrape_errors_total",
    "Scrapes that failed, with status 500; there was no figure of that time.",
)
LEFT_OUT = _gauge(
    "harp_metrics_grants_left_out",
    "Tenants' GPUs without series, beyond daemon.metrics_grants; the devices' totals have them.",
)
PROCESS_MEMORY = _gauge(
    "harp_process_resident_memory_bytes", "Host memory of harpd, and of its arbiter.", ("part",)
)
PROCESS_CPU = _counter(
    "harp_process_cpu_seconds_total",
    "Processor time of harpd and its ended children, and of its arbiter.",
    ("part",),
)
UNCOVERED_SEEN = _counter(
    "harp_uncovered_processes_seen_total",
    "Processes found on a device without a session since harpd started.",
)

DEVICE_INFO = _gauge(
    "harp_device_info",
    "A GPU that harpd serves; always 1; numa_node is empty where the host does not say.",
    (*_GPU, "model", "driver_version", "numa_node"),
)
DEVICE_MEMORY_TOTAL = _gauge("harp_device_memory_total_bytes", "Memory of the GPU.", _GPU)
DEVICE_MEMORY_USED = _gauge(
    "harp_device_memory_used_bytes", "Memory in use, whoever holds it, as the driver says.", _GPU
)
DEVICE_MEMORY_LEASED = _gauge(
    "harp_device_memory_leased_bytes", "Memory leased to tenants for allocations.", _GPU
)
DEVICE_MEMORY_ALLOCATED = _gauge(
    "harp_device_memory_allocated_bytes", "Memory promised to tenants: limits and contexts.", _GPU
)
DEVICE_UTILIZATION = _gauge(
    "harp_device_compute_utilization_ratio",
    "Part of its last moments with a kernel at work, as the driver says: rounded, and late.",
    _GPU,
)
DEVICE_TEMPERATURE = _gauge(
    "harp_device_temperature_celsius",
    "Temperature of the GPU; no series: not said, as of a software GPU.",
    _GPU,
)
DEVICE_POWER = _gauge(
    "harp_device_power_watts",
    "Power that the GPU draws; no series: not said, as of a software GPU.",
    _GPU,
)
DEVICE_ENERGY = _counter(
    "harp_device_energy_joules_total",
    "Energy used since the driver was loaded; no series: not said.",
    _GPU,
)
DEVICE_COMPUTE_ALLOCATED = _gauge(
    "harp_device_compute_allocated_ratio", "GPU time promised to tenants by their shares.", _GPU
)
DEVICE_UNCOVERED = _gauge(
    "harp_device_uncovered_processes", "Processes on the GPU without a session now.", _GPU
)
DEVICE_COMPUTE = _counter(
    "harp_device_compute_seconds_total",
    "GPU time of all tenants since harpd started, of those that have ended, too.",
    _GPU,
)
DEVICE_THROTTLED = _counter(
    "harp_device_throttled_seconds_total",
    "Time that tenants waited for a turn since harpd started, added up over all of them.",
    _GPU,
)
DEVICE_LAUNCHES = _counter(
    "harp_device_kernel_launches_total",
    "Kernels, graphs (one each), copies and fills that tenants launched since harpd started.",
    _GPU,
)
DEVICE_DENIED = _counter(
    "harp_device_oom_denied_total", "Allocations refused to tenants since harpd started.", _GPU
)
DEVICE_FULL = _counter(
    "harp_device_oom_full_total",
    "Of them, those within their tenant's limit: more was promised than the GPU has.",
    _GPU,
)

GRANT_INFO = _gauge(
    "harp_grant_info", "A tenant that lives; always 1.", (*_TENANT, "class", "oversubscribe")
)
GRANT_PROCESSES = _gauge("harp_grant_processes", "Processes of the tenant with a session.", _TENANT)
GRANT_ACTIVITY = _gauge(
    "harp_grant_last_activity_timestamp_seconds",
    "When harpd last saw the tenant use GPU time or launch, since the epoch; at first: its grant.",
    _TENANT,
)
GRANT_HOST_LIMIT = _gauge(
    "harp_grant_host_memory_limit_bytes",
    "Pinned host memory the tenant may have; no series: no limit.",
    _TENANT,
)
GRANT_HOST = _gauge(
    "harp_grant_host_memory_used_bytes", "Pinned host memory leased to the tenant.", _TENANT
)
GRANT_SUSPENDED = _gauge(
    "harp_grant_suspended",
    "1 while the tenant's memory lies on the host by `harp suspend`.",
    _TENANT,
)
GRANT_MEMORY_LIMIT = _gauge(
    "harp_grant_memory_limit_bytes", "Memory the tenant may have; no series: no limit.", _GRANT
)
GRANT_MEMORY_USED = _gauge(
    "harp_grant_memory_used_bytes", "Memory that counts against the tenant's limit.", _GRANT
)
GRANT_MEMORY_PEAK = _gauge(
    "harp_grant_memory_peak_bytes", "Most memory the tenant had leased so far.", _GRANT
)
GRANT_SHARE = _gauge(
    "harp_grant_compute_share_ratio", "GPU time guaranteed to the tenant; 0: none asked.", _GRANT
)
GRANT_COMPUTE_LIMIT = _gauge(
    "harp_grant_compute_limit_ratio",
    "Most GPU time the tenant may have, even alone; no series: no limit.",
    _GRANT,
)
GRANT_COMPUTE = _counter(
    "harp_grant_compute_seconds_total", "GPU time the tenant used; its rate is its share.", _GRANT
)
GRANT_ESTIMATED = _counter(
    "harp_grant_compute_estimated_seconds_total",
    "Of the GPU time the tenant used, what was split among tenants and not measured.",
    _GRANT,
)
GRANT_COPY = _counter(
    "harp_grant_copy_seconds_total", "Time of copy engines that the tenant used.", _GRANT
)
GRANT_THROTTLED = _counter(
    "harp_grant_throttled_seconds_total", "Time that the tenant waited for its turn.", _GRANT
)
GRANT_ENTITLED = _gauge(
    "harp_grant_compute_entitled_ratio",
    "Part of the GPU that is the tenant's now, while all that are active want it; for class"
    " best-effort: of what others leave.",
    _GRANT,
)
GRANT_SHARE_ERROR = _gauge(
    "harp_grant_share_error_ratio",
    "GPU time the tenant got in the last 30 s less what was due, as part of the GPU; no series: it"
    " did not want all the time.",
    _GRANT,
)
GRANT_CREDIT = _gauge(
    "harp_grant_credit_seconds",
    "GPU time by which the tenant is behind who ran last, and is owed; below 0: ahead, and owes;"
    " bounded, as at the scrape.",
    _GRANT,
)
GRANT_LIMIT_CREDIT = _gauge(
    "harp_grant_limit_credit_seconds",
    "GPU time that the tenant's limit lets it run at once; below 0: that it ran beyond it; as at"
    " the scrape; no series: no limit.",
    _GRANT,
)
GRANT_OPEN_GATES = _gauge(
    "harp_grant_open_gates",
    "Processes of the tenant whose work may be on the GPU at the scrape.",
    _GRANT,
)
GRANT_QUEUED = _gauge(
    "harp_grant_queued_seconds",
    "For how long the work that the tenant announced at its turn's end is expected to run yet, at"
    " the scrape; what a turn that goes on has queued is not told.",
    _GRANT,
)
GRANT_LAUNCHES = _counter(
    "harp_grant_kernel_launches_total",
    "Kernels, graphs (one each), copies and fills that the tenant launched; by kernel:"
    " harp_grant_kernel_runs_total.",
    _GRANT,
)
GRANT_DENIED = _counter("harp_grant_oom_denied_total", "Allocations refused to the tenant.", _GRANT)
GRANT_SWAP = _gauge(
    "harp_grant_swap_bytes", "Memory of the tenant that may leave the GPU, wherever it is.", _GRANT
)
GRANT_SWAP_AWAY = _gauge("harp_grant_swap_away_bytes", "Of that, what is on the host now.", _GRANT)
GRANT_SWAPS = _counter(
    "harp_grant_swaps_total", "Times that the tenant's memory left the GPU.", _GRANT
)
GRANT_SWAPPING = _counter(
    "harp_grant_swapping_seconds_total", "Time that its moves there and back took.", _GRANT
)

#: of harpd
DAEMON = (
    BUILD_INFO,
    ARBITER_UP,
    ARBITER_RESTARTS,
    LAST_LOOK,
    LOOK_ERRORS,
    SCRAPE_ERRORS,
    LEFT_OUT,
    PROCESS_MEMORY,
    PROCESS_CPU,
    UNCOVERED_SEEN,
    DEVICE_INFO,
    DEVICE_MEMORY_TOTAL,
    DEVICE_MEMORY_USED,
    DEVICE_MEMORY_LEASED,
    DEVICE_MEMORY_ALLOCATED,
    DEVICE_UTILIZATION,
    DEVICE_TEMPERATURE,
    DEVICE_POWER,
    DEVICE_ENERGY,
    DEVICE_COMPUTE_ALLOCATED,
    DEVICE_UNCOVERED,
    DEVICE_COMPUTE,
    DEVICE_THROTTLED,
    DEVICE_LAUNCHES,
    DEVICE_DENIED,
    DEVICE_FULL,
    GRANT_INFO,
    GRANT_PROCESSES,
    GRANT_ACTIVITY,
    GRANT_SUSPENDED,
    GRANT_HOST_LIMIT,
    GRANT_HOST,
    GRANT_MEMORY_LIMIT,
    GRANT_MEMORY_USED,
    GRANT_MEMORY_PEAK,
    GRANT_SHARE,
    GRANT_COMPUTE_LIMIT,
    GRANT_COMPUTE,
    GRANT_ESTIMATED,
    GRANT_COPY,
    GRANT_THROTTLED,
    GRANT_ENTITLED,
    GRANT_SHARE_ERROR,
    GRANT_CREDIT,
    GRANT_LIMIT_CREDIT,
    GRANT_OPEN_GATES,
    GRANT_QUEUED,
    GRANT_LAUNCHES,
    GRANT_DENIED,
    GRANT_SWAP,
    GRANT_SWAP_AWAY,
    GRANT_SWAPS,
    GRANT_SWAPPING,
)

#: a call's time, from a hundredth of what is promised to what kubelet waits for
_CALLS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

PLUGIN_REGISTERED = _gauge(
    "harp_plugin_registered", "Whether the kubelet that runs knows the plugin.", ("resource",)
)
PLUGIN_REGISTRATIONS = _counter(
    "harp_plugin_registrations_total", "Registrations that a kubelet took.", ("resource",)
)
PLUGIN_KUBELET_RESTARTS = _counter(
    "harp_plugin_kubelet_restarts_total", "Kubelets seen after the first.", ("resource",)
)
PLUGIN_REREGISTER = _histogram(
    "harp_plugin_reregister_duration_seconds",
    "From the first sight of another kubelet to its taking the registration.",
    ("resource",),
    (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300),
)
PLUGIN_PREFERRED = _counter(
    "harp_plugin_preferences_total",
    "Containers that kubelet asked a preference for.",
    ("resource",),
)
PLUGIN_ALLOCATIONS = _counter(
    "harp_plugin_allocations_total", "Containers that were given slots.", ("resource",)
)
PLUGIN_REFUSED = _counter(
    "harp_plugin_allocate_errors_total",
    "Containers that were refused slots.",
    ("resource", "reason"),
)
PLUGIN_ALLOCATE = _histogram(
    "harp_plugin_allocate_duration_seconds",
    "How long Allocate took, whether it gave or refused.",
    ("resource",),
    _CALLS_S,
)
PLUGIN_STARTS = _counter(
    "harp_plugin_starts_total", "Starts of containers that were given their grant.", ("resource",)
)
PLUGIN_START_ERRORS = _counter(
    "harp_plugin_start_errors_total",
    "Starts of containers that had to wait or failed; kubelet tries again.",
    ("resource", "reason"),
)
PLUGIN_START = _histogram(
    "harp_plugin_start_duration_seconds",
    "How long PreStartContainer took, whether it gave or failed.",
    ("resource",),
    _CALLS_S,
)
PLUGIN_UNRESOLVED = _counter(
    "harp_plugin_identity_unresolved_total",
    "Starts whose pod nobody could name; no annotation was read.",
    ("resource", "reason"),
)
PLUGIN_GRANTS = _gauge("harp_plugin_grants", "Grants that live on this node.", ("resource",))
PLUGIN_SLOTS = _gauge(
    "harp_plugin_slots",
    "Slots that a container has, as kubelet lists it, from its admission on.",
    ("resource", "namespace", "pod", "container", "gpu", "uuid"),
)
PLUGIN_ERRORS = _counter(
    "harp_plugin_errors_total",
    "Looks of the plugin that failed, by what they were for; they are made again.",
    ("resource", "part"),
)
PLUGIN_HEALTHY = _gauge(
    "harp_device_healthy", "Whether new pods may get slots of the GPU.", ("gpu", "uuid")
)
PLUGIN_ILL = _counter(
    "harp_device_unhealthy_total", "Times that the GPU became unhealthy.", ("gpu", "uuid")
)
PLUGIN_XID = _counter(
    "harp_device_xid_errors_total",
    "Errors that the driver reported of the GPU, those of programs too.",
    ("gpu", "uuid", "xid"),
)

#: of the device plugin
PLUGIN = (
    PLUGIN_REGISTERED,
    PLUGIN_REGISTRATIONS,
    PLUGIN_KUBELET_RESTARTS,
    PLUGIN_REREGISTER,
    PLUGIN_PREFERRED,
    PLUGIN_ALLOCATIONS,
    PLUGIN_REFUSED,
    PLUGIN_ALLOCATE,
    PLUGIN_STARTS,
    PLUGIN_START_ERRORS,
    PLUGIN_START,
    PLUGIN_UNRESOLVED,
    PLUGIN_GRANTS,
    PLUGIN_SLOTS,
    PLUGIN_ERRORS,
    PLUGIN_HEALTHY,
    PLUGIN_ILL,
    PLUGIN_XID,
)

CERTIFICATE_EXPIRY = _gauge(
    "harp_certificate_expiry_timestamp_seconds",
    "When a certificate in use runs out, since the epoch; roles: server, client, authority.",
    ("role",),
)

#: of `harp remote serve` and `harp remote keep`
REMOTE = (CERTIFICATE_EXPIRY,)
