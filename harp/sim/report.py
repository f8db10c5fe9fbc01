# SPDX-License-Identifier: Apache-2.0
"""What a run showed: per tenant and in all. Pure; nothing in it depends on how fast it ran."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from harp.lease_wire import Lane
from harp.sim.client import Waits
from harp.sim.world import Member, World
from harp.units import PPM

__all__ = ["Aggregate", "Result", "TenantResult", "as_json", "as_text", "result"]


@dataclass(frozen=True, slots=True)
class TenantResult:
    """One tenant's."""

    name: str
    tenant_class: str
    load: str
    requested_ratio: float  #: its share as last set; 0: none asked
    limit_ratio: float  #: 0: none
    achieved_ratio: float  #: time on its engine / run, by the engine's ledger
    charged_ratio: float  #: the same by HARP's own account
    meter_error_pp: float  #: charged less achieved, percentage points
    estimated_ratio: float  #: of what was charged, what was estimated
    launches: int
    served: int  #: batches or requests
    latency_p50_ms: float  #: of these; 0 if there were none
    latency_p99_ms: float
    waits: int  #: times its launches waited for a gate
    wait_mean_ms: float
    wait_p99_ms: float
    wait_max_ms: float


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The device's."""

    busy_ratio: float  #: compute engine ran a kernel
    copy_busy_ratio: float
    switching_ratio: float  #: compute engine changed contexts
    idle_ratio: float
    starved_ratio: float  #: idle although launches of a tenant without limit waited
    turns: int
    context_switches: int
    gaps: int  #: such idle times
    gap_mean_us: float
    gap_p99_us: float
    gap_max_us: float
    longest_wait_ms: float
    policy_steps: int  #: events that the arbiter's core took


@dataclass(frozen=True, slots=True)
class Result:
    """One run."""

    policy: str
    seconds: float
    seed: int
    quantum_us: int
    tenants: tuple[TenantResult, ...]
    aggregate: Aggregate


def result(world: World) -> Result:
    """Read a run that is over."""
    scenario, wall_ns = world.scenario, round(world.scenario.seconds * 1e9)
    compute, copy = world.engines[Lane.COMPUTE], world.engines[Lane.COPY]
    gaps = world.gaps[Lane.COMPUTE]
    waits = [m.waits for m in world.members]
    return Result(
        policy=scenario.policy,
        seconds=scenario.seconds,
        seed=scenario.seed,
        quantum_us=scenario.quantum_us,
        tenants=tuple(_tenant(world, member, wall_ns) for member in world.members),
        aggregate=Aggregate(
            busy_ratio=compute.total_busy_ns / wall_ns,
            copy_busy_ratio=copy.total_busy_ns / wall_ns,
            switching_ratio=compute.switching_ns / wall_ns,
            idle_ratio=gaps.idle_ns / wall_ns,
            starved_ratio=sum(gaps.samples_ns) / wall_ns,
            turns=world.turns[Lane.COMPUTE],
            context_switches=compute.switches,
            gaps=len(gaps.samples_ns),
            gap_mean_us=_mean(gaps.samples_ns) / 1e3,
            gap_p99_us=_percentile(gaps.samples_ns, 0.99) / 1e3,
            gap_max_us=max(gaps.samples_ns, default=0) / 1e3,
            longest_wait_ms=max((w.longest_ns for w in waits), default=0) / 1e6,
            policy_steps=world.steps,
        ),
    )


def _tenant(world: World, member: Member, wall_ns: int) -> TenantResult:
    spec, waits = member.spec, member.waits
    lane = member.clients[0].lane
    ledger = world.engines[lane].busy_ns
    achieved = sum(ledger.get(c.context, 0) for c in member.clients)
    charged = member.copy_charged_ns if lane is Lane.COPY else member.charged_ns
    latencies = [ns for c in member.clients for ns in c.program.latencies_ns]
    return TenantResult(
        name=member.name,
        tenant_class=spec.klass,
        load=spec.load,
        requested_ratio=spec.share / PPM,
        limit_ratio=spec.limit / PPM,
        achieved_ratio=achieved / wall_ns,
        charged_ratio=charged / wall_ns,
        meter_error_pp=100 * (charged - achieved) / wall_ns,
        estimated_ratio=member.estimated_ns / charged if charged else 0.0,
        launches=sum(c.launches for c in member.clients),
        served=sum(c.program.served for c in member.clients),
        latency_p50_ms=_percentile(latencies, 0.5) / 1e6,
        latency_p99_ms=_percentile(latencies, 0.99) / 1e6,
        waits=waits.count,
        wait_mean_ms=_mean_wait(waits) / 1e6,
        wait_p99_ms=_percentile(waits.samples_ns, 0.99) / 1e6,
        wait_max_ms=waits.longest_ns / 1e6,
    )


def as_json(found: Result) -> dict[str, object]:
    """As `harp sim time --json` prints it; ratios are of 1."""
    tree = asdict(found)
    for tenant in tree["tenants"]:
        tenant["class"] = tenant.pop("tenant_class")
    rounded: dict[str, object] = json.loads(
        json.dumps(tree), parse_float=lambda t: round(float(t), 9)
    )
    return rounded


def as_text(found: Result, rows: int) -> list[str]:
    """Lines for people: the `rows` tenants that got most, and the sums."""
    head = f"{'TENANT':16} {'CLASS':11} {'ASKED':>6} {'LIMIT':>6} {'GOT':>7} {'METER':>7}"
    head += f" {'P99 WAIT':>9} {'MAX WAIT':>9} {'P99 LAT':>9}"
    lines = [head]
    order = sorted(found.tenants, key=lambda t: (-t.achieved_ratio, t.name))
    lines += [_row(t) for t in order[:rows]]
    if len(order) > rows:
        rest = sum(t.achieved_ratio for t in order[rows:])
        lines.append(f"... {len(order) - rows} more, {rest:.2%} together")
    a = found.aggregate
    lines += [
        (
            f"policy {found.policy}, quantum {found.quantum_us} us, {found.seconds:g} s, seed"
            f" {found.seed}: a model, not a GPU result"
        ),
        (
            f"engine busy {a.busy_ratio:.2%}, changing contexts {a.switching_ratio:.2%}, idle"
            f" {a.idle_ratio:.2%} (of that {a.starved_ratio:.2%} while launches waited);"
            f" copies {a.copy_busy_ratio:.2%}"
        ),
        (
            f"{a.turns} turns, {a.gaps} gaps: mean {a.gap_mean_us:.1f} us, p99"
            f" {a.gap_p99_us:.1f} us, longest {a.gap_max_us:.1f} us; longest wait"
            f" {a.longest_wait_ms:.1f} ms"
        ),
    ]
    return lines


def _row(t: TenantResult) -> str:
    return (
        f"{t.name[:16]:16} {t.tenant_class:11} {_percent(t.requested_ratio):>6}"
        f" {_percent(t.limit_ratio):>6} {t.achieved_ratio:7.2%} {t.charged_ratio:7.2%}"
        f" {t.wait_p99_ms:7.1f}ms {t.wait_max_ms:7.1f}ms {_ms(t.latency_p99_ms):>9}"
    )


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.3g}%" if ratio else "-"


def _ms(ms: float) -> str:
    return f"{ms:.1f}ms" if ms else "-"


def _mean(samples: Sequence[int]) -> float:
    return sum(samples) / len(samples) if samples else 0.0


def _mean_wait(waits: Waits) -> float:
    return waits.total_ns / waits.count if waits.count else 0.0


def _percentile(samples: Sequence[int], part: float) -> float:
    """The smallest sample that at least `part` of them do not exceed; 0 if there are none."""
    if not samples:
        return 0.0
    ordered = sorted(samples)
    return float(ordered[max(0, -(-int(part * 1000) * len(ordered) // 1000) - 1)])
