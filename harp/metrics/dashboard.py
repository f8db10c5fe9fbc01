# SPDX-License-Identifier: Apache-2.0
"""The Grafana dashboard, from the panels of rows.py: `python -m harp.metrics dashboard`. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from harp.metrics import families as f
from harp.metrics.families import Family
from harp.metrics.rows import NODE, ROWS, Panel, Row, of

__all__ = ["dashboard"]

_Json = dict[str, object]
_SOURCE: Mapping[str, str] = {"type": "prometheus", "uid": "${datasource}"}
#: columns of Grafana's grid
_WIDTH = 24
_HEIGHT = 8

#: variables, each chosen among those that the ones before leave: (name, family, where)
_VARIABLES = (
    ("cluster", f.BUILD_INFO, ""),
    ("node", f.BUILD_INFO, 'cluster=~"$cluster"'),
    ("gpu", f.DEVICE_INFO, NODE),
    ("namespace", f.GRANT_INFO, NODE),
    ("pod", f.GRANT_INFO, f'{NODE},namespace=~"$namespace"'),
    ("tenant", f.GRANT_INFO, f'{NODE},namespace=~"$namespace",pod=~"$pod"'),
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
        f"label_values({of(family, where) if where else family.name}, {_LABELS.get(name, name)})"
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
