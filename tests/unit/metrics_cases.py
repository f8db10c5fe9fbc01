# SPDX-License-Identifier: Apache-2.0
"""What harpd may see, for the tests of its metrics."""

from __future__ import annotations

from dataclasses import replace

from harp.estimator.track import Sums
from harp.metrics import (
    DeviceSeen,
    EstimatorSeen,
    Exemplar,
    GrantSeen,
    KernelsSeen,
    PartSeen,
    PoolSeen,
    Seen,
    Total,
)
from harp.model import (
    Device,
    DeviceKind,
    Limits,
    Policy,
    Residency,
    ResidencyState,
    Sensors,
    Standing,
    Tenant,
    TenantClass,
    Use,
)
from harp.profile import OTHER, Kernel

GIB = 1 << 30
MS = 1_000_000
ACTIVE_S = 1_700_000_000.0
SENSORS = Sensors(
    utilization_ratio=0.37,
    copy_utilization_ratio=0.12,
    temperature_celsius=41,
    power_watts=123.5,
    energy_joules=4567.5,
    sm_clock_hertz=1.98e9,
    memory_clock_hertz=2.619e9,
    pci_bus_id="00000000:0A:00.0",
    minor=3,
    numa_node=1,
)


def device(index: int = 0, kind: DeviceKind = DeviceKind.SOFTWARE) -> Device:
    return Device(
        index=index,
        uuid=f"GPU-{index:08x}-0000-4000-8000-000000000000",
        name="tiny",
        kind=kind,
        memory_bytes=8 * GIB,
        overhead_bytes=64 << 20,
        overhead_source="measured",
        driver_version="1.2.3",
    )


def tenant(number: int, name: str, limits: Limits | None = None, *gpus: Device) -> Tenant:
    return Tenant(
        tenant_id=number,
        name=name,
        uid=1000,
        root_pid=1,
        root_start=1,
        grant_dir="/g",
        device_uuids=tuple(gpu.uuid for gpu in gpus or (device(),)),
        limits=limits or Limits(),
        policy=Policy.WARN,
        created_s=0,
    )


def of_pod(of: Tenant) -> Tenant:
    """With the labels that the device plugin gives it."""
    namespace, pod, container = of.name.split("/")
    labels = {"container": container, "namespace": namespace, "pod": pod}
    return replace(of, labels=tuple(labels.items()))


def grant(of: Tenant, processes: int, *uses: tuple[Device, Use]) -> GrantSeen:
    return GrantSeen(of, processes, ACTIVE_S, uses)


def seen(*grants: GrantSeen, most: int = 2048) -> Seen:
    """A harpd of two GPUs, of which the second one was not looked at yet."""
    return Seen(
        version="0.1.0",
        arbiter_up=True,
        arbiter_restarts=1,
        uncovered_total=3,
        last_look_s=1_800_000_000.5,
        look_errors=4,
        scrape_errors=5,
        most=most,
        devices=(
            DeviceSeen(
                device(0),
                used_bytes=3 * GIB,
                leased_bytes=2 * GIB,
                promised_bytes=6 * GIB,
                promised_ppm=700_000,
                uncovered=1,
                full=1,
                total=Total(used_ns=2500 * MS, wait_ns=1250 * MS, launches=70, denials=2),
                sensors=SENSORS,
            ),
            DeviceSeen(device(1)),
        ),
        grants=grants,
        estimator=estimator(),
        hostname="node-1",
        parts=(PartSeen("harpd", 60 << 20, 12.5), PartSeen("arbiter", 2 << 20, 0.25)),
    )


def estimator() -> EstimatorSeen:
    """One that knows memory, was never right about duration, and was asked nothing else."""
    memory = Sums(40, 39, 40 * 980_000, 100 * GIB, 60 * GIB, 50 * GIB)
    recent = Sums(20, 19, 20 * 980_000, 50 * GIB, 20 * GIB, 15 * GIB)
    return EstimatorSeen(
        "recommend",
        {("gpu_mem_bytes", True): 41, ("gpu_mem_bytes", False): 3, ("duration_s", True): 2},
        {
            "gpu_mem_bytes": (memory, recent),
            "duration_s": (Sums(2, 0, 1_800_000), Sums()),
        },
        (
            PoolSeen(device(0), 0.125, 3 * GIB, windows=200, over=1),
            PoolSeen(device(1), 0.15),
        ),
    )


def kernels() -> KernelsSeen:
    """Of one that is traced."""
    return KernelsSeen(
        (
            Kernel("gemm", 30, 3000, 10, 400 * MS, 20, 800 * MS, 256, 0.75),
            Kernel(OTHER, 12, 12, 1, 2 * MS),
        ),
        {"htod": 4096, "dtoh": 0},
        Exemplar((("trace_id", "0123abcd"), ("file", "run.trace")), 1.202, 1_800_000_000.25),
    )


def everything() -> Seen:
    """Each kind of tenant: without limits and idle, a pod's with all limits, one that swaps."""
    limits = Limits(4 * GIB, 300_000, 500_000, TenantClass.LATENCY, host_bytes=GIB)
    used = Use(
        leased_bytes=GIB,
        unleased_bytes=1 << 20,
        peak_bytes=2 * GIB,
        used_ns=1500 * MS,
        estimated_ns=250 * MS,
        copy_ns=125 * MS,
        launches=42,
        wait_ns=500 * MS,
        denials=2,
        host_leased_bytes=64 << 20,
        standing=Standing(0.375, -12 * MS, 40 * MS, open_gates=1, queued_ns=3 * MS),
    )
    away = Residency(
        ResidencyState.AWAY,
        swap_bytes=2 * GIB,
        on_device_bytes=GIB // 2,
        swapping_ns=750 * MS,
        swaps=4,
    )
    swaps = tenant(3, "big", Limits(2 * GIB, oversubscribe=True), device(0), device(1))
    return seen(
        grant(tenant(1, "job-7"), 0, (device(0), Use())),
        replace(
            grant(of_pod(tenant(2, "team/train-0/main", limits)), 2, (device(0), used)),
            share_errors={device(0).uuid: -0.0625},
            kernels=kernels(),
        ),
        grant(
            replace(swaps, suspended=True), 1, (device(0), Use(residency=away)), (device(1), Use())
        ),
    )
