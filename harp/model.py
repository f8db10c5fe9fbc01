# SPDX-License-Identifier: Apache-2.0
"""The nouns: device, tenant, client, use. Frozen data, no behaviour beyond naming."""

from __future__ import annotations

import enum
import uuid as uuidlib
from dataclasses import dataclass

__all__ = [
    "Client",
    "ClientState",
    "Device",
    "DeviceKind",
    "Limits",
    "Policy",
    "Residency",
    "ResidencyState",
    "Sensors",
    "Standing",
    "Tenant",
    "TenantClass",
    "Uncovered",
    "Use",
    "uuid_bytes",
]


class DeviceKind(enum.Enum):
    """What executes the work; every surface says it."""

    NVIDIA = "nvidia"
    SOFTWARE = "software"


class TenantClass(enum.Enum):
    """Scheduling class; the values are the lease protocol's."""

    STANDARD = 0
    LATENCY = 1
    BEST_EFFORT = 2

    @property
    def label(self) -> str:
        """As typed on the command line."""
        return self.name.lower().replace("_", "-")

    @classmethod
    def of(cls, label: str) -> TenantClass:
        """The class typed as `label`; KeyError if there is none."""
        return cls[label.upper().replace("-", "_")]


class Policy(enum.Enum):
    """What the watchdog does with a tenant's process that uses the device uncovered."""

    WARN = "warn"
    STOP = "stop"
    KILL = "kill"


class ClientState(enum.Enum):
    """Life of a client; the values are the lease protocol's."""

    LIVE = 1
    DRAINING = 2
    GONE = 3


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU as the daemon found it."""

    index: int  #: place in NVML's order
    uuid: str  #: "GPU-xxxxxxxx-..." as NVML says it
    name: str
    kind: DeviceKind
    memory_bytes: int
    overhead_bytes: int  #: what one context costs before the first allocation
    overhead_source: str  #: "measured", "cached" (measured before), "seen" of clients or "default"
    driver_version: str
    overhead_seen: int = 0  #: real clients that overhead_bytes was compared with, the last ones
    unlisted_bytes: int = 0  #: of overhead_bytes, what NVML does not list under a process's pid


@dataclass(frozen=True, slots=True)
class Sensors:
    """What a GPU's driver reads from it; None: it has not that one, or did not answer."""

    utilization_ratio: float | None = None  #: of its last moments, those with a kernel at work
    copy_utilization_ratio: float | None = None  #: those in which its memory was read or written
    temperature_celsius: float | None = None
    power_watts: float | None = None
    energy_joules: float | None = None  #: since the driver was loaded
    sm_clock_hertz: float | None = None
    memory_clock_hertz: float | None = None
    pci_bus_id: str | None = None
    minor: int | None = None  #: N of /dev/nvidiaN
    numa_node: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """A grant: what a tenant may use of each of its devices."""

    mem_bytes: int = 0  #: 0: no limit
    share_ppm: int = 0  #: guaranteed part of device time; 0: none asked
    limit_ppm: int = 0  #: most device time even when alone; 0: no limit
    tenant_class: TenantClass = TenantClass.STANDARD
    gang: bool = True  #: turns on one of its devices wait for those on its others
    host_bytes: int = 0  #: pinned host memory, on all devices together; 0: no limit
    oversubscribe: bool = False  #: its memory may leave a device while others have it
    context_bytes: int = (
        0  #: of its contexts on each device, what comes beside mem_bytes; what they
    )
    #: cost beyond that counts against it. 0: nothing of them does


@dataclass(frozen=True, slots=True)
class Tenant:
    """A `harp run` job or a container: the unit that has limits."""

    tenant_id: int
    name: str
    uid: int
    root_pid: int  #: 0: not known (found in the arbiter, not in our store)
    root_start: int  #: start time of root_pid in clock ticks since boot; tells a reused pid
    grant_dir: str
    device_uuids: tuple[str, ...]  #: at least one, in the order it sees them
    limits: Limits
    policy: Policy
    created_s: float  #: wall clock, seconds since the epoch
    suspended: bool = False  #: its device memory lies on the host, or is on its way
    for_root: bool = False  #: root made it for processes of `uid`; they may not change it
    any_uid: bool = False  #: a container's, made by root: its processes are of any uid
    held: bool = False  #: lives until it is removed, whatever its processes do; no root_pid
    labels: tuple[tuple[str, str], ...] = ()  #: (name, value), by name: what it is, for metrics
    need_bytes: int = 0  #: typically, of each device, where it may be counted so; 0: its limit is


@dataclass(frozen=True, slots=True)
class Client:
    """One process that holds a connection to the arbiter."""

    client_id: int
    tenant_id: int
    pid: int
    state: ClientState
    program: str
    leased_bytes: int = 0
    overhead_bytes: int = 0
    unleased_bytes: int = 0  #: of overhead_bytes, what counts against its tenant's limit


class ResidencyState(enum.Enum):
    """Where a tenant's swappable memory is; the values are the lease protocol's."""

    RESIDENT = 1
    EVICTING = 2
    AWAY = 3
    RESTORING = 4
    SUSPENDED = 5


@dataclass(frozen=True, slots=True)
class Residency:
    """A tenant's memory that can leave a device."""

    state: ResidencyState = ResidencyState.RESIDENT
    stuck: bool = False  #: some of it could not leave, and stays
    swap_bytes: int = 0  #: what can leave, wherever it is now
    on_device_bytes: int = 0  #: of that, what is on the device
    away_ns: int = 0  #: in all
    away_now_ns: int = 0  #: since it left; 0: it is there
    swapping_ns: int = 0  #: in all
    swaps: int = 0
    stay_ns: int = 0  #: it stays at least so long


@dataclass(frozen=True, slots=True)
class Standing:
    """How a tenant stands in the order of turns on one device, at the moment of a picture."""

    weight_ratio: float | None = None  #: of the device, while all that are active want; None: none
    credit_ns: int | None = None  #: GPU time it is owed, < 0: owes; None: the policy keeps none
    limit_credit_ns: int | None = None  #: that its limit lets it run at once; None: no limit
    open_gates: int = 0  #: processes whose work may be on the device
    queued_ns: int = 0  #: for how long what they announced is expected to run yet


@dataclass(frozen=True, slots=True)
class Use:
    """What a tenant holds and has used on one device, as the arbiter counts it."""

    leased_bytes: int = 0
    draining_bytes: int = 0  #: of the dead, not back yet
    unleased_bytes: int = 0  #: code, heaps, local memory: seen beyond the leases and the contexts
    host_leased_bytes: int = 0  #: pinned host memory
    peak_bytes: int = 0
    used_ns: int = 0
    estimated_ns: int = 0  #: of used_ns, what was not measured
    copy_ns: int = 0
    launches: int = 0
    wait_ns: int = 0
    wants: bool = False
    denials: int = 0
    residency: Residency | None = None  #: None: nothing of it leaves
    context_bytes: int = 0  #: of its contexts, what counts against the limit: see Limits
    standing: Standing | None = None  #: None: the arbiter is too old to say

    @property
    def charged_bytes(self) -> int:
        """What counts against the memory limit."""
        held_bytes = self.leased_bytes + self.draining_bytes
        return held_bytes + self.unleased_bytes + self.context_bytes

    def over_bytes(self, limit_bytes: int) -> int:
        """By how much it is above a limit; 0 is none."""
        return max(0, self.charged_bytes - limit_bytes) if limit_bytes else 0


@dataclass(frozen=True, slots=True)
class Uncovered:
    """A process that uses a device without a session with the arbiter."""

    pid: int
    start: int  #: start time in ticks; 0 if it was gone before we could read it
    device_uuid: str
    name: str
    uid: int  #: -1: not known
    mem_bytes: int
    tenant: str  #: name of the tenant it belongs to; "" = outside HARP
    evidence: str  #: why it is that tenant's: "ancestry", "environ", "session", "cgroup" or ""
    since_s: float  #: wall clock of the first sight
    action: str  #: "seen", "stopped", "killed" or what prevented it


def uuid_bytes(uuid: str) -> bytes:
    """The 16 bytes of an NVML UUID ("GPU-..." or "MIG-...").

    Raises:
        ValueError: not such a UUID.
    """
    _, _, digits = uuid.partition("-")
    return uuidlib.UUID(digits).bytes
