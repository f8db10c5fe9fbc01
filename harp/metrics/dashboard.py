# SPDX-License-Identifier: Apache-2.0
"""The Grafana dashboard, from a table of panels: `python -m harp.metrics dashboard`. Pure.

Queries take rates over Grafana's own interval, so the dashboard needs none of the recording rules.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harp.metrics import families as f
from harp.metrics.families import Family

__all__ = ["ROWS", "Panel", "Row", "dashboard"]

_Json = dict[str, object]
_SOURCE: Mapping[str, str] = {"type": "prometheus", "uid": "${datasource}"}
#: columns of Grafana's grid
_WIDTH = 24
_HEIGHT = 8
_INTERVAL = "$__rate_interval"
_NODE = 'cluster=~"$cluster",node=~"$node"'
_GPU = f'{_NODE},uuid=~"$gpu"'
_TENANT = f'{_NODE},namespace=~"$namespace",pod=~"$pod",tenant=~"$tenant"'
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


def _of(family: Family, where: str) -> str:
    return f"{family.name}{{{where}}}"


def _rate(family: Family, where: str) -> str:
    return f"rate({_of(family, where)}[{_INTERVAL}])"


def _grown(family: Family, where: str, time: str) -> str:
    return f"increase({_of(family, where)}[{time}])"


def _one(title: str, family: Family, where: str, legend: str, unit: str = "short") -> Panel:
    rate = family.name.endswith("_total")
    expression = _rate(family, where) if rate else _of(family, where)
    return Panel(title, ((expression, legend),), unit, text=family.text)


def _p99(family: Family) -> tuple[str, str]:
    rate = f"rate({family.name}_bucket{{{_NODE}}}[{_INTERVAL}])"
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
        _stat("GPUs", f"count({_of(f.DEVICE_INFO, _GPU)})"),
        _stat("Tenants", f"count({_of(f.GRANT_INFO, _TENANT)}) or vector(0)"),
        _stat(
            "GPU time used", f"avg({_rate(f.DEVICE_COMPUTE, _GPU)})", "percentunit", "Of all GPUs."
        ),
        _stat(
            "GPU time promised",
            f"avg({_of(f.DEVICE_COMPUTE_ALLOCATED, _GPU)})",
            "percentunit",
            "Shares of tenants.",
        ),
        _stat(
            "Memory promised",
            f"sum({_of(f.DEVICE_MEMORY_ALLOCATED, _GPU)})"
            f" / sum({_of(f.DEVICE_MEMORY_TOTAL, _GPU)})",
            "percentunit",
        ),
        _stat(
            "GPUs ill",
            f"count({_of(f.PLUGIN_HEALTHY, _GPU)} == 0) or vector(0)",
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
        _one("Kernel launches", f.DEVICE_LAUNCHES, _GPU, _ON, "ops"),
        _one("Allocations refused", f.DEVICE_DENIED, _GPU, _ON, "ops"),
        _one("Processes without a session", f.DEVICE_UNCOVERED, _GPU, _ON),
        Panel(
            "Xid errors",
            ((_grown(f.PLUGIN_XID, _GPU, "1h"), f"{_ON} Xid {{{{xid}}}}"),),
            text="In the hour before.",
        ),
        _one("Healthy", f.PLUGIN_HEALTHY, _GPU, _ON),
    ),
)
_WORKLOAD = Row(
    "Workload",
    (
        Panel(
            "Tenants",
            (
                (f"sum by ({_BY_TENANT}) ({_of(f.GRANT_SHARE, _GRANT)})", "share"),
                (f"sum by ({_BY_TENANT}) ({_rate(f.GRANT_COMPUTE, _GRANT)})", "gets"),
                (f"sum by ({_BY_TENANT}) ({_of(f.GRANT_MEMORY_USED, _GRANT)})", "memory"),
                (f"sum by ({_BY_TENANT}) ({_of(f.GRANT_MEMORY_LIMIT, _GRANT)})", "limit"),
            ),
            kind="table",
            width=24,
        ),
        Panel(
            "GPU time, used and guaranteed",
            (
                (_rate(f.GRANT_COMPUTE, _GRANT), _WHO),
                (_of(f.GRANT_SHARE, _GRANT), f"{_WHO} guaranteed"),
            ),
            "percentunit",
        ),
        Panel(
            "Memory, used and allowed",
            (
                (_of(f.GRANT_MEMORY_USED, _GRANT), _WHO),
                (_of(f.GRANT_MEMORY_LIMIT, _GRANT), f"{_WHO} limit"),
            ),
            "bytes",
        ),
        _one("Waiting for a turn", f.GRANT_THROTTLED, _GRANT, _WHO, "percentunit"),
        _one("Kernel launches", f.GRANT_LAUNCHES, _GRANT, _WHO, "ops"),
        _one("Allocations refused", f.GRANT_DENIED, _GRANT, _WHO, "ops"),
        _one("Copies", f.GRANT_COPY, _GRANT, _WHO, "percentunit"),
        _one("Memory on the host", f.GRANT_SWAP_AWAY, _GRANT, _WHO, "bytes"),
        _one("Time of swapping", f.GRANT_SWAPPING, _GRANT, _WHO, "percentunit"),
        Panel(
            "Idle for",
            ((f"time() - {_of(f.GRANT_ACTIVITY, _TENANT)}", "{{tenant}}"),),
            "s",
            text=f.GRANT_ACTIVITY.text,
        ),
    ),
)
_CONTROL = Row(
    "Control plane",
    (
        _one("Arbiters that answer", f.ARBITER_UP, _NODE, "{{node}}"),
        Panel(
            "Since the watchdog's last look",
            ((f"time() - {_of(f.LAST_LOOK, _NODE)}", "{{node}}"),),
            "s",
        ),
        Panel(
            "What failed, and is tried again",
            (
                (_rate(f.SCRAPE_ERRORS, _NODE), "{{node}} harpd: scrape"),
                (_rate(f.LOOK_ERRORS, _NODE), "{{node}} harpd: watchdog"),
                (_rate(f.PLUGIN_ERRORS, _NODE), "{{node}} plugin: {{part}}"),
            ),
            "ops",
        ),
        Panel("Allocate", (_p99(f.PLUGIN_ALLOCATE),), "s"),
        Panel("Starts of containers", (_p99(f.PLUGIN_START),), "s"),
        Panel("Registered again after a kubelet's restart", (_p99(f.PLUGIN_REREGISTER),), "s"),
        Panel(
            "Allocations refused",
            (
                (
                    f"sum by (node, reason) ({_grown(f.PLUGIN_REFUSED, _NODE, _INTERVAL)})",
                    "{{node}} {{reason}}",
                ),
            ),
            text="fragmented: the node had enough, no single GPU did.",
        ),
        _one("Plugin is registered", f.PLUGIN_REGISTERED, _NODE, "{{node}}"),
        _one("Starts that nobody could name", f.PLUGIN_UNRESOLVED, _NODE, "{{node}} {{reason}}"),
    ),
)
ROWS = (_CLUSTER, _DEVICES, _WORKLOAD, _CONTROL)

#: variables, each chosen among those that the ones before leave: (name, family, where)
_VARIABLES = (
    ("cluster", f.BUILD_INFO, ""),
    ("node", f.BUILD_INFO, 'cluster=~"$cluster"'),
    ("gpu", f.DEVICE_INFO, _NODE),
    ("namespace", f.GRANT_INFO, _NODE),
    ("pod", f.GRANT_INFO, f'{_NODE},namespace=~"$namespace"'),
    ("tenant", f.GRANT_INFO, f'{_NODE},namespace=~"$namespace",pod=~"$pod"'),
)


def dashboard() -> str:
    """The dashboard's JSON."""
    model: _Json = {
        "annotations": {"list": []},
        "editable": True,
        "graphTooltip": 1,
        "id": None,
        "links": [],
        "panels": _panels(ROWS),
        "refresh": "30s",
        "schemaVersion": 39,
        "tags": ["harp", "gpu"],
        "templating": {"list": [_source(), *(_variable(*one) for one in _VARIABLES)]},
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "title": "HARP: GPUs and who shares them",
        "uid": "harp-gpu-sharing",
        "version": 1,
    }
    return json.dumps(model, indent=2, ensure_ascii=False) + "\n"


def _panels(rows: Iterable[Row]) -> list[_Json]:
    found: list[_Json] = []
    y = 0
    for row in rows:
        place = {"h": 1, "w": _WIDTH, "x": 0, "y": y}
        found.append(
            {
                "collapsed": False,
                "gridPos": place,
                "id": len(found) + 1,
                "panels": [],
                "title": row.title,
                "type": "row",
            }
        )
        x, y = 0, y + 1
        for panel in row.panels:
            if x + panel.width > _WIDTH:
                x, y = 0, y + _HEIGHT
            place = {"h": _HEIGHT, "w": panel.width, "x": x, "y": y}
            found.append(_panel(panel, len(found) + 1, place))
            x += panel.width
        y += _HEIGHT
    return found


def _panel(panel: Panel, number: int, place: Mapping[str, int]) -> _Json:
    table = panel.kind == "table"
    made: _Json = {
        "datasource": _SOURCE,
        "description": panel.text,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0},
            "overrides": _columns(panel) if table else [],
        },
        "gridPos": place,
        "id": number,
        "options": {},
        "targets": [
            {
                "datasource": _SOURCE,
                "expr": expression,
                "format": "table" if table else "time_series",
                "instant": table or panel.kind == "stat",
                "legendFormat": legend or "__auto",
                "range": not table and panel.kind != "stat",
                "refId": chr(ord("A") + at),
            }
            for at, (expression, legend) in enumerate(panel.queries)
        ],
        "title": panel.title,
        "type": panel.kind,
    }
    if table:
        hidden = {"excludeByName": {"Time": True}}
        made["transformations"] = [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": hidden},
        ]
    return made


def _columns(panel: Panel) -> Sequence[_Json]:
    """Name and unit of each query's column."""
    units = {"share": "percentunit", "gets": "percentunit", "memory": "bytes", "limit": "bytes"}
    return [
        {
            "matcher": {"id": "byName", "options": f"Value #{chr(ord('A') + at)}"},
            "properties": [
                {"id": "displayName", "value": legend},
                {"id": "unit", "value": units[legend]},
            ],
        }
        for at, (_, legend) in enumerate(panel.queries)
    ]


def _source() -> _Json:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "query": "prometheus",
        "type": "datasource",
    }


def _variable(name: str, family: Family, where: str) -> _Json:
    """One that may be all: also of series without that label, as of jobs outside Kubernetes."""
    query = (
        f"label_values({_of(family, where) if where else family.name}, {_LABELS.get(name, name)})"
    )
    return {
        "allValue": ".*",
        "current": {"selected": True, "text": "All", "value": "$__all"},
        "datasource": _SOURCE,
        "definition": query,
        "includeAll": True,
        "multi": True,
        "name": name,
        "query": {"query": query, "refId": "A"},
        "refresh": 2,
        "sort": 1,
        "type": "query",
    }


#: {variable: its label, where that has another name}
_LABELS = {"gpu": "uuid"}
