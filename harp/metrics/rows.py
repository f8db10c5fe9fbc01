# SPDX-License-Identifier: Apache-2.0
"""The dashboard's rows of panels, and what each asks for. Data; dashboard.py makes JSON of it.

Queries take rates over Grafana's own interval, so the dashboard needs none of the recording rules.
"""

from __future__ import annotations

from dataclasses import dataclass

from harp.metrics import estimates as e
from harp.metrics import families as f
from harp.metrics import kernels as k
from harp.metrics.families import Family

__all__ = ["NODE", "ROWS", "Panel", "Row", "of"]

_INTERVAL = "$__rate_interval"
NODE = 'cluster=~"$cluster",node=~"$node"'
_GPU = f'{NODE},uuid=~"$gpu"'
_TENANT = f'{NODE},namespace=~"$namespace",pod=~"$pod",tenant=~"$tenant"'
_GRANT = f'{_TENANT},uuid=~"$gpu"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: its queries and what they are in."""

    title: str
    queries: tuple[tuple[str, str], ...]  #: (expression, legend)
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    text: str = ""  #: shown on its (i)


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


def of(family: Family, where: str) -> str:
    """The expression for a family's series with these matchers."""
    return f"{family.name}{{{where}}}"


def _rate(family: Family, where: str) -> str:
    return f"rate({of(family, where)}[{_INTERVAL}])"


def _grown(family: Family, where: str, time: str) -> str:
    return f"increase({of(family, where)}[{time}])"


def _one(title: str, family: Family, where: str, legend: str, unit: str = "short") -> Panel:
    rate = family.name.endswith("_total")
    expression = _rate(family, where) if rate else of(family, where)
    return Panel(title, ((expression, legend),), unit, text=family.text)


def _p99(family: Family) -> tuple[str, str]:
    rate = f"rate({family.name}_bucket{{{NODE}}}[{_INTERVAL}])"
    return f"histogram_quantile(0.99, sum by (le, node) ({rate}))", "{{node}} p99"


def _stat(title: str, expression: str, unit: str = "short", text: str = "") -> Panel:
    return Panel(title, ((expression, ""),), unit, kind="stat", width=4, text=text)


_ON = "{{node}} GPU {{gpu}}"
_WHO = "{{tenant}} GPU {{gpu}}"
_BY_TENANT = "node, namespace, tenant, gpu"
_ASKED = "kube_pod_container_resource_requests"
_THERE = "kube_node_status_allocatable"
_SHARE = 'resource="harp_dev_gpu_share"'

_CLUSTER = Row(
    "Cluster",
    (
        _stat("GPUs", f"count({of(f.DEVICE_INFO, _GPU)})"),
        _stat("Tenants", f"count({of(f.GRANT_INFO, _TENANT)}) or vector(0)"),
        _stat(
            "GPU time used", f"avg({_rate(f.DEVICE_COMPUTE, _GPU)})", "percentunit", "Of all GPUs."
        ),
        _stat(
            "GPU time promised",
            f"avg({of(f.DEVICE_COMPUTE_ALLOCATED, _GPU)})",
            "percentunit",
            "Shares of tenants.",
        ),
        _stat(
            "Memory promised",
            f"sum({of(f.DEVICE_MEMORY_ALLOCATED, _GPU)}) / sum({of(f.DEVICE_MEMORY_TOTAL, _GPU)})",
            "percentunit",
        ),
        _stat(
            "GPUs ill",
            f"count({of(f.PLUGIN_HEALTHY, _GPU)} == 0) or vector(0)",
            text="As the device plugin says; 0 where none runs.",
        ),
        Panel(
            "GPU time by namespace",
            ((f"sum by (namespace) ({_rate(f.GRANT_COMPUTE, _GRANT)})", "{{namespace}}"),),
            width=12,
            text="In GPUs. Jobs outside Kubernetes have no namespace.",
        ),
        Panel(
            "Slots asked of Kubernetes",
            (
                (f"sum({_ASKED}{{{_SHARE}}})", "asked"),
                (f"sum({_THERE}{{{_SHARE}}})", "there"),
            ),
            width=12,
            text="Of kube-state-metrics: pending pods ask, too.",
        ),
    ),
)
_DEVICES = Row(
    "Node and GPU",
    (
        _one("GPU time used", f.DEVICE_COMPUTE, _GPU, _ON, "percentunit"),
        _one("Memory in use", f.DEVICE_MEMORY_USED, _GPU, _ON, "bytes"),
        _one("Memory leased", f.DEVICE_MEMORY_LEASED, _GPU, _ON, "bytes"),
        _one("Waiting for a turn", f.DEVICE_THROTTLED, _GPU, _ON, "s"),
        _one("Launches and copies", f.DEVICE_LAUNCHES, _GPU, _ON, "ops"),
        _one("Allocations refused", f.DEVICE_DENIED, _GPU, _ON, "ops"),
        _one("Processes without a session", f.DEVICE_UNCOVERED, _GPU, _ON),
        Panel(
            "Xid errors",
            ((_grown(f.PLUGIN_XID, _GPU, "1h"), f"{_ON} Xid {{{{xid}}}}"),),
            text="In the hour before.",
        ),
        _one("Healthy", f.PLUGIN_HEALTHY, _GPU, _ON),
        _one("A kernel at work", f.DEVICE_UTILIZATION, _GPU, _ON, "percentunit"),
        _one("Temperature", f.DEVICE_TEMPERATURE, _GPU, _ON, "celsius"),
        _one("Power", f.DEVICE_POWER, _GPU, _ON, "watt"),
    ),
)
_WORKLOAD = Row(
    "Workload",
    (
        Panel(
            "Tenants",
            (
                (f"sum by ({_BY_TENANT}) ({of(f.GRANT_SHARE, _GRANT)})", "share"),
                (f"sum by ({_BY_TENANT}) ({_rate(f.GRANT_COMPUTE, _GRANT)})", "gets"),
                (f"sum by ({_BY_TENANT}) ({of(f.GRANT_MEMORY_USED, _GRANT)})", "memory"),
                (f"sum by ({_BY_TENANT}) ({of(f.GRANT_MEMORY_LIMIT, _GRANT)})", "limit"),
            ),
            kind="table",
            width=24,
        ),
        Panel(
            "GPU time, used and guaranteed",
            (
                (_rate(f.GRANT_COMPUTE, _GRANT), _WHO),
                (of(f.GRANT_SHARE, _GRANT), f"{_WHO} guaranteed"),
            ),
            "percentunit",
        ),
        Panel(
            "Memory, used and allowed",
            (
                (of(f.GRANT_MEMORY_USED, _GRANT), _WHO),
                (of(f.GRANT_MEMORY_LIMIT, _GRANT), f"{_WHO} limit"),
            ),
            "bytes",
        ),
        _one("Waiting for a turn", f.GRANT_THROTTLED, _GRANT, _WHO, "percentunit"),
        _one("Share error", f.GRANT_SHARE_ERROR, _GRANT, _WHO, "percentunit"),
        Panel(
            "Credit, below 0 debt",
            (
                (of(f.GRANT_CREDIT, _GRANT), _WHO),
                (of(f.GRANT_LIMIT_CREDIT, _GRANT), f"{_WHO} of its limit"),
            ),
            "s",
            text=f.GRANT_CREDIT.text,
        ),
        _one("Processes at work", f.GRANT_OPEN_GATES, _GRANT, _WHO),
        _one("Launches and copies", f.GRANT_LAUNCHES, _GRANT, _WHO, "ops"),
        _one("Allocations refused", f.GRANT_DENIED, _GRANT, _WHO, "ops"),
        Panel(
            "Kernels",
            (
                (
                    f"sum by (node, namespace, tenant, kernel) ({_rate(k.SECONDS, _TENANT)})",
                    "{{tenant}} {{kernel}}",
                ),
            ),
            "percentunit",
            text=k.SECONDS.text,
        ),
        _one("Bytes copied", k.COPIED, _TENANT, "{{tenant}} {{direction}}", "Bps"),
        _one("Copies", f.GRANT_COPY, _GRANT, _WHO, "percentunit"),
        _one("Memory on the host", f.GRANT_SWAP_AWAY, _GRANT, _WHO, "bytes"),
        _one("Time of swapping", f.GRANT_SWAPPING, _GRANT, _WHO, "percentunit"),
        Panel(
            "Idle for",
            ((f"time() - {of(f.GRANT_ACTIVITY, _TENANT)}", "{{tenant}}"),),
            "s",
            text=f.GRANT_ACTIVITY.text,
        ),
    ),
)
_CONTROL = Row(
    "Control plane",
    (
        _one("Arbiters that answer", f.ARBITER_UP, NODE, "{{node}}"),
        Panel(
            "Since the watchdog's last look",
            ((f"time() - {of(f.LAST_LOOK, NODE)}", "{{node}}"),),
            "s",
        ),
        Panel(
            "What failed, and is tried again",
            (
                (_rate(f.SCRAPE_ERRORS, NODE), "{{node}} harpd: scrape"),
                (_rate(f.LOOK_ERRORS, NODE), "{{node}} harpd: watchdog"),
                (_rate(f.PLUGIN_ERRORS, NODE), "{{node}} plugin: {{part}}"),
            ),
            "ops",
        ),
        _one("Memory of HARP itself", f.PROCESS_MEMORY, NODE, "{{node}} {{part}}", "bytes"),
        _one("Processors used by HARP itself", f.PROCESS_CPU, NODE, "{{node}} {{part}}"),
        Panel("Allocate", (_p99(f.PLUGIN_ALLOCATE),), "s"),
        Panel("Starts of containers", (_p99(f.PLUGIN_START),), "s"),
        Panel("Registered again after a kubelet's restart", (_p99(f.PLUGIN_REREGISTER),), "s"),
        Panel(
            "Allocations refused",
            (
                (
                    f"sum by (node, reason) ({_grown(f.PLUGIN_REFUSED, NODE, _INTERVAL)})",
                    "{{node}} {{reason}}",
                ),
            ),
            text="fragmented: the node had enough, no single GPU did.",
        ),
        _one("Plugin is registered", f.PLUGIN_REGISTERED, NODE, "{{node}}"),
        _one("Starts that nobody could name", f.PLUGIN_UNRESOLVED, NODE, "{{node}} {{reason}}"),
    ),
)
_ESTIMATOR = Row(
    "Estimator",
    (
        Panel(
            "How often bounds hold",
            (
                (of(e.COVERAGE, NODE), "{{node}} {{target}}"),
                (of(e.CONFIDENCE, NODE), "{{node}} {{target}} said"),
            ),
            "percentunit",
            text="In the 7 days before. A bound below what it was said to hold is alarmed.",
        ),
        Panel(
            "GPU memory left by bounds",
            ((of(e.SAVED, NODE), "{{node}}"),),
            "percentunit",
            text=e.SAVED.text,
        ),
        _one("Runs judged", e.WINDOW_RUNS, NODE, "{{node}} {{target}}"),
        Panel(
            "GPU memory of runs that ended",
            (
                (f"sum({_grown(e.ASKED, NODE, '1h')})", "asked"),
                (f"sum({_grown(e.BOUND, NODE, '1h')})", "estimated"),
                (f"sum({_grown(e.USED, NODE, '1h')})", "had"),
            ),
            "bytes",
            text="Of runs that ended in the hour before, each at its largest.",
        ),
        Panel(
            "Answers",
            ((f"sum by (target, known) ({_rate(e.PREDICTIONS, NODE)})", "{{target}} {{known}}"),),
            "ops",
            text="known=false: no job like it had ended; it was taken at its word.",
        ),
        _one("Kept free for the unforeseen", e.BUFFER, _GPU, _ON, "percentunit"),
        Panel(
            "Typically needed, and there",
            (
                (of(e.RESERVED, _GPU), f"{_ON} needed"),
                (of(f.DEVICE_MEMORY_TOTAL, _GPU), f"{_ON} there"),
            ),
            "bytes",
        ),
        Panel(
            "Windows over sum and buffer",
            (
                (
                    f"{_grown(e.WINDOWS_OVER, _GPU, '1d')} / {_grown(e.WINDOWS, _GPU, '1d')}",
                    _ON,
                ),
            ),
            "percentunit",
            text="Of the day before; 0.5 % is what the buffer is made for.",
        ),
        _one("Refused within the limit: GPU full", f.DEVICE_FULL, _GPU, _ON, "ops"),
    ),
)
ROWS = (_CLUSTER, _DEVICES, _WORKLOAD, _ESTIMATOR, _CONTROL)
